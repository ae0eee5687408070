from __future__ import annotations

import numpy as np
import pytest
import torch

from kernelfe.errors import DataError, KernelfeError
from kernelfe.protocol import FixedTemperature, FreeEnergyModel
from kernelfe.simulate import SamplingError, langevin_init, langevin_step, run_langevin, sample, uniform_masses
from kernelfe.simulate.state import FEMTOSECOND
from kernelfe.units import BOLTZMANN

#: |z| that a correct sampler exceeds once in 16,000 tests.
Z_LIMIT = 4.0


def quiet(**kwargs):
    defaults = {"masses": uniform_masses(2), "timestep": 5.0, "friction": 10.0, "seed": 1, "progress": False}
    return {**defaults, "steps": 600, "stride": 3, "burn_in": 200, **kwargs}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("phase", [0.3, 1.0, 1.8])
def test_harmonic_variance_is_exact_at_any_stable_timestep(well, zscore, phase, dtype):
    """BAOAB: <x²> = kT/k whatever ω·dt < 2; the velocities pay: <v²> = (kT/m)(1 − (ω dt/2)²)."""
    model = well(stiffness=5.0)
    timestep = phase / np.sqrt(5.0 / 12.0) / FEMTOSECOND
    run = run_langevin(model, np.zeros((500, 2, 3)), 300.0, **quiet(timestep=timestep, friction=20.0, dtype=dtype))
    assert abs(zscore((run.positions**2).mean(axis=(2, 3)), model.variance(300.0))) < Z_LIMIT
    state, kinetic = run.state, []
    for _ in range(300):
        langevin_step(model, state)
        kinetic.append(state.kinetic_temperature().numpy())
    assert abs(zscore(np.array(kinetic), 300.0 * (1 - phase**2 / 4))) < Z_LIMIT


def test_temperature_dependent_free_energy_at_one_temperature_per_replica(well, zscore):
    model = well(stiffness=3.0, power=1.5)
    temperature = np.repeat([200.0, 300.0, 600.0], 300)
    run = run_langevin(model, np.zeros((900, 2, 3)), temperature, **quiet())
    assert np.array_equal(run.temperature, temperature)
    for t in (200.0, 300.0, 600.0):
        values = (run.positions[:, temperature == t] ** 2).mean(axis=(2, 3))
        assert abs(zscore(values, model.variance(t))) < Z_LIMIT


def test_averages_do_not_depend_on_masses(well, zscore):
    model = well(stiffness=3.0)
    run = run_langevin(model, np.zeros((500, 2, 3)), 300.0, **quiet(masses=[2.0, 60.0]))
    for bead in range(2):
        assert abs(zscore((run.positions[:, :, bead] ** 2).mean(axis=2), model.variance(300.0))) < Z_LIMIT


def test_double_well_population(double_well, zscore):
    model = double_well(height=0.06, entropy=1e-4, tilt=0.02)
    start = np.zeros((400, 1, 3))
    start[::2, 0, 0], start[1::2, 0, 0] = -0.8, 0.8
    options = quiet(masses=[12.0], steps=3000, stride=10, burn_in=500, friction=5.0)
    run = run_langevin(model, start, 400.0, **options)
    assert abs(zscore(run.positions[:, :, 0, 0] > 0, model.probability_right(400.0))) < Z_LIMIT


def test_kinetic_energy_has_mean_and_spread_of_all_degrees_of_freedom(well, zscore):
    """No motion is removed: 3·beads degrees of freedom, K a χ² variable."""
    model, beads = well(stiffness=0.5), 5
    options = {"masses": uniform_masses(beads), "timestep": 1.0, "friction": 50.0, "seed": 3}
    start = np.random.default_rng(0).normal(scale=model.variance(300.0) ** 0.5, size=(600, beads, 3))
    state = langevin_init(model, start, 300.0, **options)
    seen = []
    for _ in range(300):
        langevin_step(model, state)
        seen.append(state.kinetic_temperature().numpy() / 300.0)
    seen = np.array(seen)
    assert abs(zscore(seen, 1.0)) < Z_LIMIT
    assert abs(zscore((seen - 1) ** 2, 2 / (3 * beads))) < Z_LIMIT


def slope(cold: np.ndarray, hot: np.ndarray) -> float:
    """Maximum-likelihood b_cold − b_hot from ln[p_hot(E)/p_cold(E)] = c + (b_cold − b_hot)·E (logistic regression)."""
    energy = np.concatenate([cold, hot])
    label = np.concatenate([np.zeros(len(cold)), np.ones(len(hot))])
    shift, scale = energy.mean(), energy.std()
    design = np.stack([np.ones_like(energy), (energy - shift) / scale], axis=1)
    coefficients = np.zeros(2)
    for _ in range(30):
        p = 1 / (1 + np.exp(-design @ coefficients))
        hessian = (design * (p * (1 - p))[:, None]).T @ design
        coefficients += np.linalg.solve(hessian, design.T @ (label - p))
    return coefficients[1] / scale


