"""Cholesky factors and solves by tiles that threads share, with the same bits for any number of threads.

Libraries divide such an operation among all cores themselves. Their results then depend on the number of threads in
the last digits, and where another process holds one of the cores the others wait for it: ten times as long for a
matrix of 2,000 rows. Here tiles are the blocks of :func:`kernelfe.runtime.threads.side_by_side`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..runtime.threads import one_thread, side_by_side

#: Rows of a tile. Products of so many rows run at full speed; smaller matrices are one tile.
TILE = 256


@one_thread()
def factorize(matrix: Tensor, tile: int = TILE) -> int:
    """Overwrite a symmetric matrix by its lower Cholesky factor, with zeros above.

    Parameters
    ----------
    matrix
        Shape (n, n), float64, on the CPU; the lower triangle is read.
    tile
        Rows of a tile.

    Returns
    -------
    int
        0, or the number of the row (from 1) at which the matrix is not positive definite.
    """
    n = len(matrix)
    for start in range(0, n, tile):
        stop = min(start + tile, n)
        lower, failed = torch.linalg.cholesky_ex(matrix[start:stop, start:stop])
        if int(failed):
            return start + int(failed)
        matrix[start:stop, start:stop] = lower
        matrix[start:stop, stop:] = 0.0
        _eliminate(matrix, lower, start, stop, tile)
    return 0


def _eliminate(matrix: Tensor, lower: Tensor, start: int, stop: int, tile: int) -> None:
    """The columns start…stop−1 below their factor, and what they explain of the rows below."""

    def column(rows: slice) -> None:
        part = matrix[rows, start:stop]
        part.copy_(torch.linalg.solve_triangular(lower.mT, part, upper=True, left=False))

    def subtract(rows: slice) -> None:
        left, right = matrix[rows, start:stop], matrix[stop : rows.stop, start:stop]
        matrix[rows, stop : rows.stop].addmm_(left, right.T, alpha=-1.0)

    below = _tiles(len(matrix), tile, stop)
    side_by_side(column, below)
    side_by_side(subtract, below[::-1])  # the longest first


@one_thread()
def solve(lower: Tensor, b: Tensor, half: bool = False, tile: int = TILE) -> Tensor:
    """(L Lᵀ)⁻¹ b or, with ``half``, L⁻¹ b, of shape (n, k), some columns at a time; on the CPU."""
    out = torch.empty_like(b, memory_format=torch.contiguous_format)

    def columns(part: slice) -> None:
        found = torch.linalg.solve_triangular(lower, b[:, part], upper=False)
        out[:, part] = found if half else torch.linalg.solve_triangular(lower.mT, found, upper=True)

    side_by_side(columns, _tiles(b.shape[1], tile))
    return out


def _tiles(size: int, tile: int, first: int = 0) -> list[slice]:
    return [slice(start, min(start + tile, size)) for start in range(first, size, tile)]
