"""Figures of the structure of liquids: model and reference, and their difference beside its floor."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..style import COLOURS, new_figure
from .angles import AngularDistribution
from .distance_measures import Curve
from .order import TetrahedralOrder
from .radial import RadialDistribution
from .structure_factor import StructureFactor

#: What the curves are called.
NAMES = ("model", "all-atom")

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FloatArray = NDArray[np.float64]


def radial_figure(
    g: RadialDistribution,
    reference: RadialDistribution | None = None,
    title: str = "",
    names: tuple[str, str] = NAMES,
) -> Figure:
    """g(r), and its difference from a reference with the band of ± 2σ that two exact samples fill.

    Parameters
    ----------
    g, reference
        Of the same width of bins.
    title
        Title of the figure.
    names
        What the two curves are called.
    """
    return _figure(g, reference, lambda d: d.r, ("r / Å", "g(r)"), title, names)


def angular_figure(
    p: AngularDistribution,
    reference: AngularDistribution | None = None,
    title: str = "",
    names: tuple[str, str] = NAMES,
) -> Figure:
    """Density of the angle, per radian, and its difference from a reference.

    Parameters
    ----------
    p, reference
        Of the same bins.
    title
        Title of the figure.
    names
        What the two curves are called.
    """
    return _figure(p, reference, lambda d: np.degrees(d.theta), ("θ / °", "p(θ) / rad⁻¹"), title, names)


def tetrahedral_figure(
    q: TetrahedralOrder,
    reference: TetrahedralOrder | None = None,
    title: str = "",
    names: tuple[str, str] = NAMES,
) -> Figure:
    """Distribution of the tetrahedral order, and its difference from a reference.

    Parameters
    ----------
    q, reference
        Of the same bins.
    title
        Title of the figure.
    names
        What the two curves are called.
    """

    def centres(d: Any) -> FloatArray:
        return np.asarray(0.5 * (d.edges[1:] + d.edges[:-1]))

    figure = _figure(q, reference, centres, ("q", "p(q)"), title, names)
    for ax in figure.axes:
        ax.set_xlim(-1.0, 1.0)
    return figure


def structure_factor_figure(
    s: StructureFactor,
    reference: StructureFactor | None = None,
    title: str = "",
    names: tuple[str, str] = NAMES,
) -> Figure:
    """S(k), and its difference from a reference where both have wave vectors of the same bin.

    Parameters
    ----------
    s, reference
        Structure factors; of cells that differ in size only the curves are drawn.
    title
        Title of the figure.
    names
        What the two curves are called.
    """
    return _figure(s, reference, lambda d: d.k, ("k / Å⁻¹", "S(k)"), title, names)


def _figure(
    shown: Any,
    reference: Any,
    along: Callable[[Any], FloatArray],
    axes_names: tuple[str, str],
    title: str,
    names: tuple[str, str],
) -> Figure:
    both = reference is not None and _comparable(along(shown), along(reference))
    figure, axes = new_figure(1 + both, 1, width=4.6, height=2.2 if both else 3.2, sharex=True)
    top, curve = axes[0, 0], shown.curve
    if reference is not None:
        x, other = along(reference), reference.curve
        _band(top, x, other.value, other.error, "black", names[1])
    _band(top, along(shown), curve.value, curve.error, "blue", names[0] if reference is not None else "")
    top.set_ylabel(axes_names[1])
    top.set_title(title, fontsize=10)
    if reference is not None:
        top.legend(fontsize=8, frameon=False)
    if both:
        n = min(len(curve.value), len(reference.curve.value))
        _difference(axes[1, 0], along(shown)[:n], curve, reference.curve, names)
    axes[-1, 0].set_xlabel(axes_names[0])
    return figure


def _comparable(x: FloatArray, other: FloatArray) -> bool:
    n = min(len(x), len(other))
    return n > 0 and bool(np.allclose(x[:n], other[:n], rtol=0.01))


def _band(ax: Any, x: FloatArray, y: FloatArray, error: FloatArray, colour: str, label: str) -> None:
    ax.plot(x, y, color=COLOURS[colour], lw=1.3, label=label or None)
    ax.fill_between(x, y - 2.0 * error, y + 2.0 * error, color=COLOURS[colour], alpha=0.25, lw=0)


def _difference(ax: Any, x: FloatArray, curve: Curve, reference: Curve, names: tuple[str, str]) -> None:
    n = len(x)
    error = 2.0 * np.hypot(curve.error[:n], reference.error[:n])
    ax.fill_between(x, -error, error, color=COLOURS["grey"], alpha=0.3, lw=0, label="two exact samples, ± 2σ")
    ax.plot(x, curve.value[:n] - reference.value[:n], color=COLOURS["vermilion"], lw=1.2)
    ax.axhline(0.0, color=COLOURS["grey"], lw=0.6)
    ax.set_ylabel(f"{names[0]} − {names[1]}", fontsize=9)
    ax.legend(fontsize=7, frameon=False)
