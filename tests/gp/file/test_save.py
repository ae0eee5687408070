"""Models on disk: equal after a round trip; what is saved and what is not."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from kernelfe import Dense, FreeEnergyRegressor, Sparse, Term, load
from kernelfe.descriptors import Distances
from kernelfe.errors import DataError, ModelFileError
from kernelfe.files import tensors as modelfile
from kernelfe.gp import condition
from kernelfe.gp.solvers.iterative.neighbours import sites
from kernelfe.kernels import RBF

from ..systems import THERMAL, molecule, one_term, two_terms
from .saved import CASES, fit


@pytest.mark.parametrize("case", CASES)
def test_round_trip(case, tmp_path):
    model, frames = fit(case)
    model.save(tmp_path / "a.kfe")
    again = load(tmp_path / "a.kfe")
    test = frames[:4]
    for quantity in ("free_energy", "mean_force", "mean_energy", "heat_capacity"):
        (mean, std), (mean2, std2) = (
            m.predict(test, quantity, return_std=True, reference=None) for m in (model, again)
        )
        np.testing.assert_allclose(mean2, mean, rtol=0, atol=1e-12 * np.abs(mean).max())
        np.testing.assert_allclose(std2**2, std**2, rtol=0, atol=1e-12 * (std**2).max())
        covariance = model.covariance(test, quantity)
        np.testing.assert_allclose(
            again.covariance(test, quantity), covariance, rtol=0, atol=1e-12 * np.abs(covariance).max()
        )
    np.testing.assert_array_equal(again.predict(test, "mean_force"), model.predict(test, "mean_force"))
    for name in (
        "log_evidence_",
        "noise_",
        "noise_temperature_",
        "kinds_",
        "coordinate_shape_",
        "parameters_",
        "periodic_",
        "temperatures_",
        "zero_known_",
        "solver_",
        "solver_reason_",
        "composition_",
        "baseline_",
        "density_",
    ):
        assert getattr(again, name) == getattr(model, name), name
    assert [n for n, _ in again.terms_] == [n for n, _ in model.terms_]
    for (_, a), (_, b) in zip(again.fitted_terms(), model.fitted_terms(), strict=True):
        assert a.descriptor == b.descriptor and a.kernel == b.kernel and a.parameters == b.parameters
    again.save(tmp_path / "b.kfe")
    assert load(tmp_path / "b.kfe").log_evidence_ == model.log_evidence_
    if not model.parameters_:
        x = torch.from_numpy(np.array(test.coordinates))
        assert torch.equal(again.frozen().energy_and_forces(x, 350.0)[0], model.frozen().energy_and_forces(x, 350.0)[0])


def test_plain_arrays_and_numpy_parameters(tmp_path):
    x = np.random.default_rng(0).normal(size=(12, 2))
    model = FreeEnergyRegressor(temperature=np.float32(310), random_state=np.int64(3), solver=Dense(evidence_rows=10))
    model.fit(x, np.sin(x[:, 0]))
    model.save(tmp_path / "a.kfe")
    again = load(tmp_path / "a.kfe")
    assert again.n_features_in_ == 2 and again.temperature == 310.0 and again.solver == Dense(evidence_rows=10)
    np.testing.assert_array_equal(again.predict(x), model.predict(x))
    with pytest.raises(ValueError, match="2 features"):
        again.predict(x[:, :1])


def test_the_density_of_a_model_is_kept(tmp_path):
    model, frames = fit("sparse")
    assert model.density_ is None
    for density in ({500.0: 12.5, 300.0: 0}, {}):
        fitted = replace(model.model_, provenance=replace(model.model_.provenance, density=density))
        model.with_model(fitted).save(tmp_path / "a.kfe")
        assert load(tmp_path / "a.kfe").density_ == density
    assert model.fit(frames).density_ is None
    header, tensors = modelfile.read(tmp_path / "a.kfe")
    del header["density"]  # as a file of the first release
    modelfile.write(tmp_path / "a.kfe", header, tensors)
    assert load(tmp_path / "a.kfe").density_ is None


def test_a_model_that_could_not_be_loaded_is_not_saved(tmp_path):
    model = fit("sparse")[0]
    model = model.with_model(replace(model.model_, noise=replace(model.model_.noise, reference=float("nan"))))
    with pytest.raises(DataError, match="not finite"):
        model.save(tmp_path / "a.kfe")
    assert not list(tmp_path.iterdir())


def test_periodic_models(tmp_path):
    frames = molecule(8, cell=20.0 * np.eye(3))
    model = FreeEnergyRegressor(terms=two_terms(), optimizer=None, solver=Sparse(inducing=7)).fit(frames)
    model.save(tmp_path / "a.kfe")
    again = load(tmp_path / "a.kfe")
    np.testing.assert_array_equal(again.predict(frames, "mean_force"), model.predict(frames, "mean_force"))


def test_a_loaded_estimator_can_be_fitted_again(tmp_path):
    fit("dense")[0].save(tmp_path / "a.kfe")
    model = load(tmp_path / "a.kfe")
    model.fit(molecule(6))
    assert model.get_params()["terms"][0][1] == one_term()


def test_a_failing_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.kfe"
    model = fit("dense")[0]
    model.save(path)
    before = path.read_bytes()
    model.random_state = object()
    with pytest.raises(ValueError, match="plain"):
        model.save(path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.kfe"]


@dataclass(frozen=True)
class MyDistances(Distances):
    """A descriptor of the user's own."""


