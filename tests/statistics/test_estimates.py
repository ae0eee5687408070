from __future__ import annotations

import numpy as np
import pytest

from kernelfe.errors import DataError
from kernelfe.statistics import Estimate, effective_sample_size, series_labels, series_mean

#: Series that each figure of coverage comes from: 95 % is then known to ±0.7 %.
MANY = 1000


def autoregressive(frames, replicas, phi, columns=MANY, seed=0):
    """Stationary series of mean 0 and variance 1, (frames·replicas, columns), and their labels."""
    rng = np.random.default_rng(seed)
    x = np.empty((frames, replicas, columns))
    x[0] = rng.normal(size=x.shape[1:])
    for i in range(1, frames):
        x[i] = phi * x[i - 1] + np.sqrt(1.0 - phi**2) * rng.normal(size=x.shape[1:])
    return x.reshape(-1, columns), np.tile(np.arange(replicas), frames)


@pytest.mark.parametrize(
    ("frames", "replicas", "phi"),
    [(200, 1, 0.0), (300, 1, 0.7), (30, 10, 0.8), (5, 40, 0.95), (1, 40, 0.0), (20, 8, 0.5)],
)
def test_errors_of_means_cover_the_truth(frames, replicas, phi):
    x, series = autoregressive(frames, replicas, phi)
    found = series_mean(x, series)
    z = np.abs(found.value / found.error)
    assert np.mean(z < 1.0) == pytest.approx(0.683, abs=0.045)
    assert np.mean(z < 1.96) == pytest.approx(0.945, abs=0.025)


def test_independent_frames_of_a_known_autocorrelation():
    phi = 0.6
    x, _ = autoregressive(4000, 1, phi, columns=20)
    expected = 4000 * (1 - phi) / (1 + phi)
    assert np.median(series_mean(x).independent) == pytest.approx(expected, rel=0.1)
    assert series_mean(x[:, 0]).independent == pytest.approx(effective_sample_size(x[:, 0]), rel=0.02)


def test_replicas_that_forgot_nothing_count_once_each():
    """40 replicas of 50 frames that do not move: 40 independent numbers."""
    level = np.random.default_rng(1).normal(size=40)
    found = series_mean(np.tile(level, 50), np.tile(np.arange(40), 50))
    assert found.error == pytest.approx(level.std(ddof=1) / np.sqrt(40), rel=1e-9)


def test_shapes_constants_and_labels():
    x = np.random.default_rng(0).normal(size=(50, 2, 3))
    x[:, 0, 1] = 4.0
    found = series_mean(x)
    assert found.value.shape == found.error.shape == found.independent.shape == (2, 3)
    assert found.error[0, 1] == 0.0 and found.independent[0, 1] == 50
    order = np.argsort(np.arange(50) % 2, kind="stable")  # labels of any type, frames of series in any mixture
    names = np.where(np.arange(50) % 2, "b", "a")
    np.testing.assert_allclose(series_mean(x, names).error, series_mean(x[order], names[order]).error)
    assert np.isnan(series_mean(x[:1]).error).all()
    assert series_labels(None, 3).tolist() == [0, 0, 0]


def test_bad_series_are_refused():
    for values, series in (([], None), ([1.0, np.nan], None), ([1.0, 2.0], [0])):
        with pytest.raises(DataError):
            series_mean(values, series)


def test_estimates_are_written_with_their_digits():
    assert str(Estimate(0.61234, 0.0031, 30.0)) == "0.6123 ± 0.0031"
    assert str(Estimate(1613.4, 99.0, 3.0).scaled(0.1)) == "161.3 ± 9.9"
    assert str(Estimate(1.0, float("nan"), 1)) == "1"
    assert "6 values" in str(Estimate(np.ones(6), np.ones(6), np.ones(6)))
    assert Estimate(1.0, 0.1, 5).shifted(1.0).value == 2.0


@pytest.mark.parametrize(("frames", "replicas", "phi"), [(80, 1, 0.0), (300, 1, 0.7), (10, 10, 0.8)])
def test_errors_of_curves_are_hardly_biased(frames, replicas, phi):
    x, series = autoregressive(frames, replicas, phi, columns=60 * 40)
    found = [series_mean(part, series, curve=True) for part in np.split(x, 40, axis=1)]
    value, error = (np.concatenate([getattr(one, name) for one in found]) for name in ("value", "error"))
    assert error.mean() == pytest.approx(value.std(), rel=0.06)
    assert np.mean(np.abs(value / error) < 1.96) == pytest.approx(0.94, abs=0.025)
