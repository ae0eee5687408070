"""Fitted models of every kind that is saved."""

from __future__ import annotations

import numpy as np

from kernelfe import BoltzmannInversion, FreeEnergyRegressor, Sparse, Term
from kernelfe.kernels import RBF

from ..systems import (
    LAMBDA,
    THERMAL,
    molecule,
    one_term,
    stationary_in_both,
    stationary_terms,
    two_terms,
    variables,
)


def with_pairs(frames):
    return frames.add_pair_labels([0, 1], [2, 3], [0.01, 0.02], 0.05)


def with_blocks(frames):
    block = np.repeat(1e-4 * (np.eye(12) + 0.1)[None], len(frames), 0)
    return frames.replace(noise={"mean_force": block, "mean_energy": 0.01})


TERM = Term(None, RBF(lengthscale=(1.0, 1.2)), THERMAL, (LAMBDA,))
CASES = {
    "dense": lambda: (molecule(8), {"terms": two_terms()}),
    "sparse": lambda: (molecule(12), {"terms": two_terms(), "solver": Sparse(inducing=7, gradients=True)}),
    "sparse values, learned noise": lambda: (
        molecule(12, noise=False),
        {"terms": one_term(), "solver": Sparse(inducing=7)},
    ),
    "evidence": lambda: (molecule(6, noise=False), {"optimizer": "evidence", "terms": one_term()}),
    "parameters": lambda: (variables(), {"terms": TERM}),
    "stationary": lambda: (molecule(8), {"terms": stationary_terms()}),
    "stationary, sparse": lambda: (
        variables(),
        {"terms": stationary_in_both(), "solver": Sparse(inducing=7, gradients=True)},
    ),
    "pairs": lambda: (with_pairs(molecule(8)), {"terms": one_term()}),
    "covariance blocks": lambda: (with_blocks(molecule(6)), {"terms": one_term()}),
    "baseline": lambda: (
        molecule(8),
        {"baseline": BoltzmannInversion(excluded_volume=False), "noise": {"mean_force": 0.02}},
    ),
    "pure forces": lambda: (molecule(8), {"terms": one_term(), "labels": ["mean_force"]}),
    "nothing given": lambda: (molecule(6, noise=False), {"labels": ["mean_force"]}),
}


def fit(case):
    frames, options = CASES[case]()
    return FreeEnergyRegressor(**{"optimizer": None, "baseline": None} | options).fit(frames), frames
