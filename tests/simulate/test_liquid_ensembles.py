"""Samplers of liquids: energy is kept, and ensembles of one Hamiltonian at two temperatures differ as they must."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

import kernelfe
from kernelfe import FreeEnergyRegressor, Term
from kernelfe.descriptors import PairSplines, TripletSplines
from kernelfe.protocol import FixedCell, PeriodicFreeEnergyModel
from kernelfe.simulate import langevin_init, langevin_step, run_langevin, run_npt
from kernelfe.units import BOLTZMANN, factor

BEADS, EDGE, T0 = 64, 14.0, 300.0
CELL = EDGE * torch.eye(3, dtype=torch.float64)
MASSES = np.full(BEADS, 18.0)
TEMPERATURES = (300.0, 360.0)


@pytest.fixture(scope="module")
def frozen():
    """Soft spheres, by pairs and triplets, with a core."""
    rng = np.random.default_rng(0)
    sites = np.stack(np.meshgrid(*3 * [np.arange(4)], indexing="ij"), -1).reshape(-1, 3) * (EDGE / 4)
    x = sites + 0.3 * rng.normal(size=(6, BEADS, 3))
    d = x[:, :, None] - x[:, None]
    d -= EDGE * np.rint(d / EDGE)
    inside = np.clip(1.0 - (d**2).sum(-1, keepdims=True) / 6.5**2, 0.0, None)
    frames = kernelfe.Frames.from_arrays(
        x,
        temperature=T0,
        cell=np.tile(CELL.numpy(), (6, 1, 1)),
        labels={"mean_force": (0.05 * inside**4 * d).sum(2)},
        noise={"mean_force": 0.01},
    )
    terms = [
        ("pairs", Term(PairSplines(6.5, start=2.0, spacing=0.5))),
        ("triplets", Term(TripletSplines(4.0, degree=2))),
    ]
    return FreeEnergyRegressor(terms, optimizer=None, progress=False).fit(frames).frozen(), x


@dataclass(frozen=True)
class OneHamiltonian:
    """A(·; T0) of a periodic model at every temperature."""

    model: PeriodicFreeEnergyModel

    def energy_forces_stress(self, positions, cell, temperature):
        return self.model.energy_forces_stress(positions, cell, T0)

    def energy_and_forces(self, positions, temperature):
        raise AssertionError("needs a cell")


def mean_drift(model, x, timestep: float, steps: int, every: int = 20) -> float:
    """Slope of the energy of velocity Verlet, kT per bead and ps."""
    options = {"masses": MASSES, "timestep": timestep, "friction": 0.0, "seed": 1}
    state = langevin_init(model, x, T0, **options)
    energy = []
    for step in range(steps):
        langevin_step(model, state)
        if step % every == 0:
            kinetic = 0.5 * (state.velocities.square().sum((1, 2)) * MASSES[0])
            energy.append((state.energy + kinetic).mean().item())
    t = 1e-3 * timestep * every * np.arange(len(energy))
    return float(np.polyfit(t, energy, 1)[0]) / (BEADS * BOLTZMANN * T0)


@pytest.mark.slow
def test_velocity_verlet_keeps_the_energy(frozen):
    model, x = frozen
    warm = run_langevin(
        FixedCell(model, CELL), x[:4], T0, masses=MASSES, steps=400, stride=400, guard=None, progress=False
    )
    drift = mean_drift(FixedCell(model, CELL), warm.positions[-1], 1.0, 5000)
    assert abs(drift) < 1e-5


def physical(runs, ensemble: str, pressure: float | None = None) -> np.ndarray:
    """Deviations of two runs at TEMPERATURES from their ratio of densities, in standard deviations."""
    pv = pytest.importorskip("physical_validation")
    units = pv.data.UnitData(
        kb=BOLTZMANN,
        **{"energy_str": "eV", "energy_conversion": 96.48533, "length_str": "Å", "length_conversion": 0.1},
        **{"volume_str": "Å^3", "volume_conversion": 1e-3, "temperature_str": "K", "temperature_conversion": 1.0},
        **{"pressure_str": "bar", "pressure_conversion": 1.0, "time_str": "ps", "time_conversion": 1.0},
    )
    data = []
    for temperature, run in zip(TEMPERATURES, runs, strict=True):
        fixed = {"volume": EDGE**3} if pressure is None else {"pressure": pressure}
        volume = np.full(run.energies.size, EDGE**3) if run.cells is None else np.linalg.det(run.cells).ravel()
        data.append(
            pv.data.SimulationData(
                units=units,
                ensemble=pv.data.EnsembleData(ensemble, natoms=BEADS, temperature=temperature, **fixed),
                observables=pv.data.ObservableData(potential_energy=run.energies.ravel(), volume=volume),
            )
        )
    options = {"total_energy": False, "data_is_uncorrelated": True, "bootstrap_seed": 1, "verbosity": 0}
    return np.abs(pv.ensemble.check(*data, **options))


OPTIONS = {"masses": MASSES, "timestep": 5.0, "friction": 5.0, "burn_in": 300, "steps": 1600, "stride": 80}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_constant_volume(frozen):
    model, x = frozen
    fixed = FixedCell(OneHamiltonian(model), CELL)
    start = np.tile(x[:4], (2, 1, 1))
    runs = [run_langevin(fixed, start, t, **OPTIONS, guard=None, progress=False, seed=3) for t in TEMPERATURES]
    assert (physical(runs, "NVT") < 3.0).all()
    wrong = [runs[0], runs[0]]  # the test must be able to fail
    assert (physical(wrong, "NVT") > 3.0).all()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_constant_pressure(frozen):
    model, x = frozen
    start, one = np.tile(x[:4], (2, 1, 1)), OneHamiltonian(model)
    stress = model.energy_forces_stress(torch.from_numpy(x), CELL, T0)[2][:, :3].mean()
    pressure = (BEADS * BOLTZMANN * T0 / EDGE**3 - float(stress)) / factor("bar")
    options = {**OPTIONS, "volume_every": 5, "guard": None, "progress": False, "seed": 4}
    runs = [run_npt(one, start, CELL, t, pressure, **options) for t in TEMPERATURES]
    assert (physical(runs, "NPT", pressure) < 3.0).all()
