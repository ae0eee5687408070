"""Start configurations of LAMMPS: a frame as a data file."""

from __future__ import annotations

from typing import Any

from ase import Atoms
from ase.data import chemical_symbols
from ase.io.lammpsdata import write_lammps_data

from ..errors import DataError, require
from ..files.atomic import atomic_write
from .potential import LiquidPotential


def check_start(frames: Any, potential: LiquidPotential) -> Atoms:
    """The first of some Frames, with an element in place of each kind, for ASE knows elements only.

    Raises
    ------
    DataError
        If there is no frame, no cell, a kind that the potential does not have, or masses are missing.
    """
    require(len(frames) and frames.positions is not None, "start: give Frames with positions, at least one")
    require(frames.cell is not None, "start: the frames have no cell; a liquid needs one")
    beads = frames.positions.shape[1]
    kinds = list(frames.kinds) if frames.kinds is not None else list(potential.kinds[:1]) * beads
    if strange := sorted(set(kinds) - set(potential.kinds)):
        raise DataError(f"start: beads of kind {strange}; the model has {', '.join(potential.kinds)}")
    masses = frames.masses
    if masses is None:
        require(potential.masses is not None, "start: masses are not known: give masses= when building the Frames")
        masses = [potential.masses[potential.kinds.index(kind)] for kind in kinds]  # type: ignore[index]
    elements = dict(zip(potential.kinds, chemical_symbols[1:], strict=False))
    symbols = [elements[kind] for kind in kinds]
    return Atoms(symbols, frames.positions[0], masses=masses, cell=frames.cell[0], pbc=True)


def write_start(atoms: Atoms, potential: LiquidPotential, path: Any) -> None:
    """Write what :func:`check_start` returns; the box is turned as LAMMPS wants it."""
    order = chemical_symbols[1 : 1 + len(potential.kinds)]
    with atomic_write(path) as aside, aside.open("w", encoding="ascii") as handle:
        write_lammps_data(handle, atoms, specorder=order, masses=True)
