"""Lists of the neighbours of each bead, block by block of frames."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ...geometry.neighbours import neighbours
from .configurations import COINCIDENT, Configurations, coincident

FloatArray = NDArray[np.float64]


class Neighbourhood(NamedTuple):
    """Neighbours of the beads of a block of frames, sorted by frame and bead.

    Attributes
    ----------
    block
        Numbers of the frames, (f,).
    frame, i, j
        (E,): frame within the block, central bead, its neighbour; each pair appears from both sides, also a bead and
        an image of itself.
    v
        (E, 3), R_j − R_i of the image, Å.
    counts
        (f, beads), neighbours of each bead.
    """

    block: NDArray[np.intp]
    frame: NDArray[np.int64]
    i: NDArray[np.int64]
    j: NDArray[np.int64]
    v: FloatArray
    counts: NDArray[np.int64]


def neighbourhoods(
    frames: Configurations, cutoff: float, rows: NDArray[np.intp] | None = None, at_once: int = 1 << 16
) -> Iterator[Neighbourhood]:
    """Neighbours closer than a cutoff, every image, ``at_once`` beads at a time.

    Raises
    ------
    DataError
        If two beads coincide; names the frame.
    """
    every = np.arange(len(frames.positions)) if rows is None else rows
    size = max(1, at_once // frames.beads)
    for start in range(0, len(every), size):
        block = every[start : start + size]
        x, cells = (torch.as_tensor(part[block]) for part in (frames.positions, frames.cells))
        pairs = neighbours(x, cells, cutoff, few=0)
        frame, i, j = (part.numpy() for part in pairs[:3])
        v = pairs.v.numpy()
        if len(v):
            square = np.einsum("ex,ex->e", v, v)
            p = int(square.argmin())
            if square[p] < COINCIDENT**2:
                raise coincident(int(block[frame[p]]), int(i[p]), int(j[p]), float(np.sqrt(square[p])))
        key = np.concatenate([frame * frames.beads + i, frame * frames.beads + j])
        order = np.argsort(key, kind="stable")
        counts = np.bincount(key, minlength=len(block) * frames.beads).reshape(len(block), frames.beads)
        yield Neighbourhood(
            block,
            np.tile(frame, 2)[order],
            np.concatenate([i, j])[order],
            np.concatenate([j, i])[order],
            np.concatenate([v, -v])[order],
            counts,
        )
