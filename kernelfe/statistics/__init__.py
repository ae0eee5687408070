"""From all-atom trajectories to labels: force maps, fields, moments, variates, block errors, reweighting."""

from __future__ import annotations

from ..frames.virial import VirialCheck, virial_check
from .collective_forces import CollectiveForces, collective_forces
from .estimates import Estimate, series_labels, series_mean
from .fields.collective_variables import Angle, Dihedral, Distance
from .fields.force_maps import check_force_map, group_force_map, map_forces, map_positions, optimal_force_map, slice_map
from .fields.fragments import Field, TorsionField, generalized_forces, rotatable_bonds
from .fields.rigid import RigidMolecules, molecules_of, reduce_shared_noise
from .fields.variates import FragmentMotion, Variates, fragment_motions
from .mbar import Surface, energy_overlap, reweighted_mean, surface, temperature_weights
from .moments import Moments, conditional_labels, conditional_moments
from .products import cross_fit, heat_capacity_labels, response_labels, response_variates
from .reduction import ReducedLabels, distance_features, fold_numbers, local_frames, reduce_noise
from .series import (
    autocorrelation,
    autocorrelation_time,
    block_labels,
    block_standard_error,
    bootstrap_counts,
    effective_sample_size,
    replica_effective_sample_size,
    samples_per_replica,
)
from .umbrella import BinFreeEnergies, bin_free_energies, pair_label_frames
from .weighted import weighted_inefficiency

__all__ = [
    "Angle",
    "BinFreeEnergies",
    "CollectiveForces",
    "Dihedral",
    "Distance",
    "Estimate",
    "Field",
    "FragmentMotion",
    "Moments",
    "ReducedLabels",
    "RigidMolecules",
    "Surface",
    "TorsionField",
    "Variates",
    "VirialCheck",
    "autocorrelation",
    "autocorrelation_time",
    "bin_free_energies",
    "block_labels",
    "block_standard_error",
    "bootstrap_counts",
    "check_force_map",
    "collective_forces",
    "conditional_labels",
    "conditional_moments",
    "cross_fit",
    "distance_features",
    "effective_sample_size",
    "energy_overlap",
    "fold_numbers",
    "fragment_motions",
    "generalized_forces",
    "group_force_map",
    "heat_capacity_labels",
    "local_frames",
    "map_forces",
    "map_positions",
    "molecules_of",
    "optimal_force_map",
    "pair_label_frames",
    "reduce_noise",
    "reduce_shared_noise",
    "replica_effective_sample_size",
    "response_labels",
    "response_variates",
    "reweighted_mean",
    "rotatable_bonds",
    "samples_per_replica",
    "series_labels",
    "series_mean",
    "slice_map",
    "surface",
    "temperature_weights",
    "virial_check",
    "weighted_inefficiency",
]
