"""Hyperparameters of the exact model from all labels, without its Gram matrix: evidence by stochastic Lanczos.

The objective is that of :func:`~kernelfe.gp.solvers.evidence.fit_dense`, log N(y | prior mean, K + noise) and the weak
priors, with the log density and its gradient of :func:`kernelfe.linalg.log_density`: unbiased, with a standard error.
The probes of a search are those of one seed throughout, so that the objective is one smooth function, without noise.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ....linalg import DifferentiableOperator, LanczosSettings, LogDensity, Preconditioner, log_density
from ....linalg.preconditioner import LowRankAndLocal
from ...observations.labels import LabelSet
from ...observations.levels import NoiseLevels
from ...prior.prior import Prior
from ...prior.rows import RowBlock, frame_chunks
from ..exact import BLOCK_ENTRIES
from ..maximise import maximise
from .neighbours import local_gram
from .operator import JetGram
from .preconditioner import precondition
from .settings import PreconditionerSettings

logger = logging.getLogger(__name__)

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
        For the contribution of rows that count for less than one label
        (:class:`~kernelfe.gp.observations.noise_models.Tempered`).
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
    more = torch.stack([label.tempering(noise) for label in labels]).sum()
    value = found.differentiable(operator) if torch.is_grad_enabled() else y.new_tensor(found.value)
    return value + more, replace(found, value=found.value + more.item())


def fit_lanczos(
    build: Build,
    prior: Prior,
    labels: list[LabelSet],
    noise: NoiseLevels,
    settings: LanczosSettings | None = None,
    max_iter: int = 60,
    turns: int = 4,
    enough: float = 0.02,
) -> LogDensity:
    """Maximise the log evidence of the exact model; ``prior`` and ``noise`` are changed in place.

    Parameters
    ----------
    build
        Makes operator and preconditioner from ``prior`` and ``noise`` as they are when it is called.
    prior, labels, noise
        As of :func:`~kernelfe.gp.solvers.evidence.fit_dense`.
    settings
        Tolerance, probes, seed. The number of probes is settled at the start and kept.
    max_iter
        Steps of the optimiser.
    turns
        Searches, at most, with different probes.
    enough
        Gain of a step that ends a search, and of a search, beyond the standard error, that ends them; in units of log
        evidence, or of its standard error if that is more than one.

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
    for turn in range(turns if parameters else 0):
        saved = [p.detach().clone() for p in parameters]
        last = enough * max(1.0, start.standard_error)
        maximise(lambda turn=turn: objective(turn), parameters, max_iter, float(len(y)), last)  # type: ignore[misc]
        reached = judged()
        if reached < best:
            for p, value in zip(parameters, saved, strict=True):
                p.data.copy_(value)
        gain, best = reached - best, max(best, reached)
        if gain < enough + start.standard_error:
            break
    with torch.no_grad():
        _, found = lanczos_log_evidence(build, labels, noise, y, settings)
    return found


class LabelCovariance:
    """A = K + noise at the present hyperparameters.

    Parameters
    ----------
    prior, labels, noise
        As of :class:`~kernelfe.gp.solvers.iterative.operator.JetGram`.
    gram, product
        The operator, and another way to its products, if there are any already.
    """

    def __init__(
        self,
        prior: Prior,
        labels: list[LabelSet],
        noise,
        gram: JetGram | None = None,
        product: Callable[[Tensor], Tensor] | None = None,
    ):
        self.prior, self.labels, self.noise = prior, labels, noise
        with torch.no_grad():
            self.gram = JetGram(prior, labels, noise) if gram is None else gram
        self.rows, self._product = self.gram.rows, product
        self._slopes: JetGram | None = None

    @property
    def slopes(self) -> JetGram:
        """The same with gradients recorded."""
        if self._slopes is None:
            with torch.enable_grad():
                self._slopes = JetGram(self.prior, self.labels, self.noise)
        return self._slopes

    def product(self, x: Tensor) -> Tensor:
        """A x for x of shape (N, k)."""
        return self.gram.product(x) if self._product is None else self._product(x)

    def bilinear(self, u: Tensor, v: Tensor) -> Tensor:
        """Σ_q u_qᵀ A v_q for u and v of shape (N, q), differentiable in the hyperparameters."""
        operations = sum(len(t.targets) * len(t.nodes) * t.columns for t in self.gram.terms) * u.shape[1]
        if operations < self.rows**2:
            return self.slopes.bilinear(u, v)
        return (u * self.slopes.noise_product(v)).sum() + _by_blocks(self.prior, self.slopes.blocks, u, v)

    def trace(self, preconditioner: LowRankAndLocal) -> Tensor:
        """tr(P⁻¹A) with P held fixed, up to a constant, differentiable.

        P⁻¹ = U Uᵀ − W Wᵀ, and the columns of U read a few rows each.
        """
        local = preconditioner.local
        total = local.factor.new_zeros((), dtype=torch.float64)
        bare = [block.bare() for block in self.slopes.blocks]

        def part(rows: Tensor, factor: Tensor) -> Tensor:
            return (factor * (local_gram(self.slopes, bare, rows) @ factor)).sum()

        for rows, columns in local.columns():
            total = total + checkpoint(part, rows, columns.to(torch.float64), use_reentrant=False)
        low_rank = preconditioner.subtracted()
        return total if low_rank is None else total - self.bilinear(low_rank, low_rank)


def covariance_builder(
    prior: Prior,
    labels: list[LabelSet],
    noise,
    rank: int | None,
    cache_bytes: int,
    settings: PreconditionerSettings | None = None,
):
    """Builder for :func:`fit_lanczos`, for labels of any number.

    ``settings``: of the preconditioner; None: the defaults for an evidence.
    """
    settings = PreconditionerSettings().for_evidence() if settings is None else settings

    def build() -> tuple[LabelCovariance, LowRankAndLocal]:
        with torch.no_grad():
            gram = JetGram(prior, labels, noise, cache_bytes=cache_bytes)
        covariance = LabelCovariance(prior, labels, noise, gram)
        return covariance, precondition(covariance.gram, settings, rank)

    return build


def _by_blocks(prior: Prior, blocks: list[RowBlock], u: Tensor, v: Tensor) -> Tensor:
    """Σ_q u_qᵀ K v_q by blocks of K on and below its diagonal; those below count for both sides."""
    starts = [sum(len(block) for block in blocks[:i]) for i in range(len(blocks))]

    def part(a: RowBlock, b: RowBlock, row: int, column: int) -> Tensor:
        gram, rows, columns = prior.gram(a, b), slice(row, row + len(a)), slice(column, column + len(b))
        weight = u[rows] @ v[columns].T
        if row != column:
            weight = weight + v[rows] @ u[columns].T
        return (gram * weight).sum()

    total = u.new_zeros(())
    for i, (a, top) in enumerate(zip(blocks, starts, strict=True)):
        width = max(1, sum(len(b) for b in blocks[: i + 1]) * a.components)
        for start, stop in frame_chunks(a.frames, max(1, BLOCK_ENTRIES // width)):
            own, row = a.slice(start, stop), top + start * a.components
            pieces = [(b, starts[j]) for j, b in enumerate(blocks[:i])] + [(own, row)]
            if start:
                pieces.append((a.slice(0, start), top))
            for b, column in pieces:
                total = total + checkpoint(part, own, b, row, column, use_reentrant=False)
    return total
