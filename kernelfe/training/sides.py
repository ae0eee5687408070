"""Slow variables of frames: number of independent frames, and the two sides of the slowest torsion.

A run that crosses a torsional barrier once in a nanosecond determines the density on either side well and the
populations of the sides badly. One statistical inefficiency for both would be wrong for one of them. Frames are
therefore divided by the side of the slowest torsion: each side has its own inefficiency, and so have the crossings.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch

from ..descriptors import Distances, InternalCoordinates
from ..geometry.topology import dihedrals_of
from ..protocol import LinearModel
from ..statistics import autocorrelation_time

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SlowVariables:
    """Coordinates of configurations of one molecule that may change slowly.

    Parameters
    ----------
    columns
        (n, columns): descriptors, and sines and cosines of the torsions about bonds.
    torsions
        (n, torsions): the angles, rad.
    """

    columns: np.ndarray
    torsions: np.ndarray

    @classmethod
    def of(cls, model: LinearModel, bonds, positions: np.ndarray) -> SlowVariables:
        """Read positions (n, beads, 3): by the model's ``descriptors`` if it has them, else by all distances."""
        x = torch.from_numpy(np.array(positions, order="C"))
        find = getattr(model, "descriptors", None) or (lambda y: Distances().values_and_pullback(y)[0])
        columns = [np.asarray(find(x))]
        quads, angles = (() if bonds is None else dihedrals_of(bonds)), np.zeros((len(x), 0))
        if quads:
            sincos = InternalCoordinates(dihedrals=quads).values_and_pullback(x)[0].numpy()
            columns.append(sincos)
            angles = np.arctan2(sincos[:, 0::2], sincos[:, 1::2])
        return cls(np.concatenate(columns, 1), angles)

    def side(self, torsion: int | None) -> np.ndarray:
        """Sign of a torsion as 0 or 1, (n,); all 0 for None."""
        if torsion is None:
            return np.zeros(len(self.columns), dtype=int)
        return (self.torsions[:, torsion] > 0.0).astype(int)


def slowest_torsion(series: list[SlowVariables]) -> int | None:
    """Index of the torsion that changes sides most slowly over the series; None if every torsion stays on one side."""
    count = series[0].torsions.shape[1]
    slowness = np.ones(count)
    for one in series:
        for k in range(count):
            side = one.side(k)
            if np.ptp(side):
                slowness[k] = max(slowness[k], inefficiency(side[:, None].astype(float)))
            elif any(np.ptp(other.side(k)) or other.side(k)[0] != side[0] for other in series):
                slowness[k] = np.inf  # one run never crosses where another does
    return int(np.argmax(slowness)) if count and slowness.max() > 1.0 else None


def missing_sides(temperatures: list[float], sides: list[np.ndarray]) -> list[set[int]]:
    """Sides that the frames at each temperature never visit and others do, which a warning states.

    Such frames do not determine the population of that side.
    """
    visited = [set(side.tolist()) for side in sides]
    everywhere = set().union(*visited)
    for t, seen in zip(temperatures, visited, strict=True):
        if seen != everywhere:
            logger.warning(
                "relative entropy: the frames at %g K never visit one side of the slowest torsion, which others do at "
                "their temperatures; they are not used for its population",
                t,
            )
    return [everywhere - seen for seen in visited]


def inefficiency(series: np.ndarray) -> float:
    """Statistical inefficiency of the slowest column of a series of frames (n, columns), at least 1."""
    if len(series) < 4 or not series.shape[1]:
        return 1.0
    moving = series[:, np.ptp(series, axis=0) > 1e-9 * np.abs(series).max(axis=0)]
    if not moving.shape[1]:
        return float(len(series))  # copies of one frame are one frame
    return max(1.0, float(np.max(2.0 * np.asarray(autocorrelation_time(moving)))))


def side_inefficiencies(one: SlowVariables, torsion: int | None, enough: int = 30) -> tuple[float, float, float]:
    """Inefficiencies of the density on side 0, on side 1, and of the populations of the sides.

    Without a slow torsion all three are equal. The last is the number of frames if they stay on one side. A side with
    fewer than ``enough`` frames takes the inefficiency of the other one.
    """
    if torsion is None:
        whole = inefficiency(one.columns)
        return whole, whole, whole
    side = one.side(torsion)
    larger = int(2 * side.sum() > len(side))
    within = {larger: inefficiency(one.columns[side == larger])}
    other = one.columns[side != larger]
    within[1 - larger] = inefficiency(other) if len(other) >= enough else within[larger]
    crossing = float(len(side))
    if np.ptp(side):
        crossing = max(inefficiency(side[:, None].astype(float)), crossing_inefficiency(side))
    return within[0], within[1], max(crossing, *within.values())


def crossing_inefficiency(side: np.ndarray) -> float:
    """Inefficiency of the populations of two sides from the number of crossings, at most the number of frames.

    Of a two-state Markov chain that leaves the sides with the chances a and b, seen to cross m times, the logarithm of
    the ratio of populations has the variance (2/m)(2 − a − b): a run that crosses once knows it to a factor of seven.
    An autocorrelation time from so short a run is much too small. Independent frames have 1.

    Parameters
    ----------
    side
        (n,), 0 or 1, in the order of time; both occur.
    """
    n, share = len(side), float(side.mean())
    crossings = int(np.count_nonzero(np.diff(side)))
    leaving = crossings / 2.0 / n * (1.0 / share + 1.0 / (1.0 - share))
    return min(float(n), n * share * (1.0 - share) * 2.0 / crossings * max(2.0 - leaving, 0.0))
