"""Devices, seeds, threads, processes, checkpoints and progress."""

from __future__ import annotations

from .checkpoint import Checkpoint
from .leading import Call, lead
from .processes import Processes, launched
from .sums import TreeSum, sum_chunks
from .threads import at_most, one_thread, side_by_side, worker_count

__all__ = [
    "Call",
    "Checkpoint",
    "Processes",
    "TreeSum",
    "at_most",
    "launched",
    "lead",
    "one_thread",
    "side_by_side",
    "sum_chunks",
    "worker_count",
]
