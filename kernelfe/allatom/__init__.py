"""All-atom simulation: trajectories with forces and energies, and runs at bead configurations of one's choice.

Readers of what other engines wrote, an OpenMM reporter that keeps forces, maps to beads; conditional ensembles with
OpenMM.
"""

from __future__ import annotations

from .atoms import AtomFrames, BeadMap, make_whole
from .energies import EnergyTable
from .energy_files import read_energies
from .reporter import ForceReporter
from .restrained import ConditionalRun, RestrainedEnsemble, RestrainedProtocol
from .starts import nearest_starts, superpose
from .trajectory import Trajectory

__all__ = [
    "AtomFrames",
    "BeadMap",
    "ConditionalRun",
    "EnergyTable",
    "ForceReporter",
    "RestrainedEnsemble",
    "RestrainedProtocol",
    "Trajectory",
    "make_whole",
    "nearest_starts",
    "read_energies",
    "superpose",
]