@pytest.mark.parametrize("frozen", [True, False])
def test_two_temperature_ensemble_check_needs_one_hamiltonian(double_well, frozen):
    """Energies at two thermostats differ by exp(−Δb·E) for A(·; T0), not for an A that follows T."""
    model = double_well(height=0.08, entropy=5e-4, tilt=0.0)
    model = FixedTemperature(model, 300.0) if frozen else model
    assert isinstance(model, FreeEnergyModel)
    n = 600
    start = np.zeros((n, 2, 3))
    start[..., 0] = 0.8
    temperature = np.repeat([300.0, 450.0], n // 2)
    options = quiet(steps=1500, stride=50, burn_in=500, friction=5.0)
    energy = run_langevin(model, start, temperature, **options).energies
    cold, hot = energy[:, : n // 2], energy[:, n // 2 :]
    blocks = [slope(cold[:, k::10].ravel(), hot[:, k::10].ravel()) for k in range(10)]
    expected = 1 / (BOLTZMANN * 300.0) - 1 / (BOLTZMANN * 450.0)
    z = (np.mean(blocks) - expected) / (np.std(blocks, ddof=1) / np.sqrt(10))
    assert abs(z) < Z_LIMIT if frozen else abs(z) > 2 * Z_LIMIT


def test_same_seed_same_bits_and_other_seed_other_path(double_well):
    start = np.zeros((7, 2, 3))
    first, again, other = (
        run_langevin(double_well(), start, 300.0, **quiet(steps=50, seed=seed)) for seed in (5, 5, 6)
    )
    assert np.array_equal(first.positions, again.positions) and np.array_equal(first.energies, again.energies)
    assert not np.array_equal(first.positions, other.positions)


def test_continuing_gives_the_bits_of_one_long_run(double_well):
    options = {"masses": uniform_masses(2), "timestep": 5.0, "seed": 2}
    whole = sample(
        double_well(), langevin_init(double_well(), np.zeros((5, 2, 3)), 300.0, **options), steps=40, progress=False
    )
    half = sample(
        double_well(), langevin_init(double_well(), np.zeros((5, 2, 3)), 300.0, **options), steps=20, progress=False
    )
    kept = half.positions.copy()
    rest = sample(double_well(), half.state, steps=20, progress=False)
    assert np.array_equal(whole.positions, np.concatenate([kept, rest.positions]))
    assert np.array_equal(half.positions, kept)


def test_without_friction_energy_is_conserved_to_second_order(double_well):
    def drift(timestep):
        model, options = double_well(), {"masses": [12.0], "friction": 0.0, "seed": 4}
        state = langevin_init(model, np.full((20, 1, 3), 0.3), 300.0, timestep=timestep, **options)
        totals = []
        for _ in range(int(400 / timestep)):
            langevin_step(model, state)
            totals.append((state.energy + 1.5 * BOLTZMANN * state.kinetic_temperature()).numpy())
        return np.ptp(np.array(totals), axis=0).mean()

    coarse, fine = drift(4.0), drift(1.0)
    assert coarse < 0.01
    assert 10 < coarse / fine < 24  # 4² = 16


def test_one_model_call_per_step_and_uniform_temperature_as_a_number(double_well):
    calls = []

    class Counting:
        def energy_and_forces(self, positions, temperature):
            calls.append(temperature)
            return double_well().energy_and_forces(positions, temperature)

    run_langevin(Counting(), np.zeros((3, 2, 3)), np.full(3, 310.0), **quiet(steps=30, burn_in=10))
    assert calls == [310.0] * 41


def test_trajectory_shapes_and_bookkeeping(double_well):
    run = run_langevin(double_well(), np.zeros((3, 2, 3)), 300.0, **quiet(steps=31, stride=3, dtype=torch.float32))
    assert run.positions.shape == (10, 3, 2, 3) and run.positions.dtype == np.float32
    assert run.energies.shape == (10, 3) and len(run) == 10 and run.flat().shape == (30, 2, 3)
    assert run.interval == 15.0 and run.seconds > 0 and run.acceptance is None
    last = double_well().energy_and_forces(torch.from_numpy(run.positions[-1]), 300.0)[0]
    assert np.allclose(run.energies[-1], last.numpy())


def test_start_is_not_modified(double_well):
    start = torch.zeros((3, 2, 3), dtype=torch.float64)
    run_langevin(double_well(), start, 300.0, **quiet(steps=5))
    assert not start.any()


def test_too_large_timestep_is_named(well):
    timestep = 2.2 / np.sqrt(5.0 / 12.0) / FEMTOSECOND
    with pytest.raises(SamplingError, match=r"Try a timestep below") as caught:
        run_langevin(well(stiffness=5.0), np.zeros((4, 2, 3)), 300.0, **quiet(timestep=timestep, burn_in=0, steps=5000))
    error = caught.value
    assert isinstance(error, KernelfeError) and isinstance(error, RuntimeError)
    assert error.replicas and 0 < error.step < 500
    assert len(error.trajectory) == (error.step - 1) // 3 and np.isfinite(error.trajectory.positions).all()


@pytest.mark.parametrize("where", ["energy", "forces"])
def test_non_finite_replica_and_step_are_named(well, where):
    class Failing:
        calls = 0

        def energy_and_forces(self, positions, temperature):
            energy, forces = well().energy_and_forces(positions, temperature)
            self.calls += 1
            if self.calls == 26:  # the first call is the start
                (energy if where == "energy" else forces)[2] = float("nan")
            return energy, forces

    with pytest.raises(SamplingError, match=r"1 of 4 replicas \(2\) at step 25") as caught:
        run_langevin(Failing(), np.zeros((4, 2, 3)), 300.0, **quiet(burn_in=0, stride=4))
    assert caught.value.replicas == (2,) and caught.value.step == 25
    assert len(caught.value.trajectory) == 6


def test_start_outside_the_domain_is_named(well):
    class Hole:
        def energy_and_forces(self, positions, temperature):
            energy, forces = well().energy_and_forces(positions, temperature)
            return energy / 0, forces

    with pytest.raises(SamplingError, match="Start from configurations inside"):
        run_langevin(Hole(), np.ones((2, 2, 3)), 300.0, **quiet())


@pytest.mark.parametrize("interruption", [ValueError("broken"), KeyboardInterrupt()])
def test_interrupted_run_keeps_its_samples(well, interruption):
    class Failing:
        calls = 0

        def energy_and_forces(self, positions, temperature):
            self.calls += 1
            if self.calls == 20:
                raise interruption
            return well().energy_and_forces(positions, temperature)

    with pytest.raises(type(interruption)) as caught:
        run_langevin(Failing(), np.zeros((2, 2, 3)), 300.0, **quiet(burn_in=0, stride=3))
    assert len(caught.value.trajectory) == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"masses": [1.0]}, "masses"),
        ({"masses": [1.0, -1.0]}, "masses"),
        ({"timestep": 0.0}, "timestep"),
        ({"friction": -1.0}, "friction"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": [300.0, 300.0]}, "temperature"),
        ({"positions": np.zeros((2, 3))}, "replicas, beads, 3"),
        ({"positions": np.full((3, 2, 3), np.nan)}, "non-finite"),
        ({"steps": 2}, "stride"),
        ({"stride": 0}, "at least 1"),
        ({"burn_in": -1}, "at least 0"),
    ],
)
def test_wrong_arguments_are_named(well, change, message):
    arguments = {"positions": np.zeros((3, 2, 3)), "temperature": 300.0, **quiet(), **change}
    positions, temperature = arguments.pop("positions"), arguments.pop("temperature")
    with pytest.raises(DataError, match=message):
        run_langevin(well(), positions, temperature, **arguments)


