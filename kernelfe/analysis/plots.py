"""Figures as functions of plain arrays; each returns a matplotlib Figure and opens no window.

Energies come in eV and are shown in kJ/mol. matplotlib is imported when a figure is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..arrays import real_array
from .divergence import axis_edges, free_energy_surface
from .parity import Parity
from .style import COLOURS, KJ_MOL, new_figure, torsion_axis
from .thermodynamics import Conditional, Decomposition

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Free energies above this are one colour, kJ/mol.
CEILING = 24.0
#: Line styles of label sets, in the order of the sets.
SERIES = (("vermilion", "o", ":"), ("orange", "s", "-."), ("sky", "^", "--"), ("blue", "D", "-"), ("green", "v", "-"))
#: Display of the label kinds: unit, factor from internal units, short name.
KINDS: dict[str, tuple[str, float, str]] = {
    "mean_force": ("kJ/mol/Å", 1.0 / KJ_MOL, "mapped force"),
    "generalized_force": ("kJ/mol/rad", 1.0 / KJ_MOL, "fragment torque"),
    "mean_energy": ("kJ/mol", 1.0 / KJ_MOL, "potential energy"),
    "free_energy": ("kJ/mol", 1.0 / KJ_MOL, "free energy"),
}


def pair_potential_figure(r: ArrayLike, potential: ArrayLike, std: ArrayLike | None = None, title: str = "") -> Figure:
    """A pair potential with a band of two standard deviations.

    Parameters
    ----------
    r
        (n,), Å.
    potential, std
        (n,), eV, of :meth:`kernelfe.FreeEnergyRegressor.pair_potential`.
    title
        Title of the figure.
    """
    figure, axes = new_figure(1, 1, width=4.6, height=3.4)
    ax, values = axes[0, 0], np.asarray(potential, float) / KJ_MOL
    ax.plot(r, values, color=COLOURS["blue"])
    if std is not None:
        band = 2.0 * np.asarray(std, float) / KJ_MOL
        ax.fill_between(np.asarray(r, float), values - band, values + band, color=COLOURS["blue"], alpha=0.25, lw=0)
    ax.set(xlabel="r / Å", ylabel="u(r) / kJ mol⁻¹", title=title)
    return figure


def surface_figure(model: ArrayLike, reference: ArrayLike, temperature: float, title: str = "") -> Figure:
    """Free-energy surfaces −kT ln p of model and reference over (φ, ψ), and their difference.

    Parameters
    ----------
    model, reference
        (bins, bins) probabilities, φ first.
    temperature
        K.
    title
        Title above the model's surface.
    """
    figure, axes = new_figure(1, 3, width=3.6, height=3.3)
    _surfaces(figure, axes[0], model, reference, temperature, title or "model")
    return figure


def _surfaces(figure: Any, axes: Any, model: ArrayLike, reference: ArrayLike, temperature: float, title: str) -> None:
    surfaces = [free_energy_surface(p, temperature) / KJ_MOL for p in (model, reference)]
    for ax, surface, name in zip(axes, surfaces, (title, "all-atom reference"), strict=False):
        shown = _map(ax, np.where(np.isfinite(surface), surface, np.nan), "viridis", 0.0, CEILING)
        ax.set_title(name, fontsize=10)
    figure.colorbar(shown, ax=list(axes[:2]), label="A(φ, ψ) / kJ mol⁻¹", extend="max", shrink=0.9)
    p, q = real_array(model, "model"), real_array(reference, "reference")
    both = (p > 0) & (q > 1e-4)
    difference = np.full(p.shape, np.nan)
    difference[both] = surfaces[0][both] - surfaces[1][both]
    difference -= np.sum(q[both] * difference[both]) / q[both].sum()
    shown = _map(axes[2], difference, "PuOr", -4.0, 4.0)
    axes[2].set_title("model − reference", fontsize=10)
    figure.colorbar(shown, ax=axes[2], label="ΔA / kJ mol⁻¹", extend="both", shrink=0.9)


def _map(ax: Any, values: np.ndarray, colours: str, low: float, high: float) -> Any:
    edges = np.degrees(axis_edges(len(values)))
    ax.set_facecolor("#EEEEEE")
    shown = ax.pcolormesh(edges, edges, values.T, cmap=colours, vmin=low, vmax=high, rasterized=True)
    ax.spines[["top", "right"]].set_visible(True)
    ax.set_aspect("equal")
    torsion_axis(ax, "φ")
    torsion_axis(ax, "ψ", "y")
    return shown


def learning_curve_figure(
    curves: Mapping[str, Mapping[int, Sequence[float]]],
    floor: float,
    extra: Mapping[str, tuple[float, float]] | None = None,
) -> Figure:
    """Divergence against frames per temperature: mean and range over training subsets, both axes logarithmic.

    Parameters
    ----------
    curves
        Name of a label set → frames per temperature → divergences of the subsets.
    floor
        Divergence that a perfect model would show; drawn as a band.
    extra
        Single points: name → (frames per temperature, divergence).
    """
    figure, axes = new_figure(width=5.2, height=3.9)
    _curves(axes[0, 0], curves, floor, extra or {})
    return figure


def _curves(
    ax: Any, curves: Mapping[str, Mapping[int, Sequence[float]]], floor: float, extra: Mapping[str, Any]
) -> None:
    for (name, curve), (colour, marker, line) in zip(curves.items(), SERIES, strict=False):
        sizes = sorted(curve)
        mean = np.array([np.mean(curve[n]) for n in sizes])
        low, high = (np.array([f(curve[n]) for n in sizes]) for f in (np.min, np.max))
        ax.errorbar(
            sizes,
            mean,
            [mean - low, high - mean],
            color=COLOURS[colour],
            marker=marker,
            ls=line,
            lw=1.6,
            ms=5,
            capsize=3,
            label=name,
        )
    for (name, (n, value)), marker in zip(extra.items(), "xP*", strict=False):
        ax.plot([n], [value], marker=marker, ls="", ms=7, color=COLOURS["purple"], label=name)
    ax.set(
        xscale="log", yscale="log", xlabel="training frames per temperature", ylabel="Jensen–Shannon divergence / nat"
    )
    if floor > 0.0:
        ax.axhspan(0.7 * floor, floor, color=COLOURS["grey"], alpha=0.3, lw=0, label="floor of a perfect model")
        ax.set_ylim(bottom=0.7 * floor)
    sizes = sorted({n for curve in curves.values() for n in curve})
    ax.set_xticks(sizes, [str(n) for n in sizes])
    ax.minorticks_off()
    _plain_ticks(ax)
    ax.grid(axis="y", color="#DDDDDD", lw=0.6)
    ax.legend(fontsize=7, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)


def _plain_ticks(ax: Any) -> None:
    low, high = ax.get_ylim()
    ticks = [t for t in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if low <= t <= high]
    if len(ticks) >= 2:
        ax.set_yticks(ticks, [f"{t:g}" for t in ticks])


def parity_figure(parities: Sequence[Parity]) -> Figure:
    """Predictions against labels, one panel per kind; the band is ± the noise of a single label.

    Parameters
    ----------
    parities
        One per label kind; energies are shown about their mean.
    """
    figure, axes = new_figure(1, len(parities), width=3.5, height=3.4)
    for ax, found in zip(axes[0], parities, strict=True):
        unit, scale, name = KINDS.get(found.kind, ("internal units", 1.0, found.kind.replace("_", " ")))
        x, y = found.label.ravel() * scale, found.prediction.ravel() * scale
        if found.label.shape[1] == 1:
            x, y = x - x.mean(), y - x.mean()
        low, high = np.quantile(x, [0.001, 0.999])
        pad = 0.05 * (high - low) or 1.0
        line = np.array([low - pad, high + pad])
        floor = found.noise_floor * scale
        ax.hexbin(x, y, gridsize=60, bins="log", cmap="cividis", mincnt=1, extent=(*line, *line), linewidths=0)
        ax.plot(line, line, color=COLOURS["vermilion"], lw=1)
        ax.fill_betweenx(line, line - floor, line + floor, color=COLOURS["vermilion"], alpha=0.15, lw=0)
        ax.set(
            xlim=line, ylim=line, xlabel=f"single-frame label / {unit}", ylabel=f"prediction / {unit}", aspect="equal"
        )
        ax.set_title(
            f"{name}\nrmse {found.rmse * scale:.3g}, noise {floor:.3g}; R² {found.r2:.2f} of {found.r2_ceiling:.2f}",
            fontsize=9,
        )
    return figure


def decomposition_figure(
    parts: Decomposition,
    name: str,
    reference: tuple[ArrayLike, ArrayLike] | None = None,
    energies: Conditional | None = None,
) -> Figure:
    """A, U, −T S and C along one torsion with bands of ± 2 standard deviations.

    Parameters
    ----------
    parts
        The decomposition along equal bins of (−π, π].
    name
        Name of the torsion.
    reference
        A of the reference (bins,), eV, and its standard deviation.
    energies
        Averages of energies of held-out all-atom frames in the bins, eV.
    """
    figure, axes = new_figure(1, 3, width=3.8, height=3.3)
    edges = np.degrees(axis_edges(len(parts.count)))
    at = 0.5 * (edges[1:] + edges[:-1])
    weight = parts.count / parts.count.sum()
    left, middle, right = axes[0]
    t = parts.temperature
    for values, std, colour, line, label in (
        (parts.free_energy, parts.free_energy_std, "black", "-", "A"),
        (parts.energy, parts.energy_std, "vermilion", "--", "U"),
        (-t * parts.entropy, t * parts.entropy_std, "blue", "-.", "−TS"),
    ):
        _band(left, at, values / KJ_MOL, std / KJ_MOL, colour, line, label)
    left.set_ylabel("relative to average / kJ mol⁻¹", fontsize=9)
    left.set_title(f"A = U − TS at {t:g} K", fontsize=10)
    _band(middle, at, parts.free_energy / KJ_MOL, parts.free_energy_std / KJ_MOL, "black", "-", "A, model")
    _band(middle, at, parts.energy / KJ_MOL, parts.energy_std / KJ_MOL, "vermilion", "--", "U, model")
    if reference is not None:
        a, std = (real_array(x, "reference") / KJ_MOL for x in reference)
        a = _centred(np.where(np.isfinite(parts.free_energy), a, np.nan), weight)
        middle.errorbar(at, a, 2 * std, color=COLOURS["grey"], marker=".", ms=4, ls="", lw=0.8, label="A, reference")
    if energies is not None:
        enough = energies.count >= 20
        u = _centred(np.where(enough, energies.mean, np.nan) / KJ_MOL, weight)
        middle.errorbar(
            at,
            u,
            2 * energies.error / KJ_MOL,
            color=COLOURS["orange"],
            marker="s",
            ms=3,
            ls="",
            lw=0.8,
            label="U, held-out frames",
        )
    middle.set_title("against all-atom data, ± 2σ", fontsize=10)
    # wide bars of hardly visited bins must not set the scale
    shown = np.concatenate([parts.free_energy, parts.energy]) / KJ_MOL
    for ax in (left, middle):
        ax.set_ylim(np.nanmin(shown) - 5.0, np.nanmax(shown) + 5.0)
    _band(right, at, 1e3 * parts.heat_capacity / KJ_MOL, 1e3 * parts.heat_capacity_std / KJ_MOL, "green", "-", "C")
    right.set_title("heat capacity", fontsize=10)
    right.set_ylabel("C / J mol⁻¹ K⁻¹", fontsize=9)
    for ax in axes[0]:
        torsion_axis(ax, name)
    for ax in (left, middle):
        ax.legend(fontsize=7, frameon=False, loc="lower left", ncols=2)
    return figure


def _centred(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    known = np.isfinite(values) & (weight > 0)
    return values - (weight[known] @ values[known]) / weight[known].sum() if known.any() else values


def _band(ax: Any, x: np.ndarray, y: np.ndarray, std: np.ndarray, colour: str, line: str, label: str) -> None:
    ax.plot(x, y, color=COLOURS[colour], ls=line, lw=1.5, label=label)
    ax.fill_between(x, y - 2 * std, y + 2 * std, color=COLOURS[colour], alpha=0.18, lw=0)


def maps_figure(parts: Decomposition, bins: int) -> Figure:
    """Entropy and heat capacity over (φ, ψ), each with its standard deviation.

    Parameters
    ----------
    parts
        Decomposition over bins² cells, φ the slow index.
    bins
        Per torsion.
    """
    figure, axes = new_figure(2, 2, width=3.7, height=3.2)
    rows = (
        (
            "T (S − ⟨S⟩) / kJ mol⁻¹",
            parts.temperature * parts.entropy / KJ_MOL,
            parts.temperature * parts.entropy_std / KJ_MOL,
            True,
        ),
        ("C / J mol⁻¹ K⁻¹", 1e3 * parts.heat_capacity / KJ_MOL, 1e3 * parts.heat_capacity_std / KJ_MOL, False),
    )
    for (left, right), (label, values, std, centred) in zip(axes, rows, strict=True):
        known = values[np.isfinite(values)]
        low, high = np.quantile(known, [0.02, 0.98])
        if centred:
            low, high = -max(abs(low), abs(high)), max(abs(low), abs(high))
        shown = _map(left, values.reshape(bins, bins), "PuOr" if centred else "viridis", low, high)
        figure.colorbar(shown, ax=left, label=label, extend="both", shrink=0.9)
        shown = _map(right, std.reshape(bins, bins), "cividis", 0.0, float(np.nanquantile(std, 0.98)))
        figure.colorbar(shown, ax=right, label="σ, same unit", extend="max", shrink=0.9)
    axes[0, 0].set_title("entropy", fontsize=10)
    axes[0, 1].set_title("its standard deviation", fontsize=10)
    axes[1, 0].set_title("heat capacity", fontsize=10)
    axes[1, 1].set_title("its standard deviation", fontsize=10)
    return figure


def summary_figure(
    model: ArrayLike,
    reference: ArrayLike,
    temperature: float,
    curves: Mapping[str, Mapping[int, Sequence[float]]],
    floor: float,
) -> Figure:
    """Model surface, reference surface and learning curve in one row: the picture of the README."""
    figure, axes = new_figure(1, 3, width=3.9, height=3.4, width_ratios=(1, 1, 1.25))
    surfaces = [free_energy_surface(p, temperature) / KJ_MOL for p in (model, reference)]
    for ax, surface, name in zip(
        axes[0], surfaces, ("kernelfe, never trained here", "all-atom reference"), strict=False
    ):
        shown = _map(ax, np.where(np.isfinite(surface), surface, np.nan), "viridis", 0.0, CEILING)
        ax.set_title(f"{name}, {temperature:g} K", fontsize=10)
    figure.colorbar(shown, ax=list(axes[0][:2]), label="A(φ, ψ) / kJ mol⁻¹", extend="max", shrink=0.9)
    _curves(axes[0, 2], curves, floor, {})
    return figure
