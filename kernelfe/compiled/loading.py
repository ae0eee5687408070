"""Loading of the compiled loops, and what happens without numba.

numba is the extra ``liquids``: it installs from a wheel, needs no compiler on the user's machine, and the source stays
Python. Without it the same functions run in NumPy (:mod:`kernelfe.compiled.plain`), about ten times slower, and one
warning says so. Machine code is kept in the folder ``__pycache__`` next to the source, or in the user's cache folder;
where neither can be written, it is made again in every process.
"""

from __future__ import annotations

import logging
import warnings
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any

logger = logging.getLogger(__name__)


@cache
def available() -> bool:
    """True if numba is installed."""
    return find_spec("numba") is not None


@cache
def loops() -> ModuleType:
    """The module of the loops: the compiled ones, or those in NumPy with a warning, once."""
    reason = "numba is not installed"
    if available():
        try:
            _announce()
            from . import loops as module
        except ImportError as error:  # installed, but it does not fit this Python or NumPy
            reason = f"numba cannot be imported ({error})"
        else:
            return module
    from . import plain

    warnings.warn(
        f"{reason}: sums over pairs and triplets run in NumPy, about ten times slower. "
        "Install the extra: pip install 'kernelfe[liquids]'",
        RuntimeWarning,
        stacklevel=3,
    )
    return plain


def _announce() -> None:
    """Log when the first of the loops is compiled, which takes seconds."""
    from numba.core import event

    class Log(event.Listener):
        """Writes one line per process, if anything is compiled at all."""

        said = False

        def on_start(self, event: Any) -> None:
            function = getattr(event.data.get("dispatcher"), "py_func", None)
            if not Log.said and getattr(function, "__module__", "").startswith("kernelfe.compiled"):
                Log.said = True
                logger.info("compiling the sums over pairs and triplets: up to 10 s, once per installation")

        def on_end(self, event: Any) -> None:
            pass

    event.register("numba:compile", Log())
