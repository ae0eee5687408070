"""Bennett's acceptance ratio: the free-energy difference of two states from samples of both, with its error.

The difference Δ = ln Z_0 − ln Z_1 solves (Bennett, J. Comput. Phys. 22, 245, 1976)

    Σ_{n in 0} f(M + w_n − Δ) = Σ_{n in 1} f(−M − w_n + Δ),   f(x) = 1/(1 + e^x),   M = ln(N_0/N_1),

w = u_1 − u_0 the difference of the reduced potentials. The root is scipy's; pymbar returns the same number (a test
compares them) but an error for independent samples. Samples of one replica are correlated, replicas are not: the error
is therefore that of the sums over replicas.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class BennettDifference:
    """Free-energy difference of two states.

    Parameters
    ----------
    value
        ln Z_0 − ln Z_1.
    influence
        Of every replica of state 0 and of state 1 on the value, two arrays; the sum of their squares is the variance.
        Influences of differences of the same replicas add up to that of a combination of the differences.
    overlap
        Chance that a sample cannot be told apart, from 0 (nothing in common) to 1 (equal states).
    """

    value: float
    influence: tuple[FloatArray, FloatArray]
    overlap: float

    @property
    def error(self) -> float:
        """Standard error of the value."""
        return math.sqrt(sum(float(one @ one) for one in self.influence))


def bennett(
    work: tuple[FloatArray, FloatArray],
    replica: tuple[NDArray[np.integer], NDArray[np.integer]],
    replicas: tuple[int, int],
) -> BennettDifference:
    """Solve Bennett's equation.

    Parameters
    ----------
    work
        u_1 − u_0 of the samples of state 0 and of those of state 1; at least one of each.
    replica
        Number of the replica of each sample.
    replicas
        Number of replicas in each state; those without a sample have no influence.

    Returns
    -------
    BennettDifference
    """
    shift = math.log(len(work[0]) / len(work[1]))

    def terms(delta: float) -> tuple[FloatArray, FloatArray]:
        return expit(delta - shift - work[0]), expit(shift + work[1] - delta)

    def excess(delta: float) -> float:
        first, second = terms(delta)
        return float(first.sum() - second.sum())

    ends = np.concatenate(work)
    low, high = float(ends.min()) - abs(shift) - 1.0, float(ends.max()) + abs(shift) + 1.0
    while excess(low) > 0.0:
        low -= high - low
    while excess(high) < 0.0:
        high += high - low
    value = float(brentq(excess, low, high, xtol=1e-10))
    both = terms(value)
    slope = sum(float((one * (1.0 - one)).sum()) for one in both)
    influence = []
    for sign, one, label, count in zip((-1.0, 1.0), both, replica, replicas, strict=True):
        sums, sizes = np.bincount(label, one, count), np.bincount(label, minlength=count)
        # a replica tells by how much its samples differ from the average one
        influence.append(sign * (sums - sizes * one.mean()) / max(slope, np.finfo(float).tiny))
    # equal states have f = N_1/(N_0 + N_1) in both, and the slope N_0 N_1/(N_0 + N_1)
    overlap = slope * (1.0 / len(work[0]) + 1.0 / len(work[1]))
    return BennettDifference(value, (influence[0], influence[1]), min(overlap, 1.0))


__all__ = ["BennettDifference", "bennett"]
