"""The fitted free energy is one immutable object that stands without its estimator."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import numpy as np
import pytest

import kernelfe
from kernelfe import Dense, FreeEnergyRegressor, Iterative, Sparse
from kernelfe.gp import FreeEnergy, condition, enforce_concavity, pathwise_draws
from kernelfe.gp.file.schema import FIELDS
from kernelfe.gp.fitted.model import Noise, Provenance
from kernelfe.gp.molecules import FittedMolecule, Molecule, Molecules

from ..systems import molecule, one_term


@pytest.fixture(
    scope="module", params=[Dense(), Iterative(), Sparse(inducing=10)], ids=["dense", "iterative", "sparse"]
)
def estimator(request):
    return FreeEnergyRegressor(one_term(), solver=request.param, optimizer=None).fit(molecule(12))


def test_predictions_are_those_of_the_estimator(estimator):
    frames, model = molecule(5, seed=3), estimator.model_
    assert isinstance(model, FreeEnergy)
    for quantity in ("free_energy", "mean_force", "heat_capacity"):
        for a, b in zip(
            model.predict(frames, quantity, return_std=True),
            estimator.predict(frames, quantity, return_std=True),
            strict=True,
        ):
            np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(model.covariance(frames, "entropy"), estimator.covariance(frames, "entropy"))


def test_nothing_of_it_can_be_assigned(estimator):
    with pytest.raises(FrozenInstanceError):
        estimator.model_.baseline = None
    with pytest.raises(FrozenInstanceError):
        estimator.model_.provenance.concave = True


def test_a_change_is_another_model(estimator):
    frames = molecule(6, seed=4)
    before = estimator.model_
    expected = before.predict(frames, "mean_force")
    for change in (
        lambda m: condition(m, molecule(3, seed=5)),
        lambda m: enforce_concavity(m, frames, estimate="mode"),
        lambda m: enforce_concavity(m, frames, estimate="mean"),
    ):
        later, own = change(estimator), change(before)
        assert isinstance(later, FreeEnergyRegressor) and isinstance(own, FreeEnergy)
        np.testing.assert_array_equal(later.predict(frames, "mean_force"), own.predict(frames, "mean_force"))
        assert estimator.model_ is before
    np.testing.assert_array_equal(before.predict(frames, "mean_force"), expected)


def test_draws_are_the_same_functions(estimator):
    frames = molecule(4, seed=6)
    draws = [pathwise_draws(m, 3, seed=1, features=64).predict(frames) for m in (estimator, estimator.model_)]
    np.testing.assert_array_equal(*draws)


def test_it_is_saved_without_its_estimator(estimator, tmp_path):
    frames = molecule(4, seed=7)
    estimator.model_.save(tmp_path / "a.kfe")
    again = kernelfe.load(tmp_path / "a.kfe")
    np.testing.assert_allclose(
        again.predict(frames, "mean_force"), estimator.predict(frames, "mean_force"), rtol=0.0, atol=1e-12
    )
    assert again.model_.provenance == estimator.model_.provenance
    assert again.model_.molecules == estimator.model_.molecules


#: Parts that are stored as tensors, or made again when a file is read.
WITHOUT_FIELD = {
    "posterior",  # tensors, and the fields terms, mean, log_evidence and posterior
    "names",  # in the field terms
    "temperature",  # a parameter of the estimator
    "molecules",  # by its parts
    "noise",
    "provenance",
}


def test_every_part_of_a_model_has_a_field_in_its_file():
    """A new attribute needs a line in the table of what is stored, or in the list above."""
    paths = {field.path for field in FIELDS.values()}
    for prefix, part in (("", FreeEnergy), ("noise.", Noise), ("provenance.", Provenance)):
        for field in fields(part):
            assert prefix + field.name in paths | WITHOUT_FIELD, f"{part.__name__}.{field.name} is not stored"


def test_every_part_of_a_molecule_is_kept():
    record = FIELDS["molecules"].convert(
        (FittedMolecule(Molecule(("A", "B"), ((0, 1),)), (1.0, 2.0), True), FittedMolecule(Molecule(("A",))))
    )
    stored = {field.name for part in (Molecule, FittedMolecule) for field in fields(part)} - {"molecule", "shape"}
    assert set(record[0]) == stored  # the shape follows from the kinds
    single = Molecules((FittedMolecule(Molecule(("A", "B"), ((0, 1),)), (1.0, 2.0)),))
    names = ("coordinate_shape", "kinds", "bonds", "masses", "periodic")
    assert [FIELDS[name].convert(single) for name in names] == [[2, 3], ["A", "B"], [[0, 1]], [1.0, 2.0], False]
