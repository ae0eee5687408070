"""Files that may be compressed by gzip, bzip2 or xz; which one is decided by the first bytes, not by the suffix."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any

from ..errors import DataError
from .npz import MAX_BYTES

#: First bytes of a compressed file, and the module of the standard library that opens it.
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\xfd7zXZ\x00": "lzma"}


def open_plain(path: str | os.PathLike[str]) -> IO[bytes]:
    """Open a file for reading; a compressed one yields its uncompressed content."""
    import importlib

    with open(path, "rb") as handle:
        head = handle.read(6)
    module = next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)
    opener: Any = open if module is None else importlib.import_module(module).open
    return opener(path, "rb")


def read_plain(path: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> bytes:
    """Content of a file, uncompressed.

    Parameters
    ----------
    path
        The file; compressed by gzip, bzip2 or xz, or not.
    max_bytes
        Limit of the uncompressed size: a small file can declare any.

    Raises
    ------
    DataError
        If the content is larger than ``max_bytes``, or the compressed file is cut off or damaged.
    """
    name = Path(path).name
    try:
        with open_plain(path) as handle:
            content = handle.read(max_bytes + 1)
    except FileNotFoundError:
        raise
    except Exception as error:  # EOFError, BadGzipFile, zlib.error, LZMAError: which of them is up to the module
        raise DataError(f"{name} cannot be decompressed ({error}); it is cut off or damaged") from error
    if len(content) > max_bytes:
        raise DataError(f"{name} holds more than {max_bytes} bytes uncompressed; read it in parts")
    return content
