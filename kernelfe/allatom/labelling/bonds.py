"""Bonds of atoms whose topology states none, and selections of many atoms by number."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..atoms import AtomFrames
from ..formats.trr import mdanalysis
from ..trajectory import Trajectory

Pair = tuple[int, int]


def stated_bonds(trajectory: Trajectory, topology: str | None) -> list[Pair] | None:
    """Bonds that a topology states; None if it states none, or is a PDB file, which states those of ligands only."""
    bonds = trajectory.bonds
    if not bonds:
        return None
    bare = trajectory.n_atoms - len({atom for pair in bonds for atom in pair})
    partial = topology is not None and topology.lower().endswith(".pdb") and bare > 0.2 * trajectory.n_atoms
    return None if partial else [(int(a), int(b)) for a, b in bonds]


def guessed_bonds(trajectory: Trajectory, frame: AtomFrames) -> list[Pair] | None:
    """Bonds between near atoms, by MDAnalysis from their names; None where it cannot.

    A wrong bond makes labels noisier, not biased: any division of a molecule into fragments gives exact labels.
    """
    if trajectory.names is None:
        return None
    universe = mdanalysis().Universe.empty(trajectory.n_atoms, trajectory=True)
    universe.add_TopologyAttr("names", [name.rpartition(":")[2] for name in trajectory.names])
    universe.atoms.positions = frame.positions[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if frame.cell is not None:
            universe.dimensions = _dimensions(frame.cell[0])
        try:
            universe.guess_TopologyAttrs(to_guess=["types"])
            universe.atoms.guess_bonds()
        except Exception:  # an element that its table of radii lacks
            return None
    return [(int(a), int(b)) for a, b in universe.bonds.indices]


def ranges(atoms: ArrayLike) -> str:
    """Selection of MDAnalysis by number, such as ``index 0:21 30``."""
    numbers: NDArray[np.int64] = np.unique(np.asarray(atoms, np.int64))
    parts = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    return "index " + " ".join(f"{p[0]}:{p[-1]}" if len(p) > 1 else str(p[0]) for p in parts)


def _dimensions(cell: NDArray[np.float64]) -> NDArray[np.float64]:
    """Lengths and angles of a cell."""
    lengths = np.linalg.norm(cell, axis=1)
    unit = cell / lengths[:, None]
    cosines = np.array([unit[1] @ unit[2], unit[0] @ unit[2], unit[0] @ unit[1]])
    return np.concatenate([lengths, np.degrees(np.arccos(np.clip(cosines, -1.0, 1.0)))])
