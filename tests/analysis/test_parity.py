from __future__ import annotations

import numpy as np
import pytest

import kernelfe
from kernelfe.analysis import Parity, learned_noise, parity
from kernelfe.errors import DataError


@pytest.fixture
def perfect():
    """Labels with known noise, predicted by the truth itself with an honest error."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(20_000, 3))
    prediction = truth + rng.normal(scale=0.1, size=truth.shape)
    label = truth + rng.normal(scale=0.5, size=truth.shape)
    return Parity("mean_force", label, prediction, np.full_like(truth, 0.1), np.full_like(truth, 0.5))


def test_statistics_of_an_honest_model(perfect):
    assert perfect.rmse == pytest.approx(np.hypot(0.5, 0.1), rel=0.02)
    assert perfect.noise_floor == 0.5
    assert perfect.corrected_rmse == pytest.approx(0.1, rel=0.2)
    assert perfect.corrected_rmse < perfect.corrected_rmse_limit < 0.2
    assert perfect.r2_ceiling == pytest.approx(1 - 0.25 / 1.25, rel=0.02)
    assert perfect.r2 < perfect.r2_ceiling
    assert perfect.z_rms == pytest.approx(1.0, abs=0.02)
    assert perfect.coverage95 == pytest.approx(0.95, abs=0.01)
    # the entropy of a Gaussian with variance 0.26
    assert perfect.log_density == pytest.approx(-0.5 * np.log(2 * np.pi * np.e * 0.26), abs=0.02)


def test_log_density_punishes_wrong_error_bars(perfect):
    for std in (0.0, 0.5):
        wrong = Parity("x", perfect.label, perfect.prediction, np.full_like(perfect.label, std), 0.5 * perfect.noise)
        assert wrong.log_density < perfect.log_density


def test_without_standard_deviations_there_is_no_calibration(perfect):
    bare = Parity("x", perfect.label, perfect.prediction, None, perfect.noise)
    assert bare.log_density is bare.z_rms is bare.coverage95 is None
    assert bare.summary()["rmse"] == perfect.rmse


class Model:
    """Predicts zero, with unit error."""

    noise_ = {"mean_energy": (0.2, 1.5)}  # noqa: RUF012
    noise_temperature_ = 400.0

    def predict(self, frames, kind, return_std=False, **options):
        zero = np.zeros(frames.labels[kind].shape)
        return (zero, zero + 1.0) if return_std else zero


def frames(**options):
    return kernelfe.Frames.from_arrays(variables=np.zeros((4, 2)), temperature=[200.0, 400.0, 400.0, 800.0], **options)


def test_noise_is_the_power_law_the_model_learned_or_what_the_frames_state():
    learned = learned_noise(Model(), frames(labels={"mean_energy": np.zeros(4)}), "mean_energy")
    np.testing.assert_allclose(learned[:, 0], 0.2 * np.array([0.5, 1, 1, 2]) ** 1.5)
    stated = frames(labels={"mean_energy": np.zeros(4)}, noise={"mean_energy": [1.0, 2.0, 3.0, 4.0]})
    np.testing.assert_array_equal(learned_noise(Model(), stated, "mean_energy")[:, 0], [1, 2, 3, 4])
    blocks = np.tile(np.array([[4.0, 1.0], [1.0, 9.0]]), (4, 1, 1))
    correlated = frames(labels={"mean_force": np.zeros((4, 2))}, noise={"mean_force": blocks})
    np.testing.assert_array_equal(learned_noise(Model(), correlated, "mean_force"), np.tile([2.0, 3.0], (4, 1)))
    with pytest.raises(DataError, match="noise of 'mean_force' is unknown"):
        learned_noise(Model(), frames(labels={"mean_force": np.zeros((4, 2))}), "mean_force")


def test_rows_without_the_label_are_left_out():
    part = frames(
        labels={"mean_energy": [1.0, np.nan, 2.0, np.nan]}, present={"mean_energy": [True, False, True, False]}
    )
    found = parity(Model(), part, "mean_energy")
    assert found.label[:, 0].tolist() == [1.0, 2.0]
    assert found.std is not None and found.rmse == pytest.approx(np.sqrt(2.5))
    with pytest.raises(DataError, match="no frame has a label 'entropy'"):
        parity(Model(), part, "entropy")
