"""The posterior of a sparse model, by its normal equations or, where these lose digits, by a second pass over its rows.

Both give the same posterior, mean weights and L with Λ = L Lᵀ. The choice is made by the condition number of Λ, with
its diagonal scaled to one: where that is above ``CONDITION_LIMIT`` or Λ cannot be factorized, the rows are factorized
themselves (:mod:`kernelfe.linalg.qr`), in which the condition number enters as its square root.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ....errors import SolverError
from ....files.fields import take
from ....linalg import CONDITION_LIMIT, Conditioning, TriangularEquations, precision_condition
from ....linalg.normal import Stacked
from ...observations.labels import LabelSet
from ...observations.levels import NoiseLevels
from ...posterior import Correction, DrawnTerm, Expansion, Nodes, Posterior
from ...prior.prior import Prior
from ...prior.rows import RowBlock, frame_chunks
from ..exact import normal
from .basis import SparseBasis
from .streaming import accumulate

logger = logging.getLogger(__name__)


class SparsePosterior(Posterior):
    """Posterior of a sparse model: normal weights on whitened features, plus what the features miss.

    Parameters
    ----------
    basis
        Features with the final hyperparameters.
    weights, lower
        Posterior mean of the whitened, scaled weights, and the Cholesky factor of their precision Λ.
    block_rows
        Label rows in memory at a time when labels are added.
    """

    linear: ClassVar[bool] = True
    variance_rows: ClassVar[int] = 2048
    #: How the weights were solved for; None where that is not known.
    conditioning: Conditioning | None = None

    def __init__(self, basis: SparseBasis, weights: Tensor, lower: Tensor, block_rows: int = 8192):
        self.basis, self.prior, self.block_rows = basis, basis.prior, block_rows
        self.weights, self.lower = weights, lower
        with torch.no_grad():
            self.expansions, self.mean_weights = self._expansions()

    @classmethod
    def fit(cls, basis: SparseBasis, stacked: Stacked, noise: NoiseLevels, block_rows: int = 8192) -> SparsePosterior:
        """Solve the normal equations with the learned noise levels."""
        with torch.no_grad():
            levels = noise.levels(stacked.kinds, stacked.temperature) ** 2
            out = cls(basis, *stacked.solve(basis.prior.variances(), levels), block_rows)
            half = (out.lower.T @ out.weights).square().sum()  # bᵀ Λ⁻¹ b
            gain = 0.5 * half - out.lower.diagonal().log().sum()
            out.log_evidence = float(gain + stacked.log_norm(basis.prior.variances(), levels))
        return out

    def features(self, a: RowBlock) -> Tensor:
        """Features of the rows with prior scales, shape (len(a), weights)."""
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
        for start, stop in frame_chunks(a.frames, max(1, self.variance_rows // a.components)):
            features, missing = self.basis.wide(a.slice(start, stop))
            half = torch.linalg.solve_triangular(self.lower, (features * amplitudes).T, upper=False)
            parts.append((half**2).sum(0) + missing @ variances)
        return torch.cat(parts)

    def reducible(self, a: RowBlock) -> Tensor:
        """The covariance of the part of rows that the features describe, shape (len(a), len(a))."""
        half = self._half(self.features(a))
        return half.T @ half

    def _half(self, features: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(self.lower, features.T, upper=False)

    # ------------------------------------------------------------------ more observations

    @torch.no_grad()
    def extended(self, labels: list[LabelSet], levels: NoiseLevels) -> SparsePosterior:
        """The posterior given more labels.

        By normal equations where both posteriors are well-conditioned, else by orthogonal factorization of the rows.
        """
        if precision_condition(self.lower) <= CONDITION_LIMIT:
            out = self._by_sums(accumulate(self.basis, labels, self.block_rows), levels)
            if out is not None:
                return out
        return by_rows(self.basis, labels, levels, self.block_rows, before=self)

    @torch.no_grad()
    def with_observations(self, observations: LabelSet, covariance: Tensor | None = None) -> SparsePosterior:
        """The posterior given virtual observations: precision and weights are updated."""
        rows = observations.rows(self.prior)
        whiten = observations.noise.whitening(slice(None), rows.components)
        scaled = whiten(self.features(rows))
        target = whiten(observations.y.reshape(-1) - rows.prior_mean)
        precision = self.lower @ self.lower.T
        right = precision @ self.weights + scaled.T @ target
        lower = torch.linalg.cholesky(precision + scaled.T @ scaled)
        out = self.with_weights(torch.cholesky_solve(right[:, None], lower)[:, 0], lower)
        out.log_evidence = self.log_evidence
        return out

    def with_weights(self, weights: Tensor, lower: Tensor) -> SparsePosterior:
        """Posterior with other mean weights and another Cholesky factor of their precision."""
        out = SparsePosterior(self.basis, weights, lower, self.block_rows)
        out.log_evidence = self.log_evidence
        return out

    def _by_sums(self, stacked: Stacked, noise: NoiseLevels) -> SparsePosterior | None:
        variances = self.prior.variances()
        levels = noise.levels(stacked.kinds, stacked.temperature) ** 2
        added, b = stacked.precision(variances, levels)  # I + Σ ψψᵀ/σ²
        added.diagonal().sub_(1.0)
        before = self.lower @ (self.lower.T @ self.weights)
        lower, info = torch.linalg.cholesky_ex(torch.addmm(added, self.lower, self.lower.T))
        if int(info) or not precision_condition(lower) <= CONDITION_LIMIT:
            return None
        weights = torch.cholesky_solve((before + b)[:, None], lower)[:, 0]
        out = self.with_weights(weights, lower)
        gain = 0.5 * (weights @ (before + b)) - lower.diagonal().log().sum()
        gain = gain - 0.5 * (self.weights @ before) + self.lower.diagonal().log().sum()
        out.log_evidence = self.log_evidence + float(gain + stacked.log_norm(variances, levels))
        out.conditioning = Conditioning("cholesky", precision_condition(lower))
        return out

    # ------------------------------------------------------------------ draws, report and file

    def correction(self, terms: Sequence[DrawnTerm], rng: np.random.Generator, n: int) -> Correction:
        """K(·, Z) K_ZZ⁻¹ (u − f(Z)) for draws f from the prior, u from its posterior without its mean."""
        basis, prior = self.basis, self.prior
        nodes: list[list[Nodes]] = []
        noise = normal(rng, prior.device, len(self.lower), n)
        drawn = torch.linalg.solve_triangular(self.lower.T, noise, upper=True)
        drawn, at = drawn * basis.amplitudes()[:, None], 0
        for t, (term, draws) in enumerate(zip(prior.terms, terms, strict=True)):
            jets, matrix, rank, size = basis.jets[t], basis.whitenings[t].matrix, basis.ranks[t], term.size
            units = torch.eye(size, dtype=torch.float64, device=prior.device)
            present = [draws.read(jets, unit.expand(len(jets.z), size)).flatten(0, 1) for unit in units]
            own: list[Nodes] = []
            for k, wanted in enumerate(drawn[at : at + rank * size].reshape(size, rank, n)):
                weights = (matrix @ (wanted - matrix.T @ present[k])).reshape(len(jets), jets.rows, n)
                c, w = jets.coefficients(weights)
                own.append(Nodes(jets.z, c, w, units[k].expand(len(jets), size)))
            at += rank * size
            nodes.append(own)
        if prior.mean is None:
            return Correction(nodes, None)
        return Correction(nodes, drawn[at:].reshape(prior.mean.size, -1, n).transpose(0, 1))

    def remark(self) -> str:
        """The comparison with the exact answer, and the way of solving where it is unusual."""
        out = "" if self.check is None else f"; {self.check}"
        found = self.conditioning
        return out + (f"; solved by {found}" if found is not None and found.method == "qr" else "")

    def tensors(self) -> dict[str, Tensor]:
        """Weights and their precision, inducing environments and whitening."""
        out = {"weights": self.weights, "lower": self.lower}
        for t, z in enumerate(self.basis.inducing):
            out |= {f"term{t}.inducing": z, f"term{t}.whitening": self.basis.whitenings[t].matrix}
        return out

    @classmethod
    def from_tensors(
        cls, prior: Prior, gradients: bool, tensors: dict[str, Tensor], block_rows: int
    ) -> SparsePosterior:
        """The posterior of :meth:`tensors`, which are not trusted."""
        inducing, whitening = [], []
        for t, term in enumerate(prior.terms):
            z = take(tensors, f"term{t}.inducing", None, term.dimension)
            inducing.append(z)
            rows = len(z) * (1 + term.dimension if gradients else 1)
            whitening.append(take(tensors, f"term{t}.whitening", rows, None))
        basis = SparseBasis(prior, inducing, gradients, whitening)
        width = sum(rank * size for rank, size in zip(basis.ranks, basis.functions, strict=True))
        weights, lower = take(tensors, "weights", width), take(tensors, "lower", width, width)
        return cls(basis, weights, lower, block_rows)

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


@torch.no_grad()
def solve_sparse(
    basis: SparseBasis, labels: list[LabelSet], stacked: Stacked, noise: NoiseLevels, block_rows: int, progress=None
) -> SparsePosterior:
    """The posterior of a basis, given all labels and their normal equations.

    Parameters
    ----------
    labels
        Streamed again if the normal equations are ill-conditioned.
    stacked
        Their normal equations.
    noise
        Learned noise levels.

    Raises
    ------
    SolverError
        If the labels are beyond float64 either way.
    """
    try:
        posterior = SparsePosterior.fit(basis, stacked, noise, block_rows)
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
    noise: NoiseLevels,
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
    out = SparsePosterior(basis, weights, lower, block_rows)
    out.log_evidence = evidence + gain
    out.conditioning = Conditioning("qr", precision_condition(lower))
    return out
