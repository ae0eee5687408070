"""Checkpoints: named tensors in files that are whole or not there, and that belong to one problem.

A file is written aside in the same folder, flushed to the disk and moved into place, so that a process killed at any
moment leaves old files as they were. It holds a fingerprint of the problem it belongs to and ends with a BLAKE2 digest
of all before, so a truncated, damaged or foreign one is recognised, named in a warning and not used. Its layout::

    8 bytes "kfe-ckpt" | length of the header, 8 bytes | header, JSON | numbers, float64 | digest, 32 bytes

all numbers little-endian.

Reading runs no code, and takes no more memory than the file has bytes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, ModelFileError

logger = logging.getLogger(__name__)

MAGIC, VERSION = b"kfe-ckpt", 1
#: Largest header that is read, and the blocks in which files are checked, bytes.
MAX_HEADER, BLOCK = 1 << 20, 1 << 23
_DIGEST = 32


class Checkpoint:
    """Files of one problem in a folder.

    Parameters
    ----------
    folder
        Made if it is not there.
    problem
        Fingerprint, hexadecimal: names the files, so that several problems share a folder.
    belongs
        Further fingerprint that files must carry to be accepted, for what is only known later.

    Raises
    ------
    DataError
        If the folder cannot be made or written to.
    """

    def __init__(self, folder: str | os.PathLike, problem: str, belongs: str = ""):
        self.folder, self.problem, self.belongs = Path(folder), problem, belongs
        self._prefix = f"kernelfe-{problem[:16]}-"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"checkpoint folder {folder}: {error.strerror}; choose another") from error
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise DataError(f"checkpoint folder {folder} cannot be written to; choose another")

    def belonging(self, to: str) -> Checkpoint:
        """Files of the same problem that also belong to something else."""
        return Checkpoint(self.folder, self.problem, to)

    def path(self, name: str) -> Path:
        """The file of a name."""
        return self.folder / f"{self._prefix}{name}.ckpt"

    def write(self, name: str, tensors: dict[str, Tensor]) -> str:
        """Write tensors (float64), in place of what the name stood for; returns the digest of the file."""
        arrays = {key: tensor.detach().cpu().contiguous().numpy() for key, tensor in tensors.items()}
        for key, array in arrays.items():
            if array.dtype != np.float64:
                raise DataError(f"checkpoint {name}: {key} is {array.dtype}, and must be float64")
        header = {
            "version": VERSION,
            "problem": self.problem,
            "belongs": self.belongs,
            "name": name,
            "tensors": [[key, list(array.shape)] for key, array in arrays.items()],
        }
        text = json.dumps(header).encode()
        digest = hashlib.blake2b(digest_size=_DIGEST)
        aside = self.folder / f".{self._prefix}{name}-{secrets.token_hex(8)}.part"
        try:
            with open(aside, "wb") as file:
                start: list[bytes | memoryview] = [MAGIC, len(text).to_bytes(8, "little"), text]
                for part in start + [_bytes(array) for array in arrays.values()]:
                    digest.update(part)
                    file.write(part)
                file.write(digest.digest())
                file.flush()
                os.fsync(file.fileno())  # on the disk before the name points to it
            os.replace(aside, self.path(name))
            self._sync()
        finally:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
        return digest.hexdigest()

    def read(self, name: str) -> tuple[dict[str, Tensor], str]:
        """Tensors of a name, and the digest of the file.

        Raises
        ------
        ModelFileError
            If the file is not there, truncated, damaged, or belongs to something else.
        """
        path = self.path(name)
        try:
            with open(path, "rb") as file:
                tensors, digest = {}, hashlib.blake2b(digest_size=_DIGEST)
                for key, shape in self._header(file, name, digest):
                    array = np.empty(shape, dtype=np.float64)
                    if file.readinto(_bytes(array)) != array.nbytes:
                        raise ValueError("it is truncated")
                    digest.update(_bytes(array))
                    tensors[key] = torch.from_numpy(array)
                return tensors, _compare(file, digest)
        except (OSError, ValueError, TypeError, LookupError, ArithmeticError, RecursionError) as error:
            raise ModelFileError(f"checkpoint file {path} is not used: {error}") from error

    def names(self, beginning: str = "") -> list[str]:
        """Names of all files that can be used.

        Every file is read through, in blocks. One that cannot be used is named in a warning; what a killed process
        left half written is removed.
        """
        found = []
        for aside in self.folder.glob(f".{self._prefix}*.part"):
            aside.unlink(missing_ok=True)
        for path in sorted(self.folder.glob(f"{self._prefix}{beginning}*.ckpt")):
            name = path.name.removeprefix(self._prefix).removesuffix(".ckpt")
            try:
                with open(path, "rb") as file:
                    digest = hashlib.blake2b(digest_size=_DIGEST)
                    left = sum(8 * math.prod(shape) for _, shape in self._header(file, name, digest))
                    while left:
                        block = file.read(min(BLOCK, left))
                        if not block:
                            raise ValueError("it is truncated")
                        digest.update(block)
                        left -= len(block)
                    _compare(file, digest)
            except (OSError, ValueError, TypeError, LookupError, ArithmeticError, RecursionError) as error:
                logger.warning("checkpoint file %s is not used: %s", path, error)
                continue
            found.append(name)
        return found

    def remove(self, name: str) -> None:
        """Remove the file of a name, if it is there."""
        self.path(name).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove all files of the problem; the folder, too, if nothing else is in it."""
        for path in (*self.folder.glob(f"{self._prefix}*.ckpt"), *self.folder.glob(f".{self._prefix}*.part")):
            path.unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()

    def _header(self, file: BinaryIO, name: str, digest) -> Iterator[tuple[str, list[int]]]:
        """Names and shapes of the tensors, after everything that can be checked without reading them."""
        start = file.read(16)
        if start[:8] != MAGIC or len(start) < 16:
            raise ValueError("it is no checkpoint of kernelfe, or is truncated")
        length, size = int.from_bytes(start[8:], "little"), os.fstat(file.fileno()).st_size
        if length > min(MAX_HEADER, size):
            raise ValueError("it is truncated or damaged")
        text = file.read(length)
        header: dict[str, Any] = json.loads(text)
        if header["version"] != VERSION:
            raise ValueError(f"its format has version {header['version']}, this kernelfe reads {VERSION}")
        if (header["problem"], header["belongs"]) != (self.problem, self.belongs):
            raise ValueError("it belongs to another fit: other labels, settings or hyperparameters")
        if header["name"] != name:
            raise ValueError(f"it was written as {header['name']!r}")
        shapes = [(str(key), [int(n) for n in shape]) for key, shape in header["tensors"]]
        if any(n < 0 for _, shape in shapes for n in shape) or len({key for key, _ in shapes}) < len(shapes):
            raise ValueError("it is damaged")
        wanted = 16 + length + sum(8 * math.prod(shape) for _, shape in shapes) + _DIGEST
        if size != wanted:
            raise ValueError(f"it has {size} bytes instead of {wanted}: it is truncated or damaged")
        digest.update(start)
        digest.update(text)
        yield from shapes

    def _sync(self) -> None:
        """The names, too, are on the disk (where the system can do that for a folder)."""
        with suppress(OSError):
            handle = os.open(self.folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def _bytes(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _compare(file: BinaryIO, digest) -> str:
    if file.read(_DIGEST + 1) != digest.digest():
        raise ValueError("its digest does not match its content: it is damaged")
    return digest.hexdigest()
