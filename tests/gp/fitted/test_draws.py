"""Draws of functions from the posterior, against its exact means and covariances."""

from __future__ import annotations

import numpy as np
import pytest

from kernelfe import FreeEnergyRegressor, Term
from kernelfe.errors import DataError
from kernelfe.gp import Query, Sparse, pathwise_draws
from kernelfe.kernels import RBF, DotProduct, Matern52, Periodic

from ..systems import LAMBDA, THERMAL, molecule, two_terms, variables

N = 300
QUANTITIES = ("free_energy", "mean_force", "heat_capacity", "thermal_response_force")


def fitted(frames, terms, solver="dense", **more):
    return FreeEnergyRegressor(terms, solver=solver, optimizer=None, baseline=False, **more).fit(frames)


def in_variables(kernel=None, parameters=()):
    return Term(None, kernel or RBF(lengthscale=(0.8, 1.3)), THERMAL, parameters)


CASES = {
    "molecule": lambda: (fitted(molecule(16), two_terms()), molecule(6, seed=5)),
    "variables": lambda: (fitted(variables(30), in_variables(None, (LAMBDA,))), variables(6, seed=9)),
    "Matern": lambda: (fitted(variables(30), in_variables(Matern52(1.5))), variables(8, seed=9)),
    "periodic": lambda: (fitted(variables(30), in_variables(Periodic(1.0, 4.0))), variables(8, seed=9)),
    "polynomial": lambda: (
        fitted(variables(30), in_variables(DotProduct(3, lengthscale=2.0) + RBF(1.5))),
        variables(8, seed=9),
    ),
    "sparse": lambda: (fitted(molecule(16), two_terms(), Sparse(inducing=12)), molecule(6, seed=5)),
    "sparse gradients": lambda: (
        fitted(variables(30), in_variables(), Sparse(inducing=8, gradients=True)),
        variables(8, seed=9),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_means_and_covariances_are_those_of_the_posterior(case):
    model, test = CASES[case]()
    draws = pathwise_draws(model, N, seed=1, features=512)
    for quantity in QUANTITIES:
        exact = model.joint(Query(test, quantity, 370.0))
        found = draws.predict(test, quantity, temperature=370.0, reference=None).reshape(N, -1)
        # every principal direction of the covariance is an independent test of mean and variance
        values, vectors = np.linalg.eigh(exact.covariance)
        kept = values > 1e-9 * values[-1]
        z = ((found - exact.mean) @ vectors)[:, kept] / np.sqrt(values[kept])
        assert np.abs(z.mean(0) * np.sqrt(N)).max() < 4.5
        # √(2/N) = 0.08 from the draws, some 0.05 from the features; directions of little variance are worst
        weight = values[kept] / values[kept].sum()
        assert float(weight @ z.var(0)) == pytest.approx(1.0, abs=0.3), quantity
        std = draws.std(test, quantity, temperature=370.0, reference=None).reshape(-1)
        ratio = std / exact.std
        assert np.sqrt(np.mean(ratio**2)) == pytest.approx(1.0, abs=0.13), quantity


@pytest.mark.slow
def test_error_bars_of_entropy_and_heat_capacity_within_a_few_per_cent():
    """Relative to a zero that the data fix, with many draws and features."""
    model, test = fitted(variables(30), in_variables()), variables(8, seed=9)
    draws = pathwise_draws(model, 2000, seed=2, features=2048)
    for quantity in ("entropy", "heat_capacity"):
        _, std = model.predict(test, quantity, temperature=370.0, return_std=True)
        ratio = draws.std(test, quantity, temperature=370.0) / std
        # 1/√(2·2000) = 1.6 %, and the features
        assert np.abs(ratio - 1.0).max() < 0.06
        assert np.sqrt(np.mean((ratio - 1.0) ** 2)) < 0.03


def test_draws_are_functions():
    """Force = −gradient, heat capacity = T ∂S/∂T = ∂U/∂T, for each draw; independent of what else is read."""
    model, test = fitted(variables(20), in_variables(None, (LAMBDA,))), variables(5, seed=9)
    draws = pathwise_draws(model, 4, seed=3, features=64)
    x, lam, h = np.asarray(test.variables), {"lambda": np.asarray(test.parameters["lambda"])}, 1e-4

    def read(quantity, at=x, t=370.0):
        return draws.predict(at, quantity, temperature=t, parameters=lam, reference=None)

    force = read("mean_force")
    for column in range(2):
        step = h * np.eye(2)[column]
        slope = (read("free_energy", x + step) - read("free_energy", x - step)) / (2 * h)
        assert np.allclose(-slope, force[:, :, column], rtol=1e-6, atol=1e-6 * np.abs(force).max())
    capacity = read("heat_capacity")
    by_energy = (read("mean_energy", t=370.1) - read("mean_energy", t=369.9)) / 0.2
    by_entropy = 370.0 * (read("entropy", t=370.1) - read("entropy", t=369.9)) / 0.2
    assert np.allclose(by_energy, capacity, rtol=1e-5, atol=1e-6 * np.abs(capacity).max())
    assert np.allclose(by_entropy, capacity, rtol=1e-5, atol=1e-6 * np.abs(capacity).max())


def test_many_temperatures_at_once_are_those_one_by_one():
    model, test = fitted(molecule(8), two_terms()), molecule(6, seed=5)
    draws = pathwise_draws(model, 3, features=32)
    temperatures = np.linspace(310.0, 520.0, 6)
    for quantity in ("entropy", "mean_force"):
        together = draws.predict(test, quantity, temperature=temperatures)
        for k, t in enumerate(temperatures):
            alone = draws.predict(test[k : k + 1], quantity, temperature=t)
            assert np.allclose(together[:, k], alone[:, 0], rtol=1e-9, atol=1e-12 * np.abs(together).max())


def test_the_same_seed_gives_the_same_functions():
    model, test = fitted(molecule(8), two_terms()), molecule(4, seed=5)
    one, same, other = (pathwise_draws(model, 3, seed, 32).predict(test) for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.allclose(one, other)


def test_references_as_in_predict():
    model, test = fitted(molecule(8), two_terms()), molecule(4, seed=5)
    draws = pathwise_draws(model, 200, features=64)
    assert len(draws) == 200
    assert np.allclose(draws.predict(test, temperature=350.0).mean(1), 0.0, atol=1e-12)
    relative = draws.predict(test, temperature=350.0, reference=2)
    assert np.abs(relative[:, 2]).max() < 1e-12
    mean = model.predict(test, temperature=350.0, reference=2)
    std = draws.std(test, temperature=350.0, reference=2)
    assert np.abs((relative.mean(0) - mean)[[0, 1, 3]] / (std[[0, 1, 3]] / 200**0.5)).max() < 4.0


def test_baseline_and_learned_noise():
    frames, test = molecule(16, noise=False), molecule(5, seed=5)
    model = FreeEnergyRegressor(two_terms(), solver="dense", optimizer=None).fit(frames)
    draws = pathwise_draws(model, N, features=512)
    mean, std = model.predict(test, "mean_force", temperature=370.0, return_std=True)
    found = draws.predict(test, "mean_force", temperature=370.0)
    assert np.abs((found.mean(0) - mean) / (std / N**0.5)).max() < 4.5
    assert np.sqrt(np.mean((draws.std(test, "mean_force", temperature=370.0) / std) ** 2)) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("bad", [{"n": 0}, {"n": 2.5}, {"features": 0}, {"seed": -1}, {"seed": True}])
def test_numbers_that_make_no_sense_are_refused(bad):
    model = fitted(molecule(6), two_terms())
    with pytest.raises(DataError, match=f"pathwise_draws: {next(iter(bad))}="):
        pathwise_draws(model, **bad)
