"""Compare a model with data: surfaces and their divergences, parity and noise, A = U − TS, liquids, figures."""

from __future__ import annotations

from ..statistics import replica_effective_sample_size
from . import liquids, plots
from .basin_samples import BasinSamples, boltzmann_weights
from .basins import BASIN_QUANTITIES, BasinDraws, BasinThermodynamics, basin_draws, basin_thermodynamics
from .calibration import Calibration, calibration_of, label_calibration, parity_calibration
from .divergence import (
    axis_edges,
    basin_populations,
    dihedral_angles,
    divergence_floor,
    frames_for_divergence,
    free_energy_surface,
    jensen_shannon_divergence,
    periodic_histogram,
    surface_rmsd,
)
from .parity import Parity, learned_noise, parity
from .thermodynamics import Conditional, Decomposition, conditional_averages, decomposition, total_heat_capacity

__all__ = [
    "BASIN_QUANTITIES",
    "BasinDraws",
    "BasinSamples",
    "BasinThermodynamics",
    "Calibration",
    "Conditional",
    "Decomposition",
    "Parity",
    "axis_edges",
    "basin_draws",
    "basin_populations",
    "basin_thermodynamics",
    "boltzmann_weights",
    "calibration_of",
    "conditional_averages",
    "decomposition",
    "dihedral_angles",
    "divergence_floor",
    "frames_for_divergence",
    "free_energy_surface",
    "jensen_shannon_divergence",
    "label_calibration",
    "learned_noise",
    "liquids",
    "parity",
    "parity_calibration",
    "periodic_histogram",
    "plots",
    "replica_effective_sample_size",
    "surface_rmsd",
    "total_heat_capacity",
]
