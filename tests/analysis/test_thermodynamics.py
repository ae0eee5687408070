"""The decomposition against numerical differentiation of the marginal free energy of a model that is known exactly."""

from __future__ import annotations

import numpy as np
import pytest

import kernelfe
from kernelfe.analysis import conditional_averages, decomposition, total_heat_capacity
from kernelfe.errors import DataError
from kernelfe.units import BOLTZMANN

T = 350.0


def energy(x):
    return 0.02 * np.cos(x[:, 0]) + 0.03 * np.sin(x[:, 1]) * np.cos(x[:, 0])


def entropy(x):
    return 2e-4 * np.sin(x[:, 0] + x[:, 1])


def capacity(x):
    return 1e-4 * (1.0 + np.cos(x[:, 1]))


def free_energy(x, t):
    return energy(x) - t * entropy(x) + capacity(x) * (t - 300.0 - t * np.log(t / 300.0))


class Exact:
    """The truth, with uncertainty in A: δA = α + T β times one function of x, so that all covariances are known."""

    scale = np.array([2e-3, 1e-5])  # standard deviations of α and β

    @staticmethod
    def shape(x):
        return np.cos(x[:, 0])

    def _values(self, x, t):
        return {
            "free_energy": free_energy(x, t),
            "mean_energy": energy(x) + capacity(x) * (t - 300.0),
            "heat_capacity": capacity(x),
        }

    def predict(self, x, quantity, temperature=None, **options):
        return self._values(x, temperature)[quantity]

    def covariance(self, x, quantity="free_energy", other=None, *, temperature=None):
        read = {
            "free_energy": np.array([1.0, temperature]),
            "mean_energy": np.array([1.0, 0.0]),
            "heat_capacity": np.zeros(2),
        }
        weight = (read[quantity] * self.scale**2 * read[other or quantity]).sum()
        return weight * np.outer(self.shape(x), self.shape(x))


GRID = (np.arange(90) + 0.5) * 2 * np.pi / 90


def marginal(t, delta=(0.0, 0.0)):
    """F(x₀; t) = −kT ln ∫ exp(−bA) dx₁ on the grid, by quadrature, relative to nothing."""
    a, b = np.meshgrid(GRID, GRID, indexing="ij")
    x = np.column_stack([a.ravel(), b.ravel()])
    total = free_energy(x, t) + (delta[0] + t * delta[1]) * Exact.shape(x)
    return -BOLTZMANN * t * np.log(np.exp(-total.reshape(90, 90) / (BOLTZMANN * t)).mean(axis=1))


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 2 * np.pi, (400_000, 2))
    weight = np.exp(-(free_energy(x, T) - free_energy(x, T).min()) / (BOLTZMANN * T))
    return x[rng.uniform(size=len(x)) < weight / weight.max()]


@pytest.fixture(scope="module")
def parts(samples):
    bins = np.minimum((samples[:, 0] / (2 * np.pi) * 18).astype(int), 17)
    return decomposition(Exact(), samples, bins, 18, T, rng=np.random.default_rng(1), configurations=1800)


def binned(function):
    """Values on the grid averaged over the bins with the weights of the marginal, and centred."""
    p = np.exp(-marginal(T) / (BOLTZMANN * T)).reshape(18, 5)
    values = (p * function.reshape(18, 5)).sum(1) / p.sum(1)
    return values - (p.sum(1) @ values) / p.sum()


def test_energy_and_entropy_are_derivatives_of_the_marginal_free_energy(parts):
    h = 0.5
    slope = (marginal(T + h) - marginal(T - h)) / (2 * h)
    expected_energy = binned(marginal(T) - T * slope)
    # some 0.02 eV of scatter within a bin
    assert parts.count.min() > 1000
    np.testing.assert_allclose(parts.energy, expected_energy, atol=2e-3)
    p = parts.count / parts.count.sum()
    # within a bin of finite width A is −kT ln p, not the average of F: compare with the binned probability
    probability = np.exp(-marginal(T) / (BOLTZMANN * T)).reshape(18, 5).sum(1)
    expected = -BOLTZMANN * T * np.log(probability / probability.sum())
    np.testing.assert_allclose(parts.free_energy, expected - p @ expected, atol=2e-3)
    np.testing.assert_allclose(parts.free_energy, parts.energy - T * parts.entropy, atol=1e-12)


