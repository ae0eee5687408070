"""The covariance of all labels as log densities want it: fast products, and forms that are differentiable.

Products are those of :class:`~kernelfe.models.jet_operator.JetGram`. The forms Σ_q u_qᵀ A v_q of a gradient have more
columns, up to the rank of the preconditioner, and are taken once. With few columns they go through jet products; with
many it takes less to make the Gram block by block and weigh each block by Σ_q u_q v_qᵀ, a matrix product. Blocks are
made again on the way back, so that none is kept.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..linalg.preconditioner import LowRankAndLocal
from .dense import BLOCK_ENTRIES
from .jet_operator import JetGram
from .labels import LabelSet
from .neighbours import local_gram
from .preconditioning import precondition
from .prior import Prior, RowBlock, frame_chunks


class LabelCovariance:
    """A = K + noise at the present hyperparameters.

    Parameters
    ----------
    prior, labels, noise
        As of :class:`~kernelfe.models.jet_operator.JetGram`.
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
        bare = [RowBlock(b.frames, b.components, b.terms, [], b.prior_mean) for b in self.slopes.blocks]

        def part(rows: Tensor, factor: Tensor) -> Tensor:
            return (factor * (local_gram(self.slopes, bare, rows) @ factor)).sum()

        for rows, columns in local.columns():
            total = total + checkpoint(part, rows, columns.to(torch.float64), use_reentrant=False)
        low_rank = preconditioner.subtracted()
        return total if low_rank is None else total - self.bilinear(low_rank, low_rank)


def covariance_builder(prior: Prior, labels: list[LabelSet], noise, rank: int | None, cache_bytes: int):
    """What :func:`~kernelfe.models.lanczos_evidence.fit_lanczos` takes, for labels of any number."""

    def build() -> tuple[LabelCovariance, LowRankAndLocal]:
        with torch.no_grad():
            gram = JetGram(prior, labels, noise, cache_bytes=cache_bytes)
        covariance = LabelCovariance(prior, labels, noise, gram)
        return covariance, precondition(covariance.gram, rank)

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
