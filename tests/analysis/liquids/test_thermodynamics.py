from __future__ import annotations

import numpy as np
import pytest

from kernelfe.analysis import liquids
from kernelfe.errors import DataError
from kernelfe.units import BOLTZMANN, factor

from .systems import TILTED

BAR = factor("bar")


def correlated(frames, phi, rng, columns=1):
    """Stationary normal series (frames, columns) of variance 1."""
    x = np.empty((frames, columns))
    x[0] = rng.normal(size=columns)
    for i in range(1, frames):
        x[i] = phi * x[i - 1] + np.sqrt(1.0 - phi**2) * rng.normal(size=columns)
    return x


def coverage(z):
    z = np.abs(np.asarray(z))
    return np.mean(z < 1.0), np.mean(z < 1.96)


def test_pressure_of_an_ideal_gas():
    volume = abs(np.linalg.det(TILTED))
    found = liquids.pressure(300.0, TILTED, 50, virials=np.zeros(20))
    assert found.value * BAR * volume == pytest.approx(50 * BOLTZMANN * 300.0)
    assert found.error == 0.0


def test_pressure_from_stress_and_virials_is_the_same():
    rng = np.random.default_rng(0)
    cells = TILTED * np.exp(0.02 * rng.normal(size=(30, 1, 1)))
    stress = rng.normal(size=(30, 6)) * 1e-3
    volumes = np.abs(np.linalg.det(cells))
    w = -volumes * stress[:, :3].sum(1) / 3.0
    one, two = liquids.pressure(280.0, cells, 8, stress=stress), liquids.pressure(280.0, cells, 8, virials=w)
    assert one.value == pytest.approx(two.value) and one.error == pytest.approx(two.error)
    excess = -stress[:, :3].sum(1) / 3.0
    assert liquids.pressure(280.0, cells, 8, excess=excess).value == pytest.approx(one.value)
    full = np.zeros((30, 3, 3))
    full[:, range(3), range(3)] = stress[:, :3]
    assert liquids.pressure(280.0, cells, 8, stress=full).value == pytest.approx(one.value)
    kinetic = 8 * BOLTZMANN * 280.0 / volumes
    assert one.value * BAR == pytest.approx(np.mean(kinetic - stress[:, :3].sum(1) / 3.0))


def test_bad_pressures_are_refused():
    for given in (
        {},
        {"stress": np.zeros((2, 6)), "virials": np.zeros(2)},
        {"stress": np.zeros((2, 4))},
        {"excess": 1.0},
        {"stress": np.eye(3)},
    ):
        with pytest.raises(DataError):
            liquids.pressure(300.0, TILTED, 5, **given)
    with pytest.raises(DataError, match="virials of frame 1"):
        liquids.pressure(300.0, TILTED, 5, virials=[0.0, np.nan])
    with pytest.raises(DataError, match="cell is missing"):
        liquids.pressure(300.0, None, 5, virials=np.zeros(2))


def test_density_of_water():
    found = liquids.density(18.6206 * np.eye(3)[None].repeat(4, 0), np.full(216, 18.01528))
    assert found.value == pytest.approx(1.0008, abs=2e-4)


def test_compressibility_of_an_ideal_gas():
    """At constant pressure an ideal gas of N beads has p(V) ~ V^N exp(−bPV), κ = 1/P (N + 1 for N)."""
    rng, pressure, t, beads = np.random.default_rng(0), 1000.0 * BAR, 300.0, 40
    v = rng.gamma(beads + 1, BOLTZMANN * t / pressure, size=4000)
    found = liquids.isothermal_compressibility(v, t)
    assert abs(found.value - 1e-3) < 4 * found.error and found.error < 5e-5
    with pytest.raises(DataError, match="constant pressure"):
        liquids.isothermal_compressibility(np.ones(9), t)


def springs(t, frames, rng, modes=60, phi=0.0):
    """Energies of harmonic springs: ⟨U⟩ = modes·kT/2, C = modes·k/2."""
    x = correlated(frames, phi, rng, modes)
    return 0.5 * BOLTZMANN * t * (x**2).sum(1)


def test_heat_capacity_of_springs():
    rng = np.random.default_rng(0)
    energies = {t: springs(t, 400, rng) for t in (280.0, 310.0, 340.0)}
    exact = 30.0 * BOLTZMANN
    by_difference = liquids.heat_capacity_by_differences(energies)
    assert by_difference.temperature.tolist() == [295.0, 325.0]
    by_fluctuation = liquids.heat_capacity_by_fluctuations(energies)
    for found in (by_difference, by_fluctuation):
        assert (np.abs(found.value - exact) < 3.5 * found.error).all()
        assert (found.error < 0.35 * exact).all()
    middle = by_fluctuation.at(295.0)
    assert middle.value == pytest.approx(by_fluctuation.value[:2].mean())
    assert by_fluctuation.at(280.0).value == by_fluctuation.value[0]
    with pytest.raises(DataError, match="outside"):
        by_difference.at(400.0)


