"""Histograms of distances between beads of periodic frames."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from ...geometry.neighbours import neighbours
from .configurations import COINCIDENT, Configurations, coincident

FloatArray = NDArray[np.float64]

#: Distances computed at once by trying all pairs: more do not stay in the cache of a core.
_AT_ONCE = 1 << 15
#: A neighbour search takes about this much longer for each pair that it finds than trying a pair takes.
_SEARCH = 25.0


def distance_counts(frames: Configurations, first: NDArray, second: NDArray, width: float, bins: int) -> FloatArray:
    """Number of pairs in bins of the distance, (n, bins).

    Parameters
    ----------
    frames
        The frames; ``width * bins`` is at most half the least height of their cells.
    first, second
        Numbers of the beads of two kinds; equal for pairs of one kind, which are counted once.
    width, bins
        Bins are [k·width, (k+1)·width), Å.

    Raises
    ------
    DataError
        If two beads coincide; names the frame.
    """
    volume, reach = frames.volumes.min(), width * bins
    few = 4.0 / 3.0 * math.pi * reach**3 * _SEARCH > volume
    counts = (_by_pairs if few else _by_search)(frames, first, second, width, bins)
    for k in np.flatnonzero(counts[:, 0]):
        _refuse_coincident(frames, int(k), first, second, width)
    return counts


def _by_pairs(frames: Configurations, first: NDArray, second: NDArray, width: float, bins: int) -> FloatArray:
    same = np.array_equal(first, second)
    counts = np.zeros((len(frames.positions), bins))
    for block in frames.blocks(_AT_ONCE // len(second)):
        cells = frames.cells[block]
        # contiguous components; the nearest image is the rounded one up to half the least height
        scaled = np.einsum("nbx,nxk->knb", frames.positions[block], np.linalg.inv(cells))
        metric = np.einsum("nix,njx->ijn", cells, cells)[..., None]
        straight = not np.any(metric[~np.eye(3, dtype=bool)])
        left, right = np.ascontiguousarray(scaled[:, :, first]), np.ascontiguousarray(scaled[:, :, second])
        row = np.arange(cells.shape[0])[:, None] * (bins + 1)
        found = np.zeros(cells.shape[0] * (bins + 1), dtype=np.int64)
        for i in range(len(first) - same):
            d = right[:, :, i + 1 if same else 0 :] - left[:, :, i : i + 1]
            d -= np.rint(d)
            square = metric[0, 0] * d[0] ** 2 + metric[1, 1] * d[1] ** 2 + metric[2, 2] * d[2] ** 2
            if not straight:
                for a, b in ((0, 1), (0, 2), (1, 2)):
                    square += 2.0 * metric[a, b] * d[a] * d[b]
            at = np.minimum(np.sqrt(np.maximum(square, 0.0)) * (1.0 / width), bins).astype(np.int64)
            at += row
            found += np.bincount(at.ravel(), minlength=len(found))
        counts[block] = found.reshape(-1, bins + 1)[:, :bins]
    return counts


def _by_search(frames: Configurations, first: NDArray, second: NDArray, width: float, bins: int) -> FloatArray:
    wanted = np.zeros((frames.beads, frames.beads), dtype=bool)
    wanted[np.ix_(first, second)] = True
    wanted |= wanted.T
    counts = np.zeros((len(frames.positions), bins))
    for block in frames.blocks(max(1, (1 << 19) // frames.beads)):
        x, cells = (torch.as_tensor(np.array(part[block])) for part in (frames.positions, frames.cells))
        pairs = neighbours(x, cells, width * bins, wanted, few=0)
        at = np.minimum((pairs.v.norm(dim=1) * (1.0 / width)).numpy().astype(np.int64), bins - 1)
        at += pairs.frame.numpy() * bins
        counts[block] = np.bincount(at, minlength=len(x) * bins).reshape(-1, bins)
    return counts


def _refuse_coincident(frames: Configurations, k: int, first: NDArray, second: NDArray, width: float) -> None:
    """Raise if a pair of a frame, known to hold one closer than a bin, is at one place."""
    x, cell = (torch.as_tensor(np.array(part[k : k + 1])) for part in (frames.positions, frames.cells))
    pairs = neighbours(x, cell, min(width, 0.5))
    known = np.isin(pairs.i, first) & np.isin(pairs.j, second) | np.isin(pairs.j, first) & np.isin(pairs.i, second)
    r = pairs.v.norm(dim=1).numpy()
    for p in np.flatnonzero(known & (r < COINCIDENT)):
        raise coincident(k, int(pairs.i[p]), int(pairs.j[p]), float(r[p]))
