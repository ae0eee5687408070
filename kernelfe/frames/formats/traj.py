"""ASE's ``.traj`` files: exact, and read without building any object that the file names.

The container (ulm) holds JSON per frame with references to binary arrays. ASE's reader allocates whatever shape the
JSON declares, and makes constraints and other objects of it; here sizes are checked against the file first, and only
numbers, text, positions, cell, masses and the stored results become Atoms.
"""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError, require
from ...files.atomic import atomic_write
from ..arrays import FrameArrays
from .atoms import stated_units, to_atoms

_RESULTS = ("energy", "forces", "stress")


def read_traj(path: str | os.PathLike[str], first: bool = False) -> tuple[list, str | None]:
    """Frames of a ``.traj`` file, and the units they state (None if they state none).

    Parameters
    ----------
    path
        A ``.traj`` file.
    first
        Read the first frame only.

    Raises
    ------
    DataError
        If the file does not exist, cannot be read, holds no frames, declares more than it can hold, or frames of
        several units.
    """
    from ase.io import ulm

    path = Path(path)
    require(path.is_file(), f"{path} does not exist; check the path")
    try:
        count = _check_sizes(path)
        with ulm.open(path, "r") as reader:
            tag = reader.get_tag()
            require(tag == "ASE-Trajectory", f"{path.name} is not readable as .traj (its tag is {tag!r})")
            header: dict[str, Any] = {}
            images = [_image(reader[row], header) for row in range(min(count, 1) if first else count)]
    except DataError:
        raise
    except (Exception, MemoryError) as error:  # damaged bytes make ASE's reader raise many kinds
        raise DataError(f"{path.name} is not readable as .traj ({error}); write it again") from error
    return images, stated_units(images, path.name)


def _image(item: Any, header: dict[str, Any]) -> Any:
    """Atoms of one frame; data that all frames share is stored in the first only. Constraints are left out."""
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator

    data = item.asdict()
    header |= {key: data[key] for key in ("numbers", "pbc", "masses") if key in data}
    if "numbers" in data and "masses" not in data:  # a new header, without masses
        header.pop("masses", None)
    atoms = Atoms(
        numbers=header["numbers"],
        positions=data["positions"],
        cell=data["cell"],
        pbc=header["pbc"],
        masses=header.get("masses"),
        info=dict(data.get("info", {})),
    )
    stored = data.get("calculator", {})
    results = {key: np.asarray(stored[key]) if key != "energy" else stored[key] for key in _RESULTS if key in stored}
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def write_traj(frames: FrameArrays, path: str | os.PathLike[str]) -> None:
    """Write frames exactly. Labels are in ``atoms.info``: ASE drops arrays of its own making from ``.traj`` files."""
    from ase.io.trajectory import TrajectoryWriter

    images = to_atoms(frames, in_info=True)
    with atomic_write(path) as aside, TrajectoryWriter(str(aside), mode="w") as writer:
        for atoms in images:
            writer.write(atoms)


def _check_sizes(path: Path) -> int:
    """Number of frames, after every size in the file has been compared with the bytes there are."""
    total = path.stat().st_size
    with open(path, "rb") as handle:
        require(handle.read(8) in (b"- of Ulm", b"AFFormat"), f"{path.name} is not a .traj file; write it again")
        handle.read(16)
        _, count, start = struct.unpack("<3q", handle.read(24))
        _require(0 <= count and 0 <= start and start + 8 * count <= total, path, f"{count} frames")
        handle.seek(start)
        offsets = struct.unpack(f"<{count}q", handle.read(8 * count))
        _require(len(set(offsets)) == count, path, "the same frame again and again")
        referred = 0
        for offset in offsets:
            _require(0 <= offset <= total - 8, path, f"a frame at byte {offset}")
            handle.seek(offset)
            (length,) = struct.unpack("<q", handle.read(8))
            _require(0 <= length <= total - offset - 8, path, f"{length} bytes of text")
            referred += _check_arrays(json.loads(handle.read(length).decode()), total, path)
            _require(referred <= total, path, f"{referred} bytes of arrays")  # or all frames refer to one large array
    return count


def _check_arrays(node: Any, total: int, path: Path) -> int:
    """Bytes of the arrays that the JSON refers to; checked, as is the declared size of arrays within the JSON."""
    if isinstance(node, list):
        return sum(_check_arrays(entry, total, path) for entry in node)
    if not isinstance(node, dict):
        return 0
    size = 0
    require(
        "__ase_objtype__" not in node,
        f"{path.name} holds an object {node.get('__ase_objtype__')!r}; only numbers and text are read",
    )
    if "ndarray" in node:
        shape, kind, offset = node["ndarray"]
        size = _count(shape, path) * np.dtype(kind).itemsize
        _require(0 <= offset and offset + size <= total, path, f"an array of shape {shape}")
    if "__ndarray__" in node:
        shape, kind, values = node["__ndarray__"]
        wanted = _count(shape, path) * (2 if np.dtype(kind).kind == "c" else 1)
        _require(isinstance(values, list) and len(values) == wanted, path, f"an array of shape {shape}")
    return size + sum(_check_arrays(entry, total, path) for entry in node.values())


def _count(shape: list[int], path: Path) -> int:
    count = 1
    for size in shape:
        _require(type(size) is int and size >= 0, path, f"an array of shape {shape}")
        count *= size
    return count


def _require(holds: bool, path: Path, what: str) -> None:
    require(holds, f"{path.name} declares {what}, for which it has no bytes; it is damaged or hostile")
