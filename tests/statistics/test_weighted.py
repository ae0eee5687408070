"""One inefficiency of several observables."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import lfilter

from kernelfe.errors import DataError
from kernelfe.statistics.weighted import weighted_inefficiency


def autoregressive(rng, runs, n, memory):
    """x_t = memory x_{t−1} + noise, after it has forgotten its start: g = (1 + memory)/(1 − memory)."""
    return lfilter([1.0], [1.0, -memory], rng.normal(size=(runs, n + 200)), axis=1)[:, 200:]


def test_the_weighted_average_of_known_inefficiencies():
    rng = np.random.default_rng(0)
    slow, fast = (autoregressive(rng, 8, 2000, memory) for memory in (0.6, 0.0))  # g = 4 and 1
    series = list(np.stack([slow, fast, np.zeros_like(slow)], 2))
    for weights, wanted in (((1.0, 0.0, 1.0), 4.0), ((0.0, 1.0, 0.0), 1.0), ((1.0, 1.0, 5.0), 2.5)):
        assert weighted_inefficiency(series, np.array(weights)) == pytest.approx(wanted, rel=0.1)


def test_edges():
    assert weighted_inefficiency([np.zeros((3, 2))], np.ones(2)) == 1.0
    assert weighted_inefficiency([np.ones((30, 2))], np.ones(2)) == 1.0
    with pytest.raises(DataError, match="one weight per column"):
        weighted_inefficiency([np.zeros((9, 2))], np.ones(3))
    with pytest.raises(DataError, match="finite"):
        weighted_inefficiency([np.full((9, 2), np.nan)], np.ones(2))
