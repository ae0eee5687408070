"""Frames in which a molecule is torn apart: positions that were not unwrapped, or beads on top of each other.

A bond of length r is implausible where r lies further from the median m of its lengths than ten standard deviations,
estimated by the median absolute deviation, and beyond 2m or below m/2. No thermal motion of a bond does that, and a
bond that crosses the box always does. Without bonds, those of :func:`~kernelfe.geometry.topology.infer_bonds` are
taken, and :func:`broken_frames` then takes a bond that is implausible in more than a tenth of the frames for none.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from ..arrays import real_array
from .cell import minimum_image
from .topology import infer_bonds, outlying


def broken_frames(
    positions: np.ndarray, bonds: Iterable[tuple[int, int]] | None = None, cell: np.ndarray | None = None
) -> NDArray[np.bool_]:
    """Frames with a bond of an implausible length.

    Parameters
    ----------
    positions
        (n, beads, 3), Å, finite. Fewer than 10 frames are all considered whole.
    bonds
        Pairs of bonded beads; None: inferred from at most 500 frames of molecules of 2 to 200 beads without a cell.
    cell
        (n, 3, 3) or (3, 3), Å: bonds are nearest images. None: not periodic.

    Returns
    -------
    ndarray of bool, (n,)
        True for broken frames: ``frames[~broken_frames(frames.positions, frames.bonds)]`` are the others.
    """
    torn = torn_bonds(positions, bonds, cell)[0]
    if bonds is None:
        torn = torn[10 * torn.sum(axis=1) <= len(positions)]
    return np.logical_or.reduce(torn, axis=0)


def torn_bonds(
    positions: np.ndarray, bonds: Iterable[tuple[int, int]] | None = None, cell: np.ndarray | None = None
) -> tuple[NDArray[np.bool_], NDArray[np.float64], tuple[tuple[int, int], ...]]:
    """Bonds of implausible lengths.

    Parameters
    ----------
    positions, bonds, cell
        As in :func:`broken_frames`.

    Returns
    -------
    torn : ndarray of bool, (bonds, n)
    lengths : ndarray, (bonds, n)
        Å.
    bonds
        The pairs.
    """
    positions = real_array(positions, "positions", "Å")
    n, beads = positions.shape[:2]
    if n < 10 or (bonds is None and (cell is not None or not 2 <= beads <= 200)):
        return np.zeros((0, n), bool), np.zeros((0, n)), ()
    known = infer_bonds(positions[:: -(-n // 500)]) if bonds is None else bonds
    pairs = tuple((int(i), int(j)) for i, j in known)
    r = np.empty((len(pairs), n))
    box = None if cell is None else torch.tensor(real_array(cell, "cell", "Å"))
    for row, (i, j) in zip(r, pairs, strict=True):  # bond by bond: all of them at once would be a copy of the positions
        v = positions[:, i] - positions[:, j]
        if box is not None:
            v = minimum_image(torch.from_numpy(v)[:, None], box)[:, 0].numpy()
        row[:] = np.linalg.norm(v, axis=1)
    return outlying(r), r, pairs
