"""Export to LAMMPS: pair tables, and triplets as UF3 splines, with the commands that use them."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..files.atomic import atomic_write
from ..specs import Choice, Instance, Real, checked
from ..units import BOLTZMANN, factor
from .box import check_start, write_start
from .names import safe_names
from .pair_table import PairTable, pair_file
from .potential import LiquidPotential, as_potential
from .uf3 import triplet_file

#: Units of energy of LAMMPS's unit styles, and their step of 2 fs.
STYLES = {"real": ("kcal/mol", 2.0), "metal": ("eV", 0.002)}
#: Energy of the closest pair in a table below which beads may fall into each other, kT.
WALL = 10.0


@dataclass(frozen=True)
class LammpsExport:
    """Files of an export.

    Attributes
    ----------
    folder
        Where they are.
    files
        Their names: ``potential.in``, ``pairs.table``, ``example.in``, with triplets ``triplets.uf3``, and with a start
        ``liquid.data``.
    types
        Kind → type of LAMMPS, from 1.
    commands
        Lines of ``potential.in``.
    triplet_error
        Relative root mean square error of the forces of triplets; 0 without triplets. That of pairs is below 1e-6.
    """

    folder: Path
    files: tuple[str, ...]
    types: dict[str, int]
    commands: tuple[str, ...]
    triplet_error: float


def export_lammps(
    potential: Any,
    path: str | os.PathLike[str],
    temperature: float | None = None,
    *,
    units: str = "real",
    table: PairTable | None = None,
    tolerance: float = 1e-3,
    start: Any = None,
) -> LammpsExport:
    """Write a model of a liquid as input of LAMMPS.

    Pairs become a table for ``pair_style table``, equidistant in r². Triplets become tensor splines for
    ``pair_style uf3`` (package ML-UF3), combined by ``hybrid/overlay``: of LAMMPS's styles for tabulated triplets it is
    the one with continuous forces; ``threebody/table`` takes the nearest entry of its table.

    The tables hold A(R; T) at one temperature: run the thermostat at that temperature only.

    Parameters
    ----------
    potential
        A fitted model of a liquid whose terms are functions of pairs and triplets, or a :class:`LiquidPotential`.
    path
        Folder for the files; made if it does not exist.
    temperature
        K; may be left out for a :class:`LiquidPotential`.
    units : "real" or "metal"
        LAMMPS's unit style: kcal/mol and fs, or eV and ps; Å in both.
    table
        Entries of the pair tables and their interpolation; None: 4000 entries from 0.5 Å on, by splines.
    tolerance
        Largest relative root mean square error of the forces of triplets.
    start
        Frames, the first of which is written as ``liquid.data``, the configuration that ``example.in`` starts from.

    Returns
    -------
    LammpsExport

    Raises
    ------
    DataError
        If the model has other terms than pairs and triplets, the temperature is missing, or a number is out of range.
    """
    found = as_potential(potential, temperature)
    table = checked(
        "table", PairTable() if table is None else table, Instance(PairTable, "a PairTable"), "export_lammps"
    )
    units = checked("units", units, Choice(tuple(STYLES)), "export_lammps")
    tolerance = checked("tolerance", tolerance, Real(above=0.0, most=1.0), "export_lammps")
    atoms = None if start is None else check_start(start, found)
    energy, names = factor("eV", "energy") / factor(STYLES[units][0], "energy"), safe_names(found.kinds)
    pairs, keywords = pair_file(found, names, units, energy, table)
    contents = {"pairs.table": pairs}
    style, error = f"table {table.interpolation} {table.points}", 0.0
    if found.triplets:
        contents["triplets.uf3"], error = triplet_file(found, names, units, energy, tolerance)
        commands = [f"pair_style hybrid/overlay {style} uf3 3"]
        commands += [f"pair_coeff {i} {j} table pairs.table {keyword}" for (i, j), keyword in keywords.items()]
        commands += [f"pair_coeff * * uf3 triplets.uf3 {' '.join(names)}"]
    else:
        commands = [f"pair_style {style}"]
        commands += [f"pair_coeff {i} {j} pairs.table {keyword}" for (i, j), keyword in keywords.items()]
    _warn_of_holes(found, table.least)
    contents["potential.in"] = _potential(found, names, units, commands, error)
    contents["example.in"] = _example(found, units)
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise DataError(f"cannot make the folder {folder}: {problem.strerror}; choose another") from problem
    for name, text in contents.items():
        with atomic_write(folder / name) as aside:
            aside.write_text(text, encoding="ascii", errors="replace")
    if atoms is not None:
        write_start(atoms, found, folder / "liquid.data")
        contents["liquid.data"] = ""
    types = {kind: number for number, kind in enumerate(found.kinds, 1)}
    return LammpsExport(folder, tuple(contents), types, tuple(commands), error)


def _potential(found: LiquidPotential, names: tuple[str, ...], units: str, commands: list[str], error: float) -> str:
    """Text of ``potential.in``: to be included after the box and its atoms exist."""
    types = ", ".join(f"{number} {name}" for number, name in enumerate(names, 1))
    lines = [
        f"# A(R; T) of a kernelfe model at {found.temperature:g} K, units {units}; valid at this temperature only",
        f"# atom types: {types}. Run LAMMPS in the folder of these files.",
    ]
    if found.triplets:
        lines += [f"# forces of triplets: relative error {error:.1e} (root mean square); needs the package ML-UF3"]
    return "\n".join([*lines, *commands, ""])


def _example(found: LiquidPotential, units: str) -> str:
    step = STYLES[units][1]
    damping = 500.0 * step
    masses = "".join(f"mass {number} {mass:.10g}\n" for number, mass in enumerate(found.masses or (), 1))
    return f"""# Langevin dynamics at constant volume. liquid.data: your box, with the types of potential.in.
units {units}
atom_style atomic
boundary p p p
read_data liquid.data
{masses}include potential.in
neighbor 1.0 bin
timestep {step:g}
velocity all create {found.temperature:g} 1 dist gaussian
fix move all nve
fix bath all langevin {found.temperature:g} {found.temperature:g} {damping:g} 2
thermo 1000
thermo_style custom step temp pe press
run 100000
"""


def _warn_of_holes(found: LiquidPotential, least: float) -> None:
    """Warn of kinds whose beads nothing keeps apart: an engine knows no domain of the training data."""
    kt = BOLTZMANN * found.temperature
    for i, a in enumerate(found.kinds):
        for b in found.kinds[i:]:
            cutoff = found.pair_cutoff(a, b)
            if cutoff <= least:
                warnings.warn(f"no pair function acts between {a} and {b}: nothing keeps them apart", stacklevel=3)
                continue
            u, _ = found.pair(a, b, np.array([least, cutoff * (1.0 - 1e-9)]))
            if u[0] - max(u[1], 0.0) < WALL * kt:
                warnings.warn(
                    f"pairs {a}-{b}: the energy at {least:g} Å is only {u[0] / kt:.2g} kT: beads may fall into each "
                    "other, for LAMMPS does not know where the training data end. Fit with a core as baseline",
                    stacklevel=3,
                )
            if abs(u[1]) > 0.01 * kt:
                warnings.warn(
                    f"pairs {a}-{b}: the energy jumps by {u[1] / kt:.2g} kT at the cutoff; forces do not, but energies "
                    "do not add up in a run. Use terms on PairSplines",
                    stacklevel=3,
                )
