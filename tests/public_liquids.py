"""The entries of ``tests/public_entries.py`` for the analysis of liquids and for means of series."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import kernelfe
from kernelfe import statistics
from kernelfe.analysis import liquids


def liquid_entries() -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Name → a call with its arguments and the arrays that it takes."""
    rng = np.random.default_rng(0)
    n, kinds = 8, ["a", "b"] * 5
    cells = np.tile(11.0 * np.eye(3), (n, 1, 1))
    x = rng.uniform(0.0, 11.0, size=(n, 10, 3))
    frames = kernelfe.Frames.from_arrays(x, temperature=300.0, cell=cells)
    path = np.cumsum(rng.normal(size=(30, 4, 3)), axis=0)
    series, along = np.arange(n) % 2, np.arange(30) % 2
    u = rng.normal(size=n)
    box = {"positions": x, "cell": cells, "series": series}
    walk = {"positions": path, "cell": 50.0 * np.eye(3), "series": along}
    return {
        "series_mean": (lambda **k: statistics.series_mean(**k).error, {"values": u, "series": series}),
        "series_labels": (lambda series: statistics.series_labels(series, n), {"series": series}),
        "radial_distribution": (lambda **k: liquids.radial_distribution(**k).g, box),
        "radial_distributions": (lambda **k: liquids.radial_distributions(kinds=kinds, **k)["a", "b"].g, box),
        "angular_distribution": (lambda **k: liquids.angular_distribution(cutoff=5.0, **k).density, box),
        "tetrahedral_order": (lambda **k: liquids.tetrahedral_order(**k).mean.value, box),
        "coordination_number": (lambda **k: liquids.coordination_number(cutoff=5.0, **k).mean.value, box),
        "structure_factor": (lambda **k: liquids.structure_factor(k_max=2.0, **k).s, box),
        "pressure": (
            lambda **k: liquids.pressure(300.0, beads=10, **k).value,
            {"cell": cells, "virials": u, "series": series},
        ),
        "pressure(stress)": (
            lambda **k: liquids.pressure(300.0, cells, 10, **k).value,
            {"stress": rng.normal(size=(n, 6))},
        ),
        "pressure(excess)": (
            lambda **k: liquids.pressure(300.0, cells, 10, **k).value,
            {"excess": u},
        ),
        "density": (
            lambda **k: liquids.density(**k).value,
            {"cell": cells, "masses": np.ones(10), "series": series},
        ),
        "isothermal_compressibility": (
            lambda **k: liquids.isothermal_compressibility(temperature=300.0, **k).value,
            {"volumes": 1000.0 + u, "series": series},
        ),
        "heat_capacity_by_differences": (
            lambda energies: liquids.heat_capacity_by_differences(energies).value,
            {"energies": {300.0: u, 310.0: u + 1.0}},
        ),
        "heat_capacity_by_fluctuations": (
            lambda energies: liquids.heat_capacity_by_fluctuations(energies).value,
            {"energies": {300.0: u}},
        ),
        "observed_heat_capacity": (
            lambda **k: liquids.observed_heat_capacity(temperature=300.0, **k).total.value,
            {"mean_energy": u, "heat_capacity": u**2, "series": series},
        ),
        "diffusion_coefficient": (lambda **k: liquids.diffusion_coefficient(spacing=0.5, **k).msd, walk),
        "unwrapped": (liquids.unwrapped, walk),
        "LiquidSamples.from_arrays": (
            lambda **k: liquids.LiquidSamples.from_arrays(**k).virials,
            {**box, "virials": u},
        ),
        "LiquidSamples.from_arrays(stress)": (
            lambda **k: liquids.LiquidSamples.from_arrays(x, cells, **k).virials,
            {"stress": rng.normal(size=(n, 6))},
        ),
        "LiquidSamples.from_frames": (
            lambda series: liquids.LiquidSamples.from_frames(frames, series).frames.series,
            {"series": series},
        ),
    }
