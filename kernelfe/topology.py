"""Deprecated module of release 0.2: its functions are in :mod:`kernelfe.geometry` now."""

from __future__ import annotations

import warnings
from typing import Any

from . import geometry


def __getattr__(name: str) -> Any:
    if name not in geometry.__all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; see kernelfe.geometry")
    warnings.warn(f"kernelfe.topology.{name} is kernelfe.geometry.{name} now", DeprecationWarning, stacklevel=2)
    return getattr(geometry, name)
