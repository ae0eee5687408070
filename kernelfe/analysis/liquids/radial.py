"""Radial distribution functions g(r) of periodic frames."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import require
from .configurations import Configurations, configurations
from .distance_measures import Curve, Distance, curve_distance, curve_of
from .distances import distance_counts

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RadialDistribution:
    """g(r) of one pair of kinds.

    Attributes
    ----------
    edges
        (bins + 1,), Å, multiples of the width.
    g, error
        (bins,), with standard errors.
    coordination
        (bins,), mean number of beads of the second kind closer than ``edges[1:]`` to one of the first.
    pair
        Names of the kinds, or None for all beads.
    curve
        The same numbers for each frame.
    """

    edges: FloatArray
    g: FloatArray
    error: FloatArray
    coordination: FloatArray
    pair: tuple[str, str] | None
    curve: Curve

    @property
    def r(self) -> FloatArray:
        """Centres of the bins, (bins,), Å."""
        return 0.5 * (self.edges[1:] + self.edges[:-1])


def radial_distribution(
    positions: ArrayLike,
    cell: ArrayLike | None,
    *,
    kinds: Sequence[str] | None = None,
    pair: tuple[str, str] | None = None,
    r_max: float | None = None,
    width: float = 0.05,
    series: ArrayLike | None = None,
) -> RadialDistribution:
    """Radial distribution function g(r) = ⟨V n(r)⟩ / (N_pairs v(r)), n(r) pairs in a shell of volume v(r).

    The volume is that of each frame, so that frames at constant pressure are right. N_pairs = N(N−1)/2 for one kind
    and N_a N_b for two: an ideal gas has g = 1.

    Parameters
    ----------
    positions
        (n, beads, 3), Å, wrapped or not.
    cell
        (3, 3) or (n, 3, 3), Å, of any shape.
    kinds, pair
        Kind of each bead, and the two kinds wanted; without ``pair`` all beads count alike.
    r_max
        Largest distance, Å, at most half the least height of the (reduced) cells; None: that.
    width
        Of the bins, Å.
    series
        (n,), label of the independent series of each frame, for the errors.

    Raises
    ------
    DataError
        If the cell is missing, flat or too small, or beads coincide; names the frame.
    """
    frames = configurations(positions, cell, kinds, series)
    return radial_of(frames, pair, *radial_bins(frames, r_max, width))


def radial_distributions(
    positions: ArrayLike,
    cell: ArrayLike | None,
    kinds: Sequence[str],
    *,
    r_max: float | None = None,
    width: float = 0.05,
    series: ArrayLike | None = None,
) -> dict[tuple[str, str], RadialDistribution]:
    """:func:`radial_distribution` of every unordered pair of kinds that has a pair of beads."""
    frames = configurations(positions, cell, kinds, series)
    width, bins = radial_bins(frames, r_max, width)
    return {pair: radial_of(frames, pair, width, bins) for pair in kind_pairs(frames)}


def kind_pairs(frames: Configurations) -> list[tuple[str, str]]:
    """Unordered pairs of kinds of which there is a pair of beads."""
    names = sorted(set(() if frames.kinds is None else frames.kinds.tolist()))
    pairs = itertools.combinations_with_replacement(names, 2)
    return [(a, b) for a, b in pairs if a != b or len(frames.members(a)) > 1]


def radial_bins(frames: Configurations, r_max: float | None, width: float) -> tuple[float, int]:
    """Width and number of the bins up to ``r_max``, or to half the least height of the cells."""
    require(np.isfinite(width) and width > 0.0, f"width={width!r} must be a positive length in Å")
    if r_max is not None:
        frames.require_within(r_max, "r_max")
    bins = int((frames.largest_distance() if r_max is None else r_max) / width + 1e-9)
    require(bins > 0, f"width={width:g} Å leaves no bin up to {r_max or frames.largest_distance():.4g} Å")
    return width, bins


def radial_of(frames: Configurations, pair: tuple[str, str] | None, width: float, bins: int) -> RadialDistribution:
    """:func:`radial_distribution` of checked frames."""
    first, second = (frames.members(kind) for kind in pair or (None, None))
    same = np.array_equal(first, second)
    pairs = len(first) * (len(first) - 1) / 2 if same else float(len(first) * len(second))
    require(pairs, f"there is no pair of beads of kinds {pair}")
    counts = distance_counts(frames, first, second, width, bins)
    edges = np.asarray(width * np.arange(bins + 1), dtype=np.float64)
    shells = 4.0 / 3.0 * math.pi * np.diff(edges**3)
    curve = curve_of(counts * frames.volumes[:, None] / (pairs * shells), frames.series)
    around = np.cumsum(counts.mean(axis=0)) * (2.0 if same else 1.0) / len(first)
    return RadialDistribution(edges, curve.value, curve.error, around, pair, curve)


def first_shell(g: RadialDistribution, smoothing: float = 0.3) -> float:
    """End of the first shell, Å: the first minimum of g(r) after its first peak above 1.

    Parameters
    ----------
    g
        Of all beads, or of one pair of kinds.
    smoothing
        Width of the running mean that removes minima of noise, Å.

    Raises
    ------
    DataError
        If g(r) has no peak, or ends before it falls and rises again.
    """
    window = max(1, 2 * round(0.5 * smoothing / g.edges[1]) + 1)
    smooth = np.convolve(np.pad(g.g, window // 2, mode="edge"), np.full(window, 1.0 / window), mode="valid")
    ahead = range(len(smooth) - 2 * window)
    peaks = [k for k in ahead if smooth[k] > 1.0 and smooth[k] >= smooth[k : k + 2 * window].max()]
    low = [k for k in ahead if peaks and k > peaks[0] and smooth[k] <= smooth[k : k + 2 * window].min()]
    require(
        low, f"g(r) has no peak with a minimum after it up to {g.edges[-1]:.4g} Å: give the cutoff of the first shell"
    )
    return float(g.r[low[0]])


def l1_distance(
    g: RadialDistribution, reference: RadialDistribution, lower: float = 2.0, upper: float = 9.0
) -> Distance:
    """Mean of |Δg| over the bins between two distances.

    Parameters
    ----------
    g, reference
        Of the same width of bins.
    lower, upper
        Å.

    Returns
    -------
    Distance
        With the value that two exact samples of these sizes would show on average (``floor``).

    Raises
    ------
    DataError
        If the bins differ or do not reach ``upper``.
    """
    require(np.isfinite([lower, upper]).all() and 0.0 <= lower < upper, f"need 0 ≤ lower={lower!r} < upper={upper!r}")
    width = g.edges[1]
    require(
        abs(reference.edges[1] - width) < 1e-9 * width,
        f"the bins of g(r) are {width:g} and {reference.edges[1]:g} Å wide: compute both with one width",
    )
    start, stop = round(lower / width), round(upper / width)
    reach = min(len(g.g), len(reference.g))
    require(stop <= reach, f"g(r) ends at {reach * width:.4g} Å, before upper={upper:g} Å: take a smaller upper")
    require(stop > start, f"there is no bin between lower={lower:g} and upper={upper:g} Å")
    return curve_distance(g.curve, reference.curve, slice(start, stop), 1.0 / (stop - start))
