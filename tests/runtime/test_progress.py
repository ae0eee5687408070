"""Remaining time of a solve: exact for a straight line, cautious otherwise."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelfe.runtime.progress import FEWEST, WINDOW, ResidualTrend, duration


@given(
    st.floats(0.5, 0.99),
    st.integers(FEWEST, 3 * WINDOW),
    st.floats(1e-3, 1e3),
    st.integers(1, 1000),
    st.integers(0, 50),
)
def test_a_geometric_decline_is_foreseen(rate, done, pace, more, first):
    """Residual rate^k: it passes rate^(done + more) after ``more`` iterations."""
    trend = ResidualTrend(goal=rate ** (done + more - 0.5), limit=10**9)
    for k in range(1, done + 1):
        trend.add(first + k, rate**k, pace * k)
    count, seconds = trend.remaining()
    assert count == more and seconds == pytest.approx(more * pace, rel=1e-9)


def test_the_latest_slope_counts_and_a_bump_does_not():
    trend = ResidualTrend(goal=1e-8, limit=10_000)
    for k in range(200):
        trend.add(k, 0.999**k, float(k))
    slow = trend.remaining()[0]
    for k in range(200, 200 + WINDOW):  # the extreme eigenvalues are found: faster from here on
        trend.add(k, 0.999**200 * 0.8 ** (k - 199) * (3.0 if k == 215 else 1.0), float(k))
    fast = trend.remaining()[0]
    truth = math.log(1e-8 / (0.999**200 * 0.8**WINDOW)) / math.log(0.8)
    assert slow > 10_000 - 200 and abs(fast - truth) < 0.1 * truth + 2


def test_the_limit_comes_first():
    trend = ResidualTrend(goal=1e-300, limit=50)
    for k in range(1, 11):
        trend.add(k, 0.99**k, 2.0 * k)
    assert trend.remaining() == (40, 80.0)


def test_no_trend_is_no_estimate():
    trend = ResidualTrend(goal=1e-6, limit=100)
    for k in range(FEWEST - 1):
        trend.add(k, 0.5**k, float(k))
    assert trend.remaining() is None  # too few
    trend = ResidualTrend(goal=1e-6, limit=100)
    for k in range(20):
        trend.add(k, 1.0 + 0.1 * k, float(k))
    assert trend.remaining() is None  # it grows
    for bad in (0.0, math.nan, math.inf):
        trend.add(21, bad, 21.0)  # a converged or broken solve adds no information and does no harm
    assert trend.remaining() is None


def test_reached_is_nothing_left():
    trend = ResidualTrend(goal=0.1, limit=100)
    for k in range(20):
        trend.add(k, 0.5**k, float(k))
    assert trend.remaining() == (0, 0.0)


@pytest.mark.parametrize(("seconds", "said"), [(3.4, "3 s"), (99.0, "99 s"), (204.0, "3.4 min"), (7560.0, "2.1 h")])
def test_durations(seconds, said):
    assert duration(seconds) == said
