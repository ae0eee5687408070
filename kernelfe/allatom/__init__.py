"""All-atom trajectories: readers that keep forces and energies, an OpenMM reporter that writes both, maps to beads."""

from __future__ import annotations

from .atoms import AtomFrames, BeadMap, make_whole
from .energies import EnergyTable, read_energies
from .reporter import ForceReporter
from .trajectory import Trajectory

__all__ = [
    "AtomFrames",
    "BeadMap",
    "EnergyTable",
    "ForceReporter",
    "Trajectory",
    "make_whole",
    "read_energies",
]
