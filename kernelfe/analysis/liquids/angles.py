"""Distribution of the angles between neighbours of a bead."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import require
from ...statistics import Estimate, series_mean
from .configurations import Configurations, configurations
from .distance_measures import Curve, Distance, curve_distance, ratio_curve
from .local import Neighbourhood, neighbourhoods

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class AngularDistribution:
    """Density of the angles j–i–k at a bead i between two neighbours within a cutoff.

    Attributes
    ----------
    edges
        (bins + 1,), rad, from 0 to π.
    density, error
        (bins,), per radian, of integral 1, with standard errors. An ideal gas has sin θ/2.
    triplets
        Number of triplets per central bead.
    cutoff
        Å.
    curve
        Linearised numbers for each frame.
    """

    edges: FloatArray
    density: FloatArray
    error: FloatArray
    triplets: Estimate
    cutoff: float
    curve: Curve

    @property
    def theta(self) -> FloatArray:
        """Centres of the bins, (bins,), rad."""
        return 0.5 * (self.edges[1:] + self.edges[:-1])


def angular_distribution(
    positions: ArrayLike,
    cell: ArrayLike | None,
    cutoff: float,
    *,
    kinds: Sequence[str] | None = None,
    triplet: tuple[str, str, str] | None = None,
    bins: int = 60,
    series: ArrayLike | None = None,
) -> AngularDistribution:
    """Density of the angles j–i–k of all triplets with r_ij and r_ik below a cutoff, j < k.

    Parameters
    ----------
    positions
        (n, beads, 3), Å, wrapped or not.
    cell
        (3, 3) or (n, 3, 3), Å, of any shape.
    cutoff
        Å, at most half the least height of the cells; 3.3 for the first shell of water.
    kinds, triplet
        Kind of each bead, and the kinds wanted of neighbour, centre and neighbour (``("H", "O", "H")``); without
        ``triplet`` all beads count alike.
    bins
        Number of bins of the angle, equal in θ.
    series
        (n,), label of the independent series of each frame, for the errors.

    Raises
    ------
    DataError
        If the cell is missing, flat or too small, beads coincide, or no bead has two neighbours.
    """
    frames = configurations(positions, cell, kinds, series)
    return angular_of(frames, cutoff, triplet, bins)


def angular_of(
    frames: Configurations, cutoff: float, triplet: tuple[str, str, str] | None = None, bins: int = 60
) -> AngularDistribution:
    """:func:`angular_distribution` of checked frames."""
    frames.require_within(cutoff, "cutoff")
    require(bins >= 1, f"bins={bins!r} must be a positive number")
    counts = np.zeros((len(frames.positions), bins))
    ends = None if triplet is None else _ends(frames, triplet)
    centres = frames.members(None if triplet is None else triplet[1])
    for near in neighbourhoods(frames, cutoff):
        counts[near.block] = _angle_counts(near, frames.beads, bins, centres, ends)
    total = counts.sum(axis=1)
    require(total.sum(), f"no bead has two neighbours within {cutoff:g} Å: take a larger cutoff")
    edges = np.linspace(0.0, math.pi, bins + 1)
    curve = ratio_curve(counts / (math.pi / bins), total[:, None], frames.series)
    triplets = series_mean(total / len(centres), frames.series)
    return AngularDistribution(edges, curve.value, curve.error, triplets, float(cutoff), curve)


def _ends(frames: Configurations, triplet: tuple[str, str, str]) -> FloatArray:
    """(2, beads): 1 for the beads of the kind of either neighbour."""
    ends = np.zeros((2, frames.beads))
    for row, kind in zip(ends, (triplet[0], triplet[2]), strict=True):
        row[frames.members(kind)] = 1.0
    return ends


def _angle_counts(near: Neighbourhood, beads: int, bins: int, centres: NDArray, ends: FloatArray | None) -> FloatArray:
    """Triplets of each frame in each bin, (f, bins)."""
    frames = len(near.block)
    unit = near.v / np.linalg.norm(near.v, axis=1, keepdims=True)
    number = near.counts.ravel()
    start = np.cumsum(number) - number
    is_centre = np.tile(np.isin(np.arange(beads), centres), frames)
    found = np.zeros(frames * bins)
    for c in np.unique(number[is_centre]):
        if c < 2:
            continue
        mine = np.flatnonzero(is_centre & (number == c))
        rows = start[mine, None] + np.arange(c)
        around = unit[rows]
        one, two = np.triu_indices(c, 1)
        cosine = np.einsum("mpx,mpx->mp", around[:, one], around[:, two])
        theta = np.arccos(np.clip(cosine, -1.0, 1.0))
        at = np.minimum((theta * (bins / math.pi)).astype(np.int64), bins - 1) + (mine // beads * bins)[:, None]
        weight = None
        if ends is not None:
            kind = ends[:, near.j[rows]]
            weight = np.maximum(kind[0][:, one] * kind[1][:, two], kind[1][:, one] * kind[0][:, two]).ravel()
        found += np.bincount(at.ravel(), weight, minlength=len(found))
    return found.reshape(frames, bins)


def total_variation(angles: AngularDistribution, reference: AngularDistribution) -> Distance:
    """Total variation ½ ∫|Δp| dθ between two angular distributions, from 0 to 1.

    Parameters
    ----------
    angles, reference
        Of the same cutoff and number of bins.

    Returns
    -------
    Distance
        With the value that two exact samples of these sizes would show on average (``floor``).

    Raises
    ------
    DataError
        If cutoffs or bins differ.
    """
    require(
        angles.cutoff == reference.cutoff and len(angles.edges) == len(reference.edges),
        f"angles within {angles.cutoff:g} and {reference.cutoff:g} Å in {len(angles.density)} and "
        f"{len(reference.density)} bins cannot be compared: compute both with one cutoff and number of bins",
    )
    return curve_distance(angles.curve, reference.curve, slice(None), 0.5 * float(angles.edges[1]))
