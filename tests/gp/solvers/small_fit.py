"""A small sparse fit with several groups of labels, and its numbers: for the tests and for their worker processes."""

from __future__ import annotations

import hashlib

import torch

from kernelfe import FreeEnergyRegressor, Sparse

from ..systems import variables

SOLVER = {"inducing": 12, "block_rows": 24, "evidence_rows": 60, "evidence_inducing": 6, "final_iterations": 2}


def frames():
    return variables(60, labels=("mean_force", "mean_energy", "heat_capacity")).replace(noise={})


def fit(data=None, seed=0, optimizer="evidence", **options) -> FreeEnergyRegressor:
    """The fit, with some options of the solver changed."""
    solver = Sparse(**SOLVER | options)
    model = FreeEnergyRegressor(solver=solver, optimizer=optimizer, random_state=seed)
    return model.fit(frames() if data is None else data)


def numbers(model) -> dict[str, torch.Tensor]:
    """Everything that was fitted."""
    posterior = model.posterior_
    out = {"weights": posterior.weights, "lower": posterior.lower}
    return out | {name: p.detach() for name, p in posterior.prior.named_parameters()}


def digest(model) -> str:
    """Digest of all bits of the numbers."""
    found = hashlib.blake2b(digest_size=16)
    for _, tensor in sorted(numbers(model).items()):
        found.update(tensor.contiguous().numpy().tobytes())
    return found.hexdigest()