def test_too_few_frames_for_fluctuations_are_warned_of(caplog):
    rng = np.random.default_rng(0)
    liquids.heat_capacity_by_fluctuations({300.0: springs(300.0, 60, rng, phi=0.6)})
    assert "heat capacity at 300 K" in caplog.text and "independent frames" in caplog.text
    with pytest.raises(DataError, match="frame 1 at 300 K"):
        liquids.heat_capacity_by_fluctuations({300.0: [0.0, np.nan, 1.0, 2.0, 3.0]})
    with pytest.raises(DataError, match="two temperatures"):
        liquids.heat_capacity_by_differences({300.0: [1.0, 2.0]})


def test_observed_heat_capacity_of_coupled_springs():
    """60 modes of beads and 30 that were eliminated: k/2 of each."""
    rng, t = np.random.default_rng(1), 310.0
    u = springs(t, 2000, rng) + 15.0 * BOLTZMANN * t
    found = liquids.observed_heat_capacity(u, np.full(2000, 15.0 * BOLTZMANN), t)
    assert abs(found.total.value - 45.0 * BOLTZMANN) < 3.5 * found.total.error
    assert found.total.value == pytest.approx(found.conditional.value + found.between.value)
    assert found.conditional.error == 0.0


@pytest.mark.slow
def test_errors_of_variances_cover_the_truth(caplog):
    """Compressibilities and heat capacities of correlated series: both are variances."""
    rng, z, heat = np.random.default_rng(0), [], []
    for _ in range(600):
        x = correlated(300, 0.5, rng)[:, 0]
        found = liquids.isothermal_compressibility(1000.0 + 5.0 * x, 300.0)
        z.append((found.value - 25.0 / 1000.0 / (BOLTZMANN * 300.0) * BAR) / found.error)
        capacity = liquids.heat_capacity_by_fluctuations({300.0: x})
        heat.append((capacity.value[0] - 1.0 / (BOLTZMANN * 9e4)) / capacity.error[0])
    for found in (z, heat):
        one, two = coverage(found)
        assert one == pytest.approx(0.68, abs=0.06) and two == pytest.approx(0.94, abs=0.03)
        assert abs(np.mean(found)) < 0.35


def walkers(seed, frames=200, beads=12, d=0.25, spacing=0.5):
    rng = np.random.default_rng(seed)
    return np.cumsum(rng.normal(scale=np.sqrt(2 * d * spacing), size=(frames, beads, 3)), axis=0)


def test_diffusion_of_brownian_walkers():
    found = [liquids.diffusion_coefficient(walkers(seed), 0.5, fit=(0.5, 3.0)) for seed in range(120)]
    z = [(one.coefficient.value - 0.25) / one.coefficient.error for one in found]
    assert abs(np.mean([one.coefficient.value for one in found]) - 0.25) < 0.003
    one, two = coverage(z)
    assert one == pytest.approx(0.68, abs=0.09) and two == pytest.approx(0.94, abs=0.04)
    assert np.mean([one.exponent for one in found]) == pytest.approx(1.0, abs=0.02)
    np.testing.assert_allclose(np.mean([f.msd for f in found], 0), 1.5 * found[0].lags, rtol=0.02)


def test_diffusion_of_replicas_drift_and_default_range():
    x = np.concatenate([walkers(seed) for seed in range(6)])
    series = np.repeat(np.arange(6), 200)
    found = liquids.diffusion_coefficient(x, 0.5, series=series)
    assert abs(found.coefficient.value - 0.25) < 4 * found.coefficient.error
    assert found.lags[0] == pytest.approx(2.0) and found.lags[-1] == pytest.approx(10.0)
    drift = x + 0.3 * np.arange(1200)[:, None, None]
    still = liquids.diffusion_coefficient(drift, 0.5, series=series, remove_drift=True)
    assert abs(still.coefficient.value - 0.25 * 11 / 12) < 4 * still.coefficient.error


def test_wrapped_trajectories_are_refused_and_unwrapped():
    x = walkers(3)
    cell = TILTED
    wrapped = (x @ np.linalg.inv(cell) % 1.0) @ cell
    with pytest.raises(DataError, match="wrapped"):
        liquids.diffusion_coefficient(wrapped, 0.5, cell=cell)
    whole = liquids.unwrapped(wrapped, cell)
    np.testing.assert_allclose(whole - whole[0], x - x[0], atol=1e-9)
    with pytest.raises(DataError, match="frame 1:"):
        liquids.unwrapped(np.stack([np.zeros((2, 3)), np.full((2, 3), 2.9)]), np.diag([6.0, 6.0, 6.0]))
    with pytest.raises(DataError, match="too short"):
        liquids.diffusion_coefficient(x, 0.5, fit=(1.0, 90.0))


def test_finite_size_correction_of_water():
    """In SI units; about 3e-6 cm²/s for L = 25 Å."""
    exact = 2.837297 * 1.380649e-23 * 298.0 / (6 * np.pi * 0.9e-3 * 25e-10) * 1e20 * 1e-12
    assert liquids.finite_size_correction(298.0, 0.9, 25.0) == pytest.approx(exact, rel=1e-6)
