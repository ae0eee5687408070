"""Calibration statistics on predictions that are right, and on ones that are known to be wrong."""

from __future__ import annotations

import numpy as np
import pytest

import kernelfe
from kernelfe.analysis import calibration_of, label_calibration
from kernelfe.analysis.calibration_plot import calibration_figure
from kernelfe.errors import DataError
from kernelfe.report import png


def predictions(n, scale=1.0, seed=0):
    rng = np.random.default_rng(seed)
    mean, std = rng.normal(size=n), rng.uniform(0.1, 3.0, n)
    return mean + scale * std * rng.normal(size=n), mean, std


def test_right_error_bars_pass_and_wrong_ones_do_not():
    right = calibration_of(*predictions(4000))
    assert right.coverage() == pytest.approx(0.95, abs=0.012) and right.mean_squared_z == pytest.approx(1.0, abs=0.08)
    assert right.coverage(0.5) == pytest.approx(0.5, abs=0.03) and right.uniformity() > 1e-3
    assert abs(right.bias) < 0.06 and abs(right.kurtosis) < 0.4
    wrong = calibration_of(*predictions(4000, scale=1.5))
    assert wrong.coverage() == pytest.approx(0.8086, abs=0.02) and wrong.mean_squared_z == pytest.approx(2.25, abs=0.2)
    assert wrong.uniformity() < 1e-6
    shifted, mean, std = predictions(4000)
    assert calibration_of(shifted + 0.5 * std, mean, std).uniformity() < 1e-6


def test_noise_of_labels_is_added():
    truth, mean, std = predictions(3000)
    labels = truth + 2.0 * np.random.default_rng(1).normal(size=3000)
    assert calibration_of(labels, mean, std, 2.0).mean_squared_z == pytest.approx(1.0, abs=0.1)
    assert calibration_of(labels, mean, std).mean_squared_z > 2.0


def test_uniformity_keeps_its_level():
    """p values of right predictions are uniform themselves: one of groups of equal errors is used."""
    rejected = 0
    for seed in range(200):
        y, mean, std = predictions(50, seed=seed)
        found = calibration_of(*(np.repeat(v[:, None], 5, 1) for v in (y, mean, std)))
        assert found.size == 50 and len(found) == 250
        rejected += found.uniformity(seed) < 0.1
    assert 8 <= rejected <= 34  # 20 ± 4.2


def test_standard_errors_are_over_groups():
    """Members of a group err together: the scatter of repeats is that over groups, not over predictions."""
    coverage, squares, errors = [], [], []
    for seed in range(200):
        y, mean, std = predictions(40, seed=seed)
        found = calibration_of(*(np.repeat(v[:, None], 4, 1) for v in (y, mean, std)))
        coverage.append(found.coverage(0.5))
        squares.append(found.mean_squared_z)
        errors.append((found.coverage_error(0.5), found.mean_squared_z_error))
    said = np.sqrt(np.mean(np.square(errors), 0))
    assert said == pytest.approx([np.std(coverage), np.std(squares)], rel=0.2)


def test_pits_of_other_distributions_can_be_given():
    rng = np.random.default_rng(0)
    found = calibration_of(rng.normal(size=2000), 0.0, 1.0, pit=rng.uniform(size=2000))
    assert found.coverage(0.8) == pytest.approx(0.8, abs=0.04)
    with pytest.raises(DataError, match="one probability"):
        calibration_of([1.0, 2.0], 0.0, 1.0, pit=[0.5])


@pytest.mark.parametrize("std", [0.0, np.nan, np.inf])
def test_bad_numbers_are_refused(std):
    with pytest.raises(DataError, match="standard deviations above zero"):
        calibration_of([1.0], [0.0], [std])
    with pytest.raises(DataError, match="shape of truth"):
        calibration_of([1.0, 2.0], [0.0, 0.0, 1.0], 1.0)
    with pytest.raises(DataError, match="level"):
        calibration_of([1.0], 0.0, 1.0).coverage(1.0)


def test_held_out_labels_of_a_model():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (300, 1))
    frames = kernelfe.Frames.from_arrays(
        variables=x,
        temperature=np.resize([300.0, 400.0], 300),
        labels={"mean_force": -0.3 * x + rng.normal(scale=0.05, size=x.shape)},
    )
    model = kernelfe.FreeEnergyRegressor().fit(frames[:60])
    found = label_calibration(model, frames[60:], "mean_force")
    assert found.size == 240
    assert found.coverage() == pytest.approx(0.95, abs=0.06) and 0.7 < found.mean_squared_z < 1.4
    summary = found.summary()
    assert summary["coverage95"] == found.coverage() and np.isfinite(list(summary.values())).all()
    figure = calibration_figure({"forces": found})
    assert png(figure).startswith(b"\x89PNG") and "transform" in figure.axes[2].get_xlabel()