def test_heat_capacity_is_the_second_derivative(parts):
    h, grid = 2.0, np.exp(-marginal(T) / (BOLTZMANN * T)).reshape(18, 5)
    second = -T * (marginal(T + h) - 2 * marginal(T) + marginal(T - h)) / h**2
    inside = (grid * second.reshape(18, 5)).sum(1) / grid.sum(1)
    # the bin adds the fluctuation of U along x₀ within its width
    np.testing.assert_allclose(parts.heat_capacity, inside, atol=1.5e-5)


def test_bands_carry_the_posterior_through_to_first_order(parts):
    """Against the change of the marginals when the model is changed by one standard deviation of each of its modes."""
    h = 0.5

    def quantities(delta):
        slope = (marginal(T + h, delta) - marginal(T - h, delta)) / (2 * h)
        f = marginal(T, delta)
        return binned(f), binned(f - T * slope), binned(-slope)

    plain = quantities((0.0, 0.0))
    modes = [quantities((Exact.scale[0], 0.0)), quantities((0.0, Exact.scale[1]))]
    sampling_f = BOLTZMANN * T / np.sqrt(parts.count)
    for k, (std, sampling) in enumerate([(parts.free_energy_std, sampling_f), (parts.energy_std, None)]):
        variance = sum((mode[k] - plain[k]) ** 2 for mode in modes)
        found = std**2 - (0.0 if sampling is None else sampling**2)
        # relative to the largest: where modes cancel, few configurations leave a remainder
        np.testing.assert_allclose(
            np.sqrt(np.maximum(found, 0.0)), np.sqrt(variance), atol=0.12 * np.sqrt(variance.max())
        )


def test_bins_with_few_samples_stay_empty(samples):
    x = samples[:2000]
    bins = np.where(np.arange(2000) < 5, 3, 0)
    found = decomposition(Exact(), x, bins, 4, T, rng=np.random.default_rng(0), configurations=50)
    assert np.isfinite(found.energy[0]) and np.isnan(found.energy[1:]).all() and np.isnan(found.heat_capacity_std[3])
    with pytest.raises(DataError, match="no bin holds"):
        decomposition(Exact(), x[:20], np.arange(20), 20, T, rng=np.random.default_rng(0))


def test_total_heat_capacity_adds_the_fluctuation_of_the_energy(samples):
    """Against the temperature derivative of <U> of the whole system, by quadrature."""

    def mean_energy(t):
        a, b = np.meshgrid(GRID, GRID)
        x = np.column_stack([a.ravel(), b.ravel()])
        p = np.exp(-free_energy(x, t) / (BOLTZMANN * t))
        return (p @ (energy(x) + capacity(x) * (t - 300.0))) / p.sum()

    expected = (mean_energy(T + 1.0) - mean_energy(T - 1.0)) / 2.0
    assert total_heat_capacity(Exact(), samples, T) == pytest.approx(expected, rel=0.02)


def test_conditional_averages():
    found = conditional_averages([1.0, 3.0, 5.0], [0, 0, 2], 3)
    assert found.count.tolist() == [2, 0, 1]
    np.testing.assert_array_equal(found.mean, [2.0, np.nan, 5.0])
    np.testing.assert_array_equal(found.error, [1.0, np.nan, np.nan])
    with pytest.raises(DataError):
        conditional_averages([1.0], [3], 3)


def test_a_fitted_model_gives_what_is_needed():
    """The interface of the estimator, on variables in place of positions."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 6, (60, 2))
    t = np.repeat([300.0, 400.0], 30)
    frames = kernelfe.Frames.from_arrays(
        variables=x, temperature=t, labels={"free_energy": free_energy(x, t)}, noise={"free_energy": 1e-3}
    )
    model = kernelfe.FreeEnergyRegressor(optimizer=None).fit(frames)
    found = decomposition(model, x, np.repeat([0, 1], 30), 2, T, rng=rng)
    assert np.isfinite(found.heat_capacity_std).all() and (found.energy_std > 0).all()
