"""The npz layout of Frames: a JSON header and one array per entry.

Entries: ``header``; ``positions`` or ``variables``, ``temperature``, and where set ``displacements``, ``cell``,
``masses``; ``parameters/<name>``, ``labels/<key>``, ``present/<key>`` (absent when all rows have the label),
``noise/<key>`` (single numbers are in the header), ``pairs/i|j|value|std``.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import DataError, ModelFileError
from ...files.atomic import shown
from ...files.npz import load_npz, save_npz

if TYPE_CHECKING:
    from ..frames import Frames

_FORMAT, _VERSION = "kernelfe-frames", 1
_ARRAYS = ("positions", "variables", "temperature", "displacements", "cell", "masses")
_PAIRS = ("i", "j", "value", "std")


def save(frames: Frames, path: str | os.PathLike[str], dtype: str) -> None:
    """See :meth:`kernelfe.Frames.save`."""
    if dtype not in ("float64", "float32"):
        raise DataError(f"dtype must be 'float64' or 'float32', not {dtype!r}")
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


def load(path: Any, max_bytes: int) -> Frames:
    """See :meth:`kernelfe.Frames.load`."""
    from ..frames import Frames

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
        raise ModelFileError(f"{name} has no header of Frames.save; build Frames with from_arrays") from error
    if version > _VERSION:
        raise ModelFileError(f"{name} has version {version}; this kernelfe reads up to {_VERSION}: upgrade it")
    try:
        labels, parameters = header["labels"], header["parameters"]
        noise = dict(header["noise"]) | {k: arrays[f"noise/{k}"] for k in labels if f"noise/{k}" in arrays}
        given: dict[str, Any] = {array: arrays.get(array) for array in _ARRAYS}
        frames = Frames.from_arrays(
            **given,
            kinds=header["kinds"],
            bonds=header["bonds"],
            parameters={k: arrays[f"parameters/{k}"] for k in parameters},
            labels={k: arrays[f"labels/{k}"] for k in labels},
            present={k: arrays.get(f"present/{k}") for k in labels},
            noise=noise,
        )
        if "pairs/i" in arrays:
            pairs = {k: arrays[f"pairs/{k}"] for k in _PAIRS}
            frames.add_pair_labels(pairs["i"], pairs["j"], pairs["value"], pairs["std"])
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RecursionError) as error:
        raise ModelFileError(f"{name} holds inconsistent frames: {error}; write the file again") from error
    return frames
