"""Atomic writing, and errors that name a file that cannot be read."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import DataError, ModelFileError


def shown(path: Any) -> str:
    """A path, or the name of an open file, for messages."""
    if isinstance(path, (str, bytes, os.PathLike)):
        return os.fsdecode(path)
    return str(getattr(path, "name", path))


def cannot_read(path: Any, error: Exception) -> ModelFileError:
    """The error that says why a file could not be opened.

    Parameters
    ----------
    path
        The path.
    error
        What opening it raised.
    """
    if isinstance(error, FileNotFoundError):
        return ModelFileError(f"{shown(path)} does not exist; check the path")
    if isinstance(error, IsADirectoryError):
        return ModelFileError(f"{shown(path)} is a folder; name the file in it")
    return ModelFileError(f"{shown(path)} cannot be read ({error}); check the path and its permissions")


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file aside and move it into place only when the block ends without an error.

    Parameters
    ----------
    path
        The final path. It keeps its old content until the block is done, and for good if the block raises.

    Yields
    ------
    Path
        The path to write to, in the same directory and with the same suffix.

    Raises
    ------
    DataError
        If the path is a folder, its directory does not exist or cannot be written to, or the block wrote no file.
    """
    final = Path(path)
    if os.path.isdir(final):  # False, not an error, for a name that the system refuses
        raise DataError(f"cannot write {final}: it is a folder; name a file in it")
    if not final.parent.is_dir():
        raise DataError(f"cannot write {final.name!r}: the directory {final.parent} does not exist; create it first")
    aside = final.with_name(f".{final.stem}-{secrets.token_hex(8)}{final.suffix}")
    try:
        yield aside
        if not aside.exists():
            raise DataError(f"nothing was written for {final.name!r}; write to the path that atomic_write yields")
        with open(aside, "rb") as handle:
            os.fsync(handle.fileno())  # the data must be on disk before the name points to it
        os.replace(aside, final)
    except OSError as error:
        # a full disk, or a file of the caller's own that is missing, is not ours to explain
        if error.filename is None or Path(os.fsdecode(error.filename)) != aside:
            raise
        raise DataError(f"cannot write {final}: {error.strerror}; choose another folder or file name") from error
    finally:
        with suppress(OSError):  # what could not be written may not be removable either; the first error counts
            aside.unlink(missing_ok=True)
