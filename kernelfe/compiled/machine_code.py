"""The decorator of compiled loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def compiled(function: Callable) -> Callable:
    """numba's ``njit``, with its file cache where there is a place for it.

    Products and sums may be contracted (a·b + c in one rounding) but not reordered; NaN stays NaN.
    """
    import numba

    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder for the cache can be written
        return numba.njit(**options)(function)
