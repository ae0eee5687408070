from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import lfilter

from kernelfe.errors import DataError
from kernelfe.statistics import (
    autocorrelation,
    autocorrelation_time,
    block_labels,
    block_standard_error,
    bootstrap_counts,
    effective_sample_size,
)


def ar1(coefficient, n, columns, seed=0):
    """Stationary AR(1) series of unit variance: ρ(t) = coefficient^t, τ = ½(1 + c)/(1 − c)."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(n, columns)) * np.sqrt(1 - coefficient**2)
    noise[0] = rng.normal(size=columns)
    return lfilter([1.0], [1.0, -coefficient], noise, axis=0)


@pytest.mark.parametrize("coefficient", [-0.5, 0.0, 0.5, 0.9, 0.98])
def test_autocorrelation_time_of_ar1(coefficient):
    exact = 0.5 * (1 + coefficient) / (1 - coefficient)
    tau = autocorrelation_time(ar1(coefficient, 20_000, 40))
    assert tau.shape == (40,)
    # the positive sequence is cut late, where the noise sums to a bias of a few per cent
    assert tau.mean() == pytest.approx(exact, rel=0.06)


def test_autocorrelation_is_the_textbook_sum():
    x = ar1(0.7, 200, 1)[:, 0]
    d = x - x.mean()
    direct = [np.dot(d[: 200 - t], d[t:]) for t in range(200)] / np.dot(d, d)
    np.testing.assert_allclose(autocorrelation(x), direct, atol=1e-12)


def test_effective_size_and_blocks_give_calibrated_errors():
    """z-scores of the means of 300 correlated series have unit variance with either error bar."""
    x = ar1(0.9, 4000, 300, seed=1)
    from_time = x.std(axis=0) / np.sqrt(effective_sample_size(x))
    from_blocks = block_standard_error(x, blocks=20)
    exact = np.sqrt(1.9 / 0.1 / 4000)
    assert from_time.mean() == pytest.approx(exact, rel=0.08)
    assert from_blocks.mean() == pytest.approx(exact, rel=0.08)
    for error in (from_time, from_blocks):
        assert np.mean((x.mean(axis=0) / error) ** 2) == pytest.approx(1.0, abs=0.3)


def test_single_series_gives_a_number():
    x = ar1(0.5, 1000, 1)[:, 0]
    assert isinstance(effective_sample_size(x), float)
    assert isinstance(block_standard_error(x), float)
    assert effective_sample_size(x) == pytest.approx(effective_sample_size(x[:, None])[0])


def test_alternating_series_stays_finite():
    x = np.tile([1.0, -1.0], 500)
    assert 1000 <= effective_sample_size(x) <= 1000 * np.log10(1000) + 1e-9


def test_block_labels_cover_all_samples_evenly():
    labels = block_labels(103, 10)
    assert set(np.bincount(labels)) == {10, 11}
    assert (np.diff(labels) >= 0).all()
    counts = bootstrap_counts(10, 50, np.random.default_rng(0))
    assert counts.shape == (50, 10)
    assert (counts.sum(axis=1) == 10).all()


def test_block_error_of_arrays_matches_columns():
    x = np.random.default_rng(2).normal(size=(101, 2, 3))
    error = block_standard_error(x, 7)
    assert error.shape == (2, 3)
    assert error[1, 2] == pytest.approx(block_standard_error(x[:, 1, 2], 7))


@pytest.mark.parametrize(
    ("series", "message"),
    [
        (np.ones(50), "constant"),
        ([1.0, np.nan, 2.0, 3.0, 4.0], "not finite"),
        ([1.0, 2.0], "n ≥ 4"),
    ],
)
def test_unusable_series_are_refused(series, message):
    with pytest.raises(DataError, match=message):
        autocorrelation_time(series)


def test_more_blocks_than_samples_is_refused():
    with pytest.raises(DataError, match="5 samples into 6 blocks"):
        block_standard_error(np.arange(5.0), blocks=6)
