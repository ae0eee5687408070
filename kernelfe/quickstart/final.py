"""Analysis of the largest model with all labels: parity, decomposition, heat capacity, hyperparameters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ..analysis import Decomposition, conditional_averages, decomposition, dihedral_angles, parity, total_heat_capacity
from ..analysis.divergence import bin_index
from ..analysis.plots import decomposition_figure, maps_figure, parity_figure
from ..analysis.style import KJ_MOL
from ..datasets import Reference
from ..files.npz import load_npz
from ..frames import Frames
from ..gp import FreeEnergyRegressor, load
from ..statistics import block_standard_error
from ..units import BOLTZMANN
from .cases import PHI, PSI, TARGET


@dataclass
class Final:
    """Numbers and figures of the final model."""

    model: FreeEnergyRegressor
    numbers: dict[str, Any]
    figures: dict[str, Figure]


def analyse(
    folder: Path, frames: Frames, reference: Reference, seed: int, map_bins: int = 18, averaged: int = 10_000
) -> Final:
    """Analyse the model and the samples that a case left in a folder.

    Parameters
    ----------
    folder
        With ``model.kfe`` and ``samples.npz``.
    frames
        All frames; those at the target temperature were not trained on.
    reference
        Of the target temperature.
    seed
        Seed of the configurations chosen for error bands.
    map_bins
        Bins per torsion of the maps of entropy and heat capacity: 20°, so that bins hold enough samples.
    averaged
        Samples of the model that averages are taken over; error bars count them as independent.
    """
    model = load(folder / "model.kfe")
    x = load_npz(folder / "samples.npz")["positions"].astype(float)
    x = x[:: max(1, len(x) // averaged)]
    test = frames[frames.temperature == TARGET]
    rng = np.random.default_rng([seed, 3])
    angles, bins = dihedral_angles(x, (PHI, PSI)), len(reference.edges) - 1
    parities = [parity(model, test, kind) for kind in ("mean_force", "generalized_force", "mean_energy")]
    along = decomposition(model, x, bin_index(angles[:, 1], bins), bins, TARGET, rng=rng)
    cells = bin_index(angles, map_bins)
    maps = decomposition(model, x, cells[:, 0] * map_bins + cells[:, 1], map_bins**2, TARGET, rng=rng)
    psi = bin_index(dihedral_angles(test.coordinates, (PSI,))[:, 0], bins)
    energies = conditional_averages(test.labels["mean_energy"], psi, bins)
    figures = {
        "parity": parity_figure(parities),
        "decomposition": decomposition_figure(along, "ψ", marginal(reference), energies),
        "maps": maps_figure(maps, map_bins),
    }
    numbers = {
        "parity": {found.kind: found.summary() for found in parities},
        "heat_capacity_J_mol_K": heat_capacities(model, x, test),
        "decomposition_along_psi": _kilojoules(along),
        "agreement": agreement(along, marginal(reference), energies),
        "model": describe(model),
    }
    return Final(model, numbers, figures)


def marginal(reference: Reference) -> tuple[np.ndarray, np.ndarray]:
    """−kT ln p(ψ) of the reference, eV, and its standard deviation: half the difference of its two halves."""
    k = reference.temperatures.tolist().index(TARGET)
    with np.errstate(divide="ignore", invalid="ignore"):
        a = -BOLTZMANN * TARGET * np.log(reference.probability[k].sum(axis=0))
        halves = -BOLTZMANN * TARGET * np.log(reference.halves[:, k].sum(axis=1))
        std = 0.5 * np.abs(halves[0] - halves[1])
    return np.where(np.isfinite(a), a, np.nan), np.where(np.isfinite(std), std, np.nan)


def heat_capacities(model: FreeEnergyRegressor, x: np.ndarray, test: Frames) -> dict[str, float]:
    """Configurational heat capacity of the model's ensemble and of held-out frames, k b² Var(U), J/mol/K."""
    u = test.labels["mean_energy"]
    per = 1e3 / KJ_MOL / (BOLTZMANN * TARGET**2)
    return {
        "model": 1e3 / KJ_MOL * total_heat_capacity(model, x, TARGET),
        "held_out_frames": float(per * u.var()),
        "held_out_frames_std": float(per * block_standard_error((u - u.mean()) ** 2, 20)),
    }


def agreement(parts: Decomposition, reference: tuple[np.ndarray, np.ndarray], energies: Any) -> dict[str, float]:
    """Rms z along ψ of A against the reference and of U against held-out frames: about 1 for honest errors."""
    weight = parts.count / parts.count.sum()
    out = {}
    for name, mine, std, other, error in (
        ("free_energy_z_rms", parts.free_energy, parts.free_energy_std, *reference),
        (
            "energy_z_rms",
            parts.energy,
            parts.energy_std,
            np.where(energies.count >= 20, energies.mean, np.nan),
            energies.error,
        ),
    ):
        known = np.isfinite(mine) & np.isfinite(other) & np.isfinite(error)
        w = weight[known] / weight[known].sum()
        difference = (mine - other)[known]
        difference = difference - w @ difference
        variance = (std**2 + error**2)[known]
        out[name] = float(np.sqrt(np.mean(difference**2 / variance)))
        out[name.replace("z_rms", "rms_kJ_mol")] = float(np.sqrt(w @ difference**2)) / KJ_MOL
    return out


def describe(model: FreeEnergyRegressor) -> dict[str, Any]:
    """Hyperparameters, noise, evidence and solver of a fitted model."""
    terms = {}
    for name, term in model.fitted_terms():
        lengthscale = getattr(term.kernel, "lengthscale", None)
        thermal = term.thermal
        terms[name] = {
            "descriptor": type(term.descriptor).__name__,
            "kernel": type(term.kernel).__name__,
            "lengthscale": list(lengthscale) if isinstance(lengthscale, tuple) else lengthscale,
            "thermal": type(thermal).__name__,
        } | {
            key: getattr(thermal, key)
            for key in ("reference_temperature", "energy", "entropy", "heat_capacity")
            if hasattr(thermal, key)
        }
    return {
        "terms": terms,
        "noise": {kind: list(values) for kind, values in model.noise_.items()},
        "noise_temperature": model.noise_temperature_,
        "log_evidence": model.log_evidence_,
        "solver": f"{type(model.solver_).__name__}: {model.solver_reason_}",
        "temperatures": model.temperatures_,
    }


def _kilojoules(parts: Decomposition) -> dict[str, list[float | None]]:
    def numbers(values: np.ndarray, scale: float) -> list[float | None]:
        return [round(float(v) * scale, 4) if np.isfinite(v) else None for v in values]

    out: dict[str, list[float | None]] = {"count": parts.count.tolist()}
    for name, scale in (("free_energy", 1.0), ("energy", 1.0), ("entropy", 1e3), ("heat_capacity", 1e3)):
        unit = "kJ_mol" if scale == 1.0 else "J_mol_K"
        out[f"{name}_{unit}"] = numbers(getattr(parts, name), scale / KJ_MOL)
        out[f"{name}_std_{unit}"] = numbers(getattr(parts, name + "_std"), scale / KJ_MOL)
    return out
