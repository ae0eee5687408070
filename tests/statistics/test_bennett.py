"""Bennett's acceptance ratio against harmonic wells, and against pymbar."""

from __future__ import annotations

import numpy as np
import pytest

from kernelfe.statistics.bennett import bennett

TRUTH = np.log(1.2) + 0.3


def wells(rng, first=100, second=80, repeats=5):
    """Work between x²/2 and 1.44 (x − 1)²/2 + 0.3, every sample ``repeats`` times in its replica."""
    x = np.repeat(rng.normal(size=first), repeats), np.repeat(1.0 + rng.normal(size=second) / 1.2, repeats)
    work = tuple(0.72 * (one - 1.0) ** 2 + 0.3 - 0.5 * one**2 for one in x)
    return work, (np.repeat(np.arange(first), repeats), np.repeat(np.arange(second), repeats)), (first, second)


def test_errors_are_those_of_replicas():
    found = [bennett(*wells(np.random.default_rng(seed))) for seed in range(100)]
    z = np.array([(one.value - TRUTH) / one.error for one in found])
    assert abs(z.mean()) < 0.5 and 0.8 < z.std() < 1.3
    assert all(0.5 < one.overlap < 1.0 for one in found)


def test_the_value_is_that_of_pymbar():
    bar = pytest.importorskip("pymbar").bar
    work, replica, replicas = wells(np.random.default_rng(3))
    found = bennett(work, replica, replicas)
    assert found.value == pytest.approx(bar(work[0], -work[1])["Delta_f"], abs=1e-8)
    independent = bennett(work, tuple(np.arange(len(w)) for w in work), tuple(len(w) for w in work))
    assert independent.error == pytest.approx(bar(work[0], -work[1])["dDelta_f"], rel=0.05)


def test_equal_states_and_states_apart():
    same = bennett((np.zeros(10), np.zeros(30)), (np.arange(10), np.arange(30)), (10, 30))
    assert same.value == pytest.approx(0.0, abs=1e-9) and same.error == 0.0 and same.overlap == pytest.approx(1.0)
    apart = bennett((np.full(20, 50.0), np.full(20, 52.0)), (np.arange(20),) * 2, (20, 20))
    assert np.isfinite(apart.value)
    far = bennett((np.full(20, 60.0), np.full(20, -60.0)), (np.arange(20),) * 2, (20, 20))
    assert far.overlap < 1e-6
