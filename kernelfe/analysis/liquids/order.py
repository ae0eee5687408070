"""Local order: tetrahedral order and coordination numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import require
from ...statistics import Estimate, series_mean
from .configurations import Configurations, configurations
from .distance_measures import Curve, curve_of
from .local import neighbourhoods

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TetrahedralOrder:
    """Tetrahedral order q of the beads.

    Attributes
    ----------
    mean
        Of q over beads and frames: 1 for a perfect tetrahedral network, 0 for an ideal gas.
    edges
        (bins + 1,), from −3 to 1.
    density, error
        (bins,), distribution of q, of integral 1, with standard errors.
    curve
        The same for each frame.
    """

    mean: Estimate
    edges: FloatArray
    density: FloatArray
    error: FloatArray
    curve: Curve


@dataclass(frozen=True, eq=False)
class Coordination:
    """Numbers of neighbours within a cutoff.

    Attributes
    ----------
    mean
        Mean number of neighbours of a bead.
    probability, error
        (k,), share of beads with 0, 1, … neighbours, with standard errors.
    cutoff
        Å.
    """

    mean: Estimate
    probability: FloatArray
    error: FloatArray
    cutoff: float


def tetrahedral_order(
    positions: ArrayLike,
    cell: ArrayLike | None,
    *,
    kinds: Sequence[str] | None = None,
    kind: str | None = None,
    bins: int = 160,
    series: ArrayLike | None = None,
) -> TetrahedralOrder:
    """Errington and Debenedetti's order q_i = 1 − (3/8) Σ_{j<k} (cos θ_jik + 1/3)², over the four nearest neighbours.

    See Nature 409, 318 (2001).

    Parameters
    ----------
    positions
        (n, beads, 3), Å, wrapped or not.
    cell
        (3, 3) or (n, 3, 3), Å, of any shape and size: images of a bead count as neighbours.
    kinds, kind
        Kind of each bead, and the one kind to use, as centres and as neighbours; without ``kind`` all beads.
    bins
        Of the distribution between −3 and 1.
    series
        (n,), label of the independent series of each frame, for the errors.

    Raises
    ------
    DataError
        If the cell is missing or flat, or beads coincide; names the frame.
    """
    return tetrahedral_of(configurations(positions, cell, kinds, series).of_kind(kind), bins)


def tetrahedral_of(frames: Configurations, bins: int = 160) -> TetrahedralOrder:
    """:func:`tetrahedral_order` of checked frames."""
    require(bins >= 1, f"bins={bins!r} must be a positive number")
    q = np.empty(frames.positions.shape[:2])
    todo = np.arange(len(q))
    density = frames.beads / frames.volumes.max()
    reach = 1.25 * (3.0 * 4.0 / (4.0 * np.pi * density)) ** (1.0 / 3.0)
    while len(todo):  # a larger sphere where a bead of the frame has fewer than four neighbours
        left = []
        for near in neighbourhoods(frames, reach, todo):
            enough = np.asarray((near.counts >= 4).all(axis=1))
            left.append(near.block[~enough])
            keep = enough[near.frame]
            q[near.block[enough]] = _order(near.v[keep], near.counts[enough])
        todo, reach = np.concatenate(left), 1.25 * reach
    edges = np.linspace(-3.0, 1.0, bins + 1)
    at = np.clip(((q + 3.0) * (bins / 4.0)).astype(np.int64), 0, bins - 1) + np.arange(len(q))[:, None] * bins
    counts = np.bincount(at.ravel(), minlength=len(q) * bins).reshape(len(q), bins)
    curve = curve_of(counts / frames.beads * (bins / 4.0), frames.series)
    return TetrahedralOrder(series_mean(q.mean(axis=1), frames.series), edges, curve.value, curve.error, curve)


def _order(v: FloatArray, counts: NDArray[np.int64]) -> FloatArray:
    """q (f, beads) from vectors to neighbours (E, 3), sorted by frame and bead, four of each at least."""
    number = counts.ravel()
    start = np.cumsum(number) - number
    r = np.linalg.norm(v, axis=1)
    order = np.lexsort((r, np.repeat(np.arange(len(number)), number)))
    rows = order[start[:, None] + np.arange(4)]
    unit = v[rows] / r[rows][..., None]
    cosine = np.einsum("mix,mjx->mij", unit, unit)
    one, two = np.triu_indices(4, 1)
    return np.asarray(1.0 - 0.375 * ((cosine[:, one, two] + 1.0 / 3.0) ** 2).sum(axis=1)).reshape(counts.shape)


def coordination_number(
    positions: ArrayLike,
    cell: ArrayLike | None,
    cutoff: float,
    *,
    kinds: Sequence[str] | None = None,
    pair: tuple[str, str] | None = None,
    series: ArrayLike | None = None,
) -> Coordination:
    """Number of neighbours of a bead within a cutoff: mean and distribution.

    Parameters
    ----------
    positions
        (n, beads, 3), Å, wrapped or not.
    cell
        (3, 3) or (n, 3, 3), Å, of any shape.
    cutoff
        Å, at most half the least height of the cells.
    kinds, pair
        Kind of each bead; the kinds of centre and neighbour. Without ``pair`` all beads count alike.
    series
        (n,), label of the independent series of each frame, for the errors.

    Raises
    ------
    DataError
        If the cell is missing, flat or too small, or beads coincide; names the frame.
    """
    return coordination_of(configurations(positions, cell, kinds, series), cutoff, pair)


def coordination_of(frames: Configurations, cutoff: float, pair: tuple[str, str] | None = None) -> Coordination:
    """:func:`coordination_number` of checked frames."""
    frames.require_within(cutoff, "cutoff")
    centres, others = (frames.members(kind) for kind in pair or (None, None))
    numbers = np.empty((len(frames.positions), len(centres)), dtype=np.int64)
    counted = np.isin(np.arange(frames.beads), others)
    for near in neighbourhoods(frames, cutoff):
        key = (near.frame * frames.beads + near.i)[counted[near.j]]
        found = np.bincount(key, minlength=near.counts.size).reshape(near.counts.shape)
        numbers[near.block] = found[:, centres]
    most = int(numbers.max())
    shares = np.stack([(numbers == c).mean(axis=1) for c in range(most + 1)], axis=1)
    share = series_mean(shares, frames.series)
    return Coordination(series_mean(numbers.mean(axis=1), frames.series), share.value, share.error, float(cutoff))
