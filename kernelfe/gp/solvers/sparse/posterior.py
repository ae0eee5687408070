"""Solving a sparse model: by its normal equations or, where these lose digits, by its rows, streamed once more.

Both give the same posterior, mean weights and L with Λ = L Lᵀ. The choice is made by the condition number of Λ, with
its diagonal scaled to one: where that is above ``CONDITION_LIMIT`` or Λ cannot be factorized, the rows are factorized
themselves (:mod:`kernelfe.linalg.qr`), in which the condition number enters as its square root.
"""

from __future__ import annotations

import logging
import math

import torch
from torch import Tensor

from ....errors import SolverError
from ....linalg import CONDITION_LIMIT, Conditioning, TriangularEquations, precision_condition
from ....linalg.normal import Stacked
from ...observations.labels import LabelSet
from ...posterior import Expansion
from ...prior.rows import RowBlock, frame_chunks
from .basis import SparseBasis
from .streaming import accumulate


class SparsePosterior:
    """Posterior of a sparse model: normal weights on whitened features, plus what the features miss.

    Parameters
    ----------
    basis
        Features with the final hyperparameters.
    weights, lower
        Posterior mean of the whitened, scaled weights, and the Cholesky factor of their precision Λ.
    """

    def __init__(self, basis: SparseBasis, weights: Tensor, lower: Tensor):
        self.basis, self.prior = basis, basis.prior
        self.weights, self.lower = weights, lower
        with torch.no_grad():
            self.expansions, self.mean_weights = self._expansions()

    @classmethod
    def fit(cls, basis: SparseBasis, stacked: Stacked, noise) -> SparsePosterior:
        """Solve the normal equations with the learned noise levels."""
        with torch.no_grad():
            levels = noise.levels(stacked.kinds, stacked.temperature) ** 2
            out = cls(basis, *stacked.solve(basis.prior.variances(), levels))
            half = (out.lower.T @ out.weights).square().sum()  # bᵀ Λ⁻¹ b
            gain = 0.5 * half - out.lower.diagonal().log().sum()
            out.log_evidence = float(gain + stacked.log_norm(basis.prior.variances(), levels))
        return out

    log_evidence: float = math.nan
    #: How the weights were solved for (:mod:`kernelfe.gp.solvers.sparse.posterior`); None where that is not known.
    conditioning: Conditioning | None = None
    #: Its comparison with the exact answer (:class:`~kernelfe.gp.solvers.sparse.check.SolverCheck`), if there was one.
    check = None

    def features(self, a: RowBlock) -> Tensor:
        """Linear in the rows: what :meth:`explained` reads, shape (len(a), weights)."""
        return self.basis.wide(a)[0] * self.basis.amplitudes()

    def explained(self, left: Tensor, right: Tensor) -> Tensor:
        """Prior minus posterior covariance of rows, or combinations of rows, from their features."""
        half = torch.linalg.solve_triangular(self.lower, left.T, upper=False)
        other = half if right is left else torch.linalg.solve_triangular(self.lower, right.T, upper=False)
        return left @ right.T - half.T @ other

    def covariance(self, a: RowBlock, b: RowBlock) -> Tensor:
        """Posterior covariances, shape (len(a), len(b)): prior − explained + weights' posterior."""
        amplitudes = self.basis.amplitudes()
        left = self.basis.wide(a)[0] * amplitudes
        right = left if a is b else self.basis.wide(b)[0] * amplitudes
        prior = self.prior.gram(a, b) - left @ right.T
        half_left = torch.linalg.solve_triangular(self.lower, left.T, upper=False)
        half_right = half_left if a is b else torch.linalg.solve_triangular(self.lower, right.T, upper=False)
        return prior + half_left.T @ half_right

    def variance(self, a: RowBlock) -> Tensor:
        """Posterior variances, shape (len(a),)."""
        amplitudes, variances = self.basis.amplitudes(), torch.cat(self.prior.variances())
        parts = []
        for start, stop in frame_chunks(a.frames, max(1, 2048 // a.components)):
            features, missing = self.basis.wide(a.slice(start, stop))
            half = torch.linalg.solve_triangular(self.lower, (features * amplitudes).T, upper=False)
            parts.append((half**2).sum(0) + missing @ variances)
        return torch.cat(parts)

    def _expansions(self) -> tuple[list[Expansion], Tensor | None]:
        scaled, out, at = self.weights * self.basis.amplitudes(), [], 0
        for t, term in enumerate(self.prior.terms):
            rank, size = self.basis.ranks[t], term.size
            block = scaled[at : at + rank * size].reshape(size, rank)
            at += rank * size
            jets = self.basis.jets[t]
            coefficients = (self.basis.whitenings[t].matrix @ block.T).reshape(len(jets.z), jets.rows, size)
            w = torch.einsum("erd,erp->edp", jets.w, coefficients) if self.basis.gradients else None
            out.append(Expansion(jets.z, coefficients[:, 0].contiguous(), w))
        if self.prior.mean is None:
            return out, None
        return out, scaled[at:].reshape(self.prior.mean.size, -1).T.contiguous()


logger = logging.getLogger(__name__)


def remark(posterior) -> str:
    """What the reason for a solver should add: how it compares with the exact one, and how it solved where unusual."""
    check, found = getattr(posterior, "check", None), getattr(posterior, "conditioning", None)
    out = "" if check is None else f"; {check}"
    return out + (f"; solved by {found}" if isinstance(found, Conditioning) and found.method == "qr" else "")


@torch.no_grad()
def solve_sparse(
    basis: SparseBasis, labels: list[LabelSet], stacked: Stacked, noise, block_rows: int, progress=None
) -> SparsePosterior:
    """The posterior of a basis, given all labels and what one pass over them left.

    Parameters
    ----------
    labels
        Streamed again if need be.
    stacked
        Their normal equations.
    noise
        :class:`~kernelfe.gp.observations.levels.NoiseLevels`.

    Raises
    ------
    SolverError
        If the labels are beyond float64 either way.
    """
    try:
        posterior = SparsePosterior.fit(basis, stacked, noise)
        condition = precision_condition(posterior.lower)
    except SolverError:
        condition = float("inf")
    if condition <= CONDITION_LIMIT:
        posterior.conditioning = Conditioning("cholesky", condition)
        return posterior
    logger.warning(
        "the normal equations are ill-conditioned (%.0e > %.0e): the rows are streamed once more and factorized",
        condition,
        CONDITION_LIMIT,
    )
    return by_rows(basis, labels, noise, block_rows, progress=progress)


@torch.no_grad()
def by_rows(
    basis: SparseBasis,
    labels: list[LabelSet],
    noise,
    block_rows: int,
    before: SparsePosterior | None = None,
    progress=None,
) -> SparsePosterior:
    """The posterior by orthogonal factorization of the rows of all labels.

    Parameters
    ----------
    before
        A posterior of the same basis to which the labels are added; None: the prior.
    """
    equations = TriangularEquations(basis.ranks, basis.functions)
    triangles = accumulate(basis, labels, block_rows, progress=progress, equations=equations)
    levels = noise.levels(triangles.kinds, triangles.temperature) ** 2
    start, evidence = None, 0.0
    if before is not None:
        upper = before.lower.tril().T
        start, evidence = torch.cat([upper, (upper @ before.weights)[:, None]], 1), before.log_evidence
    weights, lower, gain = triangles.solve(basis.prior.variances(), levels, start)
    out = SparsePosterior(basis, weights, lower)
    out.log_evidence = evidence + gain
    out.conditioning = Conditioning("qr", precision_condition(lower))
    return out
