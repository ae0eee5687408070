"""The report of one fitted model against data: parity, calibration, hyperparameters, warnings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..analysis import Parity, parity, parity_calibration
from ..analysis.calibration_plot import calibration_figure
from ..analysis.plots import KINDS, parity_figure
from ..errors import DataError
from ..frames import Frames
from .html import Page, number


def model_page(
    model: Any, frames: Frames, name: str, versions: dict[str, str], most: int = 2000
) -> tuple[Page, dict[str, Any]]:
    """Report on a fitted model, and its numbers.

    Parameters
    ----------
    model
        A fitted :class:`~kernelfe.FreeEnergyRegressor`.
    frames
        Frames with labels, best not those of the training: the page states that it cannot check this.
    name
        What to call the model.
    versions
        Packages to list.
    most
        Frames compared at most, evenly spread; more than 2000 change no digit that is shown.

    Raises
    ------
    DataError
        If the frames hold no label with known noise.
    """
    rows = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), most)).astype(int))
    part = frames[rows]
    known = [k for k in part.labels if part.present[k].any() and (k in model.noise_ or k in part.noise)]
    if not known:
        raise DataError(
            f"the frames hold no label whose noise is known (labels: {', '.join(part.labels) or 'none'}; the model "
            f"learned the noise of {', '.join(model.noise_) or 'none'}); state it with noise="
        )
    parities = [parity(model, part, kind) for kind in known]
    page = Page(f"kernelfe model {name}")
    page.paragraph(
        f"Compared with {len(part)} frames"
        + (f" of {len(frames)}, spread evenly" if len(part) < len(frames) else "")
        + ". Numbers mean generalisation only if these frames were not trained on; the model cannot tell.",
        "note",
    )
    for warning in temperature_warnings(model, part):
        page.paragraph(warning, "warning")
    page.heading("Predictions against labels")
    shown = [p for p in parities if p.label.size]
    page.figure(
        parity_figure(shown),
        "Predictions against labels; the band is ± the noise of one label, which no model can beat.",
    )
    parity_table(page, parities)
    for found in parities:
        if found.z_rms is not None and not 0.8 < found.z_rms < 1.25:
            page.paragraph(
                f"Standard deviations of {found.kind} are {'too small' if found.z_rms > 1 else 'too large'}: labels "
                f"scatter {found.z_rms:.2f} times as much as predicted (noise and model together).",
                "warning",
            )
    calibration_section(page, parities)
    concave = concavity(page, model, part)
    hyperparameters(page, model)
    page.heading("Made with")
    page.paragraph(", ".join(f"{package} {version}" for package, version in versions.items()), "note")
    return page, {**{p.kind: p.summary() for p in parities}, "concavity": concave}


def calibration_section(page: Page, parities: list[Parity]) -> None:
    """Coverage at every level, noise of the labels included."""
    found = {p.kind: parity_calibration(p) for p in parities}
    page.heading("Are the error bars right?")
    page.figure(
        calibration_figure({KINDS.get(kind, ("", 1.0, kind))[2]: one for kind, one in list(found.items())[:6]}),
        "How often labels lie within intervals of the predicted distribution, noise of the labels included, and the "
        "histogram of probability integral transforms, flat when the distribution is right.",
    )
    rows = [
        [
            KINDS.get(kind, ("", 1.0, kind))[2],
            str(one.size),
            f"{100 * one.coverage(0.5):.1f} %",
            f"{100 * one.coverage():.1f} ± {100 * one.coverage_error():.1f} %",
            f"{number(one.mean_squared_z)} ± {number(one.mean_squared_z_error, 2)}",
            number(one.kurtosis, 2),
        ]
        for kind, one in found.items()
    ]
    page.table(
        ["label", "frames", "within 50 %", "within 95 %", "mean squared z", "excess kurtosis of z"],
        rows,
        "Standard errors are over frames, taken as independent. Noise of single frames has longer tails than a normal "
        "distribution (positive kurtosis): coverage at 95 % and mean squared z can then not both be right.",
    )


def temperature_warnings(model: Any, frames: Frames) -> list[str]:
    """Warnings about the temperatures of the frames."""
    low, high = min(model.temperatures_), max(model.temperatures_)
    outside = sorted({float(t) for t in frames.temperature if not low <= t <= high})
    out = []
    if outside:
        shown = ", ".join(f"{t:g}" for t in outside[:6])
        out.append(
            f"{shown} K lie outside the training temperatures ({low:g} to {high:g} K): predictions there extrapolate "
            "and rest on the prior in T."
        )
    if len(model.temperatures_) == 1:
        out.append(
            f"All training data are at {low:g} K: the temperature dependence comes from the prior and from label kinds "
            "that carry temperature derivatives; energies at one temperature do not determine A there."
        )
    return out


def temperature_list(temperatures: Sequence[float], most: int = 12) -> str:
    """Temperatures one by one, or of many the range."""
    if len(temperatures) <= most:
        return ", ".join(f"{t:g}" for t in temperatures)
    return f"{len(temperatures)} temperatures from {min(temperatures):g} to {max(temperatures):g}"


def concavity(page: Page, model: Any, frames: Frames) -> dict[str, float]:
    """Probabilities that predicted heat capacities are negative, which no free energy allows; shown and returned."""
    probability = model.concavity_violation(frames)
    found = {
        "mean_violation": float(probability.mean()),
        "largest_violation": float(probability.max()),
        "negative": float((probability > 0.95).mean()),
    }
    page.heading("Concavity in temperature")
    page.paragraph(
        "Every free energy is concave in T: C = −T ∂²A/∂T² ≥ 0. The probability that the model gives a negative C is "
        f"{100 * found['mean_violation']:.1f} % on average over these frames and "
        f"{100 * found['largest_violation']:.1f} % at most; it is above 95 % at {100 * found['negative']:.1f} % of "
        "them. enforce_concavity conditions on C ≥ 0.",
        "warning" if found["negative"] > 0.05 else "note",
    )
    return found


def parity_table(page: Page, parities: list[Parity]) -> None:
    """Errors with their floors, and the calibration of error bars."""
    rows = []
    for p in parities:
        unit, scale, name = KINDS.get(p.kind, ("internal units", 1.0, p.kind))
        rows.append(
            [
                name,
                unit,
                len(p.label),
                number(p.rmse * scale),
                number(p.noise_floor * scale),
                f"{number(p.corrected_rmse * scale)} (< {number(p.corrected_rmse_limit * scale)})",
                f"{p.r2:.3f} of {p.r2_ceiling:.3f}",
                number(p.log_density),
                number(p.z_rms),
                "–" if p.coverage95 is None else f"{100 * p.coverage95:.1f} %",
            ]
        )
    page.table(
        [
            "label",
            "unit",
            "frames",
            "rmse",
            "noise",
            "model's own error (2σ limit)",
            "R² of reachable",
            "log density",
            "rms z",
            "within 1.96 σ",
        ],
        rows,
        "The noise is that of one label, learned or stated. Model's own error: sqrt(rmse² − noise²). Log "
        "density: mean log "
        "predictive density of a number. rms z should be 1.",
    )


def hyperparameters(page: Page, model: Any) -> None:
    """Terms, prior scales, noise levels and evidence."""
    page.heading("What the evidence found")
    rows = []
    for name, term in model.fitted_terms():
        length = "; ".join(
            ("" if name == "lengthscale" else f"{name} ") + ", ".join(number(v) for v in values)
            for name, values in term.kernel.hyperparameters().items()
        )
        thermal = term.thermal
        scales = [
            number(getattr(thermal, key) * factor) if getattr(thermal, key, None) is not None else "–"
            for key, factor in (("energy", 1e3), ("entropy", 1e6), ("heat_capacity", 1e6))
        ]
        rows.append([name, type(term.descriptor).__name__, type(term.kernel).__name__, length, *scales])
    page.table(
        [
            "term",
            "descriptor",
            "kernel",
            "length scale and other numbers",
            "energy / meV",
            "entropy / µeV K⁻¹",
            "heat capacity / µeV K⁻¹",
        ],
        rows,
        "Prior standard deviations of each term after fitting, at the reference temperature. Energy: of the free "
        "energy (in models of kernelfe 0.2 and before: of the mean energy).",
    )
    if model.noise_:
        rows = []
        for kind, (level, power) in model.noise_.items():
            unit, scale, name = KINDS.get(kind, ("internal units", 1.0, kind))
            rows.append([name, f"{number(level * scale)} {unit}", f"{power:.2f}"])
        page.table(
            ["label", f"noise at {model.noise_temperature_:.0f} K", "power of T"],
            rows,
            "Learned noise of a single label.",
        )
    density = model.density_
    page.paragraph(
        f"Log evidence {number(model.log_evidence_, 6)}; {type(model.solver_).__name__.lower()} solver "
        f"({model.solver_reason_}); trained at {temperature_list(model.temperatures_)} K."
        + (
            " Also conditioned on the density of the frames; independent frames: "
            + ", ".join(f"{number(n, 2)} at {t:g} K" for t, n in density.items())
            + "."
            if density
            else ""
        )
        + (f" Handedness: {model.handedness_}." if model.handedness_ else ""),
        "note",
    )
