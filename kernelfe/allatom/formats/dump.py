"""LAMMPS text dumps (``dump custom``), in double precision, with all that their headers state.

ASE's reader invents energies; MDAnalysis's leaves out an incomplete last frame without a word, reads single precision,
and knows neither boundary flags nor the items UNITS and TIME.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from ...files.npz import MAX_BYTES
from ...files.text import is_compressed, may_be_cut, next_line, next_lines, open_text
from .base import Head, Row, reading, require_bytes, require_in

_ADVICE = (
    "LAMMPS dumps state no units: pass units=, for example 'charmm' for `units real` (kcal/mol, Å) or 'ase' for "
    "`units metal` (eV, Å)"
)
#: Units and the unit of time in ps, by the name in ``ITEM: UNITS``.
_STYLES = {"real": ("kcal/mol", 1e-3), "metal": ("eV", 1.0)}
#: Suffixes of columns of coordinates, the preferred first, and whether they are fractions of the cell.
_COORDINATES = {"u": False, "": False, "su": True, "s": True}
#: Columns that are read: the last number of a file matters in these only.
_READ = {"id", "mass", "ix", "iy", "iz", "fx", "fy", "fz", *(axis + kind for axis in "xyz" for kind in _COORDINATES)}


@dataclass
class _Snapshot:
    """Header and table of one frame."""

    step: int
    time: float | None
    columns: list[str]
    lines: list[str]
    origin: NDArray[np.float64]
    cell: NDArray[np.float64]
    periodic: bool


class DumpFile:
    """A text dump with ids, coordinates in any convention, and forces."""

    def __init__(self, path: Path):
        self.path, self._style = path, ""
        self._before: list[str] = []  # table of the frame before
        with reading(path, "LAMMPS dump"), open_text(path) as handle:
            first = self._next(handle, 0)
        if first is None:
            raise DataError(f"{path.name} holds no complete frame: LAMMPS wrote none, or was killed")
        self._n_atoms = len(first.lines)
        self._place = {name: k for k, name in enumerate(first.columns)}
        self._conventions()
        lacking = [name for name in ("fx", "fy", "fz") if name not in first.columns]
        units = {"length": "Å", "energy": _STYLES[self._style][0]} if self._style in _STYLES else {}
        without = f"has no column {', '.join(lacking)} of forces; dump id type xu yu zu fx fy fz"
        with reading(path, "LAMMPS dump"):
            self._ids = self._table(first)[0]
            masses = self._column(first, "mass") if "mass" in first.columns else None
        fixed = {} if masses is None else {"masses": masses}
        self.head = Head(self._n_atoms, units, not lacking, without if lacking else _ADVICE, fixed=fixed)

    def rows(self) -> Iterator[Row]:
        """All frames in order, atoms sorted by id."""
        with reading(self.path, "LAMMPS dump"), open_text(self.path) as handle:
            frame = 0
            while (shot := self._next(handle, frame)) is not None:
                ids, positions, forces = self._table(shot)
                require_in(
                    self.path,
                    np.array_equal(ids, self._ids),
                    f"has other atoms at step {shot.step} than in its first frame",
                )
                yield Row(positions, forces, shot.cell if shot.periodic else None, shot.step, shot.time)
                frame += 1

    # ------------------------------------------------------------------ one frame

    def _next(self, handle: TextIO, frame: int) -> _Snapshot | None:
        """The next frame; None at the end of the file, or, with a warning, where it ends within a frame."""
        items: dict[str, tuple[str, list[str]]] = {}
        while "ATOMS" not in items:
            line = next_line(handle)
            if not line:
                self._warn_cut(frame if items else 0)
                return None
            self._require_end(line.endswith("\n") or not line.strip())
            if not line.strip() and not items:
                continue  # where two files were joined
            require_in(self.path, line.startswith("ITEM: "), f"has {line.strip()[:40]!r} in place of frame {frame}")
            title = line[6:].strip()
            name = next((n for n in ("NUMBER OF ATOMS", "BOX BOUNDS", "ATOMS") if title.startswith(n)), title)
            count = 0 if name == "ATOMS" else 3 if name == "BOX BOUNDS" else 1
            values = [next_line(handle) for _ in range(count)]
            if not all(values):
                self._warn_cut(frame)
                return None
            self._require_end(not values or values[-1].endswith("\n"))
            items[name] = (title[len(name) :].strip(), values)
        lacking = {"TIMESTEP", "NUMBER OF ATOMS", "BOX BOUNDS"} - items.keys()
        require_in(self.path, not lacking, f"is not a dump of atoms: frame {frame} lacks ITEM: {', '.join(lacking)}")
        atoms = int(items["NUMBER OF ATOMS"][1][0])
        require_in(self.path, atoms, f"holds no atoms in frame {frame}: the group of the dump was empty")
        require_bytes(self.path, atoms, MAX_BYTES if is_compressed(self.path) else None)
        if frame:
            require_in(self.path, atoms == self._n_atoms, f"has {atoms} atoms in frame {frame}, not {self._n_atoms}")
        columns = items["ATOMS"][0].split()
        lines = next_lines(handle, atoms)
        if lines and not lines[-1].endswith("\n"):
            full = len(lines) == atoms and len(lines[-1].split()) == len(columns)
            doubtful = columns[-1] in _READ and may_be_cut(lines[-1], self._before + lines[:-1])
            self._require_end(full and not (doubtful and frame == 0))
            if doubtful:
                self._warn(f"ends without a line end: its last frame, {frame}, may be cut and is left out")
                return None
        self._before = lines
        if len(lines) < atoms:
            self._warn_cut(frame)
            return None
        if "UNITS" in items:
            self._style = items["UNITS"][1][0].strip()
        time = (
            float(items["TIME"][1][0]) * _STYLES[self._style][1] if "TIME" in items and self._style in _STYLES else None
        )
        step = int(items["TIMESTEP"][1][0])
        return _Snapshot(step, time, columns, lines, *self._box(*items["BOX BOUNDS"]))

    def _require_end(self, whole: bool) -> None:
        fault = (
            "ends in the middle of a line, or may do so: remove its last, incomplete frame, or end the line if whole"
        )
        require_in(self.path, whole, fault)

    def _warn_cut(self, frame: int) -> None:
        if frame:
            self._warn(f"ends within frame {frame}, which is left out")

    def _warn(self, text: str) -> None:
        warnings.warn(f"{self.path.name} {text}", stacklevel=2)

    def _box(self, title: str, lines: list[str]) -> tuple[NDArray[np.float64], NDArray[np.float64], bool]:
        """Origin, cell and periodicity."""
        words = title.split()
        require_in(
            self.path,
            words[:1] != ["abc"],
            "has a general triclinic box; write it with `dump_modify triclinic/general no`",
        )
        flags = [word for word in words if len(word) == 2 and word not in ("xy", "xz", "yz")]
        require_in(
            self.path,
            len(flags) == 3,
            "does not state its boundaries: write `pp pp pp` (periodic) or `ff ff ff` behind ITEM: BOX BOUNDS",
        )
        periodic = [flag == "pp" for flag in flags]
        partly = f"is periodic in some directions only ({' '.join(flags)}); that is not supported"
        require_in(self.path, any(periodic) == all(periodic), partly)
        bounds = np.array([[float(word) for word in line.split()] for line in lines])
        xy, xz, yz = bounds[:, 2] if bounds.shape[1] == 3 else (0.0, 0.0, 0.0)
        low = bounds[:, 0] - [min(0.0, xy, xz, xy + xz), min(0.0, yz), 0.0]
        high = bounds[:, 1] - [max(0.0, xy, xz, xy + xz), max(0.0, yz), 0.0]
        cell = np.diag(high - low)
        cell[1, 0], cell[2, 0], cell[2, 1] = xy, xz, yz
        return low, cell, all(periodic)

    # ------------------------------------------------------------------ the table

    def _conventions(self) -> None:
        """Columns of coordinates."""
        require_in(
            self.path,
            "id" in self._place,
            "has no column id: without ids atoms change places; dump id type xu yu zu fx fy fz",
        )
        kind = next((s for s in _COORDINATES if all(axis + s in self._place for axis in "xyz")), None)
        if kind is None:
            raise DataError(f"{self.path.name} has no columns of coordinates, such as xu yu zu, for all three axes")
        self._coordinates, self._scaled = [axis + kind for axis in "xyz"], _COORDINATES[kind]
        self._forces = all(name in self._place for name in ("fx", "fy", "fz"))
        self._images = kind in ("", "s") and all(name in self._place for name in ("ix", "iy", "iz"))

    def _table(self, shot: _Snapshot) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64] | None]:
        """Ids in order, positions and forces."""
        odd = next((k for line in shot.lines if (k := len(line.split())) != len(shot.columns)), None)
        require_in(self.path, odd is None, f"has {odd} words under {len(shot.columns)} columns at step {shot.step}")
        same = list(self._place) == shot.columns
        require_in(self.path, same, f"has other columns at step {shot.step} than in its first frame")
        images = ["ix", "iy", "iz"] if self._images and shot.periodic else []
        names = ["id", *self._coordinates, *images, *(["fx", "fy", "fz"] if self._forces else [])]
        table = self._numbers(shot, names)
        table = table[np.argsort(table[:, 0])]
        require_in(self.path, (np.diff(table[:, 0]) > 0).all(), f"has the same id twice at step {shot.step}")
        positions = table[:, 1:4]
        if self._scaled:
            positions = shot.origin + positions @ shot.cell
        if images:
            positions = positions + table[:, 4:7] @ shot.cell
        return table[:, 0].astype(np.int64), positions, table[:, -3:] if self._forces else None

    def _numbers(self, shot: _Snapshot, names: list[str]) -> NDArray[np.float64]:
        """Columns (atoms, names)."""
        places = [self._place[name] for name in names]
        return np.loadtxt(shot.lines, usecols=places, ndmin=2, comments=None)

    def _column(self, shot: _Snapshot, name: str) -> NDArray[np.float64]:
        """A column, in the order of ids."""
        table = self._numbers(shot, ["id", name])
        return table[np.argsort(table[:, 0]), 1]
