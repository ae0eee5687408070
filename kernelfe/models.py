"""Deprecated names of release 0.2: ``kernelfe.models`` is :mod:`kernelfe.gp` now."""

from __future__ import annotations

import sys
import warnings
from types import ModuleType
from typing import Any

from . import gp
from . import protocol as _protocol


class _Protocol(ModuleType):
    """``kernelfe.models.protocol`` of 0.2."""

    def __getattr__(self, name: str) -> Any:
        if name not in _protocol.__all__:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}; see kernelfe.protocol")
        message = f"kernelfe.models.protocol.{name} is kernelfe.protocol.{name} now"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return getattr(_protocol, name)


protocol = sys.modules[f"{__name__}.protocol"] = _Protocol(f"{__name__}.protocol")


def __getattr__(name: str) -> Any:
    if name not in gp.__all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; see kernelfe.gp")
    warnings.warn(f"kernelfe.models.{name} is kernelfe.gp.{name} now", DeprecationWarning, stacklevel=2)
    return getattr(gp, name)


def __dir__() -> list[str]:
    return sorted([*gp.__all__, "protocol"])
