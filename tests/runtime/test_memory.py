"""Refusal of arrays that do not fit in memory."""

from __future__ import annotations

import pytest

from kernelfe.errors import SolverError
from kernelfe.runtime import memory


def test_what_is_left_is_known_here_and_refusals_name_it():
    left = memory.available_bytes()
    assert left is None or 0 < left < 1 << 50
    memory.require_memory(1 << 10, "a kilobyte", "none")
    if left is not None:
        with pytest.raises(SolverError, match=r"the array takes .* GiB, and .* GiB are left: take less"):
            memory.require_memory(1 << 60, "the array", "take less")


def test_nothing_is_refused_where_memory_is_not_known(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: None)
    memory.require_memory(1 << 60, "the array", "take less")
