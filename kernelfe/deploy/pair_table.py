"""Pair tables of LAMMPS (``pair_style table``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..errors import require
from ..specs import Bound, Choice, Real, Spec, Whole
from .potential import LiquidPotential


@dataclass(frozen=True)
class PairTable(Spec):
    """Tables of pairs, with entries equidistant in r².

    Parameters
    ----------
    points
        Number of entries.
    least
        First distance, Å. LAMMPS stops if two beads come closer.
    interpolation : "spline" or "linear"
        How LAMMPS interpolates between the entries.
    """

    points: int = 4000
    least: float = 0.5
    interpolation: str = "spline"

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        "points": Whole(least=100, most=1_000_000),
        "least": Real(above=0.0),
        "interpolation": Choice(("spline", "linear")),
    }


def distances(least: float, cutoff: float, points: int) -> NDArray[np.float64]:
    """Distances, Å, equidistant in r²: the points at which LAMMPS stores a table, so that it interpolates once only."""
    return np.sqrt(np.linspace(least**2, cutoff**2, points))


def section(potential: LiquidPotential, a: str, b: str, energy: float, table: PairTable) -> list[str]:
    """Lines of the section of two kinds, without its keyword.

    Parameters
    ----------
    energy
        The engine's units of energy in 1 eV.
    table
        Its entries.
    """
    least, points = table.least, table.points
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


def pair_file(potential: LiquidPotential, names: Sequence[str], units: str, energy: float, table: PairTable):
    """Text of the file, and its keyword by two types (i, j), i ≤ j, from 1."""
    text = [
        f"# UNITS: {units}",
        f"# pair functions of a kernelfe model at {potential.temperature:g} K: number, r, energy, force",
    ]
    keywords = {}
    for i, a in enumerate(potential.kinds):
        for j, b in enumerate(potential.kinds[i:], i):
            keywords[i + 1, j + 1] = keyword = f"{names[i]}-{names[j]}"
            text += ["", keyword, *section(potential, a, b, energy, table)]
    return "\n".join(text) + "\n", keywords
