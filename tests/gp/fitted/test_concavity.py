"""C ≥ 0 at virtual points: the mode and the mean of truncated normals, and models conditioned on them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from kernelfe import Dense, FreeEnergyRegressor, Iterative, Sparse, Term, load
from kernelfe.datasets import EliminatedMode
from kernelfe.errors import DataError, SolverError
from kernelfe.gp import enforce_concavity
from kernelfe.gp.fitted.concavity import projection, truncation_sites, violation_probability
from kernelfe.gp.solvers.iterative.posterior import IterativePosterior
from kernelfe.kernels import SecondOrder, StationaryHeatCapacity, TemperatureKernel

SYSTEM = EliminatedMode(dimension=1)
GRID = np.linspace(-1.3, 1.3, 21)[:, None]
BETWEEN = np.linspace(-1.25, 1.25, 160)[:, None]
T = 350.0
#: Hyperparameters are given: few noisy frames, and heat capacities that come out negative.
THERMAL = SecondOrder(T, energy=0.1, entropy=3e-4, heat_capacity=1e-4)
CHANGING = StationaryHeatCapacity(TemperatureKernel(150.0, (250.0, 450.0), tolerance=1e-4), T, 0.1, 3e-4, 1e-4)
FRAMES = 50
SOLVERS = {"dense": Dense(), "sparse": Sparse(inducing=60), "iterative": Iterative(tolerance=1e-11)}


def noisy(seed, thermal=THERMAL, solver="dense", n=FRAMES):
    """Single frames at two temperatures."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1.3, 1.3, (n, 1))
    frames = SYSTEM.frames(x, np.resize([300.0, 400.0], n), ["mean_force", "mean_energy"], rng=rng)
    frames = frames.replace(parameters={}, noise={"mean_force": 0.03, "mean_energy": 0.02})
    return FreeEnergyRegressor(terms=Term(thermal=thermal), solver=SOLVERS[solver], optimizer=None).fit(frames)


def heat(model, x, t=T, **more):
    return model.predict(x, "heat_capacity", temperature=t, **more)


TRUTH = SYSTEM.frames(BETWEEN, T, ["heat_capacity"]).labels["heat_capacity"]


@pytest.fixture(scope="module")
def negative():
    """A model that predicts negative heat capacities."""
    model = next(m for m in map(noisy, range(20)) if heat(m, BETWEEN).min() < -1e-5)
    return model


def test_probability_of_violation(negative):
    mean, std = heat(negative, BETWEEN, return_std=True)
    found = negative.concavity_violation(BETWEEN, temperature=T)
    np.testing.assert_allclose(found, norm.cdf(0, mean, std), rtol=1e-12)
    assert found.shape == (160,) and found.max() > 0.5
    np.testing.assert_array_equal(violation_probability([-1.0, 0.0, 2.0], [0.0, 0.0, 0.0]), [1.0, 0.0, 0.0])


@pytest.mark.parametrize("estimate", ["mode", "mean"])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("thermal", [THERMAL, CHANGING], ids=["second order", "stationary"])
def test_violations_vanish_and_errors_do_not_grow(thermal, solver, estimate):
    """Over data sets: none at the virtual points, fewer in between, no larger errors of C."""
    at = np.tile([280.0, 350.0, 420.0], len(GRID)) if thermal is CHANGING else T
    points = np.repeat(GRID, 3, 0) if thermal is CHANGING else GRID
    before, after, negative_before, negative_after = [], [], [], []
    for seed in range(12):
        model = noisy(seed, thermal, solver)
        if heat(model, points, at).min() >= 0:
            continue
        new = enforce_concavity(model, points, temperature=at, estimate=estimate)
        assert heat(new, points, at).min() >= 0
        c, d = heat(model, BETWEEN), heat(new, BETWEEN)
        before.append(((c - TRUTH) ** 2).mean())
        after.append(((d - TRUTH) ** 2).mean())
        negative_before.append((c < 0).mean())
        negative_after.append((d < -1e-7).mean())
    assert len(before) >= 3
    assert np.mean(negative_before) > 0.05 and np.mean(negative_after) < 0.2 * np.mean(negative_before)
    assert np.mean(after) <= np.mean(before)
    if estimate == "mode":
        assert all(b <= a * (1 + 1e-6) for a, b in zip(before, after, strict=True))


