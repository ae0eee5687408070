"""Averages over hyperparameters: the sampler against a known density, the moments against their definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import kernelfe
from kernelfe import FreeEnergyRegressor, Term
from kernelfe.analysis import BasinSamples, basin_thermodynamics, boltzmann_weights
from kernelfe.errors import DataError, SolverError
from kernelfe.gp import Query, hyperparameter_ensemble
from kernelfe.gp.fitted.ensemble import importance_sample
from kernelfe.kernels import RBF

from ..systems import molecule, one_term, variables


@pytest.fixture(scope="module")
def fitted():
    return FreeEnergyRegressor(solver="dense").fit(variables(12).replace(noise={}))


@pytest.fixture(scope="module")
def ensemble(fitted):
    return hyperparameter_ensemble(fitted, draws=8, seed=1)


def test_importance_sampling_finds_the_moments_of_a_skew_density():
    """A product of log-gamma densities, started from Laplace's approximation at its maximum."""
    shape = torch.tensor([1.5, 4.0, 20.0], dtype=torch.float64)

    def target(x):  # density of ln g, g ~ Gamma(shape, 1): maximum at ln shape, curvature shape
        return float((shape * x - x.exp()).sum())

    means = []
    for seed in range(40):
        points, weights = importance_sample(
            target, [(shape.log(), torch.diag(shape**-0.5))], np.random.default_rng(seed)
        )
        means.append(weights @ points.numpy())
    expected = torch.digamma(shape).numpy()  # skew: below the maximum
    error = np.std(means, 0, ddof=1) / math.sqrt(40)
    np.testing.assert_array_less(np.abs(np.mean(means, 0) - expected), 4.0 * error + 0.02)
    assert np.mean(means, 0)[0] < math.log(1.5) - 0.2
    with pytest.raises(SolverError, match="no draw"):
        importance_sample(lambda x: -math.inf, [(shape.log(), torch.eye(3).double())], np.random.default_rng(0))


def test_moments_are_those_of_the_mixture(fitted, ensemble):
    x = np.random.default_rng(3).uniform(-1, 1, (3, 2))
    frames = kernelfe.Frames.from_arrays(variables=x, temperature=350.0, parameters={"lambda": 1.0})
    mean, std = ensemble.predict(frames, "mean_energy", return_std=True)
    each = [m.predict(frames, "mean_energy", return_std=True) for m in ensemble.models]
    means, stds = np.stack([e[0] for e in each]), np.stack([e[1] for e in each])
    np.testing.assert_allclose(mean, means.mean(0))
    np.testing.assert_allclose(std**2, (stds**2).mean(0) + means.var(0))
    np.testing.assert_allclose(ensemble.predict(frames, "mean_energy"), mean)
    joint = ensemble.joint(Query(frames, "mean_energy"), Query(frames, "entropy"))
    np.testing.assert_allclose(joint.mean[:3], mean)
    np.testing.assert_allclose(joint.std[:3], std, rtol=1e-6)
    np.testing.assert_allclose(ensemble.covariance(frames, "mean_energy", "entropy"), joint.block(0, 1), rtol=1e-9)
    assert means.std() > 0 and len({float(m.log_evidence_) for m in ensemble.models}) > 3
    draws = joint.sample(4000, seed=0)
    assert draws.std(0) == pytest.approx(joint.std, rel=0.15)
    assert np.mean(draws < joint.mean + joint.std, 0) == pytest.approx(joint.cdf(joint.mean + joint.std), abs=0.04)
    one = joint.combined(np.eye(6)[:2] - np.eye(6)[1:3])
    assert one.std[0] == pytest.approx(np.std(draws[:, 0] - draws[:, 1]), rel=0.15)


def test_the_model_itself_is_left_as_it_was(fitted, ensemble):
    before = fitted.noise_, fitted.fitted_terms(), fitted.log_evidence_
    again = hyperparameter_ensemble(fitted, draws=8, seed=1)
    assert (fitted.noise_, fitted.fitted_terms(), fitted.log_evidence_) == before
    assert [m.log_evidence_ for m in again.models] == [m.log_evidence_ for m in ensemble.models]
    assert 1.0 <= ensemble.effective <= 64.0
    assert all(m.posterior_.labels is fitted.posterior_.labels for m in ensemble.models)


def test_an_ensemble_takes_the_place_of_a_model_for_basins():
    """Averaging adds to every error bar what the ensemble's models disagree about."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1.5, 1.5, (15, 1))
    labels = {"mean_force": -0.3 * x * (x**2 - 1) + 0.03 * rng.normal(size=x.shape), "mean_energy": 0.03 * x[:, 0] ** 2}
    model = FreeEnergyRegressor().fit(
        kernelfe.Frames.from_arrays(variables=x, temperature=np.resize([300.0, 400.0], 15), labels=labels)
    )
    many, grid = hyperparameter_ensemble(model, draws=6), np.linspace(-1.5, 1.5, 31)[:, None]
    basin, found = (grid[:, 0] > 0).astype(int), {}
    for name, one in (("plug-in", model), ("averaged", many)):
        weights = boltzmann_weights(one, grid, 350.0)
        samples = BasinSamples(grid, basin, 350.0, weights, inefficiency=0.0)
        found[name] = basin_thermodynamics(one, samples).difference("free_energy", 0, 1)
    each = []
    for one in many.models:  # law of total variance, with every model's own linearisation
        weights = boltzmann_weights(one, grid, 350.0)
        each.append(
            basin_thermodynamics(one, BasinSamples(grid, basin, 350.0, weights, inefficiency=0.0)).difference(
                "free_energy", 0, 1
            )
        )
    values, stds = np.transpose(each)
    assert found["averaged"][0] == pytest.approx(values.mean(), abs=0.3 * stds.mean())
    assert found["averaged"][1] == pytest.approx(np.sqrt(np.mean(stds**2) + values.var()), rel=0.2)


def test_what_cannot_be_averaged_is_refused(fitted):
    sparse = FreeEnergyRegressor(terms=one_term(), solver="sparse", optimizer=None).fit(molecule(6))
    with pytest.raises(DataError, match="solver='dense'"):
        hyperparameter_ensemble(sparse)
    with pytest.raises(DataError, match="draws=0"):
        hyperparameter_ensemble(fitted, draws=0)
    fixed = Term(None, RBF(lengthscale=1.0), kernelfe.kernels.SecondOrder(400.0, 0.1, 1e-4, 1e-4), fixed=True)
    model = FreeEnergyRegressor(terms=fixed).fit(variables(6))
    with pytest.raises(DataError, match="no hyperparameter"):
        hyperparameter_ensemble(model)
