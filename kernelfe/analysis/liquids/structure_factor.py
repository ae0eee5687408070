"""Static structure factors at the wave vectors that fit into the cell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ...errors import require
from ...geometry.cell import reduced_cell
from .configurations import Configurations, configurations
from .distance_measures import Curve, ratio_curve

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class StructureFactor:
    """S(k), averaged over shells of wave vectors.

    Attributes
    ----------
    k
        (bins,), mean length of the wave vectors of each bin, 1/Å. Bins that no allowed wave vector falls into are
        left out.
    s, error
        (bins,), with standard errors. An ideal gas has S = 1.
    vectors
        (bins,), number of wave vectors of each bin; k and −k count once.
    pair
        Names of the kinds, or None for all beads.
    curve
        The same numbers for each frame.
    """

    k: FloatArray
    s: FloatArray
    error: FloatArray
    vectors: NDArray[np.int64]
    pair: tuple[str, str] | None
    curve: Curve


def structure_factor(
    positions: ArrayLike,
    cell: ArrayLike | None,
    *,
    k_max: float = 6.0,
    width: float = 0.1,
    vectors: int = 24,
    kinds: Sequence[str] | None = None,
    pair: tuple[str, str] | None = None,
    series: ArrayLike | None = None,
) -> StructureFactor:
    """S(k) = ⟨|Σ_i exp(ik·R_i)|²⟩/N over the allowed wave vectors k = 2π h·(cell⁻¹)ᵀ, h whole numbers.

    Of two kinds, S_ab(k) = ⟨Re ρ_a ρ_b*⟩/√(N_a N_b) with ρ = Σ exp(ik·R) (Ashcroft and Langreth).

    Parameters
    ----------
    positions
        (n, beads, 3), Å, wrapped or not.
    cell
        (3, 3) or (n, 3, 3), Å, of any shape. Wave vectors keep their whole numbers h when the volume changes, and
        their bins, which are those of the mean cell.
    k_max, width
        Longest wave vector and width of the bins, 1/Å.
    vectors
        Largest number of wave vectors of a bin, evenly chosen from those there are.
    kinds, pair
        Kind of each bead, and the two kinds wanted; without ``pair`` all beads count alike.
    series
        (n,), label of the independent series of each frame, for the errors.

    Raises
    ------
    DataError
        If the cell is missing or flat, or no wave vector is as short as ``k_max``.
    """
    frames = configurations(positions, cell, kinds, series)
    return structure_of(frames, pair, k_max, width, vectors)


def structure_of(
    frames: Configurations,
    pair: tuple[str, str] | None = None,
    k_max: float = 6.0,
    width: float = 0.1,
    vectors: int = 24,
) -> StructureFactor:
    """:func:`structure_factor` of checked frames."""
    whole, cells = _wave_vectors(frames, k_max, width, vectors)
    groups = [frames.members(kind) for kind in pair or (None,)]
    norm = math.sqrt(math.prod(len(group) for group in groups)) if pair else float(len(groups[0]))
    bins = int(k_max / width) + 1
    shape = (len(frames.positions), bins)
    sums, counts, lengths = np.zeros(shape), np.zeros(shape), np.zeros(bins)
    for n, (x, cell) in enumerate(zip(frames.positions, cells, strict=True)):
        inverse = np.linalg.inv(cell)
        waves = _waves(x @ inverse, whole)
        rho = [waves[:, group].sum(axis=1) for group in groups]
        length = 2.0 * math.pi * np.linalg.norm(whole @ inverse.T, axis=1)
        at = np.minimum((length / width).astype(np.int64), bins - 1)
        sums[n] = np.bincount(at, (rho[0] * rho[-1].conj()).real / norm, bins)
        counts[n] = np.bincount(at, minlength=bins)
        lengths += np.bincount(at, length, bins)
    used = counts.sum(axis=0) > 0
    total = counts[:, used].sum(axis=0)
    curve = ratio_curve(sums[:, used], counts[:, used], frames.series)
    number = np.rint(total / len(frames.positions)).astype(np.int64)
    return StructureFactor(lengths[used] / total, curve.value, curve.error, number, pair, curve)


def _wave_vectors(
    frames: Configurations, k_max: float, width: float, vectors: int
) -> tuple[NDArray[np.int64], FloatArray]:
    """Whole numbers (K, 3), one of each pair ±h, and the cells (n, 3, 3) of short vectors that they refer to.

    One basis serves all frames, so that h means the same wave when the volume changes.
    """
    require(np.isfinite([k_max, width]).all() and min(k_max, width) > 0.0, "k_max and width must be positive, in 1/Å")
    require(vectors >= 1, f"vectors={vectors!r} must be a positive number")
    mean = frames.given.mean(axis=0)
    change = np.rint(reduced_cell(torch.as_tensor(mean)).numpy() @ np.linalg.inv(mean))
    cells = change @ frames.given
    inverse = 2.0 * math.pi * np.linalg.inv(change @ mean)
    most = (k_max * np.linalg.norm(change @ mean, axis=1) / (2.0 * math.pi)).astype(int)
    require(
        np.prod(2.0 * most + 1.0) < 2e7,
        f"k_max={k_max:g} 1/Å gives too many wave vectors in this cell: take a smaller one",
    )
    grid = np.meshgrid(*(np.arange(-m, m + 1) for m in most), indexing="ij")
    whole = np.stack([axis.ravel() for axis in grid], axis=1)[math.prod(2 * most + 1) // 2 + 1 :]
    length = np.linalg.norm(whole @ inverse.T, axis=1)
    short = length <= k_max
    require(short.any(), f"no wave vector of the cell is shorter than k_max={k_max:g} 1/Å: take a larger k_max or cell")
    whole, length = whole[short], length[short]
    order = np.argsort(length, kind="stable")
    bins = (length[order] / width).astype(np.int64)
    rows = [_spread(order[bins == b], vectors) for b in np.unique(bins)]
    return whole[np.concatenate(rows)], cells


def _spread(rows: NDArray[np.intp], most: int) -> NDArray[np.intp]:
    """At most ``most`` of the rows, evenly."""
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).round().astype(int)]


def _waves(scaled: FloatArray, whole: NDArray[np.int64]) -> NDArray[np.complex128]:
    """exp(2πi h·s), (K, beads), from powers of one exponential per axis."""
    out: NDArray[np.complex128] | None = None
    for axis in range(3):
        most = int(np.abs(whole[:, axis]).max())
        powers = np.exp(2j * math.pi * np.arange(-most, most + 1)[:, None] * scaled[:, axis])
        factor = powers[whole[:, axis] + most]
        out = factor if out is None else out * factor
    assert out is not None
    return out