def test_error_bars(negative):
    """Those of the model for the mode; for the mean smaller ones, with fewer violations announced."""
    _, std = heat(negative, BETWEEN, return_std=True)
    _, same = heat(enforce_concavity(negative, GRID, temperature=T), BETWEEN, return_std=True)
    np.testing.assert_allclose(same, std, rtol=1e-5)
    inner = enforce_concavity(negative, GRID, temperature=T, estimate="mean")
    mean, small = heat(inner, BETWEEN, return_std=True)
    assert (small < std).all() and mean.min() > 0
    assert inner.concavity_violation(BETWEEN, temperature=T).max() < 0.2
    z = (mean - TRUTH) / small
    assert np.sqrt((z**2).mean()) < 2.0


@pytest.mark.parametrize("estimate", ["mode", "mean"])
@pytest.mark.parametrize("solver", ["dense", "sparse"])
def test_the_new_model_is_a_model(solver, estimate, tmp_path):
    """It samples, is saved and predicts every quantity of one free energy; the old one is as it was."""
    model = next(m for s in range(20) if heat(m := noisy(s, solver=solver), GRID).min() < -1e-5)
    old = heat(model, BETWEEN)
    new = enforce_concavity(model, GRID, temperature=T, estimate=estimate)
    np.testing.assert_array_equal(heat(model, BETWEEN), old)
    assert new.log_evidence_ == model.log_evidence_ == new.posterior_.log_evidence
    h = 1.0
    a = [new.predict(BETWEEN, temperature=t, reference=None) for t in (T - h, T, T + h)]
    np.testing.assert_allclose(-T * (a[0] - 2 * a[1] + a[2]) / h**2, heat(new, BETWEEN), rtol=0, atol=1e-8)
    energy, forces = new.frozen().energy_and_forces(torch.from_numpy(BETWEEN), T)
    np.testing.assert_allclose(energy, a[1], rtol=0, atol=1e-9)
    np.testing.assert_allclose(forces, new.predict(BETWEEN, "mean_force", temperature=T), rtol=0, atol=1e-8)
    new.save(tmp_path / "new.kfe")
    again = load(tmp_path / "new.kfe")
    for found, expected in zip(heat(again, BETWEEN, return_std=True), heat(new, BETWEEN, return_std=True), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    twice = enforce_concavity(again, GRID, temperature=T, estimate=estimate)
    assert heat(twice, GRID).min() >= 0


def test_sparse_with_all_environments_is_dense(negative):
    """The same update of weights as of labels."""
    seed = next(s for s in range(20) if heat(noisy(s), BETWEEN).min() < -1e-5)
    sparse = FreeEnergyRegressor(
        terms=Term(thermal=THERMAL), solver=Sparse(inducing=1000, gradients=True), optimizer=None
    )
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1.3, 1.3, (FRAMES, 1))
    frames = SYSTEM.frames(x, np.resize([300.0, 400.0], FRAMES), ["mean_force", "mean_energy"], rng=rng)
    sparse.fit(frames.replace(parameters={}, noise={"mean_force": 0.03, "mean_energy": 0.02}))
    dense = noisy(seed)
    for estimate in ("mode", "mean"):
        a, b = (enforce_concavity(m, GRID, temperature=T, estimate=estimate) for m in (dense, sparse))
        for found, expected in zip(heat(b, BETWEEN, return_std=True), heat(a, BETWEEN, return_std=True), strict=True):
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_what_is_concave_stays_as_it_is():
    model = noisy(0)
    far = next(m for m in map(noisy, range(30)) if heat(m, GRID).min() > 0)
    new = enforce_concavity(far, GRID, temperature=T)
    np.testing.assert_array_equal(heat(new, BETWEEN), heat(far, BETWEEN))
    with pytest.raises(DataError, match="virtual points"):
        enforce_concavity(model, np.zeros((0, 1)), temperature=T)
    with pytest.raises(DataError, match="'mode' or 'mean'"):
        enforce_concavity(model, GRID, temperature=T, estimate="median")


def test_the_mode_cannot_move_away_from_what_is_allowed(negative):
    """In the metric of the posterior the truth is nearer than before, whatever truth with C ≥ 0."""
    new = enforce_concavity(negative, GRID, temperature=T)
    covariance = negative.covariance(GRID, "heat_capacity", temperature=T)
    old, moved = heat(negative, GRID), heat(new, GRID)
    truth = SYSTEM.frames(GRID, T, ["heat_capacity"]).labels["heat_capacity"]

    def distance(c):
        return (c - truth) @ np.linalg.pinv(covariance, rcond=1e-10) @ (c - truth)

    assert distance(moved) < distance(old)


