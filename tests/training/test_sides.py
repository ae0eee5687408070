"""Inefficiency of the populations of two sides: as large as the number of crossings says."""

from __future__ import annotations

import numpy as np
import pytest

from kernelfe.training.sides import SlowVariables, crossing_inefficiency, side_inefficiencies


def chains(n, leave, rng, repeats):
    """Two-state Markov chains (repeats, n) with the chances ``leave`` to leave side 0 and side 1."""
    state = (rng.random(repeats) < leave[0] / sum(leave)).astype(int)
    out = np.empty((repeats, n), int)
    for k in range(n):
        out[:, k] = state
        state = np.where(rng.random(repeats) < np.where(state, leave[1], leave[0]), 1 - state, state)
    return out


@pytest.mark.parametrize("leave", [(0.02, 0.05), (0.1, 0.3), (0.5, 0.5), (0.7, 0.3)])
def test_the_error_of_a_population_is_that_of_the_crossings(leave):
    sides = chains(2000, leave, np.random.default_rng(0), 200)
    share = leave[0] / sum(leave)
    z = (sides.mean(1) - share) / [np.sqrt(s.var() * crossing_inefficiency(s) / len(s)) for s in sides]
    assert 0.8 < np.sqrt((z**2).mean()) < 1.25


@pytest.mark.parametrize("first", [20, 50])
def test_a_run_that_crosses_once_counts_as_one_frame(first):
    """Also two runs that never cross, one after the other."""
    side = (np.arange(100) >= first).astype(int)
    series = SlowVariables(np.random.default_rng(1).normal(size=(100, 2)), np.where(side, 1.0, -1.0)[:, None])
    share = side.mean()
    assert side_inefficiencies(series, 0)[2] >= min(100.0, 0.95 * 400.0 * share * (1.0 - share))
