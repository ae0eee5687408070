"""Inputs of public bug reports of neighbouring projects, one test each: right, or refused by name.

What the reports have in common with a test elsewhere in the suite stands there; here are those of no other place.
"""

from __future__ import annotations

import logging

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from kernelfe import Frames, FreeEnergyRegressor, Term
from kernelfe.descriptors import PairDistances
from kernelfe.errors import DataError, UnitsError
from kernelfe.kernels import RBF


def frames(n=12, beads=3, **given):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, beads, 3)) + 3.0 * np.arange(beads)[None, :, None]
    labels = {"mean_force": rng.normal(size=x.shape)}
    return Frames.from_arrays(x, **{"temperature": 300.0, "labels": labels} | given)


def test_a_trajectory_without_forces_written_as_zeros(caplog):
    """Amber-MD/cpptraj#630: a converted trajectory has a force variable that is filled with zeros."""
    with caplog.at_level(logging.WARNING):
        FreeEnergyRegressor(optimizer=None).fit(frames(labels={"mean_force": np.zeros((12, 3, 3))}))
    assert "exactly zero" in caplog.text


@pytest.mark.parametrize("key", ["virial", "REF_virial"])
def test_a_virial_is_not_a_stress(key):
    """deepmodeling/dpdata#973: files state the stress, or the virial of the other sign and another unit."""
    atoms = Atoms("CC", positions=[[0, 0, 0], [1.5, 0, 0]], cell=[9, 9, 9], pbc=True)
    atoms.info[key] = np.eye(3)
    with pytest.raises(DataError, match="−volume"):
        Frames.from_atoms([atoms], {"stress": key}, units="ase", temperature=300.0)


def test_stress_in_six_or_nine_numbers():
    """libAtoms/QUIP#14: the same stress in Voigt's order and as a matrix."""
    rows = []
    full = np.array([[1.0, 6.0, 5.0], [6.0, 2.0, 4.0], [5.0, 4.0, 3.0]])
    for stress in (full, full[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]):
        atoms = Atoms("CC", positions=[[0, 0, 0], [1.5, 0, 0]], cell=[9, 9, 9], pbc=True)
        atoms.info["REF_stress"] = stress
        rows.append(Frames.from_atoms([atoms], {"stress": "REF_stress"}, units="ase", temperature=300.0))
    np.testing.assert_array_equal(rows[0].labels["stress"], rows[1].labels["stress"])
    np.testing.assert_array_equal(rows[0].labels["stress"][0], [1, 2, 3, 4, 5, 6])


def test_a_pair_that_is_never_within_the_cutoff(caplog):
    """votca/votca#1182: a function that no frame visits makes the equations singular; here the term is zero."""
    data = frames(kinds=["A", "A", "B"])
    term = Term(PairDistances(cutoff=0.1, kinds=("A", "B")), RBF(1.0))
    with caplog.at_level(logging.WARNING):
        FreeEnergyRegressor(terms=term, baseline=False, optimizer=None).fit(data)
    assert "no frame has an environment" in caplog.text


def test_constant_labels():
    """scikit-learn/scikit-learn#18371: division by the standard deviation of constant targets."""
    x = np.random.default_rng(0).normal(size=(10, 2))
    mean, std = FreeEnergyRegressor().fit(x, np.full(10, 2.0)).predict(x, return_std=True)
    np.testing.assert_allclose(mean, 2.0, atol=1e-6)
    assert np.isfinite(std).all()


def test_contradicting_labels_of_the_same_place():
    """scikit-learn/scikit-learn#20934: two values at one place are noise."""
    x, y = np.array([20.0, 20.0, 140.0, 140.0])[:, None], np.array([740.0, 680.0, 1260.0, 1200.0])
    model = FreeEnergyRegressor().fit(x, y)
    assert 20.0 < model.noise_["free_energy"][0] < 90.0
    assert np.abs(model.predict(np.array([[20.0], [140.0]])) - [710.0, 1230.0]).max() < 15.0


