"""Figure for :mod:`~kernelfe.analysis.calibration`: reliability diagrams and histograms of PITs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from .calibration import Calibration
from .style import COLOURS, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Colours and markers in the order given.
STYLES = (("vermilion", "o"), ("blue", "s"), ("orange", "^"), ("sky", "D"), ("green", "v"), ("purple", "P"))


def calibration_figure(found: Mapping[str, Calibration], bins: int = 20) -> Figure:
    """Coverage against level, its difference from the level, and the histogram of PITs, ± two standard errors.

    Parameters
    ----------
    found
        Name → calibration; at most six.
    bins
        Of the histogram.
    """
    figure, axes = new_figure(1, 3, width=3.6, height=3.3)
    levels = np.array(Calibration.LEVELS)
    left, middle, right = axes[0]
    for ax in (left, middle):
        ax.plot([0, 1], [0, 1] if ax is left else [0, 0], color=COLOURS["grey"], lw=1)
    for (name, one), (colour, marker) in zip(found.items(), STYLES, strict=False):
        style = {"color": COLOURS[colour], "marker": marker, "ms": 3.5, "lw": 1.2}
        coverage = one.reliability()
        error = 2.0 * np.array([one.coverage_error(level) for level in levels])
        left.plot(levels, coverage, label=name, **style)
        middle.plot(levels, 100 * (coverage - levels), **style)
        middle.fill_between(
            levels,
            100 * (coverage - levels - error),
            100 * (coverage - levels + error),
            color=style["color"],
            alpha=0.15,
        )
        density, edges = np.histogram(one.pit, bins, (0.0, 1.0), density=True)
        right.stairs(density, edges, color=style["color"], lw=1.3)
    left.set(xlabel="level of the interval", ylabel="fraction of truths inside", xlim=(0, 1), ylim=(0, 1))
    left.set_title("reliability", fontsize=10)
    middle.set(xlabel="level of the interval", ylabel="coverage − level / %", xlim=(0, 1))
    middle.set_title("deviation (± 2 standard errors)", fontsize=10)
    right.axhline(1.0, color=COLOURS["grey"], lw=1)
    right.set(xlabel="probability integral transform", ylabel="density", xlim=(0, 1), ylim=(0, None))
    right.set_title("uniform if right", fontsize=10)
    left.legend(fontsize=7, frameon=False, loc="upper left")
    return figure
