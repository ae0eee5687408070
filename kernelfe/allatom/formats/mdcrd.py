"""AMBER's formatted files (10F8.3): coordinates (``mdcrd``) or forces (``mdfrc``), without times.

The file states neither the number of atoms nor the angles of a cell: a truncated octahedron looks like a cube.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...errors import DataError
from ...files.text import next_line, open_text
from .base import Head, Row, reading, require_in

_WIDTH, _PER_LINE = 8, 10


class MdcrdFile:
    """A formatted trajectory of coordinates; with ``of_forces``, of forces.

    Parameters
    ----------
    path
        The file; may be compressed.
    n_atoms
        Number of atoms, from the topology.
    of_forces
        The numbers are forces, kcal/mol/Å, instead of coordinates, Å.
    """

    def __init__(self, path: Path, n_atoms: int | None, of_forces: bool = False):
        if n_atoms is None:
            raise DataError(f"{path.name} does not state the number of atoms: pass topology=")
        require_in(path, n_atoms > 1, "of a single atom: its coordinates and a cell look the same")
        self.path, self._of_forces = path, of_forces
        self.head = Head(
            n_atoms,
            {"length": "Å", "energy": "kcal/mol"},
            of_forces,
            f"pass a dict with the file of forces of the run, {{'{path.name}': 'mdfrc'}}; or run AMBER with ioutfm = 1 "
            "and ntwf = -1 for both in one file",
        )

    def rows(self) -> Iterator[Row]:
        """All frames in order."""
        numbers = 3 * self.head.n_atoms
        lengths = [_PER_LINE] * (numbers // _PER_LINE) + ([numbers % _PER_LINE] if numbers % _PER_LINE else [])
        with reading(self.path, "formatted AMBER trajectory"), open_text(self.path) as handle:
            next_line(handle)  # title
            while line := next_line(handle):
                values: list[float] = []
                for length in lengths:
                    values += self._numbers(line, length)
                    line = next_line(handle) if len(values) < numbers else ""
                frame = np.array(values).reshape(-1, 3)
                yield Row(None, frame) if self._of_forces else Row(frame)

    def _numbers(self, line: str, count: int) -> list[float]:
        """Numbers of one line of a frame, each eight characters wide."""
        text = line.rstrip("\n").rstrip("\r")
        box = len(text) == 3 * _WIDTH and count != 3
        require_in(
            self.path,
            not box,
            "holds a cell without its angles; convert it with the topology to NetCDF (cpptraj: trajout run.nc netcdf)",
        )
        require_in(
            self.path,
            len(text) == count * _WIDTH,
            f"has a line of {len(text)} characters instead of {count * _WIDTH}: it is cut, or not of "
            f"{self.head.n_atoms} atoms",
        )
        return [float(text[k : k + _WIDTH]) for k in range(0, len(text), _WIDTH)]
