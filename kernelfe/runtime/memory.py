"""Memory that is left on this machine, and refusal of work that would need more."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import SolverError

#: Share of the memory that is left which one array may take: the rest is for the work on it.
SHARE = 0.9


def available_bytes() -> int | None:
    """Bytes that this process can still take, by the kernel and by the limits of control groups; None if not known."""
    found = []
    try:
        match = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"), re.MULTILINE)
        found += [1024 * int(match.group(1))] if match else []
    except (OSError, UnicodeDecodeError):
        pass
    for folder, limit, used in (
        ("/sys/fs/cgroup", "memory.max", "memory.current"),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        try:
            numbers = [int(Path(folder, name).read_text(encoding="ascii")) for name in (limit, used)]
            cached = re.search(r"^(?:total_)?inactive_file (\d+)", Path(folder, "memory.stat").read_text("ascii"), re.M)
        except (OSError, ValueError):  # no such limit, or "max"
            continue
        # what files have in the cache counts as used, and is given back
        found.append(numbers[0] - numbers[1] + (int(cached.group(1)) if cached else 0))
    return min(found) if found else None


def require_memory(size: int, what: str, advice: str) -> None:
    """Raise an error if an array does not fit in memory, before anything is allocated.

    Parameters
    ----------
    size
        Bytes.
    what
        The array and its purpose.
    advice
        What to do instead.

    Raises
    ------
    SolverError
        If there is less memory. Where the memory is not known, nothing is checked.
    """
    left = available_bytes()
    if left is not None and size > SHARE * left:
        raise SolverError(f"{what} takes {size / 2**30:.3g} GiB, and {left / 2**30:.3g} GiB are left: {advice}")
