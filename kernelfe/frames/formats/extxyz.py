"""Extended XYZ: read by ASE after a check of the declared sizes, written with all digits."""

from __future__ import annotations

import io
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from ...errors import DataError, require
from ...files.atomic import atomic_write
from ...files.npz import MAX_BYTES
from ...files.text import is_compressed, may_be_cut, next_line, next_lines, open_text, reader_warnings
from ..arrays import FrameArrays
from .atoms import UNITS_KEY, frame_data, require_writable, stated_units

_COLUMNS = re.compile(r":[RISL]:(\d+)")


def read_extxyz(path: str | os.PathLike[str], first: bool = False) -> tuple[list, str | None]:
    """Frames of an extended-XYZ file, and the units they state (None if they state none).

    Blank lines between frames, as joining files leaves them, are passed over.

    Parameters
    ----------
    path
        ``.xyz`` or ``.extxyz``, also compressed.
    first
        Read the first frame only.

    Raises
    ------
    DataError
        If the file does not exist, cannot be read, holds no frames, is or may be cut within its last number, declares
        more than it can hold, or frames of several units.
    """
    path = Path(path)
    require(path.is_file(), f"{path} does not exist; check the path")
    try:
        with open_text(path) as handle, reader_warnings(path.name):
            images = [_image(text) for text in itertools.islice(_frames(handle, path), 1 if first else None)]
    except DataError:
        raise
    except (Exception, MemoryError) as error:  # ASE's reader raises many kinds
        raise DataError(f"{path.name} is not readable as extended XYZ ({error}); write it again") from error
    return images, stated_units(images, path.name)


def _image(text: str) -> Any:
    from ase.io.extxyz import read_xyz

    return next(read_xyz(io.StringIO(text), slice(None)))


def _frames(handle: TextIO, path: Path) -> Iterator[str]:
    """Text of one frame after the other; counts of beads and columns are checked, as ASE allocates what is declared."""
    size = MAX_BYTES if is_compressed(path) else path.stat().st_size
    before: list[str] = []
    line = next_line(handle)
    while line:
        if not line.strip():
            line = next_line(handle)
            continue
        beads = int(line[:100])
        # a bead takes a line: at least a character and a line end
        holds = f"in {size} bytes; it is damaged or hostile"
        require(0 <= 2 * beads <= size, f"{path.name} declares {beads} beads {holds}")
        lines = [line, next_line(handle)]
        columns = sum(int(n) for n in _COLUMNS.findall(lines[1]))
        require(columns <= size, f"{path.name} declares {columns} columns {holds}")
        lines += next_lines(handle, beads)
        while (line := next_line(handle)).lstrip().startswith("VEC") and len(lines) < beads + 5:  # cell vectors of ADF
            lines.append(line)
        require(
            not may_be_cut(lines[-1], before + lines[2:-1]),
            f"{path.name} ends in the middle of a line, or may do so: remove its last, incomplete frame, or end the "
            "line if it is complete",
        )
        yield "".join(lines)
        before = lines[2:]


def write_extxyz(frames: FrameArrays, path: str | os.PathLike[str]) -> None:
    """Write frames so that every number survives: ASE's own writer keeps 8 decimals, too few for eV/Å/K²."""
    from ase.data import atomic_numbers

    require_writable(frames, "extended XYZ")
    beads = frames.shape[1]
    kinds = frames.kinds or ("X",) * beads
    for name in (*kinds, *frames.parameters, *(key.partition(":")[2] for key in frames.labels)):
        require(
            re.fullmatch(r"[\w.+\-*']*", name),
            f"the name {name!r} cannot be written to extended XYZ; use letters, digits and _",
        )
    species = [kind if kind in atomic_numbers else "X" for kind in kinds]
    with atomic_write(path) as aside, open(aside, "w", encoding="utf-8") as handle:
        for row in range(len(frames)):
            columns, info = frame_data(frames, row)
            properties = "species:S:1:pos:R:3" + (":bead_kind:S:1" if frames.kinds else "")
            properties += "".join(f":{name}:R:{array.shape[1]}" for name, array in columns.items())
            head = [f"Properties={properties}"]
            if frames.cell is not None:
                head.append(f'Lattice="{_text(frames.cell[row])}"')
            head.append('pbc="F F F"' if frames.cell is None else 'pbc="T T T"')
            head += [f"{UNITS_KEY}=ase", *(f'{name}="{_text(value)}"' for name, value in info.items())]
            handle.write(f"{beads}\n{' '.join(head)}\n")
            for bead in range(beads):
                words = [species[bead], _text(frames.positions[row, bead])]  # type: ignore[index]
                words += [kinds[bead]] if frames.kinds else []
                handle.write(" ".join(words + [_text(array[bead]) for array in columns.values()]) + "\n")


def _text(value: Any) -> str:
    array = np.ravel(value)
    return " ".join(str(int(x)) if array.dtype.kind in "iu" else repr(float(x)) for x in array)
