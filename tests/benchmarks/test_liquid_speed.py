"""benchmarks/liquid_speed.py at a tiny size."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.slow
def test_every_figure_is_measured(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    import liquid_speed

    found = liquid_speed.measured(8)
    assert len(found) == 11 and min(found.values()) > 0.0
