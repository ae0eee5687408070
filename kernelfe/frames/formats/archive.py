"""The npz layout of Frames: a JSON header and one array per entry.

Entries: ``header``; ``positions`` or ``variables``, ``temperature``, and where set ``displacements``, ``cell``,
``masses``; ``parameters/<name>``, ``labels/<key>``, ``present/<key>`` (absent when all rows have the label),
``noise/<key>`` (single numbers are in the header), ``pairs/i|j|value|std``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ...errors import ModelFileError
from ...files.atomic import shown
from ...files.npz import load_npz, save_npz
from ...specs import Choice, checked
from ..arrays import FrameArrays
from . import layouts

_FORMAT, _VERSION = "kernelfe-frames", 1
_ARRAYS = ("positions", "variables", "temperature", "displacements", "cell", "masses")
_PAIRS = ("i", "j", "value", "std")


def save(frames: FrameArrays, path: str | os.PathLike[str], dtype: str) -> None:
    """See :meth:`kernelfe.Frames.save`."""
    checked("dtype", dtype, Choice(("float64", "float32")))
    noise = {k: v for k, v in frames.noise.items() if isinstance(v, float)}
    header = {
        "format": _FORMAT,
        "version": _VERSION,
        "kinds": frames.kinds,
        "bonds": frames.bonds,
        "labels": list(frames.labels),
        "parameters": list(frames.parameters),
        "noise": noise,
    }
    arrays: dict[str, np.ndarray] = {"header": np.array(json.dumps(header))}
    for name in _ARRAYS:
        if (value := getattr(frames, name)) is not None:
            rounds = name in ("positions", "variables", "displacements")
            arrays[name] = value.astype(dtype) if rounds else value
    arrays |= {f"parameters/{k}": v for k, v in frames.parameters.items()}
    for key, value in frames.labels.items():
        # per-frame vectors round like positions; scalar labels carry a large constant and must not
        arrays[f"labels/{key}"] = value.astype(dtype) if value.ndim > 1 else value
    arrays |= {f"present/{k}": v for k, v in frames.present.items() if not v.all()}
    arrays |= {f"noise/{k}": np.asarray(v) for k, v in frames.noise.items() if k not in noise}
    if len(frames.pairs):
        arrays |= {f"pairs/{k}": getattr(frames.pairs, k) for k in _PAIRS}
    save_npz(path, arrays)


def load(path: Any, max_bytes: int) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Read what :func:`save` wrote.

    Returns
    -------
    arguments, pairs
        Arguments of ``Frames.from_arrays``, and of ``Frames.add_pair_labels`` if there are pair labels.

    Raises
    ------
    ModelFileError
        As in ``Frames.load``.
    """
    arrays = load_npz(path, max_bytes)
    name = shown(path)
    try:
        header = json.loads(str(arrays["header"]))
        if header["format"] != _FORMAT:
            raise ValueError(f"format {header['format']!r}")
        version = header["version"]
        if type(version) is not int or version < 1:
            raise ValueError(f"version {version!r}")
    except (LookupError, ValueError, TypeError, RecursionError) as error:
        advice = layouts.suggestion(arrays) or "; build Frames with from_arrays, or pass layout= (see Frames.read_npz)"
        raise ModelFileError(f"{name} has no header of Frames.save{advice}") from error
    if version > _VERSION:
        raise ModelFileError(f"{name} has version {version}; this kernelfe reads up to {_VERSION}: upgrade it")
    with consistent(path):
        labels, parameters = header["labels"], header["parameters"]
        noise = dict(header["noise"]) | {k: arrays[f"noise/{k}"] for k in labels if f"noise/{k}" in arrays}
        arguments = {array: arrays.get(array) for array in _ARRAYS} | {
            "kinds": header["kinds"],
            "bonds": header["bonds"],
            "parameters": {k: arrays[f"parameters/{k}"] for k in parameters},
            "labels": {k: arrays[f"labels/{k}"] for k in labels},
            "present": {k: arrays.get(f"present/{k}") for k in labels},
            "noise": noise,
        }
        pairs = {k: arrays[f"pairs/{k}"] for k in _PAIRS} if "pairs/i" in arrays else None
    return arguments, pairs


@contextmanager
def consistent(path: Any) -> Iterator[None]:
    """Turn errors about the contents of a file into ModelFileErrors that name it."""
    try:
        yield
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RecursionError) as error:
        raise ModelFileError(f"{shown(path)} holds inconsistent frames: {error}; write the file again") from error
