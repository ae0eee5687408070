"""Periodic cells: nearest images, heights, inverse cells."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import DataError


def minimum_image(v: Tensor, cell: Tensor) -> Tensor:
    """Periodic images of vectors (n, m, 3) in the parallelepiped about the origin.

    They are the shortest images in every orthorhombic cell, and in a skewed one as long as the shortest image is
    below half the smallest height of the cell (see :func:`heights`).

    Raises
    ------
    DataError
        If the cell has another shape or no volume.
    """
    return v - (v @ inverse_cell(cell, len(v))).round() @ cell


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
