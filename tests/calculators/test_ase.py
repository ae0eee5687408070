from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import FiniteDifferenceCalculator, calculate_numerical_forces
from ase.md.langevin import Langevin
from ase.optimize import BFGS

from kernelfe.calculators import FreeEnergyCalculator
from kernelfe.calculators.ase import EXTRA_RESULTS
from kernelfe.errors import DataError
from kernelfe.protocol import FixedCell, FixedTemperature, ObservableModel, PeriodicFreeEnergyModel
from kernelfe.simulate import run_langevin
from kernelfe.units import BOLTZMANN


@dataclass
class Springs:
    """A = (u − T s) Σ_pairs ½(r − 1)² + Σ_beads ½ pin R²: mean energy, entropy and heat capacity are known."""

    energy: float = 4.0
    entropy: float = 5e-3
    pin: float = 0.3
    kinds: tuple[str, ...] | None = ("C", "N", "C")
    calls: int = 0

    def shapes(self, x):
        i, j = torch.triu_indices(x.shape[1], x.shape[1], 1)
        r = torch.linalg.vector_norm(x[:, i] - x[:, j], dim=-1)
        return 0.5 * (r - 1).square().sum(1), 0.5 * self.pin * x.square().sum((1, 2))

    def energy_and_forces(self, positions, temperature):
        self.calls += 1
        x = positions.detach().clone().requires_grad_(True)
        pairs, pins = self.shapes(x)
        energy = (self.energy - temperature * self.entropy) * pairs + pins
        return energy.detach(), -torch.autograd.grad(energy.sum(), x)[0]


class Observing(Springs):
    def observables(self, positions, temperature, keys, return_std=False, cell=None):
        pairs, pins = self.shapes(positions)
        values = {
            "mean_energy": self.energy * pairs + pins,
            "entropy": self.entropy * pairs,
            "heat_capacity": 0 * pairs,
            "free_energy": (self.energy - temperature * self.entropy) * pairs + pins,
            "mean_force": torch.zeros_like(positions),
            "thermal_response_force": torch.zeros_like(positions),
        }
        found = {key: values[key] for key in keys}
        return {**found, **{key + "_std": 0.1 + 0 * found[key] for key in keys}} if return_std else found


@dataclass
class Fluid:
    """A = (T/300) Σ_pairs exp(−r²/2) over nearest images."""

    def energy_forces_stress(self, positions, cell, temperature):
        x = positions.detach().clone().requires_grad_(True)
        strain = torch.zeros(len(x), 3, 3, dtype=x.dtype, requires_grad=True)
        deform = torch.eye(3, dtype=x.dtype) + 0.5 * (strain + strain.mT)
        box = cell @ deform
        i, j = torch.triu_indices(x.shape[1], x.shape[1], 1)
        d = (x @ deform)[:, i] - (x @ deform)[:, j]
        d = d - torch.round(d @ torch.linalg.inv(box)).detach() @ box
        energy = temperature / 300.0 * torch.exp(-0.5 * d.square().sum(-1)).sum(1)
        gradient, virial = torch.autograd.grad(energy.sum(), (x, strain))
        v = virial / torch.linalg.det(cell).abs()[:, None, None]
        voigt = torch.stack([v[:, 0, 0], v[:, 1, 1], v[:, 2, 2], v[:, 1, 2], v[:, 0, 2], v[:, 0, 1]], dim=1)
        return energy.detach(), -gradient, voigt

    def energy_and_forces(self, positions, temperature):
        huge = 1e6 * torch.eye(3, dtype=positions.dtype).expand(len(positions), 3, 3)
        return self.energy_forces_stress(positions, huge, temperature)[:2]


def molecule(symbols="CNC"):
    return Atoms(symbols, positions=[[0, 0, 0], [1.2, 0.1, 0], [1.0, 1.4, 0.3]])


def test_energy_is_free_energy_and_forces_match_finite_differences():
    atoms = molecule()
    calc = atoms.calc = FreeEnergyCalculator(Springs(), 350.0)
    x = torch.from_numpy(atoms.positions)[None]
    expected, _ = Springs().energy_and_forces(x, 350.0)
    assert atoms.get_potential_energy() == float(expected[0])
    assert atoms.get_potential_energy(force_consistent=True) == calc.results["free_energy"] == calc.results["energy"]
    numeric = calculate_numerical_forces(atoms, eps=1e-4)
    assert np.allclose(atoms.get_forces(), numeric, atol=1e-7) and np.abs(numeric).max() > 0.1


