"""Devices, seeds, processes, checkpoints and progress."""

from __future__ import annotations

from .checkpoint import Checkpoint
from .leading import Call, lead
from .processes import Processes, launched
from .sums import TreeSum, sum_chunks

__all__ = ["Call", "Checkpoint", "Processes", "TreeSum", "launched", "lead", "sum_chunks"]
