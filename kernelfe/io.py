"""Deprecated module of release 0.2: its functions are in :mod:`kernelfe.files` now."""

from __future__ import annotations

import warnings
from typing import Any

from . import files


def __getattr__(name: str) -> Any:
    if name not in files.__all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; see kernelfe.files")
    warnings.warn(f"kernelfe.io.{name} is kernelfe.files.{name} now", DeprecationWarning, stacklevel=2)
    return getattr(files, name)