@pytest.mark.parametrize("change", [lambda c, t: setattr(c, "temperature", t), lambda c, t: c.set(temperature=t)])
def test_changing_the_temperature_empties_the_cache(change):
    atoms = molecule()
    calc = atoms.calc = FreeEnergyCalculator(Springs(), 300.0, extras=())
    cold, forces = atoms.get_potential_energy(), atoms.get_forces()
    change(calc, 500.0)
    assert calc.results == {} and calc.temperature == 500.0
    fresh = FreeEnergyCalculator(Springs(), 500.0)
    assert atoms.get_potential_energy() == fresh.get_property("energy", atoms) != cold
    assert not np.allclose(atoms.get_forces(), forces)


def test_results_are_cached_until_something_changes():
    model, atoms = Springs(), molecule()
    atoms.calc = FreeEnergyCalculator(model, 300.0)
    atoms.get_potential_energy(), atoms.get_forces(), atoms.get_potential_energy()
    atoms.calc.set(temperature=300.0)
    atoms.get_forces()
    assert model.calls == 1
    atoms.positions[0, 0] += 0.1
    moved = atoms.get_potential_energy()
    assert model.calls == 2 and moved == FreeEnergyCalculator(model, 300.0).get_property("energy", atoms)
    other = molecule()
    atoms.calc.calculate(other, ["energy"])  # called directly, without ASE's check of the state
    assert atoms.calc.results["energy"] == FreeEnergyCalculator(model, 300.0).get_property("energy", other)


def test_results_do_not_alias_the_cache():
    atoms = molecule()
    atoms.calc = FreeEnergyCalculator(Springs(), 300.0)
    atoms.get_forces()[:] = 0
    assert np.abs(atoms.get_forces()).max() > 0.1


def test_extra_results_on_request_and_with_every_evaluation():
    atoms, model = molecule(), Observing()
    assert isinstance(model, ObservableModel)
    calc = atoms.calc = FreeEnergyCalculator(model, 400.0)
    energy = atoms.get_potential_energy()
    assert set(calc.results) == {"energy", "free_energy", "forces"}
    mean_energy, entropy = (calc.get_property(name, atoms) for name in ("mean_energy", "entropy"))
    assert np.isclose(energy, mean_energy - 400.0 * entropy, atol=1e-14) and entropy > 0
    assert calc.get_property("energy_std", atoms) == pytest.approx(0.1)
    assert calc.get_property("forces_std", atoms).shape == (3, 3)
    assert model.calls == 1
    calc = atoms.calc = FreeEnergyCalculator(model, 400.0, extras=("mean_energy", "entropy_std"))
    atoms.get_forces()
    assert calc.results["mean_energy"] == mean_energy and calc.results["entropy_std"] == pytest.approx(0.1)
    calc.temperature = 300.0
    atoms.get_forces()
    assert calc.results["mean_energy"] == mean_energy  # u does not depend on T here, but was recomputed
    assert set(EXTRA_RESULTS) < set(calc.implemented_properties)


def test_a_model_without_observables_offers_none():
    atoms = molecule()
    atoms.calc = FreeEnergyCalculator(Springs(), 300.0)
    assert atoms.calc.implemented_properties == ["energy", "free_energy", "forces"]
    for name in ("stress", "entropy"):
        with pytest.raises(PropertyNotImplementedError):
            atoms.calc.get_property(name, atoms)
    with pytest.raises(DataError, match="offers none"):
        FreeEnergyCalculator(Springs(), 300.0, extras=("entropy",))
    with pytest.raises(DataError, match="enthalpy"):
        FreeEnergyCalculator(Observing(), 300.0, extras=("enthalpy",))


def fluid():
    cell = [[4.0, 0, 0], [0.5, 4.2, 0], [0.2, -0.3, 4.5]]
    positions = np.random.default_rng(0).uniform(-3, 7, size=(5, 3))
    return Atoms("Ar5", positions=positions, cell=cell, pbc=True)


def test_periodic_forces_and_stress_match_finite_differences():
    atoms = fluid()
    assert isinstance(Fluid(), PeriodicFreeEnergyModel)
    calc = atoms.calc = FreeEnergyCalculator(Fluid(), 450.0)
    numeric = FiniteDifferenceCalculator(calc, eps_disp=1e-4, eps_strain=1e-5)
    assert np.allclose(atoms.get_forces(), numeric.get_property("forces", atoms.copy()), atol=1e-7)
    stress = atoms.get_stress()
    assert np.allclose(stress, numeric.get_property("stress", atoms.copy()), atol=1e-8) and np.abs(stress).max() > 1e-3
    cluster = atoms.copy()
    cluster.pbc = False
    assert not np.isclose(calc.get_property("energy", cluster), atoms.get_potential_energy())
    with pytest.raises(PropertyNotImplementedError):  # no cell, no stress
        calc.get_property("stress", cluster)


