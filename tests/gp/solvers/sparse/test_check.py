"""A sparse model that nobody asked for is compared with the exact answer, and enlarged where it is poor."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kernelfe import Frames, FreeEnergyRegressor, Sparse, Term
from kernelfe.datasets import EliminatedMode
from kernelfe.gp.observations import assemble
from kernelfe.gp.observations.levels import NoiseLevels
from kernelfe.gp.solvers import specs as solvers
from kernelfe.gp.solvers.sparse import check as solver_check
from kernelfe.kernels import RBF

from ...systems import THERMAL, molecule, one_term, variables


@pytest.fixture
def small_limits(monkeypatch):
    monkeypatch.setattr(solvers, "DENSE_LIMIT", 100)
    monkeypatch.setattr(Sparse, "comparison", solver_check.CheckSettings(rows=300))


def auto(monkeypatch, frames, term, inducing, **options):
    monkeypatch.setattr(solvers.Sparse.__init__, "__defaults__", (inducing, *Sparse.__init__.__defaults__[1:]))
    return FreeEnergyRegressor(term, baseline=False, optimizer=None, **options).fit(frames)


def test_enough_inducing_environments_stay(monkeypatch, small_limits):
    frames = variables(80, parameter=1.0)
    model = auto(monkeypatch, frames, Term(None, RBF(2.0), THERMAL), 60)
    check = model.solver_check_
    assert model.solver_.inducing == 60 and check.worst < 0.25
    assert set(check.deviation) == {"mean_force", "mean_energy"} == set(check.ratio)
    assert "against the exact answer" in model.solver_reason_ and "> 100" in model.solver_reason_


def test_too_few_are_doubled_until_the_answer_is_good(monkeypatch, small_limits):
    frames = variables(120, parameter=1.0)
    term = Term(None, RBF(0.5), THERMAL)
    model = auto(monkeypatch, frames, term, 8)
    assert model.solver_.inducing in (16, 32, 64, 120) and model.solver_check_.worst < 0.25
    few = FreeEnergyRegressor(term, Sparse(inducing=8), False, None).fit(frames)
    assert few.solver_check_ is None  # as given
    many = FreeEnergyRegressor(term, "dense", False, None).fit(frames)
    test = variables(30, seed=4, parameter=1.0)
    mean, std = many.predict(test, "mean_force", return_std=True)
    off, off_few = (np.sqrt((((m.predict(test, "mean_force") - mean) / std) ** 2).mean()) for m in (model, few))
    assert off < 0.4 < off_few


def test_what_no_number_mends_is_a_warning_with_advice(monkeypatch, small_limits):
    frames = molecule(30)
    monkeypatch.setattr(Sparse, "comparison", solver_check.CheckSettings(large=1e-6, rows=300))
    with pytest.warns(UserWarning, match="gradients=True"):
        model = auto(monkeypatch, frames, one_term(), 10)
    assert model.solver_check_.worst > 1e-6


def test_the_check_changes_no_other_random_choice(monkeypatch, small_limits):
    frames = variables(60, parameter=1.0)
    term = Term(None, RBF(2.0), THERMAL)
    checked = auto(monkeypatch, frames, term, 40)
    given = FreeEnergyRegressor(term, Sparse(inducing=40), False, None).fit(frames)
    np.testing.assert_array_equal(*(m.predict(frames, "mean_force") for m in (checked, given)))


def test_deviation_and_ratio_are_those_of_the_predictions():
    """Against the same comparison made through the public interface."""
    frames = variables(60, parameter=1.0)
    term, solver = Term(None, RBF(0.8), THERMAL), Sparse(inducing=12)
    model = FreeEnergyRegressor(term, solver, False, None).fit(frames)
    labels = assemble.label_sets(frames, None, None, model.baseline_, model.composition_.counts)
    noise = NoiseLevels.of(model.noise_, model.noise_temperature_)
    comparison = solver_check.Comparison(
        model.posterior_.prior, labels, noise, np.random.default_rng(0), solver_check.CheckSettings(rows=90)
    )
    found = comparison.check(model.posterior_.basis, 4096)
    at = [frames.coordinates.tolist().index(x.tolist()) for x in comparison.train[0].states.coordinates.numpy()]
    held = [frames.coordinates.tolist().index(x.tolist()) for x in comparison.test[0].states.coordinates.numpy()]
    assert not set(at) & set(held) and found.rows == 3 * len(at) == 90
    exact = FreeEnergyRegressor(term, "dense", False, None).fit(frames[np.array(at)])
    mean, std = exact.predict(frames[np.array(held)], "mean_force", return_std=True)
    wanted, _ = comparison.exact[0]
    # the broad prior of the mean functions is set from the data, and there are fewer here
    assert float((wanted - torch.from_numpy(mean.reshape(-1))).abs().max()) < 1e-3 * std.min()
    assert 0.0 < found.deviation["mean_force"] < 3.0 and 0.5 < found.ratio["mean_force"] < 5.0
    assert found.seconds > 0.0


def test_a_single_label_of_a_kind_is_learned_from(monkeypatch, small_limits):
    frames = variables(80, parameter=1.0)
    anchor = EliminatedMode().frames(frames.coordinates[:1], frames.temperature[:1], ("free_energy",), 1.0)
    anchored = Frames.concatenate([frames, anchor.replace(noise={"free_energy": 0.005})])
    model = auto(monkeypatch, anchored, Term(None, RBF(2.0), THERMAL), 60)
    assert set(model.solver_check_.deviation) == {"mean_force", "mean_energy"}


def test_labels_of_one_kind_from_several_sets_are_taken_together(monkeypatch, small_limits):
    model = auto(monkeypatch, variables(80, parameter=1.0), Term(None, RBF(2.0), THERMAL), 60)
    posterior = model.posterior_
    labels = assemble.label_sets(variables(80, parameter=1.0), None, None, model.baseline_, model.composition_.counts)
    prior, noise = posterior.prior, NoiseLevels.of(model.noise_, model.noise_temperature_)
    limits = Sparse.comparison
    comparison = solver_check.Comparison(prior, [*labels, *labels], noise, np.random.default_rng(0), limits)
    parts = [label.kind for label in comparison.test]
    assert len(parts) == 4 and len(comparison.check(posterior.basis, 1000).deviation) == 2
    one = solver_check.Comparison(prior, labels, noise, np.random.default_rng(0), limits)
    assert len(one.test) == 2
