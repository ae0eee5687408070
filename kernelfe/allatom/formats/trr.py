"""GROMACS TRR, read by MDAnalysis after every header has been checked.

Its C code reads outside its memory on inconsistent headers (https://github.com/MDAnalysis/mdanalysis/issues/2170). It
returns positions in Å and forces in kJ/mol/Å, in single precision.
"""

from __future__ import annotations

import os
import struct
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError, MissingDependencyError
from .base import Head, Row, reading, require_bytes

#: Magic number, length of the name, and the name of the format, which XDR prefixes with its own length.
_MAGIC = struct.pack(">3i", 1993, 13, 12) + b"GMX_trn_file"


def mdanalysis() -> Any:
    """The package MDAnalysis.

    Raises
    ------
    MissingDependencyError
        If it is not installed.
    """
    try:
        import MDAnalysis
    except ImportError:
        raise MissingDependencyError("reading trajectories needs MDAnalysis; install kernelfe[mdanalysis]") from None
    return MDAnalysis


class TrrFile:
    """A TRR file, of which a last frame that is cut is left out with a warning."""

    def __init__(self, path: Path):
        self.path = path
        with reading(path, "TRR"):
            atoms, self._cut = _checked(path)
        self.head = Head(
            atoms, {"length": "Å", "energy": "kJ/mol"}, lacking="GROMACS writes forces every nstfout steps"
        )

    def rows(self) -> Iterator[Row]:
        """All frames in order."""
        mda = mdanalysis()
        if self._cut:
            warnings.warn(f"{self.path.name} ends within a frame, which is left out", stacklevel=2)
        with reading(self.path, "TRR"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                universe = mda.Universe.empty(self.head.n_atoms)
                # the file of offsets next to a TRR is not to be trusted
                universe.load_new(os.fspath(self.path), format="TRR", refresh_offsets=True)
            for ts in universe.trajectory:
                cell = None
                if ts.dimensions is not None and ts.dimensions[:3].any():
                    cell = np.array(ts.triclinic_dimensions, float)
                yield Row(
                    ts.positions if ts.has_positions else None,
                    ts.forces if ts.has_forces else None,
                    cell,
                    ts.data.get("step"),
                    float(ts.time),
                )
            universe.trajectory.close()


def _checked(path: Path) -> tuple[int, bool]:
    """Number of atoms, and whether the last frame is cut."""
    size, at, atoms = path.stat().st_size, 0, 0
    with open(path, "rb") as handle:
        while at < size:
            handle.seek(at)
            head = handle.read(76)
            if at and len(head) < 76:
                break  # a run that was killed
            if len(head) < 76 or head[:24] != _MAGIC:
                raise DataError(f"{path.name} has no TRR header at byte {at}; it is not a TRR file, or is damaged")
            ir, e, box, vir, pres, top, sym, *vectors, count, _, _ = struct.unpack_from(">13i", head, 24)
            if not at:
                atoms = require_bytes(path, count)
            tensors, lengths = (box, vir, pres), (0, 3 * atoms)
            real = next((n // of for of, ns in ((9, tensors), (3 * atoms, vectors)) for n in ns if n), 4)
            good = real in (4, 8) and count == atoms and not (ir or e or top or sym)
            good = good and all(n in (0, 9 * real) for n in tensors)
            if not (good and all(n in {length * real for length in lengths} for n in vectors)):
                raise DataError(f"{path.name} has an inconsistent header at byte {at}; it is damaged or hostile")
            at += 76 + 2 * real + sum(tensors) + sum(vectors)
    return require_bytes(path, atoms), at != size


def named_universe(names: Sequence[str]) -> Any:
    """A universe of MDAnalysis with atoms and residues of the names ``RESIDUE:ATOM``, for selections.

    A residue ends where the name of the residue changes or the name of an atom comes again.
    """
    number: list[int] = []
    residues: list[str] = []
    seen: set[str] = set()
    for name in names:
        residue, _, atom = name.partition(":")
        if not residues or residue != residues[-1] or atom in seen:
            residues.append(residue)
            seen = set()
        seen.add(atom)
        number.append(len(residues) - 1)
    universe = mdanalysis().Universe.empty(len(names), len(residues), atom_resindex=number, trajectory=False)
    universe.add_TopologyAttr("names", [name.partition(":")[2] for name in names])
    universe.add_TopologyAttr("resnames", residues)
    return universe