def test_fixed_cell_is_the_calculator_s_energy():
    atoms = fluid()
    atoms.calc = FreeEnergyCalculator(Fluid(), 450.0)
    model = FixedCell(Fluid(), torch.from_numpy(np.array(atoms.cell)))
    energy, forces = model.energy_and_forces(torch.from_numpy(atoms.positions).expand(2, 5, 3), 450.0)
    assert np.allclose(energy.numpy(), atoms.get_potential_energy()) and np.allclose(forces[1], atoms.get_forces())
    run = run_langevin(model, atoms.positions[None], 450.0, masses=[20.0] * 5, timestep=2.0, steps=10, progress=False)
    assert np.isfinite(run.energies).all()


def test_wrong_beads_and_cells_are_named():
    cases = [
        (Atoms("CN"), "3 beads, the Atoms object 2"),
        (molecule("CCN"), "bead 1 is 'C', the model needs 'N'"),
        (Atoms("CNC", positions=molecule().positions, cell=[9, 9, 9], pbc=True), "atoms.pbc = False"),
        (Atoms("CNC", positions=np.full((3, 3), np.nan)), "non-finite"),
    ]
    for atoms, message in cases:
        atoms.calc = FreeEnergyCalculator(Springs(), 300.0)
        with pytest.raises(DataError, match=message):
            atoms.get_potential_energy()
    slab = fluid()
    slab.pbc = (True, True, False)
    slab.calc = FreeEnergyCalculator(Fluid(), 300.0)
    with pytest.raises(DataError, match="all three directions"):
        slab.get_potential_energy()


def test_kinds_come_from_the_array_and_unknown_symbols_are_accepted():
    named = molecule("XXX")
    named.calc = FreeEnergyCalculator(Springs(kinds=("CA", "N", "CB")), 300.0)
    named.get_potential_energy()
    named.set_array("kinds", np.array(["CA", "CB", "N"]))
    with pytest.raises(DataError, match="bead 1 is 'CB'"):
        FreeEnergyCalculator(Springs(kinds=("CA", "N", "CB")), 300.0).get_property("energy", named)
    free = molecule("CNO")
    free.calc = FreeEnergyCalculator(Springs(kinds=None), 300.0)
    assert np.isfinite(free.get_potential_energy())


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), "300", None, np.array([300.0, 400.0])])
def test_wrong_temperature_is_named(temperature):
    with pytest.raises(DataError, match="positive"):
        FreeEnergyCalculator(Springs(), temperature)
    calc = FreeEnergyCalculator(Springs(), 300.0)
    with pytest.raises(DataError, match="positive"):
        calc.temperature = temperature
    assert calc.temperature == 300.0


def test_wrong_model_and_parameter_are_named():
    with pytest.raises(DataError, match="energy_and_forces"):
        FreeEnergyCalculator(object(), 300.0)
    with pytest.raises(DataError, match="no parameter temprature"):
        FreeEnergyCalculator(Springs(), 300.0).set(temprature=350.0)


def test_optimizer_finds_the_minimum():
    atoms = molecule()
    atoms.calc = FreeEnergyCalculator(Springs(pin=0.0), 300.0)
    assert BFGS(atoms, logfile=None).run(fmax=1e-6, steps=200)
    assert np.allclose(atoms.get_all_distances()[np.triu_indices(3, 1)], 1.0, atol=1e-5)


def test_ase_langevin_with_free_centre_of_mass_samples_the_model():
    """Harmonic pins only: <R²> = kT/pin per coordinate; the trap is fixcm=True, which is not the model's fault."""
    n = 300
    atoms = Atoms("Ar" * n, positions=np.zeros((n, 3)))
    atoms.set_masses(np.full(n, 10.0))
    atoms.calc = FreeEnergyCalculator(FixedTemperature(Pins(), 300.0), 300.0)
    dynamics = Langevin(
        atoms, 4 * units.fs, temperature_K=300.0, friction=0.02 / units.fs, fixcm=False, rng=np.random.default_rng(0)
    )
    dynamics.run(400)
    seen = []
    dynamics.attach(lambda: seen.append((atoms.positions**2).mean(axis=1)), interval=3)
    dynamics.run(2000)
    means = np.mean(seen, axis=0)
    z = (means.mean() - BOLTZMANN * 300.0 / 2.0) / (means.std(ddof=1) / np.sqrt(n))
    assert abs(z) < 4


class Pins:
    def energy_and_forces(self, positions, temperature):
        return positions.square().sum((1, 2)), -2.0 * positions
