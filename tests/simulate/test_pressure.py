"""Constant pressure: volumes with known distributions, cells that follow positions, guards and files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from kernelfe.errors import DataError
from kernelfe.protocol import FixedCell
from kernelfe.simulate import DomainGuard, load_state, run_npt, sample
from kernelfe.units import BOLTZMANN, factor

PRESSURE, KT = 3000.0, BOLTZMANN * 300.0
P = PRESSURE * factor("bar")


@dataclass(frozen=True)
class Gas:
    """A = g kT ln V + ½ k Σ R²: V has the density V^(N − g) exp(−P V/kT), without the springs (k = 0)."""

    power: float = 0.0
    spring: float = 0.0
    domain: object = None

    def energy_forces_stress(self, positions, cell, temperature):
        energy = self.power * KT * torch.linalg.det(cell).abs().log()
        energy = energy + 0.5 * self.spring * positions.square().sum((1, 2))
        return energy, -self.spring * positions, positions.new_zeros(len(positions), 6)

    def energy_and_forces(self, positions, temperature):
        raise AssertionError("needs a cell")


def run(model, beads=4, replicas=200, edge=4.0, **options):
    usual = {"steps": 600, "stride": 20, "burn_in": 200, "timestep": 5.0, "guard": None, "progress": False}
    options, cell = usual | options, edge * torch.eye(3, dtype=torch.float64)
    start = torch.zeros(replicas, beads, 3, dtype=torch.float64)
    return run_npt(model, start, cell, 300.0, PRESSURE, masses=[12.0] * beads, volume_every=1, **options)


def volumes(run):
    return np.abs(np.linalg.det(run.cells))


@pytest.mark.parametrize("power", [0.0, 2.5])
def test_volumes_of_an_ideal_gas_and_of_a_free_energy_of_the_volume(power):
    """Gamma distribution of shape N + 1 − g: mean and variance."""
    v, shape = volumes(run(Gas(power))), 5.0 - power
    mean = v.mean(0)
    error = mean.std() / np.sqrt(len(mean))
    assert abs(mean.mean() - shape * KT / P) < 4 * error
    spread = (v - shape * KT / P) ** 2
    error = spread.mean(0).std() / np.sqrt(len(mean))
    assert abs(spread.mean() - shape * (KT / P) ** 2) < 4 * error
    assert error < 0.15 * shape * (KT / P) ** 2


def test_positions_are_scaled_with_the_cell():
    """With springs to the origin of open space, scaled positions take the factor V^N: V is exponential."""
    found = run(Gas(spring=0.02), beads=3, edge=2.4, burn_in=600)
    v = volumes(found)
    mean = v.mean(0)
    assert abs(mean.mean() - KT / P) < 4 * mean.std() / np.sqrt(len(mean))
    square = (found.positions**2).mean((0, 2, 3))
    assert abs(square.mean() - KT / 0.02) < 4 * square.std() / np.sqrt(len(square))
    np.testing.assert_allclose(found.cells, found.cells[..., :1, :1] * np.eye(3))


def test_the_width_of_the_moves_is_fitted_in_the_burn_in():
    options = {"beads": 400, "replicas": 10, "edge": 17.7, "burn_in": 400, "steps": 100}
    assert 0.25 < run(Gas(), **options).acceptance.rate[0] < 0.6
    assert run(Gas(), **options | {"burn_in": 0, "volume_width": 0.001}).acceptance.rate[0] > 0.9


def test_energies_are_those_of_positions_and_cells_and_runs_are_repeatable():
    model = Gas(2.0, 0.1)
    one, two = (run(model, replicas=3, steps=40, seed=5) for _ in range(2))
    np.testing.assert_array_equal(one.cells, two.cells)
    x, cells = (torch.from_numpy(a.reshape(-1, *a.shape[2:])) for a in (one.positions, one.cells))
    np.testing.assert_allclose(model.energy_forces_stress(x, cells, 300.0)[0].view(-1, 3), one.energies, rtol=1e-10)


def test_a_state_with_cells_is_saved_and_goes_on_at_its_volumes(tmp_path):
    found = run(Gas(2.0, 0.1), replicas=3, steps=40)
    found.state.save(tmp_path / "state.npz")
    again = sample(Gas(2.0, 0.1), load_state(tmp_path / "state.npz"), steps=20, stride=20, guard=None, progress=False)
    np.testing.assert_array_equal(again.cells[-1], found.cells[-1])


def test_what_leaves_the_domain_returns_with_its_cell():
    class Small:
        def score(self, x, cell=None):
            volume = torch.linalg.det(cell).abs()
            return torch.where(volume < 120.0, 0.5, 3.0).to(x)

        def culprit(self, x):
            return "its cell is large"

    with pytest.warns(UserWarning, match="set back"):
        found = run(Gas(domain=Small()), replicas=40, steps=200, stride=10, guard=DomainGuard(every=10, share=1.0))
    assert (volumes(found)[9::10] < 120.0).all() and found.set_back.sum() > 0


def test_bad_arguments_are_refused():
    x, cell, gas = np.zeros((1, 2, 3)), np.eye(3), Gas()
    for arguments, message in (
        ((FixedCell(gas, torch.eye(3)), x, cell, 300.0, 1.0), "takes a cell"),
        ((gas, x, np.zeros((3, 3)), 300.0, 1.0), "independent"),
        ((gas, x, np.eye(3)[None].repeat(2, 0), 300.0, 1.0), "cell"),
        ((gas, x, cell, 300.0, np.nan), "pressure"),
    ):
        with pytest.raises(DataError, match=message):
            run_npt(*arguments, masses=[1.0, 1.0], steps=10, progress=False)
