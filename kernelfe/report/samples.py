"""The section of a report about samples of a model: free energies along torsions or distances of the beads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..allatom.labelling.checks import distances_of
from ..analysis import axis_edges, dihedral_angles, free_energy_surface, periodic_histogram
from ..analysis.style import COLOURS, KJ_MOL, new_figure
from ..errors import require
from ..frames import Frames
from .html import Page
from .viewer import backbone_torsions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Coordinates shown at most.
_SHOWN = 4


def samples_section(page: Page, samples: Frames, frames: Frames, bins: int = 36) -> None:
    """Add free energies of samples, with those of labelled frames at the same temperature, to a page.

    Parameters
    ----------
    page
        The page.
    samples
        Of ``kernelfe sample``, bead positions.
    frames
        Labelled frames; those at the temperature of the samples are shown for comparison.
    bins
        Of each coordinate.

    Raises
    ------
    DataError
        If the samples hold other beads than the frames, or no positions.
    """
    require(
        samples.positions is not None and frames.positions is not None and samples.shape[1:] == frames.shape[1:],
        f"the samples {samples.shape} hold other beads than the frames {frames.shape}",
    )
    page.heading("Free energy of the samples")
    bonds = samples.bonds or frames.bonds or ()
    for t in np.unique(samples.temperature):
        part, own = samples[samples.temperature == t], frames[frames.temperature == t]
        names, edges, columns = _columns(part, own, bonds, bins)
        page.figure(
            _profiles(names, edges, columns, float(t)),
            f"−kT ln p at {t:g} K along {', '.join(names)}, zero at the lowest bin: {len(part)} samples of the model"
            + (f" (lines) and {len(own)} all-atom frames (points)." if len(own) else "; no all-atom frames there.")
            + " Samples and frames are correlated; bins of few of them are noise.",
        )
        if names[0].startswith("torsion") and len(names) > 1:
            page.figure(
                _map(names, columns, float(t), bins),
                f"−kT ln p at {t:g} K over the first two torsions, samples of the model.",
            )
            populations = np.mean(columns[0][:, 0] > 0.0)
            page.paragraph(
                f"{100 * populations:.1f} % of the samples have a positive {names[0]}"
                + (f", {100 * np.mean(columns[1][:, 0] > 0.0):.1f} % of the frames." if len(own) else "."),
                "note",
            )


def _columns(
    samples: Frames, frames: Frames, bonds: Any, bins: int
) -> tuple[list[str], list[NDArray], tuple[NDArray, NDArray]]:
    """Names, edges of bins, and values of samples and frames, of a few coordinates."""
    quads = backbone_torsions(bonds)[:_SHOWN] if samples.cell is None else ()
    if quads:
        values = dihedral_angles(samples.coordinates, quads), dihedral_angles(frames.coordinates, quads)
        return [f"torsion {'-'.join(map(str, q))}" for q in quads], [axis_edges(bins)] * len(quads), values
    names, own = distances_of(samples, _SHOWN)
    _, other = distances_of(frames, _SHOWN)
    both = np.concatenate([own, other])
    edges = [np.linspace(low, high + 1e-9, bins + 1) for low, high in zip(both.min(0), both.max(0), strict=True)]
    return names, edges, (own, other)


def _profiles(names: list[str], edges: list[NDArray], columns: tuple[NDArray, NDArray], t: float) -> Figure:
    figure, axes = new_figure(1, len(names), width=3.2, height=2.8)
    for k, (ax, name) in enumerate(zip(axes[0], names, strict=True)):
        angle = name.startswith("torsion")
        middle = 0.5 * (edges[k][1:] + edges[k][:-1])
        middle = np.degrees(middle) if angle else middle
        for values, style, label in ((columns[0], "-", "model"), (columns[1], ".", "frames")):
            if len(values):
                count = np.histogram(values[:, k], edges[k])[0]
                a = free_energy_surface(count, t) / KJ_MOL
                colour = COLOURS["blue" if style == "-" else "black"]
                ax.plot(middle, np.where(np.isfinite(a), a, np.nan), style, color=colour, label=label)
        ax.set(xlabel=f"{name} / {'°' if angle else 'Å'}", ylabel="A / kJ mol⁻¹" if k == 0 else "")
    axes[0][0].legend(fontsize=8, frameon=False)
    return figure


def _map(names: list[str], columns: tuple[NDArray, NDArray], t: float, bins: int) -> Figure:
    figure, axes = new_figure(1, 1, width=4.2, height=3.6)
    ax = axes[0][0]
    a = free_energy_surface(periodic_histogram(columns[0][:, :2], bins), t) / KJ_MOL
    edges = np.degrees(axis_edges(bins))
    ax.set_facecolor("#EEEEEE")
    shown = ax.pcolormesh(edges, edges, np.where(np.isfinite(a), a, np.nan).T, cmap="viridis", rasterized=True)
    ax.set(xlabel=f"{names[0]} / °", ylabel=f"{names[1]} / °")
    ax.set_aspect("equal")
    figure.colorbar(shown, ax=ax, label="A / kJ mol⁻¹")
    return figure
