"""Bad input: a typed error that names the culprit, before anything is lost."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

from kernelfe import Dense, Frames, FreeEnergyRegressor, Sparse, Term
from kernelfe.descriptors import Distances, PairDistances, Variables
from kernelfe.errors import DataError
from kernelfe.kernels import RBF, ParameterExpansion, SecondOrder

from ..systems import LAMBDA, THERMAL, molecule, one_term, two_terms, variables

X = np.random.default_rng(0).normal(size=(6, 4, 3))
V = np.random.default_rng(0).normal(size=(6, 2))


def fit(frames=None, **options):
    options = {"terms": one_term(), "optimizer": None, "baseline": False} | options
    return FreeEnergyRegressor(**options).fit(molecule(6) if frames is None else frames)


@pytest.fixture(scope="module")
def model():
    return fit()


def y(**changes):
    return {"mean_force": np.zeros((6, 4, 3)), "temperature": 300.0} | changes


def nan_at(shape, value=np.nan):
    out = np.zeros(shape)
    out[2] = value
    return out


FITS = {
    "no temperature": (lambda m: m.fit(X, {"mean_force": np.zeros((6, 4, 3))}), "temperature"),
    "negative temperature": (lambda m: m.fit(X, y(temperature=-3.0)), "temperature is -3"),
    "zero temperature": (lambda m: m.fit(X, y(temperature=nan_at(6, 0.0) + 300 * (np.arange(6) != 2))), "row 2"),
    "NaN temperature": (lambda m: m.fit(X, y(temperature=nan_at(6))), "temperature is not finite at row 2"),
    "wrong number of temperatures": (lambda m: m.fit(X, y(temperature=[300.0, 400.0])), "temperature has shape"),
    "NaN positions": (lambda m: m.fit(X + nan_at((6, 4, 3)), y()), "positions is not finite at row 2"),
    "infinite labels": (
        lambda m: m.fit(X, y(mean_force=nan_at((6, 4, 3), np.inf))),
        "'mean_force' is not finite at row 2",
    ),
    "labels of another shape": (
        lambda m: m.fit(X, y(mean_force=np.zeros((6, 3, 3)))),
        r"'mean_force' has shape \(6, 3, 3\)",
    ),
    "labels of another length": (lambda m: m.fit(X, y(mean_force=np.zeros((5, 4, 3)))), r"'mean_force' has shape"),
    "one-dimensional X": (lambda m: m.fit(V[:, 0], y(mean_force=V[:, 0])), "variables has shape"),
    "unknown label": (lambda m: m.fit(X, y(forces=np.zeros((6, 4, 3)))), "'forces'"),
    "Frames with y": (lambda m: m.fit(molecule(6), np.zeros(6)), "without y"),
    "no labels": (lambda m: m.fit(molecule(6).drop_labels()), "no labels to condition on"),
    "no frames": (lambda m: m.fit(molecule(6)[:0]), "no labels"),
    "label asked for, not there": (
        lambda m: m.set_params(labels=["entropy"]).fit(molecule(6)),
        "'entropy' was asked for",
    ),
    "string of labels": (lambda m: m.set_params(labels="entropy").fit(molecule(6)), "'entropy' was asked for"),
    "a label twice": (
        lambda m: m.set_params(labels=["mean_force", "mean_energy", "mean_force"]).fit(molecule(6)),
        "'mean_force' is asked for twice",
    ),
    "labels that are none": (lambda m: m.set_params(labels=3).fit(molecule(6)), "labels=3"),
    "noise that is no dict": (lambda m: m.set_params(noise=0.1).fit(molecule(6)), "noise must be a dict.*not float"),
    "noise that is no number": (
        lambda m: m.set_params(noise={"mean_force": "a"}).fit(molecule(6)),
        "noise of 'mean_force' must hold real numbers",
    ),
    "ragged noise": (
        lambda m: m.set_params(noise={"mean_energy": [[1.0], [1.0, 2.0]]}).fit(molecule(6)),
        "noise of 'mean_energy' is ragged",
    ),
    "negative seed": (lambda m: m.set_params(random_state=-1).fit(molecule(6)), "random_state=-1"),
    "seed that is no number": (lambda m: m.set_params(random_state="a").fit(molecule(6)), "random_state='a'"),
    "positions with too few free energies": (lambda m: m.fit(X, np.zeros(5)), r"'free_energy' has shape \(5,\)"),
    "pairs asked for, not there": (
        lambda m: m.set_params(labels=["free_energy_difference"]).fit(molecule(6)),
        "no labels to condition on",
    ),
    "noise of an unknown label": (lambda m: m.set_params(noise={"entropy": 1.0}).fit(molecule(6)), "'entropy'"),
    "zero noise": (lambda m: m.set_params(noise={"mean_force": 0.0}).fit(molecule(6)), "'mean_force' must be positive"),
    "negative noise": (lambda m: m.set_params(noise={"mean_energy": -np.ones(6)}).fit(molecule(6)), "'mean_energy'"),
    "NaN noise": (lambda m: m.set_params(noise={"mean_force": np.nan}).fit(molecule(6)), "'mean_force'.*non-finite"),
    "noise of another shape": (
        lambda m: m.set_params(noise={"mean_energy": np.ones(5)}).fit(molecule(6)),
        "'mean_energy'",
    ),
    "indefinite noise": (
        lambda m: m.set_params(noise={"mean_force": np.repeat(-np.eye(12)[None], 6, 0)}).fit(molecule(6)),
        "'mean_force'.*positive definite",
    ),
    "optimizer": (lambda m: m.set_params(optimizer="adam").fit(molecule(6)), "'adam'"),
    "solver": (lambda m: m.set_params(solver="lu").fit(molecule(6)), "'lu'"),
    "baseline": (lambda m: m.set_params(baseline="harmonic").fit(molecule(6)), "baseline='harmonic'"),
    "baseline of variables": (lambda m: m.set_params(baseline=Spring(), terms=None).fit(variables()), "bead positions"),
    "no terms": (lambda m: m.set_params(terms=[]).fit(molecule(6)), "terms must be"),
    "terms without names": (lambda m: m.set_params(terms=[one_term()]).fit(molecule(6)), "terms must be"),
    "two terms of one name": (lambda m: m.set_params(terms=[("a", one_term())] * 2).fit(molecule(6)), "distinct names"),
    "terms that are none": (lambda m: m.set_params(terms=3).fit(molecule(6)), "terms must be"),
    "beads for variables": (
        lambda m: m.set_params(terms=Term(Distances(), RBF(1.0))).fit(variables()),
        "bead positions",
    ),
    "variables for beads": (lambda m: m.set_params(terms=Term(Variables(), RBF(1.0))).fit(molecule(6)), "Variables"),
    "length scales": (
        lambda m: m.set_params(terms=Term(Distances(), RBF((1.0, 2.0)), THERMAL)).fit(molecule(6)),
        "2 length scales",
    ),
    "kinds that are not there": (
        lambda m: m.set_params(terms=Term(PairDistances(5.0, kinds=("O", "H")))).fit(molecule(6)),
        "'O'",
    ),
    "a parameter that is not there": (
        lambda m: m.set_params(terms=Term(Distances(), parameters=(ParameterExpansion("mu"),))).fit(molecule(6)),
        "'mu'",
    ),
}


class Spring:
    def fit(self, *args):
        raise AssertionError("must not be asked")


@pytest.mark.parametrize("name", FITS)
def test_fit(name):
    action, message = FITS[name]
    with pytest.raises(DataError, match=message):
        action(FreeEnergyRegressor(terms=one_term(), optimizer=None, baseline=False))


def test_labels_asked_for_once_are_conditioned_on_once():
    assert [s.kind for s in fit(labels=["mean_energy", "mean_force"]).posterior_.labels] == [
        "mean_energy",
        "mean_force",
    ]
    assert [s.kind for s in fit(labels="mean_force").posterior_.labels] == ["mean_force"]


PREDICTIONS = {
    "unknown quantity": (lambda m: m.predict(X, "forces"), "'forces'"),
    "other beads": (lambda m: m.predict(X[:, :3], "mean_force"), r"\(n, 4, 3\)"),
    "Frames of other beads": (lambda m: m.predict(Frames.from_arrays(X[:, :3], temperature=300.0)), r"\(4, 3\)"),
    "another molecule": (
        lambda m: m.predict(Frames.from_arrays(X, temperature=300.0, kinds=("A", "A", "B", "A"))),
        "another molecule",
    ),
    "NaN": (lambda m: m.predict(X + nan_at((6, 4, 3)), "mean_force"), "row 2"),
    "negative temperature": (lambda m: m.predict(X, "mean_force", temperature=-1.0), "temperature"),
    "zero temperature of Frames": (
        lambda m: m.predict(molecule(3), "mean_force", temperature=0.0),
        "temperature must be positive",
    ),
    "NaN temperature of Frames": (
        lambda m: m.predict(molecule(3), "mean_force", temperature=np.nan),
        "temperature must be",
    ),
    "temperatures of another length": (
        lambda m: m.predict(molecule(3), temperature=[300.0, 400.0]),
        r"temperature has shape \(2,\)",
    ),
    "temperatures of another length, array": (
        lambda m: m.predict(X, temperature=[300.0, 400.0]),
        "temperature has shape",
    ),
    "no fields": (lambda m: m.predict(X, "generalized_force"), "displacements="),
    "no cell": (lambda m: m.predict(X, "stress"), "cell"),
    "no parameter": (lambda m: m.predict(X, "parameter_derivative"), "0 parameters"),
    "an unknown parameter": (lambda m: m.predict(X, "parameter_derivative:mu"), "'mu'"),
    "covariance of unknown": (lambda m: m.covariance(X, "A"), "'A'"),
    "differences of other beads": (lambda m: m.predict_difference(X[:, :3], X), r"\(n, 4, 3\)"),
    "ragged": (lambda m: m.predict([[[0.0, 0, 0]], [[0.0, 0, 0], [1, 0, 0]]]), "rectangular"),
}


@pytest.mark.parametrize("name", PREDICTIONS)
def test_predict(model, name):
    action, message = PREDICTIONS[name]
    before = model.predict(X, "mean_force")
    with pytest.raises(DataError, match=message):
        action(model)
    np.testing.assert_array_equal(model.predict(X, "mean_force"), before)


def test_parameters_have_to_be_said():
    model = fit(variables(), terms=Term(None, RBF(1.0), THERMAL, (LAMBDA,)))
    with pytest.raises(DataError, match="'lambda'"):
        model.predict(V, "mean_force")
    with pytest.raises(DataError, match="'lambda'"):
        model.predict(Frames.from_arrays(variables=V, temperature=300.0), "mean_force")
    with pytest.raises(DataError, match=r"variables must have shape \(n, 2\)"):
        model.predict(V[:, :1], "mean_force", parameters={"lambda": 1.0})
    assert model.predict(V, "mean_force", parameters={"lambda": 1.0}).shape == (6, 2)


def test_unfitted_models_say_so():
    model = FreeEnergyRegressor()
    for call in (
        lambda: model.predict(X),
        lambda: model.covariance(X),
        lambda: model.predict_difference(X, X),
        lambda: model.frozen(),
        lambda: model.fitted_terms(),
        lambda: model.save("x.kfe"),
    ):
        with pytest.raises(NotFittedError):
            call()


def test_one_bad_row_among_rows_without_labels_is_found():
    frames = molecule(6)
    force = np.array(frames.labels["mean_force"])
    force[3] = np.nan
    with pytest.raises(DataError, match="row 3"):
        Frames.from_arrays(frames.positions, temperature=300.0, labels={"mean_force": force})
    present = {"mean_force": np.arange(6) != 3}
    ok = Frames.from_arrays(frames.positions, temperature=300.0, labels={"mean_force": force}, present=present)
    assert len(fit(ok, terms=two_terms(), noise={"mean_force": 0.1}).posterior_.labels[0].y) == 5


def test_terms_without_temperature_use_that_of_the_data():
    model = fit(molecule(6), terms=Term(Distances(), RBF(1.0), SecondOrder()))
    assert model.fitted_terms()[0][1].thermal.reference_temperature == pytest.approx(400.0)


def test_solver_specs_hold_whole_numbers():
    assert Sparse(evidence_rows=25e3) == Sparse(evidence_rows=25_000) and type(Sparse(inducing=60.0).inducing) is int
    for make in (lambda: Sparse(inducing=2.5), lambda: Dense(evidence_rows="a"), lambda: Sparse(gradients=3)):
        with pytest.raises(DataError, match="must be"):
            make()
