"""Checks of the fields of solver specs."""

from __future__ import annotations

import os
from dataclasses import fields

import numpy as np

from ...errors import DataError
from ...specs import Spec


def whole_numbers(spec: Spec) -> None:
    """Turn 25e3 into 25000 in a solver spec, in place, and refuse 2.5.

    Raises
    ------
    DataError
        Naming the field.
    """
    for field in fields(spec):  # type: ignore[arg-type]
        value = getattr(spec, field.name)
        if field.default is None or isinstance(field.default, str):  # a path, a choice
            continue
        if isinstance(field.default, bool):
            if not isinstance(value, (bool, np.bool_)):
                raise DataError(f"{type(spec).__name__}: {field.name}={value!r} must be True or False")
            object.__setattr__(spec, field.name, bool(value))
        else:
            object.__setattr__(spec, field.name, whole(spec, field.name))


def whole(spec: Spec, name: str) -> int:
    """A field as a whole number.

    Raises
    ------
    DataError
        If it is none.
    """
    value = getattr(spec, name)
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not number or not np.isfinite(value) or value != int(value):
        raise DataError(f"{type(spec).__name__}: {name}={value!r} must be a whole number")
    return int(value)


def folder(spec) -> str | None:
    """The checkpoint of a solver spec as a path.

    Raises
    ------
    DataError
        If it is none.
    """
    value = spec.checkpoint
    if value is None:
        return None
    if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
        raise DataError(f"{type(spec).__name__}: checkpoint={value!r} must be the path of a folder, or None")
    return os.fsdecode(value)
