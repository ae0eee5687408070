from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress

import kernelfe
from kernelfe.calculators import FittedModel, FreeEnergyCalculator
from kernelfe.descriptors import PairDistances
from kernelfe.errors import DataError
from kernelfe.gp import Sparse
from kernelfe.kernels import RBF
from kernelfe.protocol import FixedCell, ObservableModel
from kernelfe.simulate import run_langevin, uniform_masses

TRIANGLE = np.array([[0.0, 0.0, 0.0], [1.2, 0.1, 0.0], [1.0, 1.4, 0.3]])


def spring_forces(x, temperature):
    """Forces of A = (4 − 5e-3 T) Σ_pairs ½(r − 1)²."""
    d = x[:, :, None] - x[:, None]
    r = np.linalg.norm(d, axis=-1, keepdims=True) + np.eye(3)[None, :, :, None]
    return -((4 - 5e-3 * temperature)[:, None, None, None] * (r - 1) * d / r).sum(axis=2)


@pytest.fixture(scope="module")
def regressor():
    x = TRIANGLE + np.random.default_rng(0).normal(scale=0.1, size=(40, 3, 3))
    temperature = np.repeat([300.0, 400.0], 20)
    frames = kernelfe.Frames.from_arrays(
        positions=x,
        temperature=temperature,
        labels={"mean_force": spring_forces(x, temperature)},
        noise={"mean_force": 0.02},
        kinds=("A", "B", "C"),
    )
    return kernelfe.FreeEnergyRegressor(temperature=350.0).fit(frames)


def test_a_fitted_regressor_is_a_calculator(regressor):
    atoms = Atoms("X3", positions=TRIANGLE)
    calc = atoms.calc = regressor.calculator(temperature=320.0)
    assert isinstance(calc, FreeEnergyCalculator) and calc.temperature == 320.0
    assert np.allclose(atoms.get_forces(), spring_forces(TRIANGLE[None], np.array([320.0]))[0], atol=0.1)
    assert np.allclose(atoms.get_forces(), calculate_numerical_forces(atoms, eps=1e-4), atol=1e-6)
    with pytest.raises(DataError, match="3 beads"):
        calc.get_property("energy", Atoms("X2"))


def test_observables_are_the_regressor_s_and_fit_together(regressor):
    atoms = Atoms("X3", positions=TRIANGLE)
    calc = atoms.calc = regressor.calculator(temperature=320.0, extras=("mean_energy", "entropy", "forces_std"))
    energy = atoms.get_potential_energy()
    assert energy == pytest.approx(calc.results["mean_energy"] - 320.0 * calc.results["entropy"], abs=1e-9)
    _, std = regressor.predict(TRIANGLE[None], "mean_force", temperature=320.0, return_std=True)
    assert np.array_equal(calc.results["forces_std"], std[0])
    absolute = regressor.predict(TRIANGLE[None], "free_energy", temperature=320.0, reference=None)
    assert energy == pytest.approx(absolute[0], abs=1e-9)


def test_fitted_model_follows_the_protocol_and_can_be_sampled(regressor):
    model = FittedModel(regressor)
    assert isinstance(model, ObservableModel) and model.kinds == ("A", "B", "C")
    start = TRIANGLE[None].repeat(4, 0)
    temperature = [300.0, 320.0, 340.0, 360.0]
    run = run_langevin(model, start, temperature, masses=uniform_masses(3), timestep=1.0, steps=20, progress=False)
    x = torch.from_numpy(run.positions[-1])
    found = model.observables(x, torch.tensor(temperature), ("free_energy",))
    assert np.allclose(run.energies[-1], found["free_energy"].numpy(), atol=1e-8)
    with pytest.raises(DataError, match=r"atoms\.pbc = False"):
        model.observables(x, 300.0, ("entropy",), cell=torch.eye(3)[None])


def test_something_that_is_no_model_is_named():
    with pytest.raises(DataError, match="dict has neither energy_and_forces"):
        FittedModel({})


