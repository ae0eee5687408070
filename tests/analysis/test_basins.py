"""Basins of a fitted model against exact quadrature of functions drawn from its posterior."""

from __future__ import annotations

import numpy as np
import pytest

from kernelfe import Frames, FreeEnergyRegressor, Term
from kernelfe.analysis import BASIN_QUANTITIES, BasinSamples, basin_draws, basin_thermodynamics, boltzmann_weights
from kernelfe.errors import DataError
from kernelfe.gp import Query
from kernelfe.kernels import RBF, SecondOrder
from kernelfe.units import BOLTZMANN

T = 350.0
GRID = np.linspace(-1.6, 1.6, 81)[:, None]
LEFT = (GRID[:, 0] > 0).astype(int)
TERM = Term(None, RBF(lengthscale=0.8), SecondOrder(400.0, energy=0.1, entropy=2e-4, heat_capacity=1e-4))


def truth(x, t):
    """u, s, c of a double well, and A, U, −∇A."""
    u, s, c = 0.15 * (x**2 - 1) ** 2 + 0.02 * x, 2e-4 * np.tanh(2 * x), 1e-4 * np.cos(x)
    tau = t - 400.0 - t * np.log(t / 400.0)
    force = -(0.6 * x * (x**2 - 1) + 0.02 - t * 4e-4 / np.cosh(2 * x) ** 2 - 1e-4 * np.sin(x) * tau)
    return u - t * s + c * tau, u + c * (t - 400.0), force


def fitted(noise=1.0, n=60, seed=0):
    rng = np.random.default_rng(seed)
    x, t = rng.uniform(-1.6, 1.6, n), np.resize([300.0, 400.0, 500.0], n)
    _, energy, force = truth(x, t)
    levels = {"mean_force": 0.05 * noise, "mean_energy": 0.02 * noise}
    labels = {
        "mean_force": (force + levels["mean_force"] * rng.normal(size=n))[:, None],
        "mean_energy": energy + levels["mean_energy"] * rng.normal(size=n),
    }
    frames = Frames.from_arrays(variables=x[:, None], temperature=t, labels=labels, noise=levels)
    return FreeEnergyRegressor(terms=TERM, optimizer=None, temperature=T).fit(frames)


@pytest.fixture(scope="module")
def model():
    return fitted()


def grid_samples(model, t=T):
    return BasinSamples(GRID, LEFT, t, boltzmann_weights(model, GRID, t), inefficiency=0.0)


def quadrature(a, temperatures):
    """F, U, S, C of both basins at the middle of three temperatures from A on the grid at all three, (…, basins).

    F is relative to the whole; its derivatives by T are of F itself, so that U and C are those of the basin.
    """
    low, t, high = temperatures
    free = np.stack(
        [
            np.stack(
                [-BOLTZMANN * x * np.log(np.exp(-a[k][..., LEFT == s] / (BOLTZMANN * x)).sum(-1)) for s in (0, 1)], -1
            )
            for k, x in enumerate(temperatures)
        ]
    )
    whole = -BOLTZMANN * t * np.log(np.exp(-a[1] / (BOLTZMANN * t)).sum(-1, keepdims=True))
    slope, second = (free[2] - free[0]) / (high - low), (free[2] - 2 * free[1] + free[0]) / (t - low) ** 2
    f, u = free[1] - whole, free[1] - t * slope
    return {"free_energy": f, "energy": u, "entropy": (u - f) / t, "heat_capacity": -t * second}


def test_values_are_derivatives_of_the_basins_free_energy(model):
    around = (T - 1.0, T, T + 1.0)
    a = [model.predict(GRID, "free_energy", temperature=t, reference=None) for t in around]
    expected, found = quadrature(a, around), basin_thermodynamics(model, grid_samples(model))
    for name in BASIN_QUANTITIES:
        assert getattr(found, name)[0] == pytest.approx(expected[name], rel=1e-4, abs=1e-8), name
    assert found.population.sum() == pytest.approx(1.0)


def test_errors_are_those_of_functions_drawn_from_the_posterior():
    """Quadrature of every drawn function, differentiated by T numerically: shares no formula with the linearisation.

    A well determined model: beyond the first order there is nothing.
    """
    model = fitted(noise=0.1)
    around = (T - 10.0, T, T + 10.0)  # closer, and the second difference sees the rounding of the draws
    joint = model.joint(*(Query(GRID, "free_energy", t) for t in around))
    draws = joint.sample(4000, seed=1).reshape(4000, 3, -1)
    exact = quadrature(np.moveaxis(draws, 1, 0), around)
    found = basin_thermodynamics(model, grid_samples(model))
    for name in BASIN_QUANTITIES:
        # 4000 draws determine a standard deviation to 1.1 %
        assert found.std(name)[0] == pytest.approx(exact[name].std(0), rel=0.06), name
        value, std = found.difference(name, 0, 1)
        change = exact[name][:, 1] - exact[name][:, 0]
        assert std == pytest.approx(change.std(), rel=0.06), name
        assert value == pytest.approx(change.mean(), abs=0.2 * std + 1e-12), name


