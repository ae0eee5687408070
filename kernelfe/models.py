"""Deprecated names of release 0.2: ``kernelfe.models`` is :mod:`kernelfe.gp` now."""

from __future__ import annotations

import sys
import warnings
from typing import Any

from . import gp, protocol

sys.modules[f"{__name__}.protocol"] = protocol  # for `from kernelfe.models.protocol import …`


def __getattr__(name: str) -> Any:
    if name not in gp.__all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; see kernelfe.gp")
    warnings.warn(f"kernelfe.models.{name} is kernelfe.gp.{name} now", DeprecationWarning, stacklevel=2)
    return getattr(gp, name)


def __dir__() -> list[str]:
    return sorted([*gp.__all__, "protocol"])
