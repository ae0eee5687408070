"""The exact fit without a Gram, by one process or several.

Hyperparameters come from a part of the label rows, by every process for itself, and those of the first are taken; or
from all rows. Then, and in the solve for the labels, the first process leads and the others do their share of the
products (:mod:`kernelfe.runtime.leading`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....linalg import LanczosSettings
from ....runtime.checkpoint import Checkpoint
from ....runtime.leading import Call, lead
from ....runtime.processes import Processes
from ...observations.labels import LabelSet
from ...observations.levels import NoiseLevels, hyperparameters, share_hyperparameters
from ...prior.prior import Prior
from ..dense import fit_dense
from ..resume import KeptSolution, sketch
from ..sparse.fit import random_subsets
from ..specs import Iterative
from .evidence import LabelCovariance, covariance_builder, fit_lanczos
from .operator import JetGram, SharedProducts
from .posterior import IterativePosterior
from .preconditioner import precondition
from .watch import Watched

#: Standard error of the log evidence that is good enough to choose hyperparameters by: what one standard deviation
#: of a hyperparameter changes it by.
EVIDENCE_ERROR = 0.5


def fit_iterative_posterior(
    solver: Iterative,
    prior: Prior,
    labels: list[LabelSet],
    noise: NoiseLevels,
    rng: np.random.Generator,
    evidence: bool,
    progress: bool,
    checkpoint: Checkpoint | None = None,
) -> IterativePosterior:
    """Fit hyperparameters, in place, if ``evidence``, and solve; with the processes of the default group.

    What an earlier attempt left in the ``checkpoint`` is gone on from.
    """
    processes, rows, value = Processes.current(), solver.evidence_rows, math.nan
    processes.agree("labels", sketch(labels))
    # drawn in any case: what comes after finds the generator as it would be
    seed = int(rng.integers(2**31)) if evidence and rows is None else 0
    few = random_subsets(labels, rows, rng) if evidence and rows is not None else []
    kept = None if checkpoint is None else KeptSolution(checkpoint, processes)
    resumed = None if kept is None else kept.resume(prior, noise)
    if resumed is not None:
        value = resumed
    elif evidence and rows is None:
        value = fit_all_rows(solver, prior, labels, noise, seed, processes)
    elif evidence:
        with processes.section("the evidence"):
            fit_dense(prior, few, noise)
    share_hyperparameters(prior, noise, processes)
    if kept is not None and resumed is None:
        kept.begin(prior, noise, value)
    prior.requires_grad_(False)
    watched = Watched(progress and processes.first, kept)
    posterior = IterativePosterior(prior, labels, noise, solver, watched=watched, processes=processes)
    posterior.log_evidence = value
    return posterior


def fit_all_rows(
    solver: Iterative,
    prior: Prior,
    labels: list[LabelSet],
    noise: NoiseLevels,
    seed: int,
    processes: Processes,
) -> float:
    """Hyperparameters of the exact model from all label rows, in place; the log evidence."""
    settings = LanczosSettings(solver.tolerance, solver.max_iterations, standard_error=EVIDENCE_ERROR, seed=seed)
    cache_bytes = int(1e9 * solver.cache_gigabytes)
    if processes.size == 1:
        build = covariance_builder(prior, labels, noise, solver.rank, cache_bytes)
        return fit_lanczos(build, prior, labels, noise, settings).value
    held: dict[str, Any] = {}

    @torch.no_grad()
    def renew(*numbers: Tensor) -> None:
        for parameter, number in zip(hyperparameters(prior, noise).values(), numbers, strict=True):
            parameter.copy_(number)
        held["shared"] = None  # before the next one takes memory
        held["shared"] = SharedProducts(JetGram(prior, labels, noise), processes, cache_bytes)

    def product(x: Tensor) -> Tensor:
        return held["shared"].product(x)

    def work(call: Call) -> dict[str, Tensor]:
        def build():
            call(0, *(number.clone() for number in hyperparameters(prior, noise).values()))
            covariance = LabelCovariance(prior, labels, noise, held["shared"].gram, lambda x: call(1, x))
            with torch.no_grad():
                return covariance, precondition(covariance.gram, solver.rank)

        value = fit_lanczos(build, prior, labels, noise, settings).value
        return {"value": torch.tensor([value], dtype=torch.float64)}

    return float(lead("the evidence", [renew, product], work, processes)["value"])
