"""From all-atom trajectories to labels: force maps, fields, moments, variates, block errors, reweighting."""

from __future__ import annotations

from .blocks import (
    autocorrelation,
    autocorrelation_time,
    block_labels,
    block_standard_error,
    bootstrap_counts,
    effective_sample_size,
)
from .force_maps import check_force_map, group_force_map, map_forces, map_positions, optimal_force_map, slice_map
from .fragments import Field, TorsionField, generalized_forces, rotatable_bonds
from .moments import Moments, conditional_labels, conditional_moments
from .noise import ReducedLabels, distance_features, local_frames, reduce_noise
from .reweighting import Surface, reweighted_mean, surface, temperature_weights
from .variates import FragmentMotion, Variates, fragment_motions

__all__ = [
    "Field",
    "FragmentMotion",
    "Moments",
    "ReducedLabels",
    "Surface",
    "TorsionField",
    "Variates",
    "autocorrelation",
    "autocorrelation_time",
    "block_labels",
    "block_standard_error",
    "bootstrap_counts",
    "check_force_map",
    "conditional_labels",
    "conditional_moments",
    "distance_features",
    "effective_sample_size",
    "fragment_motions",
    "generalized_forces",
    "group_force_map",
    "local_frames",
    "map_forces",
    "map_positions",
    "optimal_force_map",
    "reduce_noise",
    "reweighted_mean",
    "rotatable_bonds",
    "slice_map",
    "surface",
    "temperature_weights",
]
