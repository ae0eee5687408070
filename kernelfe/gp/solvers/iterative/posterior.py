"""Exact conditioning without a Gram: preconditioned conjugate gradients on products with jets.

The posterior is that of :mod:`kernelfe.gp.solvers.dense` to the tolerance of the solver. Means cost one solve, done at
the fit. Variances and covariances cost a solve per row, many rows at a time; their error is quadratic in the residual.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from ....kernels.products import PairProducts
from ....linalg.conjugate import conjugate_gradients
from ....linalg.operators import Solution, SymmetricOperator
from ....linalg.preconditioner import LowRankAndLocal
from ....runtime.leading import Call, lead
from ....runtime.processes import Processes
from ...observations.labels import LabelSet
from ...observations.levels import NoiseLevels
from ...prior.prior import Prior
from ...prior.rows import RowBlock, frame_chunks
from ..exact import ExactPosterior
from .operator import JetGram, SharedProducts
from .preconditioner import precondition
from .settings import PreconditionerSettings
from .watch import Watched

logger = logging.getLogger(__name__)


class SolveSettings(Protocol):
    """The settings of :class:`~kernelfe.Iterative` that a solve depends on."""

    @property
    def tolerance(self) -> float: ...
    @property
    def max_iterations(self) -> int: ...
    @property
    def rank(self) -> int | None: ...
    @property
    def preconditioner(self) -> PreconditionerSettings: ...
    @property
    def precision(self) -> str: ...
    @property
    def cache_gigabytes(self) -> float: ...


def _of_other_frames(labels: list[LabelSet], known: list[LabelSet]) -> list[LabelSet]:
    """Labels with frame numbers that follow those of the known labels: they belong to another data set."""
    after = 1 + max((int(label.frame.max()) for label in known if label.frame is not None), default=-1)
    return [label.renumbered(after) for label in labels]


def in_double(pairs: list[PairProducts]) -> bool:
    """True if products are in double precision although single was asked for: nothing is left to refine."""
    return all(each.dtype == torch.float64 for each in pairs)


@dataclass(frozen=True)
class GivenProducts:
    """An operator of N rows by its product."""

    rows: int
    product: Callable[[Tensor], Tensor]


class IterativePosterior(ExactPosterior):
    """Posterior by conjugate gradients.

    Parameters
    ----------
    prior
        Prior with its final hyperparameters.
    labels
        All labels.
    noise
        Learned noise levels.
    solver
        Tolerances and limits.
    weights
        (K + noise)⁻¹ (y − prior mean), if known: operator and preconditioner are then made for the first covariance.
    start
        First weights of the solve, from a model of fewer or other labels; None: zero.
    watched
        Progress display and checkpoint of the solve.
    processes
        Processes that share the products of the solve; None: this process does all of them. The result is the same to
        the last bit. Covariances are computed later, by each process for itself.

    Raises
    ------
    SolverError
        If the solver did not converge.
    ProcessError
        If that happened on the first process, or another one failed.
    """

    #: Numbers in the right-hand sides of one batched solve: 128 MiB each for right-hand side, solution and residual.
    batch_numbers: ClassVar[int] = 1 << 24
    reconditions: ClassVar[bool] = False  # every evaluation of its evidence would be a long computation
    #: How far virtual observations may be missed, in posterior standard deviations, and corrections made at most.
    missed_observations: ClassVar[float] = 1e-7
    most_corrections: ClassVar[int] = 3

    def __init__(
        self,
        prior: Prior,
        labels: list[LabelSet],
        noise: NoiseLevels,
        solver: SolveSettings,
        weights: Tensor | None = None,
        start: Tensor | None = None,
        watched: Watched | None = None,
        processes: Processes | None = None,
    ):
        self.prior, self.labels, self.noise, self.solver = prior, labels, noise, solver
        self._gram: JetGram | None = None
        # kernels in single precision, for means, and in double, for covariances, where the solver has mixed precision
        self._single: list[PairProducts] | None = None
        self._double: list[PairProducts] | None = None
        self._preconditioner: LowRankAndLocal | None = None
        self.solution: Solution | None = None
        if weights is None:
            with torch.no_grad():
                self.solution = self._fitted(start, watched, Processes() if processes is None else processes)
                weights = self.solution.value.to(prior.device)  # that of another process arrives in CPU memory
        super().__init__(prior, labels, noise, weights)

    @cached_property
    def blocks(self) -> list[RowBlock]:
        """The rows of the labels."""
        return self.gram.blocks if self._gram is not None else [label.rows(self.prior) for label in self.labels]

    def extended(self, labels: list[LabelSet], levels: NoiseLevels) -> IterativePosterior:
        """The posterior given more labels, by a solve that starts at the present solution."""
        with torch.no_grad():
            more = self.weights.new_zeros(sum(len(label) for label in labels))
        every = [*self.labels, *_of_other_frames(labels, self.labels)]
        return IterativePosterior(self.prior, every, self.noise, self.solver, start=torch.cat([self.weights, more]))

    @torch.no_grad()
    def with_observations(self, observations: LabelSet, covariance: Tensor | None = None) -> IterativePosterior:
        """The posterior given virtual observations, which become labels.

        With w for the present weights, B for the prior covariances of labels and observations, S for the posterior
        covariance of the observations and d for their deviations from the posterior mean, the new weights are

            (w − (K + noise)⁻¹ B v, v),   v = (S + noise)⁻¹ d.

        That takes a solve with the present labels, refined by a second one, and is repeated while the observations
        are missed by more than a small part of their error bars. Conjugate gradients on all labels would stop at an
        error relative to the observations, and those that stand for C ≥ 0 may be large.
        """
        rows, noise = observations.rows(self.prior), observations.noise_at(self.noise)
        known = self.covariance(rows, rows) if covariance is None else covariance.clone()
        enough = self.missed_observations * known.diagonal().clamp_min(0.0).sqrt()
        noise.add_to(known, torch.arange(len(known), device=known.device))
        factor, cross = torch.linalg.cholesky(known), self.cross(rows)
        y, out = observations.y.reshape(-1), self
        every = [*self.labels, observations]
        missed, v, change = y - self.mean(rows), torch.zeros_like(y), torch.zeros_like(self.weights)
        for _ in range(self.most_corrections):
            more = torch.cholesky_solve(missed[:, None], factor)
            b = cross.T @ more
            found = self.solve(b)
            found = found + self.solve(self._missed(b, found))
            v, change = v + more[:, 0], change + found[:, 0]
            weights = torch.cat([self.weights - change, v])
            out = IterativePosterior(self.prior, every, self.noise, self.solver, weights=weights)
            missed = y - out.mean(rows) - noise.product(v[:, None])[:, 0]
            if bool((missed.abs() <= enough).all()):
                break
        out.log_evidence = self.log_evidence
        return out

    @property
    def gram(self) -> JetGram:
        """The covariance of the labels."""
        if self._gram is None:
            with torch.no_grad():
                self._gram = JetGram(
                    self.prior,
                    self.labels,
                    self.noise,
                    # kernel matrices that a few products in double precision read are not worth keeping
                    cache_bytes=0 if self.solver.precision == "mixed" else self._cache_bytes,
                )
        return self._gram

    @property
    def _cache_bytes(self) -> int:
        return int(1e9 * self.solver.cache_gigabytes)

    @property
    def preconditioner(self) -> LowRankAndLocal:
        """Preconditioner of the covariance, built on first use."""
        if self._preconditioner is None:
            dtype = torch.float32 if self.solver.precision == "mixed" else torch.float64
            self._preconditioner = precondition(self.gram, self.solver.preconditioner, self.solver.rank, dtype)
        return self._preconditioner

    def _fitted(self, start: Tensor | None, watched: Watched | None, processes: Processes) -> Solution:
        """The solve for the weights. The first process runs it, with the help of the others in its products."""
        if processes.size == 1:
            return self.solved(self.gram.target(), start, watched)
        shared: list[SharedProducts] = []
        with processes.section("the covariance of the labels"):
            shared.append(SharedProducts(self.gram, processes, self.gram.cache_bytes, torch.float64))
            if self.solver.precision == "mixed":
                shared.append(SharedProducts(self.gram, processes, self._cache_bytes, torch.float32))
                if in_double(shared[1].pairs):
                    shared.pop(0)

        def work(call: Call) -> dict[str, Tensor]:
            products = [lambda x, step=step: call(step, x) for step in range(len(shared))]
            return self.solved(self.gram.target(), start, watched, products).tensors()

        found = lead("the solve for the labels", [each.product for each in shared], work, processes)
        return Solution.from_tensors(found)

    def solved(
        self,
        b: Tensor,
        start: Tensor | None = None,
        watched: Watched | None = None,
        products: list[Callable] | None = None,
    ) -> Solution:
        """(K + noise)⁻¹ b for b of shape (N,) or (N, k), with iterations, residual and time.

        ``products``: other ways to A x than those of :attr:`gram`, in double precision and, if wanted, in single.
        """
        operator: SymmetricOperator = self.gram
        fast: Callable[[Tensor], Tensor] | None = None
        if products is not None:
            operator = GivenProducts(self.gram.rows, products[0])
            fast = products[1] if len(products) > 1 else None
        elif self.solver.precision == "mixed":
            if self._single is None:
                self._single = self.gram.products(self._cache_bytes, torch.float32)
            fast = lambda x: self.gram.product(x, self._single)  # noqa: E731
            if in_double(self._single):
                operator, fast = GivenProducts(self.gram.rows, fast), None
        preconditioner = self.preconditioner
        limits = self.solver.tolerance, self.solver.max_iterations
        with (watched or Watched()).solve(b, start, *limits) as (start, callback):
            solution = conjugate_gradients(
                operator,
                b,
                preconditioner,
                *limits,
                start=start,
                fast=fast,
                callback=callback,
            )
        logger.info(
            "conjugate gradients: %d products, residual %.1e, %.1f s",
            solution.iterations,
            solution.residual,
            solution.seconds,
        )
        return solution

    def solve(self, b: Tensor) -> Tensor:
        """(K + noise)⁻¹ b for b of shape (N,) or (N, k), for covariances: with products in double precision.

        Without restarts the error of bᵀ(K + noise)⁻¹b is small of second order: a posterior variance may be a millionth
        of the prior's.
        """
        if self.solver.precision != "mixed":
            return self.solved(b).value
        if self._double is None:
            ready = self._single is not None and in_double(self._single)
            self._double = self._single if ready else self.gram.products(self._cache_bytes, torch.float64)
            self._single = None
        return self.solved(b, products=[lambda x: self.gram.product(x, self._double)]).value

    def explained(self, left: Tensor, right: Tensor) -> Tensor:
        """Prior minus posterior covariance of rows, or combinations of rows, from their features."""
        if left is not right:  # the second order needs the solutions of both
            both = torch.cat([left, right])
            return self.explained(both, both)[: len(left), len(left) :]
        step = max(1, self.batch_numbers // max(1, left.shape[1]))
        parts = [self.solve(part.T.contiguous()) for part in left.split(step)]
        missed = [self._missed(part.T, x) for part, x in zip(left.split(step), parts, strict=True)]
        solved = torch.cat(parts, 1)
        return left @ solved + solved.mT @ torch.cat(missed, 1)

    def _missed(self, b: Tensor, x: Tensor) -> Tensor:
        """R = b − A x. With x for A⁻¹b, bᵀx + xᵀR is in error by the square of what bᵀx alone is in error by."""
        return b - self.gram.product(x, self._double)

    def covariance(self, a: RowBlock, b: RowBlock) -> Tensor:
        """Posterior covariances, shape (len(a), len(b))."""
        left = self.cross(a)
        out = self.prior.gram(a, b) - self.explained(left, left if a is b else self.cross(b))
        return 0.5 * (out + out.T) if a is b else out

    def variance(self, a: RowBlock) -> Tensor:
        """Posterior variances, shape (len(a),)."""
        parts = []
        step = max(1, self.batch_numbers // max(1, self.gram.rows) // a.components)
        for start, stop in frame_chunks(a.frames, step):
            part = a.slice(start, stop)
            cross = self.cross(part).T.contiguous()
            solved = self.solve(cross)
            parts.append(self.prior.diagonal(part) - (cross * solved + solved * self._missed(cross, solved)).sum(0))
        return torch.cat(parts).clamp_min(0.0)