def test_periodic_frames_give_a_calculator_with_cells():
    """Through the estimator and through its frozen model: forces and stress are derivatives of the energy."""
    rng, length = np.random.default_rng(0), 7.0
    sites = np.stack([rng.permutation(27)[:6] for _ in range(8)])
    x = np.stack([sites // 9, sites // 3 % 3, sites % 3], 2) * (length / 3) + 0.1 * rng.normal(size=(8, 6, 3))
    labels = {"mean_force": 0.1 * rng.normal(size=x.shape)}
    cell = np.tile(length * np.eye(3), (8, 1, 1))
    frames = kernelfe.Frames.from_arrays(x, temperature=300.0, cell=cell, labels=labels, noise={"mean_force": 0.05})
    term = kernelfe.Term(PairDistances(cutoff=3.4), RBF(lengthscale=0.7))
    model = kernelfe.FreeEnergyRegressor(term, Sparse(inducing=10), baseline=False, optimizer=None).fit(frames)
    atoms = Atoms("X6", positions=x[0], cell=cell[0], pbc=True)
    for calc in (model.calculator(temperature=300.0), FreeEnergyCalculator(model.frozen(), 300.0)):
        atoms.calc = calc
        assert "stress" in calc.implemented_properties
        assert np.allclose(atoms.get_forces(), calculate_numerical_forces(atoms, eps=1e-4), atol=1e-6)
        assert np.allclose(atoms.get_stress(), calculate_numerical_stress(atoms, eps=1e-5), atol=1e-7)
        assert np.abs(atoms.get_stress()).max() > 1e-5
        for pbc in (False, (True, True, False)):
            with pytest.raises(DataError, match=r"set atoms\.cell and atoms\.pbc = True"):
                calc.get_property("energy", Atoms("X6", positions=x[0], cell=cell[0], pbc=pbc))
    calc = model.calculator(temperature=300.0)
    expected, std = model.predict(x[:1], "mean_force", cell=cell[0], return_std=True)
    np.testing.assert_allclose(calc.get_property("forces", atoms), expected[0], atol=1e-9)
    np.testing.assert_allclose(calc.get_property("forces_std", atoms), std[0], rtol=1e-9)
    with pytest.raises(DataError, match=r"model\.calculator"):
        FittedModel(model)
    with pytest.raises(DataError, match="pass cell="):
        model.predict(x[:1], "mean_force")


def test_the_errors_of_sampling_a_periodic_model_lead_to_a_run():
    """Each error names the next step, and the last step runs."""
    rng, cell = np.random.default_rng(0), 7.0 * np.eye(3)
    x = rng.uniform(0.0, 7.0, (6, 4, 3))
    labels = {"mean_force": 0.1 * rng.normal(size=x.shape)}
    frames = kernelfe.Frames.from_arrays(
        x, temperature=300.0, cell=np.tile(cell, (6, 1, 1)), labels=labels, noise={"mean_force": 0.05}
    )
    term = kernelfe.Term(PairDistances(cutoff=3.4), RBF(lengthscale=0.7))
    model = kernelfe.FreeEnergyRegressor(term, Sparse(inducing=10), baseline=False, optimizer=None).fit(frames)
    options = {"masses": uniform_masses(4), "steps": 10, "timestep": 1.0, "progress": False}
    with pytest.raises(DataError, match=r"model\.frozen\(\)"):
        run_langevin(model, x, 300.0, **options)
    with pytest.raises(DataError, match=r"FixedCell\(model\.frozen\(\), cell\)"):
        run_langevin(model.frozen(), x, 300.0, **options)
    for wrong, match in ((model, "frozen"), (regressor, "frozen")):
        with pytest.raises(DataError, match=match):
            FixedCell(wrong, cell)
    with pytest.raises(DataError, match=r"shape \(3, 3\)"):
        FixedCell(model.frozen(), np.ones(3))
    assert len(run_langevin(FixedCell(model.frozen(), cell), x, 300.0, **options)) == 1
