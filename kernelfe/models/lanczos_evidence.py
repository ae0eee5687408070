"""Hyperparameters of the exact model from all labels, without its Gram matrix: evidence by stochastic Lanczos.

The objective is that of :func:`~kernelfe.models.evidence.fit_dense`, log N(y | prior mean, K + noise) and the weak
priors, with the log density and its gradient of :func:`kernelfe.linalg.log_density`: unbiased, with a standard error.
The probes of a search are those of one seed throughout, so that the optimiser sees one function, not noise.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ..linalg import DifferentiableOperator, LanczosSettings, LogDensity, Preconditioner, log_density
from .dense import noise_variances
from .evidence import NoiseLevels, maximise
from .labels import LabelSet
from .prior import Prior

logger = logging.getLogger(__name__)

#: Searches, at most, with different probes; and the gain of a step that ends a search, and of a search, beyond the
#: standard error, that ends them, in units of log evidence or its standard error, if that is more than one.
TURNS, ENOUGH = 4, 0.02

#: Makes, at the present hyperparameters, the covariance of the labels with their noise, and its preconditioner.
Build = Callable[[], tuple[DifferentiableOperator, Preconditioner]]


@torch.no_grad()
def targets(prior: Prior, labels: list[LabelSet]) -> Tensor:
    """Labels minus their prior means, shape (rows,): what has the covariance K + noise."""
    return torch.cat([label.y.reshape(-1) - label.rows(prior).prior_mean for label in labels])


def lanczos_log_evidence(
    build: Build, labels: list[LabelSet], noise: NoiseLevels, y: Tensor, settings: LanczosSettings
) -> tuple[Tensor, LogDensity]:
    """log N(y | 0, K + noise), differentiable in all hyperparameters, and the estimate with its standard error.

    Parameters
    ----------
    build
        The covariance at the present hyperparameters.
    labels, noise
        For what weights of rows below one add (:func:`~kernelfe.models.dense.noise_variances`).
    y
        :func:`targets`.
    settings
        Tolerance, probes, seed.

    Raises
    ------
    SolverError
        If a linear system does not converge; the message says what to change.
    """
    operator, preconditioner = build()
    found = log_density(operator, preconditioner, y, settings)
    tempered = [noise_variances(label, noise)[1] for label in labels if label.weight is not None]
    more = torch.stack(tempered).sum() if tempered else y.new_zeros(())
    value = found.differentiable(operator) if torch.is_grad_enabled() else y.new_tensor(found.value)
    return value + more, replace(found, value=found.value + more.item())


def fit_lanczos(
    build: Build,
    prior: Prior,
    labels: list[LabelSet],
    noise: NoiseLevels,
    settings: LanczosSettings | None = None,
    max_iter: int = 60,
) -> LogDensity:
    """Maximise the log evidence of the exact model; ``prior`` and ``noise`` are changed in place.

    Parameters
    ----------
    build
        Makes operator and preconditioner from ``prior`` and ``noise`` as they are when it is called.
    prior, labels, noise
        As of :func:`~kernelfe.models.evidence.fit_dense`.
    settings
        Tolerance, probes, seed. The number of probes is settled at the start and kept.
    max_iter
        Steps of the optimiser.

    Returns
    -------
    LogDensity
        The log evidence at the hyperparameters found (without their priors), with its standard error.

    Raises
    ------
    SolverError
        If a linear system does not converge at the start or at the end; on the way such a point counts as bad.
    """
    settings = settings or LanczosSettings()
    y = targets(prior, labels)
    with torch.no_grad():
        _, start = lanczos_log_evidence(build, labels, noise, y, settings)
    fixed = replace(settings, probes=start.probes, max_probes=start.probes, standard_error=None)
    parameters = [
        *(p for p in prior.parameters() if p.requires_grad),
        *(p for p in noise.parameters() if p.requires_grad and noise.kinds),
    ]

    def objective(turn: int) -> Tensor:
        at = replace(fixed, seed=settings.seed + turn)
        value, found = lanczos_log_evidence(build, labels, noise, y, at)
        logger.info("log evidence %.3f ± %.3f, %d iterations", found.value, found.standard_error, found.iterations)
        return value + prior.hyperpriors() + noise.hyperprior()

    def judged() -> float:
        with torch.no_grad():
            return float(objective(0))

    # Value and gradient are two estimates, so a search may stop where they contradict each other. The next one has
    # other probes; all ends are compared with the same.
    best = judged() if parameters else 0.0
    for turn in range(TURNS if parameters else 0):
        saved = [p.detach().clone() for p in parameters]
        last = ENOUGH * max(1.0, start.standard_error)
        maximise(lambda turn=turn: objective(turn), parameters, max_iter, float(len(y)), last)  # type: ignore[misc]
        reached = judged()
        if reached < best:
            for p, value in zip(parameters, saved, strict=True):
                p.data.copy_(value)
        gain, best = reached - best, max(best, reached)
        if gain < ENOUGH + start.standard_error:
            break
    with torch.no_grad():
        _, found = lanczos_log_evidence(build, labels, noise, y, settings)
    return found
