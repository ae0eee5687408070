"""Export to GROMACS: tables of user potentials (``table*.xvg``)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, require
from ..files.atomic import atomic_write
from ..units import factor
from .names import safe_names
from .potential import as_potential

_NM = 10.0  # Å


def export_gromacs(
    potential: Any,
    path: str | os.PathLike[str],
    temperature: float | None = None,
    *,
    spacing: float = 0.0005,
    beyond: float = 1.0,
    largest: float = 1e6,
) -> tuple[Path, ...]:
    """Write the pair functions of a model as tables of GROMACS, one for every two kinds.

    GROMACS reads such tables with its group scheme (``cutoff-scheme = group``, ``vdwtype = user``), up to version 2019.
    **Versions from 2020 on do not**: the group scheme was removed, and the Verlet scheme takes no tables of nonbonded
    pairs. They hold pairs only; triplets are refused.

    Each file has seven columns: r in nm, then f, −f', g, −g', h and −h'. The pair energy in kJ/mol is in h and its
    force in −h', so give the kinds C6 = 0 and C12 = 1 in the topology; f and g are zero.

    Parameters
    ----------
    potential, temperature
        As of :func:`export_lammps`.
    path
        Folder for the files; made if it does not exist. The table of the kinds A and B is called ``table_A_B.xvg``.
    spacing
        Distance of entries, nm; 0.0005 is what GROMACS in double precision expects.
    beyond
        How far the tables reach beyond the cutoff, nm: at least ``table-extension`` of the run.
    largest
        Energies are limited to it, kJ/mol; closer than where it is reached the force is zero.

    Returns
    -------
    tuple of Path
        The files.

    Raises
    ------
    DataError
        If the model has triplets or other terms, or a number is out of range.
    """
    found = as_potential(potential, temperature)
    if found.triplets:
        raise DataError("GROMACS has no tables of triplets: export the model to LAMMPS, or fit pairs only")
    require(1e-5 <= spacing <= 0.01, "spacing must lie between 0.00001 and 0.01 nm")
    require(0.0 <= beyond <= 10.0 and largest > 0.0, "beyond must lie between 0 and 10 nm, and largest be positive")
    names, energy, folder = safe_names(found.kinds), factor("eV", "energy") / factor("kJ/mol", "energy"), Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise DataError(f"cannot make the folder {folder}: {problem.strerror}; choose another") from problem
    written = []
    for i, a in enumerate(found.kinds):
        for j, b in enumerate(found.kinds[i:], i):
            last = found.pair_cutoff(a, b) / _NM + beyond
            r = spacing * np.arange(int(np.ceil(last / spacing)) + 1)
            u, slope = (energy * values for values in found.pair(a, b, np.maximum(_NM * r, 1e-3)))
            force = -_NM * slope
            force[u > largest] = 0.0
            u = np.minimum(u, largest)
            head = f"# pairs {names[i]}-{names[j]} of a kernelfe model at {found.temperature:g} K, kJ/mol and nm\n"
            zero = "0 0 0 0"
            rows = (f"{x:.7g} {zero} {v:.12g} {d:.12g}" for x, v, d in zip(r, u, force, strict=True))
            written.append(folder / f"table_{names[i]}_{names[j]}.xvg")
            with atomic_write(written[-1]) as aside:
                aside.write_text(head + "\n".join(rows) + "\n", encoding="ascii")
    return tuple(written)
