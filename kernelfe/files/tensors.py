"""The binary container of models and checkpoints: safetensors, with a versioned JSON header and a checksum.

The header is the entry ``kernelfe`` of the metadata; its field ``checksum`` is the SHA-256 of the other fields and of
the tensors (name, type, shape and bytes, in the order of their names). It finds damage; it proves no origin: the
fields and tensors of models are checked in :mod:`kernelfe.gp.file.check`. Reading runs no code.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ..errors import DataError, ModelFileError
from ..specs import to_plain
from .atomic import atomic_write, cannot_read

#: Largest JSON header that is read, bytes.
MAX_HEADER = 64 << 20
_ENTRY = "kernelfe"


@dataclass(frozen=True)
class Content:
    """A kind of file in this container.

    Parameters
    ----------
    name, version
        Fields ``format`` and ``version`` of the header; files with others are refused.
    what
        Noun for messages.
    remedy
        Advice for a damaged file.
    """

    name: str
    version: int
    what: str
    remedy: str


MODEL = Content("kernelfe-model", 1, "kernelfe model", "save the model again")


def checksum(header: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """SHA-256 of a header (without its field ``checksum``) and of the tensors, in hexadecimal.

    Parameters
    ----------
    header
        Plain JSON; the order of its fields does not matter.
    tensors
        Tensors by name, on the CPU.
    """
    rest = {name: value for name, value in header.items() if name != "checksum"}
    # JSON of what was parsed from JSON is the same again: numbers are written with all their digits
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        flat = tensor.detach().contiguous().reshape(-1)
        if flat.stride(0) != 1:  # a single number that was expanded counts as contiguous with any stride
            flat = flat.clone(memory_format=torch.contiguous_format)
        digest.update(memoryview(flat.view(torch.uint8).numpy()))
    return digest.hexdigest()


def pack(header: dict[str, Any], tensors: dict[str, Tensor]) -> bytes:
    """The bytes of a file, with the checksum of its content.

    Parameters
    ----------
    header
        Fields of the header; specs and NumPy numbers among them are made plain.
    tensors
        Tensors by name.

    Raises
    ------
    DataError
        If a value is neither plain nor a spec.
    """
    return safetensors.torch.save(tensors, metadata={_ENTRY: _sealed(header, tensors)[0]})


def write(path: Path, header: dict[str, Any], tensors: dict[str, Tensor], content: Content = MODEL) -> str:
    """Write a file atomically, without a copy of the tensors, and return its checksum.

    Raises
    ------
    DataError
        If the path cannot be written, a value is not plain, or a number is not finite: :func:`read` would refuse it.
    """
    try:
        json.dumps(header, default=to_plain, allow_nan=False)
    except DataError:
        raise
    except ValueError as error:
        raise DataError(f"{path}: the model holds a number that is not finite ({error}); fit it again") from error
    text, digest = _sealed(header | {"format": content.name, "version": content.version}, tensors)
    with atomic_write(path) as target:
        target.touch()
        mode = target.stat().st_mode  # safetensors makes files that only their owner can read
        try:
            safetensors.torch.save_file(tensors, target, metadata={_ENTRY: text})
        except safetensors.SafetensorError as error:
            raise DataError(f"cannot write {path}: {error}; choose another folder or file name") from error
        target.chmod(mode)
    return digest


def read(path: Path, content: Content = MODEL) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of an undamaged file; the tensors of a model are also finite.

    The tensors are memory-mapped: valid also when the file is removed or replaced, but not when it is shortened.

    Raises
    ------
    ModelFileError
        If the file cannot be opened, is truncated or damaged, or of another format or version.
    """
    try:
        with open(path, "rb") as handle:
            start, size = handle.read(8), os.fstat(handle.fileno()).st_size
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise cannot_read(path, error) from error
    if len(start) < 8:
        raise ModelFileError(f"{path} is truncated: {size} bytes")
    if not 0 < struct.unpack("<Q", start)[0] <= min(MAX_HEADER, size - 8):
        raise ModelFileError(f"{path} is not a {content.what}, or is truncated")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_ENTRY)
            if text is None:
                raise ModelFileError(f"{path} is a safetensors file, but not a {content.what}")
            header = json.loads(text, parse_constant=_refuse)
            if not isinstance(header, dict):
                raise ValueError(f"its header is a {type(header).__name__}")
            if header.get("format") != content.name or header.get("version") != content.version:
                raise ModelFileError(
                    f"{path} has format {header.get('format')!r} version {header.get('version')!r}; this kernelfe "
                    f"reads {content.name!r} version {content.version}: refit, or install the version that wrote it"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if header.get("checksum") != checksum(header, tensors):
            raise ValueError("its checksum does not match its content")
    except ModelFileError:
        raise
    except (safetensors.SafetensorError, OSError, ValueError, TypeError, LookupError, RuntimeError) as error:
        raise ModelFileError(f"{path} is truncated or damaged ({error}): {content.remedy}") from error
    if content is MODEL:
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise ModelFileError(f"{path}: tensor {name!r} holds non-finite numbers: fit the model again")
    return header, tensors


def format_name(path: str | os.PathLike) -> str | None:
    """Field ``format`` of the header of a file; None if it cannot be read, which :func:`read` then explains."""
    try:
        with open(path, "rb") as handle:
            start, size = handle.read(8), os.fstat(handle.fileno()).st_size
        if len(start) < 8 or not 0 < struct.unpack("<Q", start)[0] <= min(MAX_HEADER, size - 8):
            return None
        with safetensors.safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[_ENTRY])
        return str(header["format"])
    except (safetensors.SafetensorError, OSError, ValueError, TypeError, LookupError, RuntimeError):
        return None


def _sealed(header: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[str, str]:
    """The header as JSON with its checksum, and the checksum."""
    plain = json.loads(json.dumps(header, default=to_plain))
    plain["checksum"] = checksum(plain, tensors)
    return json.dumps(plain), plain["checksum"]


def _refuse(constant: str):
    raise ValueError(f"its header holds {constant}")
