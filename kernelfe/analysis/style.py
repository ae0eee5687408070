"""Common style of all figures: colours for colour-blind readers, units of chemistry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..units import factor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Okabe and Ito's palette (Color Universal Design, 2008).
COLOURS = {
    "black": "#000000",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "green": "#009E73",
    "yellow": "#F0E442",
    "blue": "#0072B2",
    "vermilion": "#D55E00",
    "purple": "#CC79A7",
    "grey": "#7F7F7F",
}

#: eV per kJ/mol: divide by it to get the unit of the figures.
KJ_MOL = factor("kJ/mol")


def new_figure(
    rows: int = 1, columns: int = 1, width: float = 4.0, height: float = 3.2, **options: Any
) -> tuple[Figure, Any]:
    """Figure without a window or global state, with its axes (always a 2-D array).

    Parameters
    ----------
    rows, columns
        Panels.
    width, height
        Inches per panel.
    options
        For ``Figure.subplots``.
    """
    from matplotlib.figure import Figure  # here: importing kernelfe must not load matplotlib

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
        ax.xaxis.label.set_size(9)
        ax.yaxis.label.set_size(9)
        ax.title.set_size(10)
    return figure, axes


def torsion_axis(ax: Any, name: str, which: str = "x") -> None:
    """Degrees from −180 to 180 in steps of 90, with a label."""
    ticks = [-180, -90, 0, 90, 180]
    if which == "x":
        ax.set(xlim=(-180, 180), xticks=ticks, xlabel=f"{name} / °")
    else:
        ax.set(ylim=(-180, 180), yticks=ticks, ylabel=f"{name} / °")
