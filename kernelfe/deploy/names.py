"""Names of kinds that every engine's file format takes."""

from __future__ import annotations

import re
from collections.abc import Sequence


def safe_names(kinds: Sequence[str]) -> tuple[str, ...]:
    """Distinct names of letters, digits and underscores, each as near to its kind as possible."""
    out: list[str] = []
    for number, kind in enumerate(kinds, 1):
        name = re.sub(r"[^A-Za-z0-9_]", "_", kind).strip("_") or f"T{number}"
        name = f"T{name}" if name[0].isdigit() or name.upper() == "NULL" else name
        out.append(name if name not in out else f"{name}_{number}")
    return tuple(out)
