"""The estimator: scikit-learn's contract, shapes, references, differences, refits."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.utils.estimator_checks import estimator_checks_generator

import kernelfe
from kernelfe import Dense, Frames, FreeEnergyRegressor, Sparse, Term
from kernelfe.errors import DataError, SolverError
from kernelfe.functionals import OBSERVABLES, Entropy, FreeEnergy, MeanEnergy
from kernelfe.kernels import RBF, Matern52, SecondOrder

from .systems import LAMBDA, THERMAL, exact, molecule, one_term, two_terms, variables

#: Checks of scikit-learn that do not apply: it skips this one itself unless SCIPY_ARRAY_API is set before SciPy is
#: imported, and only estimators that declare array-API support (ours computes in torch) have something to show there.
NOT_APPLICABLE = {"check_array_api_input"}


def checks():
    for estimator, check in estimator_checks_generator(FreeEnergyRegressor()):
        name = check.func.__name__
        if name not in NOT_APPLICABLE:
            keywords = ",".join(f"{k}={v}" for k, v in check.keywords.items() if k != "name")
            yield pytest.param(estimator, check, id=f"{name}({keywords})")


@pytest.mark.parametrize(("estimator", "check"), list(checks()))
def test_scikit_learn(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(estimator)


def test_positions_with_free_energies_as_plain_arrays():
    frames = molecule(12, temperatures=(350.0,))
    a = np.array(exact(frames.positions, frames.temperature)[0])
    options = {"terms": one_term(), "optimizer": None, "noise": {"free_energy": 1e-4}, "baseline": False}
    model = FreeEnergyRegressor(temperature=350.0, **options).fit(frames.positions, a)
    assert model.temperatures_ == [350.0] and model.coordinate_shape_ == (4, 3) and not hasattr(model, "n_features_in_")
    same = FreeEnergyRegressor(temperature=1.0, **options).fit(
        Frames.from_arrays(frames.positions, temperature=350.0, labels={"free_energy": a})
    )
    np.testing.assert_array_equal(model.predict(frames.positions), same.predict(frames.positions, temperature=350.0))
    assert model.score(frames.positions, a) > 0.9


def test_a_default_temperature_outside_the_training_range_is_warned_of():
    frames = molecule(6, temperatures=(350.0, 400.0))
    x = frames.positions
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = fixed().fit(frames)
        model.predict(frames)
        model.predict(x, temperature=300.0)
        fixed(temperature=375.0).with_model(model.model_).predict(x)
        fixed(temperature=349.999999).with_model(model.model_).predict(x)
    for ask in (model.predict, model.calculator, model.model_.predict):
        arguments = () if ask == model.calculator else (x,)
        with pytest.warns(UserWarning, match=r"the default, 300 K, lies outside .* \(350 to 400 K\)"):
            ask(*arguments)


def fixed(terms=None, solver="dense", **options):
    options = {"optimizer": None, "baseline": False} | options
    return FreeEnergyRegressor(terms=one_term() if terms is None else terms, solver=solver, **options)


@pytest.fixture(scope="module")
def model():
    return fixed(two_terms()).fit(molecule())


# --- scikit-learn's habits on Frames -------------------------------------------------------------------------


def test_cross_validation_slices_frames():
    frames = molecule(20)
    scores = cross_val_score(fixed(), frames, cv=KFold(4))
    assert scores.shape == (4,) and np.isfinite(scores).all()
    part = frames[np.arange(15)]
    expected = fixed().fit(frames[np.arange(5, 20)]).score(frames[np.arange(5)])
    assert scores[0] == pytest.approx(expected, rel=1e-12) and len(part) == 15


def test_grid_search_reaches_nested_specs():
    search = GridSearchCV(fixed(), {"terms__kernel__lengthscale": [0.05, 1.5]}, cv=3).fit(molecule(15))
    assert search.best_params_ == {"terms__kernel__lengthscale": 1.5}


def test_clone_repr_params_and_pickle(model):
    copy = clone(model)
    assert copy.get_params() == model.get_params() and not hasattr(copy, "posterior_")
    assert "FreeEnergyRegressor(" in repr(model)
    again = pickle.loads(pickle.dumps(model))  # in memory, for joblib; files are another matter
    test = molecule(3, seed=3)
    np.testing.assert_array_equal(again.predict(test, "mean_force"), model.predict(test, "mean_force"))
    single = fixed()
    single.set_params(terms__kernel__lengthscale=0.7)
    assert single.terms.kernel.lengthscale == 0.7


def test_score():
    frames = molecule(20)
    model = fixed().fit(frames)
    assert 0.5 < model.score(frames) <= 1.0
    weight = np.random.default_rng(0).random(20)
    some = frames.replace(
        labels=dict(frames.labels), noise=dict(frames.noise), present={"mean_force": np.arange(20) < 12}
    )
    assert model.score(some, sample_weight=weight) == pytest.approx(model.score(frames[:12], sample_weight=weight[:12]))
    x = np.random.default_rng(0).normal(size=(20, 2))
    arrays = FreeEnergyRegressor().fit(x, np.sin(x).sum(1))
    assert arrays.score(x, np.sin(x).sum(1)) > 0.9
    with pytest.raises(DataError, match="mean_force"):
        model.score(frames.with_labels(["mean_energy"]))


# --- three ways to give data ----------------------------------------------------------------------------------


def test_frames_dicts_and_arrays_are_one_model():
    frames = variables(10, labels=("free_energy",), temperatures=(310.0,), parameter=1.0)
    frames = Frames.from_arrays(variables=frames.variables, temperature=310.0, labels=dict(frames.labels))
    options = {"noise": {"free_energy": 0.01}, "temperature": 310.0, "terms": Term(None, RBF(1.0), THERMAL)}
    by_frames = fixed(**options).fit(frames)
    by_dict = fixed(**options).fit(
        frames.variables, {"free_energy": frames.labels["free_energy"], "temperature": 310.0}
    )
    by_arrays = fixed(**options).fit(frames.variables, frames.labels["free_energy"])
    for other in (by_dict, by_arrays):
        np.testing.assert_array_equal(other.predict(frames.variables), by_frames.predict(frames))
    assert by_arrays.n_features_in_ == 2 and not hasattr(by_dict, "n_features_in_")


def test_dicts_carry_displacements_and_parameters():
    rng = np.random.default_rng(0)
    frames = molecule(6)
    t = rng.normal(size=(6, 2, 4, 3))
    y = {"generalized_force": rng.normal(size=(6, 2)), "temperature": frames.temperature, "displacements": t,
         "parameters": {"a": rng.random(6)}}  # fmt: skip
    model = fixed(noise={"generalized_force": 0.1}).fit(frames.positions, y)
    assert model.parameters_ == ["a"]
    test = Frames.from_arrays(frames.positions, temperature=300.0, displacements=t, parameters={"a": 0.5})
    assert model.predict(test, "generalized_force").shape == (6, 2)
    force = model.predict(frames.positions, "mean_force", temperature=300.0, parameters={"a": 0.5})
    along = np.einsum("nbx,nkbx->nk", force, t)
    np.testing.assert_allclose(model.predict(test, "generalized_force"), along, atol=1e-10)
    with pytest.raises(DataError, match="carry their parameters"):
        model.predict(test, "mean_force", parameters={"a": 1.0})


def test_a_mapping_of_labels_keeps_the_callers_dict():
    y = {"free_energy": np.zeros(4), "temperature": 300.0}
    fixed(Term(None, RBF(1.0), THERMAL)).fit(np.random.default_rng(0).normal(size=(4, 1)), y)
    assert set(y) == {"free_energy", "temperature"}


# --- predictions -----------------------------------------------------------------------------------------------


def test_every_quantity_with_its_shape_and_standard_deviation():
    rng = np.random.default_rng(0)
    n = 5
    labels = {"mean_force": 0.1 * rng.normal(size=(n, 4, 3)), "mean_energy": rng.normal(size=n)}
    x = molecule(n).positions
    frames = Frames.from_arrays(
        x, temperature=np.linspace(300, 400, n), labels=labels, noise={"mean_force": 0.05, "mean_energy": 0.1},
        cell=20.0 * np.eye(3), displacements=rng.normal(size=(n, 2, 4, 3)), parameters={"a": rng.random(n)},
    )  # fmt: skip
    model = fixed().fit(frames)
    for key in OBSERVABLES:
        # every frame has a temperature of its own, at which a relative free energy is zero
        mean, std = model.predict(frames, key, return_std=True, reference=None)
        assert mean.shape == std.shape == (n, *frames.label_shape(key)), key
        assert np.isfinite(mean).all() and (std >= 0).all() and std.max() > 0, key
        if key != "free_energy":
            variance = np.diag(model.covariance(frames, key))
            np.testing.assert_allclose(std.reshape(-1) ** 2, variance, rtol=1e-6, atol=1e-9 * variance.max())
        np.testing.assert_array_equal(mean, model.predict(frames, key, reference=None))
    with pytest.warns(UserWarning, match="5 rows are at 5 temperatures: all are zero"):
        mean, std = model.predict(frames, "free_energy", return_std=True)
    assert not mean.any() and not std.any()
    assert model.predict(frames[:0], "mean_force").shape == (0, 4, 3)
    assert model.predict(frames[2], "free_energy", reference=None).shape == (1,)
    empty = model.predict(frames[:0], "entropy", return_std=True)
    assert [part.shape for part in empty] == [(0,), (0,)]


def test_thermodynamics_of_predictions(model):
    test = molecule(5, seed=4, temperatures=(350.0, 470.0))
    a = model.predict(test, "free_energy", reference=None)
    u, s = model.predict(test, "mean_energy"), model.predict(test, "entropy")
    np.testing.assert_allclose(a, u - test.temperature * s, rtol=1e-10)
    combined = MeanEnergy() - FreeEnergy() - Entropy().times_temperature(unit="eV")
    mean, std = model.predict(test, combined, return_std=True)
    assert np.abs(mean).max() < 1e-10 and std.max() < 1e-6
    np.testing.assert_allclose(
        model.predict(test, "free_energy", temperature=350.0), model.predict(test[:], temperature=350.0)
    )
    up, down = (model.predict(test, "mean_force", temperature=400.0 + d) for d in (1e-2, -1e-2))
    np.testing.assert_allclose(
        (up - down) / 2e-2, model.predict(test, "thermal_response_force", temperature=400.0), atol=1e-9
    )


def test_batches_change_nothing(model, monkeypatch):
    test = molecule(7, seed=5)
    whole = [model.predict(test, q, return_std=True) for q in ("mean_force", "free_energy")]
    monkeypatch.setattr("kernelfe.gp.fitted.predict.PREDICT_FRAMES", 2)
    for before, q in zip(whole, ("mean_force", "free_energy"), strict=True):
        for a, b in zip(before, model.predict(test, q, return_std=True), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("solver", ["dense", Sparse(inducing=6)])
def test_references_and_their_standard_deviations(solver):
    model = fixed(solver=solver).fit(molecule())
    test = molecule(6, seed=4, temperatures=(350.0, 470.0))
    absolute, covariance = model.predict(test, reference=None), model.covariance(test)
    mean, std = model.predict(test, reference="mean", return_std=True)
    auto = model.predict(test)
    np.testing.assert_array_equal(auto, mean)  # forces and energies leave the zero open
    for t in (350.0, 470.0):
        rows = np.flatnonzero(test.temperature == t)
        step = np.eye(len(rows)) - 1.0 / len(rows)
        np.testing.assert_allclose(mean[rows], step @ absolute[rows], atol=1e-12)
        block = step @ covariance[np.ix_(rows, rows)] @ step.T
        np.testing.assert_allclose(std[rows] ** 2, np.diag(block), rtol=1e-6, atol=1e-12)
    for reference in (1, -5, np.int64(1)):
        value, std = model.predict(test, reference=reference, return_std=True)
        again = Frames.from_arrays(np.repeat(test.positions[[1]], 6, 0), temperature=test.temperature)
        expected, cov = model.predict_difference(again, test, return_cov=True)
        np.testing.assert_allclose(value, expected, atol=1e-12)
        np.testing.assert_allclose(std**2, np.diag(cov), rtol=1e-6, atol=1e-12)
        assert value[1] == 0.0 and std[1] < 1e-7
    for bad in (6, -7, "first", 1.5):
        with pytest.raises(DataError, match="reference="):
            model.predict(test, reference=bad)


def test_free_energy_labels_fix_the_zero():
    frames = variables(10, labels=("free_energy",), parameter=1.0)
    model = fixed(Term(None, RBF(1.0), THERMAL, (LAMBDA,))).fit(frames)
    np.testing.assert_array_equal(model.predict(frames), model.predict(frames, reference=None))
    assert model.zero_known_
    assert np.abs(model.predict(frames) - frames.labels["free_energy"]).max() < 0.05


def test_differences(model):
    a, b = molecule(4, seed=4), molecule(4, seed=5)
    value, covariance = model.predict_difference(a, b, return_cov=True)
    both = Frames.concatenate([a, b]).drop_labels()
    step = np.concatenate([-np.eye(4), np.eye(4)], 1)
    np.testing.assert_allclose(value, step @ model.predict(both, reference=None), atol=1e-12)
    np.testing.assert_allclose(covariance, step @ model.covariance(both) @ step.T, atol=1e-10)
    np.testing.assert_allclose(model.predict_difference(b, a), -value, atol=1e-14)
    zero, cov = model.predict_difference(a, a, return_cov=True)
    assert np.abs(zero).max() < 1e-12 and np.abs(cov).max() < 1e-10
    warm = model.predict_difference(a.positions, a.positions, 300.0, 500.0)
    ends = [model.predict(a, temperature=t, reference=None) for t in (300.0, 500.0)]
    np.testing.assert_allclose(warm, ends[1] - ends[0], atol=1e-12)
    with pytest.raises(DataError, match="3 rows, X2 4"):
        model.predict_difference(a[:3], b)


# --- small, repeated and repeated fits --------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["evidence", None])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_very_few_frames(n, optimizer):
    frames = molecule(n, noise=False)
    model = FreeEnergyRegressor(optimizer=optimizer).fit(frames)
    for quantity in ("free_energy", "mean_force", "mean_energy"):
        mean, std = model.predict(molecule(3, seed=2), quantity, return_std=True)
        assert np.isfinite(mean).all() and np.isfinite(std).all()
    one = FreeEnergyRegressor(optimizer=optimizer).fit(np.zeros((1, 2)), [1.5])
    assert one.predict([[0.0, 0.0]])[0] == pytest.approx(1.5, abs=0.1)


@pytest.mark.parametrize("kernel", [RBF(lengthscale=1.5), Matern52(lengthscale=1.5)])
def test_repeated_rows(kernel):
    frames = molecule(6, noise=False)
    frames = Frames.concatenate([frames, frames, frames[:1]])
    model = FreeEnergyRegressor(terms=one_term(kernel)).fit(frames)
    mean, std = model.predict(frames, "mean_force", return_std=True)
    assert np.isfinite(mean).all() and np.isfinite(std).all()
    np.testing.assert_allclose(mean[:6], mean[6:12], atol=1e-9)
    constant = FreeEnergyRegressor().fit(np.ones((5, 2)), np.ones(5))
    assert np.isfinite(constant.predict(np.ones((2, 2)), return_std=True)).all()


def test_without_an_optimizer_the_numbers_of_the_specs_stay():
    term = Term(None, RBF(lengthscale=(0.7, 1.3)), SecondOrder(333.0, 0.1, 2e-4, 3e-4), (LAMBDA,))
    model = fixed(term, temperature=300.0).fit(variables())
    ((_, fitted),) = model.fitted_terms()
    assert fitted.kernel.lengthscale == pytest.approx((0.7, 1.3), rel=1e-12)
    assert fitted.thermal.get_params()["heat_capacity"] == pytest.approx(3e-4, rel=1e-12)
    assert fitted.thermal.reference_temperature == 333.0 and fitted.parameters == (LAMBDA,)


def test_the_optimizer_moves_them_and_leaves_the_specs_alone():
    terms = two_terms()
    model = FreeEnergyRegressor(terms=terms, baseline=False, solver=Dense(evidence_rows=60)).fit(molecule(noise=False))
    assert terms == two_terms() and model.terms is terms
    assert model.fitted_terms()[0][1].thermal != terms[0][1].thermal
    first = model.predict(molecule(3, seed=1), "mean_force")
    np.testing.assert_array_equal(model.fit(molecule(noise=False)).predict(molecule(3, seed=1), "mean_force"), first)


def test_a_failing_fit_leaves_the_earlier_one(monkeypatch):
    x = np.random.default_rng(0).normal(size=(8, 2))
    model = FreeEnergyRegressor(optimizer=None).fit(x, x[:, 0])
    before, state = model.predict(x), dict(vars(model))

    def give_up(*args):
        raise SolverError("at the very end")

    frames = molecule()
    for bad in (
        lambda: model.fit(frames.drop_labels()),
        lambda: model.fit(x[:, :1], np.full(8, np.nan)),
        lambda: model.fit(x, {"free_energy": x[:, 0]}),
        lambda: model.set_params(labels=["entropy"]).fit(frames),
        lambda: model.set_params(labels=None, terms=Term(kernel=RBF((1.0, 2.0, 3.0)))).fit(x[:, :1], x[:, 0]),
        lambda: model.set_params(terms=None).fit(x[:, :1], x[:, 1]),
    ):
        with pytest.raises((ValueError, SolverError)):
            bad()
        model.set_params(labels=None, terms=None)
        monkeypatch.setattr("kernelfe.gp.solvers.dense.Dense.condition", give_up)  # for the last one
        assert vars(model) == state
        np.testing.assert_array_equal(model.predict(x), before)


def test_predictions_improve_with_data_and_error_bars_cover():
    test = molecule(10, seed=99)
    force = exact(test.positions, test.temperature)[1]
    errors = []
    for n in (6, 60):
        model = FreeEnergyRegressor(terms=one_term(), baseline=False).fit(molecule(n, seed=3))
        mean, std = model.predict(test, "mean_force", return_std=True)
        errors.append(np.sqrt(((mean - force) ** 2).mean()))
        assert (np.abs(mean - force) < 5 * std + 1e-6).mean() > 0.95
    assert errors[1] < 0.6 * errors[0]


def test_the_package_offers_it():
    assert kernelfe.FreeEnergyRegressor is FreeEnergyRegressor


@pytest.mark.parametrize("solver", [Dense(evidence_rows=20), Sparse(4)])
def test_a_fitted_model_does_not_follow_later_changes_of_its_specs(solver):
    kernel = RBF(1.5)
    term = Term(kernel=kernel, thermal=THERMAL)
    model = FreeEnergyRegressor(term, solver, baseline=False, optimizer=None).fit(molecule(8))
    before, frames = model.model_.fitted_terms(), molecule(3, seed=5)
    found = model.predict(frames, "mean_force", return_std=True)
    model.set_params(terms__kernel__lengthscale=9.0, solver__evidence_rows=7)
    kernel.set_params(lengthscale=8.0)
    model.noise_["mean_force"], model.noise_levels_["mean_force"] = (9.0, 0.0), (9.0, 0.0)
    assert model.solver_.evidence_rows != 7 and model.model_.fitted_terms() == before
    assert "mean_force" not in model.noise_ or model.noise_["mean_force"] != (9.0, 0.0)
    np.testing.assert_array_equal(found, model.predict(frames, "mean_force", return_std=True))


def test_fitted_attributes_are_read_only_and_listed(model):
    names = [name for name in dir(FreeEnergyRegressor) if name.endswith("_") and not name.startswith("_")]
    assert {"posterior_", "noise_", "solver_", "temperatures_", "kinds_"} <= set(names)
    for name in names:
        getattr(model, name)
        with pytest.raises(AttributeError):
            setattr(model, name, None)
        assert not hasattr(FreeEnergyRegressor(), name)


@pytest.mark.parametrize("temperature", [None, "300", -1.0, np.nan, 0.0, True])
def test_a_temperature_that_is_none_is_refused_by_fit(temperature):
    with pytest.raises(DataError, match="temperature="):
        FreeEnergyRegressor(temperature=temperature).fit(molecule(8))
