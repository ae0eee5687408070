"""Frozen models of liquids: the numbers of the general path, symmetries, derivatives, lists that leave no trace."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import kernelfe
from kernelfe import FreeEnergyRegressor, Term
from kernelfe.compiled import loading, plain
from kernelfe.descriptors import PairSplines, TripletSplines
from kernelfe.errors import DataError
from kernelfe.gp.core import RepulsiveCore
from kernelfe.gp.fitted.frozen import PeriodicFrozenModel
from kernelfe.gp.fitted.frozen_splines import FrozenSplines
from kernelfe.kernels import SecondOrder
from kernelfe.protocol import FixedCell
from kernelfe.simulate import run_langevin, run_replica_exchange

THERMAL = SecondOrder(300.0, energy=0.05, entropy=1e-4, heat_capacity=1e-4)
KINDS = ["A", "B", "A", "B", "A", "A", "B", "A"]
BONDS = [(0, 1), (2, 3)]
#: Triclinic, left-handed, smaller than twice the cutoff.
CELL = np.array([[0.5, 5.9, 0.0], [5.6, 0.0, 0.4], [1.0, 1.2, 6.1]])
TERMS = [
    ("AA", Term(PairSplines(3.6, ("A", "A"), start=1.2, spacing=0.4), thermal=THERMAL)),
    ("AB", Term(PairSplines(3.2, ("A", "B"), apart=2, start=1.2, spacing=0.4), thermal=THERMAL)),
    ("ABA", Term(TripletSplines(2.8, 1.6, 0.5, 1, ("A", "B", "A")), thermal=THERMAL)),
    ("BAB", Term(TripletSplines(2.9, 1.6, 0.5, 2, ("B", "A", "B")), thermal=THERMAL)),
]


def liquid(frames: int, seed: int) -> kernelfe.Frames:
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*3 * [np.arange(2)], indexing="ij"), -1).reshape(-1, 3) / 2.0
    x = (grid + 0.06 * rng.standard_normal((frames, 8, 3)) + rng.integers(-1, 2, (frames, 8, 3))) @ CELL
    labels = {
        "mean_force": 0.1 * rng.standard_normal((frames, 8, 3)),
        "mean_energy": 0.1 * rng.standard_normal(frames),
    }
    cell = np.broadcast_to(CELL, (frames, 3, 3))
    temperature = np.where(np.arange(frames) % 2, 330.0, 280.0)
    options = {"temperature": temperature, "cell": cell, "labels": labels, "kinds": KINDS, "bonds": BONDS}
    return kernelfe.Frames.from_arrays(x, **options)


@pytest.fixture(scope="module")
def model():
    noise = {"mean_force": 0.1, "mean_energy": 0.05}
    options = {"noise": noise, "optimizer": None, "baseline": RepulsiveCore(largest=3.0, width=0.1), "progress": False}
    return FreeEnergyRegressor(TERMS, **options).fit(liquid(10, 0)).model_


@pytest.fixture(scope="module")
def batch():
    frames = liquid(3, 1)
    return torch.from_numpy(frames.positions.copy()), torch.from_numpy(np.array(frames.cell))


@pytest.fixture(params=["compiled", "plain"])
def loops(request, monkeypatch):
    if request.param == "compiled":
        pytest.importorskip("numba")
    else:
        monkeypatch.setattr(loading, "loops", lambda: plain)


@pytest.mark.parametrize("temperature", [300.0, torch.tensor([280.0, 350.0, 280.0])])
def test_the_numbers_are_those_of_the_general_path(model, batch, loops, temperature):
    frozen = model.frozen()
    assert isinstance(frozen, FrozenSplines)
    found = frozen.energy_forces_stress(*batch, temperature)
    wanted = PeriodicFrozenModel(model).energy_forces_stress(*batch, temperature)
    for one, other in zip(found, wanted, strict=True):
        # the table of the core has an error of 1e-8 of its forces, which are some eV/Å here
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-7, atol=1e-9 * float(other.abs().max()))


def test_forces_and_stress_are_derivatives(model, batch):
    frozen, (x, cell), step = model.frozen(), batch, 1e-4

    def energy(x, cell):
        return float(frozen.energy_forces_stress(x, cell, 300.0)[0][0])

    x, cell = x[:1], cell[:1]
    _, forces, stress = frozen.energy_forces_stress(x, cell, 300.0)
    for bead, axis in ((0, 0), (3, 1), (7, 2)):
        move = torch.zeros_like(x)
        move[0, bead, axis] = step
        slope = (energy(x + move, cell) - energy(x - move, cell)) / (2 * step)
        assert slope == pytest.approx(-float(forces[0, bead, axis]), rel=1e-6, abs=1e-7)
    volume = float(torch.linalg.det(cell[0]).abs())
    for number, (a, b) in enumerate(((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))):
        strain = torch.zeros(3, 3, dtype=x.dtype)
        strain[a, b] += 0.5 * step
        strain[b, a] += 0.5 * step
        up, down = torch.eye(3, dtype=x.dtype) + strain, torch.eye(3, dtype=x.dtype) - strain
        slope = (energy(x @ up, cell @ up) - energy(x @ down, cell @ down)) / (2 * step)
        assert slope == pytest.approx(volume * float(stress[0, number]), rel=1e-6, abs=1e-7)


def test_results_do_not_depend_on_history(model, batch):
    """A list that has seen other configurations, cells and replicas gives what a new one gives."""
    frozen, (x, cell) = model.frozen(), batch
    rng = torch.Generator().manual_seed(0)
    for step in range(12):
        x = x + 0.08 * torch.randn(x.shape, generator=rng, dtype=x.dtype)
        if step % 4 == 3:
            strain = torch.eye(3, dtype=x.dtype) + 0.01 * torch.randn(3, 3, 3, generator=rng, dtype=x.dtype)
            x, cell = x @ strain, cell @ strain
        if step == 6:
            x, cell = x.flip(0), cell.flip(0)
        found = frozen.energy_forces_stress(x, cell, 300.0)
        for one, other in zip(found, model.frozen().energy_forces_stress(x, cell, 300.0), strict=True):
            np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-12, atol=1e-12 * float(other.abs().max()))
    assert 1 < frozen._replicas[0].lists[0].builds < 12


def test_positions_that_are_not_finite_and_cells_without_volume(model, batch):
    frozen, (x, cell) = model.frozen(), batch
    bad = x.clone()
    bad[1, 4, 0] = torch.nan
    energy, forces, stress = frozen.energy_forces_stress(bad, cell, 300.0)
    for part in (energy, forces.flatten(1).sum(1), stress.sum(1)):
        assert torch.isfinite(part).tolist() == [True, False, True]
    np.testing.assert_array_equal(energy[0], frozen.energy_forces_stress(x, cell, 300.0)[0][0])
    with pytest.raises(DataError, match="no volume"):
        frozen.energy_forces_stress(x, 0.0 * cell, 300.0)
    with pytest.raises(DataError, match="8 beads"):
        frozen.energy_forces_stress(x[:, :5], cell, 300.0)


def test_copies_and_more_replicas_than_lists(model, batch, monkeypatch):
    monkeypatch.setattr(FrozenSplines, "most_replicas", 1)
    frozen = model.frozen()
    found = frozen.energy_forces_stress(*batch, 300.0)[0]
    np.testing.assert_allclose(found, copy.deepcopy(frozen).energy_forces_stress(*batch, 300.0)[0], rtol=1e-12)
    np.testing.assert_allclose(found[2:], frozen.energy_forces_stress(batch[0][2:], batch[1][2:], 300.0)[0], rtol=1e-12)


def test_langevin_and_replica_exchange_at_constant_volume(model, batch):
    cell = torch.from_numpy(CELL)
    fixed, start = FixedCell(model.frozen(), cell), batch[0].numpy()
    options = {"masses": np.full(8, 20.0), "timestep": 1.0, "steps": 20, "guard": None, "progress": False}
    run = run_langevin(fixed, start, 300.0, **options)
    energy = PeriodicFrozenModel(model).energy_forces_stress(torch.from_numpy(run.positions[-1]), cell, 300.0)[0]
    np.testing.assert_allclose(run.energies[-1], energy, rtol=1e-7)
    ladder = run_replica_exchange(fixed, start, [280.0, 300.0, 330.0], **options, swap_every=5)
    last = torch.from_numpy(np.stack([t.positions[-1, 0] for t in ladder.trajectories]))
    energy = PeriodicFrozenModel(model).energy_forces_stress(last, cell, torch.tensor([280.0, 300.0, 330.0]))[0]
    np.testing.assert_allclose([t.energies[-1, 0] for t in ladder.trajectories], energy, rtol=1e-7)


def test_calculator_with_stress(model, batch):
    from ase import Atoms

    atoms = Atoms("X8", positions=batch[0][0].numpy(), cell=CELL, pbc=True)
    atoms.calc = model.calculator(300.0, outside="ignore")
    energy, forces, stress = PeriodicFrozenModel(model).energy_forces_stress(batch[0][:1], batch[1][:1], 300.0)
    assert atoms.get_potential_energy() == pytest.approx(float(energy[0]), rel=1e-7)
    np.testing.assert_allclose(atoms.get_forces(), forces[0], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(atoms.get_stress(), stress[0], rtol=1e-6, atol=1e-9)
