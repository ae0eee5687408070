"""Files that can be trusted: atomic writes, and npz archives read without pickle and within a size limit."""

from __future__ import annotations

import lzma
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from typing import IO

import numpy as np

from ..errors import DataError, ModelFileError
from .atomic import atomic_write, cannot_read, shown

#: Default limit on the unpacked size of an archive, bytes.
MAX_BYTES = 8 * 1024**3
#: Kinds of numpy dtype an archive may hold: bool, integers, floats, bytes, text.
_KINDS = "biufSU"
_MAX_ENTRIES = 10_000
#: What zipfile, its decompressors and numpy's header parser raise on damaged bytes; RecursionError is a RuntimeError.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    tokenize.TokenError,
    SyntaxError,
    ArithmeticError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


def save_npz(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], compress: bool = True) -> None:
    """Write arrays to one npz archive, atomically.

    Parameters
    ----------
    path
        The archive; written under exactly this name.
    arrays
        Name to array of numbers, booleans or text. Names may hold ``/`` and ``:``.
    compress
        Deflate the entries.

    Raises
    ------
    DataError
        If an array is of another kind (objects would need pickle).
    """
    stored = {
        name: np.ascontiguousarray(array) if np.ndim(array) else np.asarray(array) for name, array in arrays.items()
    }
    for name, array in stored.items():
        if array.dtype.kind not in _KINDS:
            raise DataError(f"array {name!r} has dtype {array.dtype}; only numbers, booleans and text can be saved")
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    # a fixed date makes the same arrays give the same bytes, so checksums of bundled data are reproducible
    with atomic_write(path) as aside, zipfile.ZipFile(aside, "w", method, allowZip64=True) as archive:
        for name, array in stored.items():
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type = method
            with archive.open(info, "w", force_zip64=True) as handle:
                np.lib.format.write_array(handle, array, allow_pickle=False)


def load_npz(path: str | os.PathLike[str] | IO[bytes], max_bytes: int = MAX_BYTES) -> dict[str, np.ndarray]:
    """Read a npz archive from an untrusted source.

    Sizes and dtypes are checked from the headers of the archive and of every array before any data is read;
    pickled objects are refused.

    Parameters
    ----------
    path
        A path or an open, seekable binary file.
    max_bytes
        Limit on the unpacked size of all arrays together.

    Returns
    -------
    dict
        Name to array.

    Raises
    ------
    ModelFileError
        If the file is missing, not an npz archive, truncated, inconsistent, too large, or holds objects.
    """
    name = shown(path)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _check_count(archive, name)
            _check_entries(entries, name, max_bytes)
            arrays = {}
            for entry in entries:
                with archive.open(entry) as handle:
                    key = entry.filename.removesuffix(".npy")
                    arrays[key] = _read_array(handle, entry.file_size, f"array {key!r} in {name}")
            return arrays
    except ModelFileError:  # also a ValueError
        raise
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        raise cannot_read(path, error) from None
    except _DAMAGE as error:
        raise ModelFileError(f"{name} is damaged or not an npz archive ({error}); write it again") from error


def load_npy(path: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> np.ndarray:
    """Read one npy file from an untrusted source, with the checks of :func:`load_npz`.

    Parameters
    ----------
    path
        A path.
    max_bytes
        Limit on the size of the file.

    Returns
    -------
    numpy.ndarray
        The array.

    Raises
    ------
    ModelFileError
        If the file is missing, not an npy file, truncated, too large, or holds objects.
    """
    name = shown(path)
    try:
        size = os.path.getsize(path)
        if size > max_bytes:
            raise ModelFileError(f"{name} holds {size} bytes, more than the limit of {max_bytes}; raise max_bytes")
        with open(path, "rb") as handle:
            return _read_array(handle, size, name)
    except ModelFileError:
        raise
    except OSError as error:
        raise cannot_read(path, error) from None


def _check_count(archive: zipfile.ZipFile, shown: str) -> None:
    """The number of entries as the archive ends with it: damaged lengths in the directory swallow the next entry."""
    handle = archive.fp
    if handle is None:
        raise ModelFileError(f"{shown} is closed; open it again")
    handle.seek(-22 - len(archive.comment), os.SEEK_END)
    signature, count = struct.unpack("<4s6xH10x", handle.read(22))
    if signature != b"PK\5\6" or count != len(archive.infolist()):
        raise ModelFileError(f"{shown} is damaged: its directory lists other entries than it declares; write it again")


def _check_entries(entries: list[zipfile.ZipInfo], shown: str, max_bytes: int) -> None:
    if len(entries) > _MAX_ENTRIES:
        raise ModelFileError(f"{shown} declares {len(entries)} entries, more than {_MAX_ENTRIES}; do not trust it")
    names = [entry.filename for entry in entries]
    if len(set(names)) != len(names) or not all(name.endswith(".npy") for name in names):
        raise ModelFileError(f"{shown} is not a npz archive: entries {names[:5]} are repeated or are not arrays")
    total = sum(entry.file_size for entry in entries)
    if total > max_bytes:
        raise ModelFileError(
            f"{shown} unpacks to {total} bytes, more than the limit of {max_bytes}; if you trust it, raise max_bytes"
        )


def _read_array(handle: IO[bytes], length: int, what: str) -> np.ndarray:
    """One array in npy format of ``length`` bytes, which its own header must match. zipfile never yields more."""
    try:
        version = np.lib.format.read_magic(handle)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = read(handle)
    except (*_DAMAGE, MemoryError) as error:  # the parser of Python runs out of its stack on nested brackets
        raise ModelFileError(f"{what} has an unreadable header ({error})") from error
    if dtype.kind not in _KINDS:
        raise ModelFileError(
            f"{what} has dtype {dtype}; only numbers, booleans and text are read, never pickled objects"
        )
    count = 1
    for size in shape:
        count *= size  # Python integers: no overflow
    # an item without size would grow by numpy's own rules, to whatever the shape declares
    if min(shape, default=0) < 0 or (count and not dtype.itemsize) or count * dtype.itemsize != length - handle.tell():
        raise ModelFileError(
            f"{what} declares shape {shape} of {dtype}, which does not match its {length} bytes; the file is damaged"
        )
    data = bytearray(handle.read())
    if len(data) != count * dtype.itemsize:
        raise ModelFileError(f"{what} is truncated; write the file again")
    if count * dtype.itemsize == 0:
        return np.zeros(shape, dtype)
    return np.frombuffer(data, dtype=dtype).reshape(shape, order="F" if fortran else "C")
