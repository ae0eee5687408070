"""Pairs of beads within a cutoff, with every periodic image, for batches of frames.

The search yields indices and images; vectors are formed from positions and cell in torch, so that they can be
differentiated as often as needed. Two searches give the same pairs: one over all pairs of all frames at once, for
frames of few beads, and one frame by frame, linear in the number of beads, with vesin
(https://github.com/Luthaf/vesin), or with a k-d tree without a cell.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import vesin
from numpy.typing import NDArray
from scipy.spatial import KDTree
from torch import Tensor

from ..errors import DataError
from .cell import heights, inverse_cell


class Neighbours(NamedTuple):
    """Pairs of beads, in the order of frame, i, j, image; each unordered pair once.

    Attributes
    ----------
    frame, i, j
        Frame and beads of each pair, shape (E,), i ≤ j; i = j for a bead and an image of itself.
    v
        R_j − R_i of the image, shape (E, 3), differentiable in positions and cell.
    """

    frame: Tensor
    i: Tensor
    j: Tensor
    v: Tensor


def neighbours(
    x: Tensor, cell: Tensor | None, cutoff: float, wanted: NDArray[np.bool_] | None = None, few: int | None = None
) -> Neighbours:
    """All pairs of beads closer than a cutoff.

    Parameters
    ----------
    x
        Positions, (n, beads, 3), wrapped or not. A bead whose position is not finite has no neighbours.
    cell
        Lattice vectors as rows, (3, 3) or (n, 3, 3), periodic in all three directions; None without periodicity.
    cutoff
        Largest distance, in the unit of ``x``; it may exceed the cell, then several images of a pair count.
    wanted
        Symmetric mask (beads, beads) of the pairs to return; None for all.
    few
        Largest number of beads for which all pairs are tried. None: 250 on a CPU, about where both searches take the
        same time, and 1000 on a GPU.

    Raises
    ------
    DataError
        If the cell has another shape or no volume, or is flatter or longer than any liquid's.
    """
    few = (250 if x.device.type == "cpu" else 1000) if few is None else few
    one_image = cell is None or bool(cutoff <= 0.5 * heights(cell, len(x)).min())
    search = all_pairs if one_image and x.shape[1] <= few else cell_lists
    return search(x, cell, cutoff, wanted)


def all_pairs(
    x: Tensor, cell: Tensor | None, cutoff: float, wanted: NDArray[np.bool_] | None = None, block: int = 1 << 21
) -> Neighbours:
    """:func:`neighbours` by trying all pairs, ``block`` distances at a time, for cutoffs of at most half the heights.

    Then at most one image of a pair is in range, and rounding of scaled coordinates finds it.
    """
    beads = x.shape[1]
    mask = np.triu(np.ones((beads, beads), bool) if wanted is None else wanted, 1)
    i, j = (torch.as_tensor(index, device=x.device) for index in np.nonzero(mask))
    frames = max(1, block // max(1, len(i)))
    found = []
    for start in range(0, len(x), frames):
        part = x[start : start + frames]
        v = part[:, j] - part[:, i]
        if cell is not None:
            box = cell if cell.ndim == 2 else cell[start : start + frames]
            v = v - (v @ inverse_cell(box, len(v))).detach().round() @ box
        frame, pair = torch.nonzero((v * v).sum(-1) < cutoff * cutoff, as_tuple=True)
        found.append((frame + start, i[pair], j[pair], v[frame, pair]))
    if not found:
        return Neighbours(i[:0], i[:0], j[:0], x.new_zeros(0, 3))
    return Neighbours(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def cell_lists(x: Tensor, cell: Tensor | None, cutoff: float, wanted: NDArray[np.bool_] | None = None) -> Neighbours:
    """:func:`neighbours` frame by frame on the CPU, linear in the number of beads, for any cutoff."""
    points, cells, boxes, reach = x.detach().cpu().numpy(), None, None, cutoff
    if cell is not None:
        cells = cell.expand(len(x), 3, 3)
        boxes, reach = cells.detach().cpu().numpy(), _reach(heights(cells, len(x)).detach().cpu().numpy(), cutoff)
    found = [(*3 * [np.zeros(0, np.int64)], np.zeros((0, 3), np.int64))]
    for k, inside in enumerate(points):
        i, j, image = _search(inside, None if boxes is None else boxes[k], reach)
        keep = slice(None) if wanted is None else wanted[i, j]
        i, j, image = i[keep], j[keep], image[keep]
        found.append((np.full(len(i), k), i, j, image))
    frame, i, j, image = (torch.from_numpy(np.concatenate(parts)).to(x.device) for parts in zip(*found, strict=True))
    v = x[frame, j] - x[frame, i]
    if cells is not None:
        v = v + (image.to(x)[:, None] @ cells[frame])[:, 0]
    near = (v * v).sum(-1) < cutoff * cutoff
    return Neighbours(frame[near], i[near], j[near], v[near])


def _search(points: NDArray, box: NDArray | None, reach: float) -> tuple[NDArray, ...]:
    """i, j (E,) and images (E, 3) of j as lattice vectors, sorted, of all pairs of one frame within ``reach``."""
    known = np.flatnonzero((np.abs(points) < 1e100).all(axis=1))  # squares of larger numbers may overflow
    if box is None:  # vesin is killed by a division by zero when one bead is very far from the others
        i, j = KDTree(points[known]).query_pairs(reach, output_type="ndarray").T if len(known) else known.reshape(2, 0)
        i, j, image = known[i], known[j], np.zeros((len(i), 3), np.int64)
    else:
        search = vesin.NeighborList(cutoff=reach, full_list=False, n_threads=torch.get_num_threads())
        i, j, image = search.compute(points[known], box, True, "ijS")
        i, j, image = known[i.astype(np.int64)], known[j.astype(np.int64)], image.astype(np.int64)
    if len(i) == 0:
        return i, j, image
    first = image[np.arange(len(image)), (image != 0).argmax(axis=1)]
    turned = (i > j) | ((i == j) & (first < 0))
    i, j, image = np.where(turned, j, i), np.where(turned, i, j), np.where(turned[:, None], -image, image)
    low = image.min(axis=0)
    _, wy, wz = image.max(axis=0) - low + 1
    order = np.lexsort(((image - low) @ np.array([wy * wz, wz, 1]), i * len(points) + j))
    return i[order], j[order], image[order]


def _reach(heights: NDArray, cutoff: float) -> float:
    """The cutoff, or a larger one where vesin would divide by zero.

    vesin (0.6) limits its grid to 1e5 cells at constant ratios of the numbers of cells along the axes; in a flat or
    long cell, which would take more, one of these numbers is rounded down to zero, and the process is killed.
    """
    reach = cutoff
    while True:
        cells = np.maximum(np.trunc(heights / reach), 1.0)
        total = cells.prod(axis=1, keepdims=True)
        if ((total <= 1e5) | ((cells * np.cbrt(1e5 / total)).min(axis=1, keepdims=True) >= 3.0)).all():
            return reach
        reach *= 2.0
        if reach > 100.0 * cutoff:
            low, high = heights.min(), heights.max()
            raise DataError(f"the cell is {low:.3g} by {high:.3g} Å: too flat or long for a cutoff of {cutoff:g} Å")