def test_wrong_model_output_is_named(well):
    class Summed:
        def energy_and_forces(self, positions, temperature):
            energy, forces = well().energy_and_forces(positions, temperature)
            return energy.sum(), forces

    with pytest.raises(DataError, match="returned shapes"):
        run_langevin(Summed(), np.zeros((3, 2, 3)), 300.0, **quiet())


def test_a_model_in_single_precision_drives_a_run_in_double(well):
    class Single:
        def energy_and_forces(self, positions, temperature):
            return well().energy_and_forces(positions.float(), temperature)

    single, double = (run_langevin(m, np.ones((3, 2, 3)), 300.0, **quiet(steps=30)) for m in (Single(), well()))
    assert single.positions.dtype == single.energies.dtype == np.float64
    assert np.allclose(single.positions, double.positions, atol=1e-4)
    assert not np.array_equal(single.positions, double.positions)


def test_uniform_masses():
    assert np.array_equal(uniform_masses(3, 10.0), [10.0, 10.0, 10.0])
    for beads, mass in ((0, 1.0), (2, 0.0), (2, np.inf)):
        with pytest.raises(DataError):
            uniform_masses(beads, mass)


def test_options_that_would_not_be_used_are_refused(well):
    state = langevin_init(well(stiffness=3.0), np.zeros((2, 2, 3)), 300.0, masses=uniform_masses(2), timestep=1.0)
    with pytest.raises(DataError, match="its own friction, timestep"):
        sample(well(stiffness=3.0), state, steps=20, timestep=2.0, friction=1.0)
    with pytest.raises(DataError, match="does not use steps: give it to sample"):
        langevin_init(well(stiffness=3.0), np.zeros((2, 2, 3)), 300.0, masses=uniform_masses(2), steps=20)
