"""Predicates on single fields of a model file, and the refusal that names a field."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelFileError


def require(ok: bool, what: str, value: Any, wanted: str) -> None:
    """Refuse a value.

    Raises
    ------
    ModelFileError
        If not ``ok``.
    """
    if not ok:
        raise ModelFileError(f"{what} is {value!r:.80}, not {wanted}: save the model again")


def is_text(value: Any) -> bool:
    """A string."""
    return isinstance(value, str)


def is_flag(value: Any) -> bool:
    """True or false."""
    return isinstance(value, bool)


def is_number(value: Any) -> bool:
    """An int or a float within the range of float64."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def is_positive(value: Any) -> bool:
    """A number above zero."""
    return is_number(value) and value > 0


def is_count(value: Any) -> bool:
    """A positive int."""
    return type(value) is int and value > 0


def is_list(value: Any, entry: Callable[[Any], bool], distinct: bool = False) -> bool:
    """A list whose entries all pass; ``distinct``: and differ."""
    return isinstance(value, list) and all(map(entry, value)) and not (distinct and len(set(value)) != len(value))


def is_pair(value: Any, first: Callable[[Any], bool], second: Callable[[Any], bool]) -> bool:
    """A list of two."""
    return isinstance(value, list) and len(value) == 2 and first(value[0]) and second(value[1])


# --- tensors and the whole ----------------------------------------------------------------------------------


def take(tensors: dict[str, Tensor], name: str, *shape: int | None) -> Tensor:
    """A tensor of the file, of a given shape; None stands for any length.

    Raises
    ------
    ModelFileError
        If it is missing, not float64 or of another shape.
    """
    if name not in tensors:
        raise ModelFileError(f"the tensor {name!r} is missing: save the model again")
    tensor = tensors[name]
    fits = tensor.ndim == len(shape) and all(b in (None, a) for a, b in zip(tensor.shape, shape, strict=True))
    wanted = ", ".join("any" if size is None else str(size) for size in shape)
    require(fits, f"the shape of the tensor {name!r}", tuple(tensor.shape), f"({wanted})")
    require(tensor.dtype == torch.float64, f"the type of the tensor {name!r}", tensor.dtype, "float64")
    return tensor