def test_classes_of_the_user_come_in_through_classes_only(tmp_path):
    model = FreeEnergyRegressor(terms=Term(MyDistances(), RBF(1.5), THERMAL), optimizer=None).fit(molecule(6))
    path = tmp_path / "mine.kfe"
    model.save(path)
    with pytest.raises(ModelFileError, match=r"'MyDistances'.*classes=\[MyDistances\]"):
        load(path)
    again = load(path, classes=[MyDistances])
    assert type(again.terms_[0][1].spec.descriptor) is MyDistances
    test = molecule(3, seed=4)
    np.testing.assert_array_equal(again.predict(test, "mean_force"), model.predict(test, "mean_force"))


def test_labels_of_a_frame_belong_together_after_loading(tmp_path):
    """A loaded model has the neighbourhoods of the fitted one; labels that are added are of other frames."""
    frames = molecule(20)
    some = frames.replace(present={"mean_force": np.arange(20) % 3 > 0, "mean_energy": np.arange(20) % 4 > 0})
    model = FreeEnergyRegressor(terms=one_term(), solver="iterative", optimizer=None, baseline=False).fit(some)
    model.save(tmp_path / "x.kfe")
    again = load(tmp_path / "x.kfe")
    for a, b in zip(model.posterior_.labels, again.posterior_.labels, strict=True):
        assert b.frame.dtype == torch.int64 and torch.equal(a.frame, b.frame)
    site, where = sites(model.posterior_.gram)
    site_again, where_again = sites(again.posterior_.gram)
    assert torch.equal(site, site_again) and torch.equal(where, where_again)
    both = int((np.arange(20) % 3 > 0).sum() + (np.arange(20) % 4 > 0).sum()) - len(where)
    assert both > 5  # frames with forces and an energy are one place
    later = condition(again, molecule(6, seed=1))
    assert len(sites(later.posterior_.gram)[1]) == len(where) + 6


def test_labels_without_frames_load_as_before(tmp_path):
    """Earlier files do not store which labels share a frame."""
    model, frames = fit("dense")
    for label in model.posterior_.labels:
        label.frame = None
    model.save(tmp_path / "x.kfe")
    again = load(tmp_path / "x.kfe")
    assert all(label.frame is None for label in again.posterior_.labels)
    np.testing.assert_allclose(again.predict(frames, "mean_force"), model.predict(frames, "mean_force"), rtol=1e-12)


def test_the_temperature_of_plain_arrays_is_kept_with_a_fitted_model(tmp_path):
    model = FreeEnergyRegressor(one_term(), "dense", False, None, temperature=345.0).fit(molecule(8))
    model.model_.save(tmp_path / "a.kfe")
    again = load(tmp_path / "a.kfe")
    assert again.temperature == again.model_.temperature == 345.0
    x = molecule(3).positions
    np.testing.assert_array_equal(again.predict(x, "mean_force"), model.predict(x, "mean_force"))


@dataclass(frozen=True)
class Annotated(Dense):
    """A solver whose parameter takes more types than that of its default."""

    notes: object = None


@pytest.mark.parametrize("notes", [None, 1, 0.5, "words", True, (1.0, 2.0)])
def test_parameters_of_a_solver_need_not_look_like_their_defaults(tmp_path, notes):
    model = FreeEnergyRegressor(one_term(), Annotated(notes=notes), False, None).fit(molecule(8))
    model.save(tmp_path / "a.kfe")
    assert load(tmp_path / "a.kfe", classes=[Annotated]).solver_ == model.solver_
