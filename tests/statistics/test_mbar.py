from __future__ import annotations

import sys

import numpy as np
import pytest
from scipy.signal import lfilter
from scipy.stats import norm

from kernelfe.errors import DataError, MissingDependencyError
from kernelfe.statistics import block_labels, reweighted_mean, surface, temperature_weights
from kernelfe.units import BOLTZMANN

# U = ½ k_x x² + ½ k_y y² + the energy of 6 eliminated harmonic coordinates: Gaussians at every temperature
SPRINGS, LADDER, TARGET = np.array([0.03, 0.06]), np.array([300.0, 400.0, 520.0]), 350.0
EDGES = (np.r_[-30.0, -0.8, -0.2, 0.3, 1.0, 30.0], np.r_[-30.0, -0.4, 0.4, 30.0])


def replicas(rounds, seed, coefficient=0.0):
    """Coordinates (rounds, rungs, 2) and energies (rounds, rungs), AR(1) in time."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(rounds, len(LADDER), 2)) * np.sqrt(1 - coefficient**2)
    noise[0] /= np.sqrt(1 - coefficient**2)
    unit = lfilter([1.0], [1.0, -coefficient], noise, axis=0)
    x = unit * np.sqrt(BOLTZMANN * LADDER[:, None] / SPRINGS)
    eliminated = BOLTZMANN * LADDER * rng.gamma(3.0, size=(rounds, len(LADDER)))
    return x, 0.5 * (SPRINGS * x**2).sum(-1) + eliminated


def exact_probability(temperature=TARGET):
    widths = np.sqrt(BOLTZMANN * temperature / SPRINGS)
    x, y = (np.diff(norm.cdf(e, scale=s)) for e, s in zip(EDGES, widths, strict=True))
    return x[:, None] * y


def test_weights_are_those_of_the_target_ensemble():
    x, u = replicas(20_000, 0)
    weights = temperature_weights(u, LADDER, (300.0, TARGET))
    assert weights.shape == (2, *u.shape)
    np.testing.assert_allclose(weights.sum(axis=(1, 2)), 1.0)
    for w, t in zip(weights, (300.0, TARGET), strict=True):
        mean, error, size = reweighted_mean(np.stack([u, x[..., 0] ** 2], axis=-1), w)
        exact = np.array([4.0 * BOLTZMANN * t, BOLTZMANN * t / SPRINGS[0]])
        assert (np.abs(mean - exact) < 4 * error).all()
        assert (size > 20_000).all()  # more than one rung contributes
    np.testing.assert_allclose(temperature_weights(u, LADDER, TARGET), weights[1])


def test_a_constant_in_the_energy_changes_nothing():
    _, u = replicas(300, 1)
    np.testing.assert_allclose(
        temperature_weights(u - 5e3, LADDER, TARGET), temperature_weights(u, LADDER, TARGET), rtol=1e-5
    )


def test_one_temperature_is_plain_reweighting(monkeypatch):
    monkeypatch.setitem(sys.modules, "pymbar", None)
    u = np.array([0.0, 0.1, 0.3])
    w = temperature_weights(u, 300.0, 400.0)
    expected = np.exp(-u / BOLTZMANN * (1 / 400.0 - 1 / 300.0))
    np.testing.assert_allclose(w, expected / expected.sum())


def test_missing_pymbar_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "pymbar", None)
    with pytest.raises(MissingDependencyError, match="pip install"):
        temperature_weights(np.zeros((2, 3)), LADDER, TARGET)


def test_error_bars_of_surface_and_mean_are_calibrated():
    """z-scores of correlated replicas against the exact probabilities, over independent repeats."""
    rounds, z_bins, z_mean = 1500, [], []
    for seed in range(30):
        x, u = replicas(rounds, 10 + seed, coefficient=0.8)
        w = temperature_weights(u, LADDER, TARGET)
        blocks = np.repeat(block_labels(rounds, 15), len(LADDER))
        s = surface(x.reshape(-1, 2), w.ravel(), EDGES, blocks, np.random.default_rng(seed))
        assert s.probability.sum() == pytest.approx(1.0)
        z_bins.append((s.probability - exact_probability()) / s.std)
        mean, error, size = reweighted_mean(x[..., 0] ** 2, w)
        assert size < rounds * len(LADDER)
        z_mean.append((mean - BOLTZMANN * TARGET / SPRINGS[0]) / error)
    assert np.mean(np.square(z_bins)) == pytest.approx(1.1, abs=0.3)
    assert np.mean(np.square(z_mean)) == pytest.approx(1.0, abs=0.6)


@pytest.mark.parametrize("kind", [int, np.int64, np.float32, np.array])
def test_one_target_of_any_number_type_has_no_axis(kind):
    _, u = replicas(10, 0)
    weights = temperature_weights(u[:, 0], LADDER[0], kind(350))
    np.testing.assert_array_equal(weights, temperature_weights(u[:, 0], LADDER[0], 350.0))
    assert weights.shape == (10,) and temperature_weights(u[:, 0], LADDER[0], [kind(350)]).shape == (1, 10)


def test_free_energy_of_a_surface():
    s = surface(
        np.array([[0.5], [0.5], [1.5], [0.2]]),
        np.ones(4),
        [np.arange(4.0)],
        [0, 0, 1, 1],
        np.random.default_rng(0),
        bootstraps=10,
    )
    np.testing.assert_allclose(s.probability, [0.75, 0.25, 0.0])
    np.testing.assert_allclose(s.free_energy(300.0), [0.0, BOLTZMANN * 300.0 * np.log(3.0), np.inf])


def test_unusable_input_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(DataError, match="outside the edges"):
        surface(np.array([[3.5], [0.5]]), np.ones(2), [np.arange(4.0)], [0, 1], rng)
    with pytest.raises(DataError, match="one block"):
        surface(np.zeros((2, 1)), np.ones(2), [np.arange(4.0)], [0, 0], rng)
    with pytest.raises(DataError, match="do not fit"):
        surface(np.zeros((2, 1)), np.ones(3), [np.arange(4.0)], [0, 0], rng)
    with pytest.raises(DataError, match="positive"):
        temperature_weights(np.zeros(3), 300.0, 0.0)
    with pytest.raises(DataError, match="not finite"):
        temperature_weights(np.array([np.inf, 0.0]), 300.0, 350.0)
    with pytest.raises(DataError, match="do not fit"):
        reweighted_mean(np.zeros((3, 2)), np.ones((2, 3)))