def test_covariance_between_temperatures(model):
    """The change of ΔF with temperature has a smaller error than independent errors would give."""
    found = basin_thermodynamics(model, [grid_samples(model, 340.0), grid_samples(model, 360.0)])
    weights = np.array([[1.0, -1.0], [-1.0, 1.0]])  # ΔF(360) − ΔF(340)
    value, std = found.contrast("free_energy", weights)
    single = [found.difference("free_energy", 0, 1, t)[1] for t in (340.0, 360.0)]
    assert std < 0.3 * np.hypot(*single)
    # −20 K times the entropy difference in between
    middle = basin_thermodynamics(model, grid_samples(model))
    slope, error = middle.difference("entropy", 0, 1)
    assert value == pytest.approx(-20.0 * slope, rel=1e-2)
    assert std == pytest.approx(20.0 * error, rel=2e-2)


def test_draws_agree_with_the_first_order_and_go_beyond_it(model):
    samples = grid_samples(model)
    linear, drawn = basin_thermodynamics(model, samples), basin_draws(model, samples, 2000, seed=3)
    for name in ("population", *BASIN_QUANTITIES):
        assert getattr(drawn, name).std(0) == pytest.approx(linear.std(name)[0], rel=0.15), name
    assert drawn.population.sum(1) == pytest.approx(1.0)
    assert np.median(drawn.effective_fraction) > 0.5
    bad = fitted(noise=6.0, n=12)
    draws = basin_draws(bad, grid_samples(bad), 500)
    assert (draws.population > 0).all() and (draws.population < 1).all()  # a first order would leave 0…1


@pytest.mark.slow
def test_fewer_configurations_and_sampling_error(model):
    rng = np.random.default_rng(0)
    weights = boltzmann_weights(model, GRID, T)
    n = 4000
    index = rng.choice(len(GRID), n, p=weights)
    found = basin_thermodynamics(model, BasinSamples(GRID[index], LEFT[index], T), configurations=200)
    exact = basin_thermodynamics(model, grid_samples(model))
    posterior = np.sqrt(np.diag(found.posterior))
    assert posterior == pytest.approx(np.sqrt(np.diag(exact.posterior)), rel=0.15)
    # the sampling error against repeated samples
    repeats = {name: [] for name in BASIN_QUANTITIES}
    for _ in range(60):
        index = rng.choice(len(GRID), n, p=weights)
        one = basin_thermodynamics(model, BasinSamples(GRID[index], LEFT[index], T), configurations=4)
        for name in BASIN_QUANTITIES:
            repeats[name].append(getattr(one, name)[0])
    said = np.sqrt(np.diag(found.sampling)).reshape(4, 2)
    for k, name in enumerate(BASIN_QUANTITIES):
        # a standard deviation from 60 repeats scatters by 9 %
        assert np.std(repeats[name], axis=0, ddof=1) == pytest.approx(said[k], rel=0.35), name


def test_samples_in_no_basin_count_to_the_whole(model):
    basin = np.where(np.abs(GRID[:, 0]) < 0.3, -1, LEFT)
    samples = BasinSamples(GRID, basin, T, boltzmann_weights(model, GRID, T), inefficiency=0.0)
    found = basin_thermodynamics(model, samples)
    weights = boltzmann_weights(model, GRID, T)
    assert found.population[0] == pytest.approx([weights[basin == k].sum() for k in (0, 1)])
    draws = basin_draws(model, samples, 1500)
    assert draws.population.std(0) == pytest.approx(found.std("population")[0], rel=0.15)


def test_bad_samples_are_refused(model):
    with pytest.raises(DataError, match="each needs at least two"):
        basin_thermodynamics(model, BasinSamples(GRID, np.where(GRID[:, 0] == 0, 2, LEFT), T))
    with pytest.raises(DataError, match="same basins"):
        basin_thermodynamics(model, [grid_samples(model), BasinSamples(GRID, 0 * LEFT, T)])
    with pytest.raises(DataError, match="as many basins"):
        basin_thermodynamics(model, BasinSamples(GRID, LEFT[1:], T))
    with pytest.raises(DataError, match="weights must be"):
        basin_thermodynamics(model, BasinSamples(GRID, LEFT, T, -np.ones(len(GRID))))
    found = basin_thermodynamics(model, grid_samples(model))
    with pytest.raises(DataError, match="a basin has"):
        found.std("volume")
    with pytest.raises(DataError, match="give one of"):
        found.difference("energy", 0, 1, 400.0)
    with pytest.raises(DataError, match="weights have shape"):
        found.contrast("energy", [1.0, -1.0])
    for basin in (5, -1, 0.5):  # -1 would quietly be the last one
        with pytest.raises(DataError, match="numbered from 0"):
            found.difference("energy", 0, basin)
    with pytest.raises(DataError, match="inefficiency"):
        basin_thermodynamics(model, BasinSamples(GRID, LEFT, T, None, np.nan))
    for wrong in ({"temperature": -3.0}, {"temperature": np.nan}, {"volume": -1.0}, {"volume": np.ones(3)}):
        with pytest.raises(DataError, match=next(iter(wrong))):
            boltzmann_weights(model, GRID, **({"temperature": T} | wrong))
