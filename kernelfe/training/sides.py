"""Slow variables of frames: how many independent ones there are, and the two sides of the slowest torsion.

A run that crosses a torsional barrier once in a nanosecond knows the density on either side well and the populations of
the sides badly. One statistical inefficiency for both would be wrong for one of them, so frames are divided by the side
of the slowest torsion, each with an inefficiency of its own, beside that of the crossings.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..descriptors import InternalCoordinates
from ..geometry.topology import dihedrals_of
from ..gp import FreeEnergyRegressor
from ..statistics import autocorrelation_time

#: Frames on a side from which its inefficiency is estimated; fewer take that of the larger side.
ENOUGH = 30


@dataclass(frozen=True)
class SlowVariables:
    """What may move slowly in configurations of one molecule.

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
    def of(cls, model: FreeEnergyRegressor, bonds, positions: np.ndarray) -> SlowVariables:
        """Of positions (n, beads, 3); many environments of a frame have no names, so their mean is taken."""
        x, columns = torch.from_numpy(np.array(positions, order="C")), []
        for _, term in model.terms_:
            z, frame, _ = term.spec.descriptor.values_and_pullback(x)
            if frame is not None:
                total = z.new_zeros(len(x), z.shape[1]).index_add_(0, frame, z)
                z = total / torch.bincount(frame, minlength=len(x)).clamp_min(1)[:, None]
            columns.append(z.detach().numpy())
        quads, angles = (() if bonds is None else dihedrals_of(bonds)), np.zeros((len(x), 0))
        if quads:
            sincos = InternalCoordinates(dihedrals=quads).values_and_pullback(x)[0].numpy()
            columns.append(sincos)
            angles = np.arctan2(sincos[:, 0::2], sincos[:, 1::2])
        return cls(np.concatenate(columns, 1) if columns else np.zeros((len(x), 0)), angles)

    def side(self, torsion: int | None) -> np.ndarray:
        """0 or 1, (n,): the sign of a torsion; all 0 for None."""
        if torsion is None:
            return np.zeros(len(self.columns), dtype=int)
        return (self.torsions[:, torsion] > 0.0).astype(int)


def slowest_torsion(series: list[SlowVariables]) -> int | None:
    """The torsion whose sides are exchanged most slowly, on average over the series; None if none has two sides."""
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


def inefficiency(series: np.ndarray) -> float:
    """Statistical inefficiency of the slowest column of a series of frames (n, columns), at least 1."""
    if len(series) < 4 or not series.shape[1]:
        return 1.0
    moving = series[:, np.ptp(series, axis=0) > 1e-9 * np.abs(series).max(axis=0)]
    if not moving.shape[1]:
        return float(len(series))  # copies of one frame are one frame
    return max(1.0, float(np.max(2.0 * np.asarray(autocorrelation_time(moving)))))


def side_inefficiencies(one: SlowVariables, torsion: int | None) -> tuple[float, float, float]:
    """Inefficiencies of the density on side 0, on side 1, and of the populations of the sides.

    Without a slow torsion they are one number; the last is the number of frames where they stay on one side.
    """
    if torsion is None:
        whole = inefficiency(one.columns)
        return whole, whole, whole
    side = one.side(torsion)
    larger = int(2 * side.sum() > len(side))
    within = {larger: inefficiency(one.columns[side == larger])}
    other = one.columns[side != larger]
    within[1 - larger] = inefficiency(other) if len(other) >= ENOUGH else within[larger]
    crossing = inefficiency(side[:, None].astype(float)) if np.ptp(side) else float(len(side))
    return within[0], within[1], max(crossing, *within.values())