def test_variances_at_near_duplicates_are_not_negative():
    """GPflow/GPflow#1813, cornellius-gp/gpytorch#1840."""
    x = np.array([[i / 2, j / 2] for i in range(3) for j in range(3)])
    x = np.concatenate([x, x + 1e-9])
    _, std = FreeEnergyRegressor(noise={"free_energy": 1e-6}).fit(x, x.sum(1)).predict(x, return_std=True)
    assert (std >= 0.0).all() and std.max() < 2e-6


def test_a_temperature_in_celsius():
    """OpenBioSim/biosimspace#119: a temperature read in degrees Celsius."""
    with pytest.raises(UnitsError, match="celsius"):
        frames(temperature=25.0, units={"temperature": "celsius"})


def test_lengths_in_one_system_and_forces_in_another():
    """torchmd/torchmd-protein-thermodynamics#27: positions in nm, forces in kcal/mol/Å."""
    x = np.random.default_rng(0).normal(size=(2, 3, 3))
    data = Frames.from_arrays(
        x, temperature=300.0, labels={"mean_force": x}, units={"length": "nm", "mean_force": "kcal/mol/Å"}
    )
    np.testing.assert_allclose(data.positions, 10.0 * x)
    np.testing.assert_allclose(data.labels["mean_force"], 0.0433641 * x, rtol=1e-6)


def test_beads_in_another_order_in_a_later_frame():
    """CONQUEST-release#70, nequip: frames of one file whose atoms are listed in another order."""
    images = [Atoms(symbols, positions=2.0 * np.eye(3)) for symbols in ("CHO", "OHC")]
    for atoms in images:
        atoms.calc = SinglePointCalculator(atoms, forces=np.ones((3, 3)))
    with pytest.raises(DataError, match="another order"):
        Frames.from_atoms(images, {"mean_force": "forces"}, units="ase", temperature=300.0)


def test_a_calculator_asked_directly_about_new_atoms():
    """isayevlab/AIMNet2#30, libAtoms/QUIP#243: the results of the former atoms come back."""
    data = frames(20)
    model = FreeEnergyRegressor(baseline=False, optimizer=None).fit(data)
    calculator = model.calculator(temperature=300.0)
    found = []
    for x in data.positions[:2]:
        calculator.calculate(Atoms("CCC", positions=x), ["energy"])
        found.append(calculator.results["energy"])
    np.testing.assert_allclose(found, model.predict(data[:2], "free_energy", reference=None), atol=1e-10)


def test_a_calculator_with_another_number_of_atoms():
    """apax-hub/apax#21: neither the former number of atoms nor a bare error of an array library."""
    calculator = FreeEnergyRegressor(baseline=False, optimizer=None).fit(frames(20)).calculator(temperature=300.0)
    with pytest.raises(DataError, match="3 beads"):
        calculator.calculate(Atoms("CCCC", positions=np.arange(12.0).reshape(4, 3)), ["energy"])


def test_energies_that_belong_to_other_frames():
    """stefanch/sGDML#29: energies that do not belong to the geometries are noise, not structure."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(200, 1))
    labels = {"mean_force": -x + 0.1 * rng.normal(size=x.shape), "mean_energy": rng.permutation(0.5 * x[:, 0] ** 2)}
    model = FreeEnergyRegressor().fit(Frames.from_arrays(variables=x, temperature=300.0, labels=labels))
    assert model.noise_["mean_energy"][0] > 0.6 and model.noise_["mean_force"][0] < 0.12


def test_positions_in_nanometres_and_forces_to_match(caplog):
    """The virial does not change with a unit of length that both follow; bonds of 0.15 Å show it."""
    x = 0.01 * np.random.default_rng(0).normal(size=(12, 3, 3)) + 0.15 * np.eye(3)[:1] * np.arange(3)[:, None]
    with caplog.at_level(logging.WARNING):
        Frames.from_arrays(x, temperature=300.0, bonds=[(0, 1), (1, 2)])
    assert "positions in nm" in caplog.text


def test_a_file_name_is_not_frames():
    with pytest.raises(DataError, match=r"Frames\.read"):
        FreeEnergyRegressor().fit("frames.npz")
