"""Liquids of known energy are recovered from a few frames of exact forces."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(FOLDER))
    import liquid_recovery

    return liquid_recovery


@pytest.mark.slow
def test_lennard_jones_pair_force_with_defaults(script):
    found = script.recovered("argon", script.argon(400), 4, stride=30, equilibration=300)
    assert found["pair Ar-Ar"] < 0.01  # where g(r) > 0.1


@pytest.mark.slow
def test_stillinger_weber_forces_with_triplets_to_their_range(script):
    found = script.recovered("water", script.water(216), 8, stride=30, equilibration=300)
    assert found["triplets to the range"] < 0.03 < found["forces"]
