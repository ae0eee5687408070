"""The frozen model of samplers equals predict, for every solver, kernel and mixture of temperatures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kernelfe import Frames, FreeEnergyRegressor, Sparse, Term
from kernelfe.descriptors import Distances, PairDistances
from kernelfe.errors import DataError
from kernelfe.kernels import RBF, Matern52
from kernelfe.protocol import FixedCell, FreeEnergyModel, PeriodicFreeEnergyModel

from ..systems import (
    LAMBDA,
    THERMAL,
    beads,
    molecule,
    one_term,
    stationary_in_both,
    stationary_terms,
    two_terms,
    variables,
)

SAME = 1e-9
X = beads(6, np.random.default_rng(5))
SOLVERS = {"dense": "dense", "values": Sparse(inducing=9), "jets": Sparse(inducing=6, gradients=True)}


def fit(terms, solver="dense", frames=None, baseline=None):
    frames = molecule() if frames is None else frames
    return FreeEnergyRegressor(terms=terms, solver=solver, optimizer=None, baseline=baseline).fit(frames)


def agree(model, frozen, x, temperature, **more):
    energy, forces = frozen.energy_and_forces(torch.from_numpy(x), temperature)
    t = temperature.numpy() if isinstance(temperature, torch.Tensor) else temperature
    expected = model.predict(x, "free_energy", temperature=t, reference=None, **more)
    np.testing.assert_allclose(energy.numpy(), expected, rtol=0, atol=SAME * np.abs(expected).max())
    alone = frozen.energies(torch.from_numpy(x), temperature)
    np.testing.assert_allclose(alone.numpy(), expected, rtol=0, atol=SAME * np.abs(expected).max())
    expected = model.predict(x, "mean_force", temperature=t, **more)
    np.testing.assert_allclose(forces.numpy(), expected, rtol=0, atol=SAME * np.abs(expected).max())


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kernel", [RBF(lengthscale=1.5), Matern52(lengthscale=(1.0, 1.2, 1.4, 1.6, 1.8, 2.0))])
@pytest.mark.parametrize("baseline", [None, False])
def test_molecules(solver, kernel, baseline):
    model = fit(one_term(kernel), SOLVERS[solver], baseline=baseline)
    frozen = model.frozen()
    assert isinstance(frozen, FreeEnergyModel) and not isinstance(frozen, PeriodicFreeEnergyModel)
    agree(model, frozen, X, 350.0)
    agree(model, frozen, X, 425.0)
    agree(model, frozen, X, torch.linspace(290, 510, 6, dtype=torch.float64))
    agree(model, frozen, X[:1], torch.tensor([333.0], dtype=torch.float64))


@pytest.mark.parametrize("solver", SOLVERS)
def test_several_terms_with_several_environments(solver):
    model = fit(two_terms(), SOLVERS[solver])
    agree(model, model.frozen(), X, 350.0)
    agree(model, model.frozen(), X, torch.linspace(290, 510, 6, dtype=torch.float64))


def test_variables_and_parameters():
    term = Term(None, RBF(lengthscale=1.0), THERMAL, (LAMBDA,))
    model = fit(term, frames=variables())
    x = np.random.default_rng(2).uniform(-1, 1, (5, 2))
    frozen = model.frozen(parameters={"lambda": 0.8})
    agree(model, frozen, x, 350.0, parameters={"lambda": 0.8})
    agree(model, frozen, x, torch.linspace(290, 510, 5, dtype=torch.float64), parameters={"lambda": 0.8})
    with pytest.raises(DataError, match="lambda"):
        model.frozen()
    with pytest.raises(DataError, match="lambda"):
        model.frozen(parameters={"mu": 1.0})


@pytest.mark.parametrize("solver", SOLVERS)
def test_stationary_in_temperature_and_parameters(solver):
    model = fit(stationary_terms(), SOLVERS[solver])
    agree(model, model.frozen(), X, torch.linspace(290, 510, 6, dtype=torch.float64))
    with pytest.raises(DataError, match="range="):
        model.frozen().energy_and_forces(torch.from_numpy(X), 530.0)
    model = fit(stationary_in_both(), SOLVERS[solver], frames=variables())
    x = np.random.default_rng(2).uniform(-1, 1, (5, 2))
    agree(model, model.frozen(parameters={"lambda": 0.8}), x, 350.0, parameters={"lambda": 0.8})
    with pytest.raises(DataError, match="range="):
        model.predict(x, "mean_force", parameters={"lambda": 2.5})


def test_inputs_are_left_alone_and_outputs_are_new():
    frozen = fit(one_term()).frozen()
    x = torch.from_numpy(X)
    before = x.clone()
    energy, forces = frozen.energy_and_forces(x, 350.0)
    energy2, forces2 = frozen.energy_and_forces(x, 350.0)
    assert (
        torch.equal(x, before) and energy.data_ptr() != energy2.data_ptr() and forces.data_ptr() != forces2.data_ptr()
    )
    assert not energy.requires_grad and torch.equal(energy, energy2)
    half = frozen.energy_and_forces(x.float(), 350.0)[0]
    assert half.dtype == torch.float64
    with pytest.raises(DataError, match="4 beads"):
        frozen.energy_and_forces(x[:, :3], 350.0)


@pytest.mark.parametrize("solver", ["dense", Sparse(inducing=6, gradients=True)])
def test_no_pair_within_the_cutoff_is_no_nan(solver):
    term = Term(PairDistances(cutoff=0.5), RBF(lengthscale=1.0), THERMAL)
    model = fit([("near", term), ("all", one_term())], solver, baseline=False)
    frozen = model.frozen()
    agree(model, frozen, X, 350.0)
    energy, forces = frozen.energy_and_forces(torch.from_numpy(X), 350.0)
    assert bool(torch.isfinite(energy).all()) and bool(torch.isfinite(forces).all())


def periodic(n=8, seed=0, labels=True):
    rng = np.random.default_rng(seed)
    x = beads(n, rng) + 9.0 * rng.integers(-1, 2, (n, 4, 1)) * np.array([1.0, 0.0, 0.0])
    cell = np.repeat(9.0 * np.eye(3)[None], n, 0)
    values = {"mean_force": 0.1 * rng.normal(size=x.shape), "mean_energy": 0.1 * rng.normal(size=n)}
    more = {"labels": values, "noise": {"mean_force": 0.02, "mean_energy": 0.02}} if labels else {}
    return Frames.from_arrays(x, temperature=np.resize([300.0, 400.0], n), cell=cell, **more)


def test_periodic_models_give_stress():
    terms = [("molecule", one_term()), ("pairs", Term(PairDistances(cutoff=4.0), Matern52(lengthscale=1.2), THERMAL))]
    for solver in ("dense", Sparse(inducing=10)):
        model = fit(terms, solver, frames=periodic())
        frozen, test = model.frozen(), periodic(4, seed=3, labels=False)
        assert isinstance(frozen, PeriodicFreeEnergyModel)
        found = frozen.energy_forces_stress(
            *(torch.from_numpy(np.array(q)) for q in (test.positions, test.cell, test.temperature))
        )
        for value, quantity in zip(found, ("free_energy", "mean_force", "stress"), strict=True):
            expected = model.predict(test, quantity, reference=None)
            np.testing.assert_allclose(value.numpy(), expected, rtol=0, atol=SAME * np.abs(expected).max())
        x, cell = torch.from_numpy(np.array(test.positions)), torch.from_numpy(np.array(test.cell[0]))
        with pytest.raises(DataError, match="FixedCell"):
            frozen.energies(x, 350.0)
        energy, _ = FixedCell(frozen, cell).energy_and_forces(x, 350.0)
        np.testing.assert_allclose(
            energy, model.predict(test, "free_energy", temperature=350.0, reference=None), atol=1e-9
        )
        with pytest.raises(DataError, match="FixedCell"):
            frozen.energy_and_forces(x, 350.0)
    with pytest.raises(DataError, match="with a cell"):
        model.predict(np.array(test.positions), "mean_force")
    with pytest.raises(DataError, match="no cell"):
        model.predict(Frames.from_arrays(X, temperature=300.0), "mean_force")
    with pytest.raises(DataError, match="without a cell"):
        fit(Term(Distances(), RBF(1.0), THERMAL)).predict(test, "mean_force")


def test_runs_of_equal_temperature_are_what_single_temperatures_are():
    frozen = fit([("a", one_term()), ("near", Term(PairDistances(cutoff=4.0), RBF(lengthscale=1.0), THERMAL))]).frozen()
    x = torch.from_numpy(np.concatenate([beads(1, np.random.default_rng(k)) for k in range(80)]))
    for counts in ((40, 0, 40), (13, 40, 27)):
        t = torch.repeat_interleave(torch.tensor([300.0, 400.0, 500.0], dtype=torch.float64), torch.tensor(counts))
        together = frozen.energy_and_forces(x, t)
        for kelvin in (300.0, 400.0, 500.0):
            alone = frozen.energy_and_forces(x[t == kelvin], kelvin)
            for a, b in zip(together, alone, strict=True):
                torch.testing.assert_close(a[t == kelvin], b, rtol=0, atol=1e-10)