def random_normal(seed, n=6):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(n, n)) * np.geomspace(1, 0.05, n)
    covariance = root @ root.T
    scale = np.sqrt(np.diag(covariance))
    return rng.normal(-0.3, 1.0, n), covariance / np.outer(scale, scale)


@given(st.integers(0, 10_000))
def test_the_projection_meets_the_conditions_of_optimality(seed):
    """f = m + G α ≥ 0, α ≥ 0, f·α = 0 (Karush, Kuhn & Tucker): necessary and sufficient."""
    mean, covariance = random_normal(seed)
    tau, nu = projection(mean, covariance)
    active = tau > 0
    f, multipliers = mean.copy(), np.zeros_like(mean)
    if active.any():
        y, noise = nu[active] / tau[active], np.diag(1 / tau[active])
        cross = covariance[:, active]
        weights = np.linalg.solve(cross[active] + noise, y - mean[active])
        f, multipliers[active] = mean + cross @ weights, weights
    size = 1.0 + np.abs(multipliers).max()
    assert (multipliers >= -1e-9 * size).all() and (f >= -1e-7 * size).all()
    assert np.abs(f * multipliers).max() < 1e-5 * size**2


def test_propagation_finds_the_moments_of_truncated_normals():
    """Exactly for one constraint, and to a few per cent of a standard deviation for several (by rejection)."""
    for m in (-8.0, -1.0, 0.5, 6.0):
        (tau,), (nu,) = truncation_sites(np.array([m]), np.eye(1))
        ratio = norm.pdf(m) / norm.cdf(m)
        precision = 1.0 + tau
        assert 1 / precision == pytest.approx(1 - ratio * (m + ratio), rel=1e-6)
        assert (m + nu) / precision == pytest.approx(m + ratio, rel=1e-6)
    rng = np.random.default_rng(0)
    for correlation in (0.2, 0.5, 0.9):
        mean = rng.uniform(-0.7, 0.8, 4)
        covariance = correlation ** np.abs(np.subtract.outer(np.arange(4), np.arange(4)))
        x = rng.multivariate_normal(mean, covariance, 400_000)
        x = x[(x >= 0).all(1)]
        assert len(x) > 2000
        tau, nu = truncation_sites(mean, covariance)
        inverse = np.linalg.inv(covariance)
        posterior = np.linalg.inv(inverse + np.diag(tau))
        found = posterior @ (inverse @ mean + nu)
        assert np.abs(found - x.mean(0)).max() < 0.06
        np.testing.assert_allclose(np.sqrt(np.diag(posterior)), x.std(0), rtol=0.08)


def test_hopeless_constraints_are_errors():
    with pytest.raises(SolverError, match="fewer"):
        projection(np.array([-1.0, -1.0]), np.array([[1.0, -1.0], [-1.0, 1.0]]))


STATIONARY = pytest.param(CHANGING, marks=pytest.mark.slow, id="stationary")


@pytest.mark.parametrize("estimate", ["mode", "mean"])
@pytest.mark.parametrize("thermal", [pytest.param(THERMAL, id="second order"), STATIONARY])
def test_an_iterative_model_stays_iterative(thermal, estimate, tmp_path):
    """With the answer of the dense one, also after a second time, and from a file."""
    seed = next(s for s in range(20) if heat(noisy(s, thermal), GRID).min() < -1e-5)
    exact, model = (noisy(seed, thermal, solver) for solver in ("dense", "iterative"))
    for _ in range(2):
        exact, model = (enforce_concavity(m, GRID, temperature=T, estimate=estimate) for m in (exact, model))
        assert isinstance(model.posterior_, IterativePosterior) and isinstance(model.solver_, Iterative)
        assert heat(model, GRID).min() >= 0
        pairs = zip(*(heat(m, BETWEEN, return_std=True) for m in (model, exact)), strict=True)
        for found, wanted in pairs:
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())
    model.save(tmp_path / "model.kfe")
    again = load(tmp_path / "model.kfe")
    assert isinstance(again.posterior_, IterativePosterior) and again.concave_
    np.testing.assert_allclose(heat(again, BETWEEN), heat(model, BETWEEN), rtol=0, atol=1e-12)
    std = heat(model, BETWEEN[::20], return_std=True)[1]
    np.testing.assert_allclose(heat(again, BETWEEN[::20], return_std=True)[1], std, rtol=1e-6)
