"""Fewer rows with the same information: label components of a frame, rotated until most of them read nothing.

The m label components of a frame read a term as W ∇g, W of shape (m, D). They are never more than the rank ρ of W
independent readings: forces on N beads do not depend on rigid motions, so that ρ ≤ 3N − 6, and ρ ≤ D in any case. With
orthonormal columns Q that span the columns of W, the rows

    (Qᵀ W) ∇g + Qᵀ ε = Qᵀ y,   cov(Qᵀ ε) = 1 where cov(ε) = 1,

carry all information of y about g; the remainder (1 − Q Qᵀ) y is noise and enters the evidence alone. Sums over
rows of ψψᵀ, ψy and of the variance that is missed are the same for both. Q comes from the products of W with fixed
random columns (Halko, Martinsson and Tropp, SIAM Rev. 53, 217, 2011), and is checked against W, frame by frame.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ....kernels import Jets
from ...prior.rows import RowBlock, TermRead

#: Columns of every term from which on rows are not reduced.
MOST_COLUMNS = 40


def reduced(rows: RowBlock, y: Tensor, whiten: Callable[[Tensor], Tensor]) -> tuple[RowBlock, Tensor, float] | None:
    """Rows of unit noise with the same information, fewer of them in each frame.

    Parameters
    ----------
    rows
        Rows of m components in each of n frames.
    y
        Labels, shape (n m,), not yet whitened.
    whiten
        Divides rows, shapes (n m,) and (n m, k), by their standard deviations.

    Returns
    -------
    RowBlock, Tensor, float
        Rows of ρ < m components, their labels, shape (n ρ,), and the sum of squares of the remainder of the
        whitened labels. None where nothing is gained, or where components gather several environments or values.
    """
    if rows.components == 1 or rows.mean or not rows.terms:
        return None
    if all(len(reads) and reads[0].jets.z.shape[1] > MOST_COLUMNS for reads in rows.terms):
        return None  # the orthogonal basis costs as much as the products that it saves
    if any(len(reads) != 1 or not reads[0].jets.direct or reads[0].jets.reads_values for reads in rows.terms):
        return None
    n, m = rows.frames, rows.components
    jets = [reads[0].jets for reads in rows.terms]
    w = torch.cat([j.w for j in jets], 2)  # type: ignore[misc]
    w = whiten(w.flatten(0, 1)).reshape(w.shape)
    turn = _spanning(w)
    if turn is None:
        return None
    w = turn.transpose(1, 2) @ w
    y = whiten(y).reshape(n, m, 1)
    kept = turn.transpose(1, 2) @ y
    left = (y - turn @ kept).square().sum()
    terms, at = [], 0
    for reads, j in zip(rows.terms, jets, strict=True):
        width = j.z.shape[1]
        terms.append([TermRead(Jets(j.z, None, w[:, :, at : at + width].contiguous()), reads[0].factors)])
        at += width
    rank = turn.shape[2]
    return RowBlock(n, rank, terms, [], y.new_zeros(n * rank)), kept.reshape(-1), left


def _spanning(w: Tensor, tolerance: float = 1e-9, counted: int = 16) -> Tensor | None:
    """Orthonormal columns (n, m, ρ) that span those of each w (n, m, D), or None where ρ = m.

    Parameters
    ----------
    w
        W of every frame.
    tolerance
        Share of the largest singular value of W below which one counts as zero.
    counted
        Frames whose rank is counted; the others are checked.
    """
    n, m, width = w.shape
    values = torch.linalg.svdvals(w[:: max(1, n // counted)])
    rank = max(1, int((values > tolerance * values[:, :1]).sum(1).max()))
    if rank >= m:
        return None
    if rank < width:
        generator = torch.Generator().manual_seed(0)  # which columns does not matter
        mix = torch.randn(width, rank, generator=generator, dtype=w.dtype, device="cpu").to(w.device)
        turn = torch.linalg.qr(w @ torch.linalg.qr(mix).Q).Q
        if not _spans(turn, w):  # once more, from what was found: singular values of this product are squared
            turn = torch.linalg.qr(w @ (w.transpose(1, 2) @ turn)).Q
        if _spans(turn, w):
            return turn
        rank = width  # a frame of higher rank than those that were counted
    return None if rank >= m else torch.linalg.qr(w).Q


def _spans(turn: Tensor, w: Tensor, lost: float = 1e-13) -> bool:
    """Return True if no part of W, ‖W − Q Qᵀ W‖ / ‖W‖, is lost beyond rounding."""
    left = torch.baddbmm(w, turn, turn.transpose(1, 2) @ w, alpha=-1.0)
    return bool((left.square().sum((1, 2)) <= lost**2 * w.square().sum((1, 2))).all())
