"""Summary of the results of the cases: means, spreads, floors, frames for equal divergence."""

from __future__ import annotations

import importlib.metadata
import math
import platform
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..analysis import basin_populations, divergence_floor, frames_for_divergence, jensen_shannon_divergence
from ..analysis.style import KJ_MOL
from ..datasets import Reference
from .cases import DENSITY, LABEL_SETS, TARGET, TRAIN_TEMPERATURES
from .plan import Plan

#: Packages whose versions affect the numbers.
PACKAGES = ("kernelfe", "numpy", "scipy", "torch", "gpytorch", "linear_operator", "scikit-learn", "matplotlib")


def group(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per label set, size and training temperatures, with all subsets and their mean and spread."""
    rows: dict[tuple, list[dict[str, Any]]] = {}
    for result in results:
        rows.setdefault((result["labels"], result["size"], tuple(result["temperatures"])), []).append(result)
    out = []
    for (labels, size, temperatures), members in rows.items():
        values = [m["divergence"] for m in sorted(members, key=lambda m: m["subset"])]
        out.append(
            {
                "labels": labels,
                "frames_per_temperature": size,
                "temperatures": list(temperatures),
                "divergences": values,
                "mean": float(np.mean(values)),
                "spread": float(np.std(values, ddof=1)) if len(values) > 1 else None,
                "rmsd_kJ_mol": float(np.mean([m["rmsd"] for m in members])) / KJ_MOL,
                "populations": {
                    k: float(np.mean([m["populations"][k] for m in members])) for k in members[0]["populations"]
                },
                "samples": min(m["samples"] for m in members),
                "effective_samples": min(m["effective_samples"] for m in members),
                "held_out_log_density": {
                    kind: float(np.mean([m["held_out"][kind]["log_density"] for m in members]))
                    for kind in members[0]["held_out"]
                },
                "fit_seconds": float(np.mean([m["fit_seconds"] for m in members])),
                "sample_seconds": float(np.mean([m["sample_seconds"] for m in members])),
            }
        )
    order = [*LABEL_SETS, DENSITY]
    return sorted(
        out, key=lambda r: (len(r["temperatures"]) == 1, r["frames_per_temperature"], order.index(r["labels"]))
    )


def curves(rows: Sequence[dict[str, Any]]) -> dict[str, dict[int, list[float]]]:
    """Label set → frames per temperature → divergences, for the fits on all training temperatures."""
    out: dict[str, dict[int, list[float]]] = {name: {} for name in (*LABEL_SETS, DENSITY)}
    for row in rows:
        if len(row["temperatures"]) > 1:
            out[row["labels"]][row["frames_per_temperature"]] = row["divergences"]
    return {name: curve for name, curve in out.items() if curve}


def floors(reference: Reference, results: Sequence[dict[str, Any]], effective: float, seed: int) -> dict[str, float]:
    """Divergence of a perfect model from this reference, and its sources.

    Small divergences of independent errors add, and halves of a sample differ by four times the error of the whole: the
    reference and the model's samples contribute a quarter of the divergence of their halves each.
    """
    k = reference.temperatures.tolist().index(TARGET)
    halves = jensen_shannon_divergence(*reference.halves[:, k])
    model = float(np.mean([r["half_against_half"] for r in results if len(r["temperatures"]) > 1]))
    independent = divergence_floor(reference.probability[k], (effective, math.inf), np.random.default_rng([seed, 2]))
    return {
        "reference_half_against_half": halves,
        "model_half_against_half": model,
        "reference": 0.25 * halves,
        "model_samples": 0.25 * model,
        "perfect_model": 0.25 * (halves + model),
        "independent_samples_of_effective_size": independent,
    }


def frame_ratios(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ratio of the frames that plain forces need for the mean divergence of each other label set."""
    means = {name: {n: float(np.mean(v)) for n, v in curve.items()} for name, curve in curves(rows).items()}
    plain = means.get("forces", {})
    out = []
    for name, curve in means.items():
        for n, value in curve.items():
            if name != "forces" and plain:
                frames, bound = frames_for_divergence(plain, value)
                out.append(
                    {
                        "labels": name,
                        "frames_per_temperature": n,
                        "divergence": value,
                        "forces_need": frames,
                        "ratio": frames / n,
                        "is_lower_bound": bound,
                    }
                )
    return out


def all_is_best(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each size, all labels, without and with density, against the best smaller set, on the same frames."""
    out = []
    found = curves(rows)
    for largest in ("all", DENSITY):
        smaller = [name for name in found if name not in ("all", DENSITY) or (largest == DENSITY and name == "all")]
        for n in found.get(largest, {}):
            others = {name: found[name][n] for name in smaller if n in found[name]}
            if others:
                best = min(others, key=lambda name: float(np.mean(others[name])))
                difference = np.subtract(found[largest][n], others[best])
                out.append(
                    {
                        "labels": largest,
                        "frames_per_temperature": n,
                        "best_smaller_set": best,
                        "difference": difference.tolist(),
                        "mean_difference": float(difference.mean()),
                        "not_worse": bool(difference.mean() <= 0.0),
                    }
                )
    return out


def metrics(results: Sequence[dict[str, Any]], reference: Reference, plan: Plan, package: str) -> dict[str, Any]:
    """Everything but the analysis of the final model."""
    rows = group(results)
    k = reference.temperatures.tolist().index(TARGET)
    effective = min(r["effective_samples"] for r in results)
    return {
        "small": plan.small,
        "seed": plan.seed,
        "data": package,
        "temperature": TARGET,
        "training_temperatures": list(TRAIN_TEMPERATURES),
        "bins": len(reference.edges) - 1,
        "logarithm": "natural",
        "reference": {
            "effective_samples": float(reference.effective_sample_size[k]),
            "populations": basin_populations(reference.probability[k]),
        },
        "floors": floors(reference, results, effective, plan.seed),
        "least_effective_samples": effective,
        "divergences": rows,
        "frames_for_equal_divergence": frame_ratios(rows),
        "all_labels_against_fewer": all_is_best(rows),
        "noise": {
            f"{r['labels']}, {r['size']}": {"levels": r["noise"], "at_temperature": r["noise_temperature"]}
            for r in results
            if r["subset"] == 0 and len(r["temperatures"]) > 1
        },
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that affect the numbers."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found
