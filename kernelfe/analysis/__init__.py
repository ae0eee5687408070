"""Comparing a model with data: surfaces and their divergences, parity beside the noise, A = U − TS, figures."""

from __future__ import annotations

from .divergence import (
    axis_edges,
    basin_populations,
    dihedral_angles,
    divergence_floor,
    frames_for_divergence,
    free_energy_surface,
    jensen_shannon_divergence,
    periodic_histogram,
    replica_effective_sample_size,
    surface_rmsd,
)
from .parity import Parity, learned_noise, parity
from .thermodynamics import Conditional, Decomposition, conditional_averages, decomposition, total_heat_capacity

__all__ = [
    "Conditional",
    "Decomposition",
    "Parity",
    "axis_edges",
    "basin_populations",
    "conditional_averages",
    "decomposition",
    "dihedral_angles",
    "divergence_floor",
    "frames_for_divergence",
    "free_energy_surface",
    "jensen_shannon_divergence",
    "learned_noise",
    "parity",
    "periodic_histogram",
    "replica_effective_sample_size",
    "surface_rmsd",
    "total_heat_capacity",
]
