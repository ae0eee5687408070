"""Pair tables of LAMMPS (``pair_style table``)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import require
from .potential import LiquidPotential


def distances(least: float, cutoff: float, points: int) -> NDArray[np.float64]:
    """Distances, Å, equidistant in r²: the points at which LAMMPS stores a table, so that it interpolates once only."""
    return np.sqrt(np.linspace(least**2, cutoff**2, points))


def table(potential: LiquidPotential, a: str, b: str, least: float, points: int, energy: float) -> list[str]:
    """Lines of the section of two kinds, without its keyword.

    Parameters
    ----------
    least
        First distance, Å.
    energy
        The engine's units of energy in 1 eV.
    """
    cutoff = potential.pair_cutoff(a, b) or 2.0 * least  # kinds that do not interact: a table of zeros
    require(
        least < cutoff, f"pairs {a}-{b} end at {cutoff:g} Å, before the table begins: pass a least below {cutoff:g}"
    )
    r = distances(least, cutoff, points)
    u, slope = (energy * values for values in potential.pair(a, b, np.minimum(r, np.nextafter(cutoff, 0.0))))
    lines = [f"N {points} RSQ {least:.17g} {cutoff:.17g}", ""]
    return [
        *lines,
        *(f"{k} {x:.12g} {v:.15g} {-d:.15g}" for k, (x, v, d) in enumerate(zip(r, u, slope, strict=True), 1)),
    ]


def pair_file(potential: LiquidPotential, names: Sequence[str], units: str, energy: float, least: float, points: int):
    """Text of the file, and its keyword by two types (i, j), i ≤ j, from 1."""
    text = [
        f"# UNITS: {units}",
        f"# pair functions of a kernelfe model at {potential.temperature:g} K: number, r, energy, force",
    ]
    keywords = {}
    for i, a in enumerate(potential.kinds):
        for j, b in enumerate(potential.kinds[i:], i):
            keywords[i + 1, j + 1] = keyword = f"{names[i]}-{names[j]}"
            text += ["", keyword, *table(potential, a, b, least, points, energy)]
    return "\n".join(text) + "\n", keywords
