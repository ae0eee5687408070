"""Checks of labelled frames: correlation in time, signs and units of the forces, overlap between temperatures."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...errors import KernelfeError
from ...frames import Frames
from ...frames.virial import VirialCheck, applies, virial_check
from ...geometry.cell import minimum_image
from ...geometry.internal import torsion_angle
from ...geometry.topology import torsions_of
from ...statistics import autocorrelation_time, energy_overlap

FloatArray = NDArray[np.float64]

#: Most coordinates whose correlation is looked at.
_SERIES = 60


@dataclass(frozen=True)
class Inefficiency:
    """Frames per independent frame, 2τ, of the slowest coordinate of a run and of its energy; NaN: unknown."""

    slowest: float
    coordinate: str
    energy: float


@dataclass(frozen=True)
class Checks:
    """Correlation, overlap and signs, as labelled frames show them.

    Attributes
    ----------
    inefficiency
        Of each run.
    temperatures
        (t,), K, sorted: rows and columns of the overlaps.
    energy_overlap
        (t, t), overlap matrix of the distributions of U at the temperatures; None without energies, without pymbar or
        with one temperature.
    shape_overlap
        (t, t), least overlap of the histograms of any torsion of the beads (of any distance, without torsions), 0…1.
    virial
        Check of the signs and units of the forces; None where it does not apply.
    remarks
        What could not be checked.
    """

    inefficiency: tuple[Inefficiency, ...]
    temperatures: FloatArray
    energy_overlap: FloatArray | None
    shape_overlap: FloatArray
    virial: VirialCheck | None = None
    remarks: tuple[str, ...] = ()


def check_frames(frames: Frames, run: NDArray[np.intp]) -> Checks:
    """Check frames.

    Parameters
    ----------
    frames
        Labelled frames, those of each run in their order in time.
    run
        (n,), number of the run of each frame.
    """
    names, columns = coordinates(frames)
    energies = frames.labels.get("mean_energy")
    found = tuple(
        _inefficiency(names, columns[run == k], None if energies is None else energies[run == k])
        for k in range(int(run.max()) + 1)
    )
    temperatures, signs = np.unique(frames.temperature), virial_check(frames) if applies(frames) else None
    remarks: list[str] = []
    overlap: FloatArray | None = None
    if energies is not None and len(temperatures) > 1:
        known = np.isfinite(energies)
        try:
            overlap = energy_overlap(energies[known], frames.temperature[known])
        except KernelfeError as error:
            remarks.append(f"no overlap of energies: {error}")
        slow = np.array([np.nanmax([1.0, i.slowest, i.energy]) for i in found])[run]
        remarks += _falling(energies[known], frames.temperature[known], slow[known])
    return Checks(found, temperatures, overlap, _shape_overlap(columns, frames.temperature), signs, tuple(remarks))


def coordinates(frames: Frames) -> tuple[list[str], FloatArray]:
    """Names, and values (n, k), of coordinates of the beads: torsions in radians, or distances without torsions."""
    x: Any = frames.positions
    quads = torsions_of(frames.bonds or ())[:_SERIES]
    if quads:
        step = [[torch.from_numpy(x[:, b] - x[:, a]) for a, b in pairwise(q)] for q in quads]
        angles = np.stack([torsion_angle(*three).numpy() for three in step], 1)
        return [f"torsion {'-'.join(map(str, q))}" for q in quads], angles
    return distances_of(frames, _SERIES)


def distances_of(frames: Frames, most: int) -> tuple[list[str], FloatArray]:
    """Names, and values (n, k), Å, of distances between beads, at most so many and spread over the pairs."""
    x: Any = frames.positions
    i, j = np.triu_indices(x.shape[1], 1)
    some = np.unique(np.linspace(0, len(i) - 1, min(len(i), most)).astype(int)) if len(i) else np.zeros(0, int)
    d = x[:, i[some]] - x[:, j[some]]
    if frames.cell is not None:
        d = minimum_image(torch.from_numpy(d), torch.from_numpy(frames.cell.copy())).numpy()
    return [f"distance {a}-{b}" for a, b in zip(i[some], j[some], strict=True)], np.linalg.norm(d, axis=2)


def _falling(energies: FloatArray, temperature: FloatArray, slow: FloatArray) -> list[str]:
    """Remarks where the mean energy falls with temperature beyond chance; ``slow``: frames per independent frame."""
    parts = [(t, energies[temperature == t], slow[temperature == t].max()) for t in np.unique(temperature)]
    remarks = []
    for (cold, low, a), (hot, high, b) in pairwise(parts):
        if min(len(low), len(high)) < 2:
            continue
        fall = low.mean() - high.mean()
        if fall > 3.0 * np.sqrt(a * low.var() / len(low) + b * high.var() / len(high)):
            remarks.append(
                f"the mean energy falls by {fall:.3g} eV from {cold:g} to {hot:g} K, which equilibrium rules out: "
                "check the temperatures and the energies of the runs, and that both are the same system"
            )
    return remarks


def _inefficiency(names: list[str], columns: FloatArray, energies: FloatArray | None) -> Inefficiency:
    slowest, at = np.nan, "–"
    if len(columns) >= 4:
        for name, column in zip(names, columns.T, strict=True):
            both = np.stack([np.cos(column), np.sin(column)], 1) if name.startswith("torsion") else column[:, None]
            if (np.ptp(both, axis=0) > 0.0).all():
                g = 2.0 * float(np.max(autocorrelation_time(both)))
                if not g <= slowest:
                    slowest, at = g, name
    own = np.nan
    if energies is not None and len(energies) >= 4 and np.isfinite(energies).all() and np.ptp(energies) > 0.0:
        own = 2.0 * float(autocorrelation_time(energies))
    return Inefficiency(slowest, at, own)


def _shape_overlap(columns: FloatArray, temperature: FloatArray, bins: int = 24) -> FloatArray:
    levels = np.unique(temperature)
    out = np.ones((len(levels), len(levels)))
    for column in columns.T:
        edges = np.linspace(column.min(), column.max() + 1e-9, bins + 1)
        p = np.array([np.histogram(column[temperature == t], edges)[0] for t in levels], float)
        p /= p.sum(axis=1, keepdims=True)
        out = np.minimum(out, np.minimum(p[:, None], p[None]).sum(axis=2))
    return out
