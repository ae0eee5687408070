"""Periodic cells: nearest images, heights, inverse cells."""

from __future__ import annotations

import itertools
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import DataError

#: One of each pair ±(i, j, k) of the combinations of lattice vectors with coefficients −1, 0 and 1.
_COMBINATIONS = np.array([c for c in itertools.product((-1, 0, 1), repeat=3) if c > (0, 0, 0)], float)
#: Relative difference of squared lengths that counts as equal.
_EQUAL = 1e-9


def minimum_image(v: Tensor, cell: Tensor) -> Tensor:
    """Shortest periodic images of vectors (n, m, 3), in cells of any shape.

    Raises
    ------
    DataError
        If the cell has another shape or no volume.
    """
    return v - image_shifts(v, cell) @ cell


@torch.no_grad()
def image_shifts(v: Tensor, cell: Tensor) -> Tensor:
    """Whole numbers s (n, m, 3) of lattice vectors for which v − s·cell is the shortest image.

    Rounding of scaled coordinates finds it in an orthorhombic cell. In others the lattice vectors are reduced first;
    then the shortest image is the rounded one or differs by a combination of them with coefficients −1, 0 and 1.

    Parameters
    ----------
    v
        Vectors, (n, m, 3).
    cell
        Lattice vectors as rows, (3, 3) or (n, 3, 3).

    Raises
    ------
    DataError
        If the cell has another shape or no volume.
    """
    if cell.ndim == 3 and len(cell) == len(v) == 1:
        cell = cell[0]
    if cell.shape == (3, 3) and cell.device.type == "cpu":  # samplers ask for the same cell at every step
        lattice = _known_lattice(cell.detach().numpy().tobytes(), cell.dtype)
    else:
        lattice = _Lattice.of(cell, len(v))
    shifts = (v @ lattice.inverse).round()
    if lattice.around is None:
        return shifts
    squares, around = lattice.squares, lattice.around
    left = v - shifts @ lattice.basis
    # shorter than half of every lattice vector: no other image can be closer
    far = (left * left).sum(-1) > 0.25 * squares.amin(-1, keepdim=cell.ndim == 3)
    frame, row = torch.nonzero(far, as_tuple=True)
    if len(frame):
        if cell.ndim == 2:
            along, squares = around @ left[frame, row].T, squares[:, None]
        else:
            along, squares = torch.einsum("kcx,kx->ck", around[frame], left[frame, row]), squares[frame].T
        longer, which = (squares - 2.0 * along.abs()).min(0)
        sign = along.gather(0, which[None])[0].sign() * (longer < 0.0)
        combinations = torch.as_tensor(_COMBINATIONS, dtype=cell.dtype, device=cell.device)
        shifts[frame, row] += sign[:, None] * combinations[which]
    return shifts @ lattice.change


class _Lattice(NamedTuple):
    """Reduced lattice vectors of cells.

    Attributes
    ----------
    change, basis
        Whole numbers, and their product with the cell: the reduced vectors; both of the shape of the cell.
    inverse
        Of the basis.
    around, squares
        Combinations (..., 13, 3) of reduced vectors with coefficients −1, 0 and 1, and their squared lengths.
        ``around`` is None for orthorhombic cells, which need none.
    """

    change: Tensor
    basis: Tensor
    inverse: Tensor
    around: Tensor | None
    squares: Tensor

    @classmethod
    def of(cls, cell: Tensor, frames: int) -> _Lattice:
        """The lattice of cells (3, 3) or (n, 3, 3)."""
        inverse = inverse_cell(cell, frames)
        if torch.count_nonzero(cell) == cell.numel() // 3 == torch.count_nonzero(cell.diagonal(dim1=-2, dim2=-1)):
            return cls(cell, cell, inverse, None, cell)
        change = _reduction(cell)
        basis = change @ cell
        around = torch.as_tensor(_COMBINATIONS, dtype=cell.dtype, device=cell.device) @ basis
        return cls(change, basis, inverse_cell(basis, frames), around, (around * around).sum(-1))


@lru_cache(maxsize=64)  # a memo of a pure function
def _known_lattice(cell: bytes, dtype: torch.dtype) -> _Lattice:
    """The lattice of one cell, given by its bytes."""
    with torch.inference_mode(False), torch.no_grad():
        return _Lattice.of(torch.frombuffer(bytearray(cell), dtype=dtype).reshape(3, 3), 1)


def reduced_cell(cell: Tensor) -> Tensor:
    """Cells (3, 3) or (n, 3, 3) of the same lattices with the shortest possible vectors, and so the largest heights."""
    return _reduction(cell) @ cell


def _reduction(cell: Tensor) -> Tensor:
    """Whole-number matrices, of the shape of ``cell``, whose products with it have the shortest possible vectors."""
    cells = cell.reshape(-1, 3, 3).cpu().numpy()
    change = np.repeat(np.eye(3)[None], len(cells), 0)
    todo = np.flatnonzero(~_is_reduced(cells))
    while todo.size:  # cells of one simulation mostly reduce in the same way
        step = _reducing(cells[todo[0]].tobytes(), cells.dtype.str)
        done = _is_reduced(step @ cells[todo])
        done[0] = True
        change[todo[done]] = step
        todo = todo[~done]
    return torch.as_tensor(change, dtype=cell.dtype, device=cell.device).reshape(cell.shape)


@lru_cache(maxsize=64)
def _reducing(cell: bytes, dtype: str) -> NDArray[np.floating]:
    """Whole-number matrix that reduces one cell, given by its bytes; cached for samplers."""
    from ase.geometry import minkowski_reduce

    step: NDArray[np.floating] = minkowski_reduce(np.frombuffer(cell, dtype).reshape(3, 3))[1].astype(float)
    return step


def _is_reduced(cells: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Minkowski's condition for cells (n, 3, 3): no combination of vectors is shorter than the longest one in it."""
    squares = ((_COMBINATIONS @ cells) ** 2).sum(-1)
    longest = (np.abs(_COMBINATIONS)[None] * (cells**2).sum(-1)[:, None]).max(-1)
    return np.asarray((squares >= (1.0 - _EQUAL) * longest).all(-1))


def inverse_cell(cell: Tensor, frames: int) -> Tensor:
    """Inverse of cells (3, 3) or (n, 3, 3).

    Raises
    ------
    DataError
        If the cell has another shape or no volume.
    """
    if cell.shape[-2:] != (3, 3) or cell.ndim > 3 or (cell.ndim == 3 and len(cell) != frames):
        raise DataError(f"cell has shape {tuple(cell.shape)}: give (3, 3), or ({frames}, 3, 3) with one per frame")
    try:
        return torch.linalg.inv(cell)
    except torch.linalg.LinAlgError as error:
        raise DataError("a cell has no volume: give three independent lattice vectors, or cell=None") from error


def heights(cell: Tensor, frames: int) -> Tensor:
    """Distances between opposite faces of cells (..., 3, 3), shape (..., 3), Å."""
    return 1.0 / inverse_cell(cell, frames).norm(dim=-2)
