"""HDF5 files from elsewhere, through h5py: no links out of the file, no objects, and sizes looked at before reading."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import KernelfeError, MissingDependencyError, ModelFileError, require
from .npz import MAX_BYTES

_KINDS = "biuf"


@contextmanager
def open_hdf5(path: str | os.PathLike[str]) -> Iterator[Any]:
    """An open HDF5 file; what h5py raises on damaged bytes becomes a ModelFileError.

    Raises
    ------
    MissingDependencyError
        If h5py is not installed.
    ModelFileError
        If the file is missing, damaged or no HDF5 file.
    """
    try:
        import h5py
    except ImportError:
        raise MissingDependencyError("reading HDF5 needs h5py; install kernelfe[mdanalysis]") from None
    name = Path(path).name
    if not os.path.isfile(path):
        raise ModelFileError(f"{path} does not exist; check the path")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except KernelfeError:  # also a ValueError
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
        raise ModelFileError(f"{name} is damaged or no HDF5 file of the expected content ({error})") from error


def member(file: Any, name: str) -> Any:
    """A group or dataset below ``file``, reached through hard links only: others may name any file of the machine.

    Raises
    ------
    ModelFileError
        If the member does not exist, or a link in its path leads elsewhere.
    """
    import h5py

    node = file
    for part in (p for p in name.split("/") if p):
        link = node.get(part, getlink=True) if isinstance(node, h5py.Group) else None
        if link is None:
            have = ", ".join(list(node)[:8]) if isinstance(node, h5py.Group) else "nothing"
            raise ModelFileError(f"{Path(file.file.filename).name} has no {name!r}; there is: {have}")
        if not isinstance(link, h5py.HardLink):
            raise ModelFileError(f"{name!r} in {Path(file.file.filename).name} is a link; only plain members are read")
        node = node[part]
    return node


def dataset(
    file: Any, name: str, frame_limit: int | None = None, max_bytes: int = MAX_BYTES, kinds: str = _KINDS
) -> Any:
    """A dataset of numbers inside the file whose size has been checked.

    Parameters
    ----------
    file
        An open file or group.
    name
        Path of the dataset below it.
    frame_limit
        Rows that will be read at a time; None: all.
    max_bytes
        Limit on the bytes of these rows, and of one stored chunk, which HDF5 unpacks whole.
    kinds
        Kinds of numpy dtype to accept; numbers by default.

    Raises
    ------
    ModelFileError
        If it is missing, not a dataset of numbers, stored outside the file, or too large; given ``frame_limit`` also if
        it declares more rows than bytes are stored, as arrays of steps and times are made of the number of rows.
    """
    import h5py

    found, shown = member(file, name), f"{name!r} in {Path(file.file.filename).name}"
    require(isinstance(found, h5py.Dataset), f"{shown} is not a dataset", ModelFileError)
    require(found.dtype.kind in kinds, f"{shown} has dtype {found.dtype}; only numbers are read", ModelFileError)
    require(
        not found.external and not found.is_virtual,
        f"{shown} is stored in other files; copy it into one",
        ModelFileError,
    )
    rows = len(found) if found.ndim and frame_limit is None else min(frame_limit or 1, len(found) if found.ndim else 1)
    size = max(
        rows * int(np.prod(found.shape[1:], dtype=object)) * found.dtype.itemsize,
        int(np.prod(found.chunks or (), dtype=object)) * found.dtype.itemsize,
    )
    require(
        size <= max_bytes,
        f"{shown} declares {size} bytes, more than the limit of {max_bytes}; do not trust it",
        ModelFileError,
    )
    if frame_limit is not None and found.ndim:  # chunks that were never written cost nothing, however many are declared
        stored = int(found.id.get_storage_size())
        require(
            len(found) <= stored,
            f"{shown} declares {len(found)} frames in {stored} stored bytes; do not trust it",
            ModelFileError,
        )
    return found
