"""The gain predicted for a proposal is the gain of its labels; the choice is better than chance."""

from __future__ import annotations

import numpy as np
import pytest

import kernelfe
from kernelfe import FreeEnergyRegressor
from kernelfe.errors import DataError, SolverError
from kernelfe.gp import condition
from kernelfe.training import expected_divergence, propose
from kernelfe.units import BOLTZMANN

NOISE = {"mean_force": 0.03, "mean_energy": 0.02}


@pytest.fixture(scope="module")
def data():
    return kernelfe.datasets.load("alanine-dipeptide").with_labels(list(NOISE))


@pytest.fixture(scope="module")
def model(data):
    return FreeEnergyRegressor(solver="dense").fit(data[::3000])


@pytest.fixture(scope="module")
def samples(data):
    return data[data.temperature == 350.0][::40].drop_labels()


def test_the_expected_divergence_is_that_of_draws_of_the_posterior(model, samples):
    """⟨D⟩ is the mean over posterior draws of Var(δA)/2(kT)²."""
    covariance = model.covariance(samples, "free_energy")
    draws = np.random.default_rng(0).multivariate_normal(np.zeros(len(samples)), covariance, size=4000, method="eigh")
    each = draws.var(axis=1) / (2 * (BOLTZMANN * 350.0) ** 2)
    assert expected_divergence(model, samples) == pytest.approx(each.mean(), abs=4 * each.std() / np.sqrt(len(each)))


def test_a_promise_is_kept(model, data, samples):
    candidates = data[11::900]
    proposal = propose(model, candidates, samples, 3, NOISE)
    assert len(set(proposal.rows.tolist())) == 3
    for k in range(4):
        rows = proposal.rows[:k]
        known = condition(model, candidates[rows].replace(noise=NOISE)) if k else model
        assert expected_divergence(known, samples) == pytest.approx(proposal.divergence[k], rel=1e-6)
    assert (np.diff(proposal.divergence) < 0).all()


def test_the_first_choice_is_the_best_and_better_than_most(model, data, samples):
    candidates = data[11::900]
    best = propose(model, candidates, samples, 1, NOISE)
    each = [propose(model, candidates[[k]], samples, 1, NOISE).divergence[1] for k in range(len(candidates))]
    assert int(np.argmin(each)) == best.rows[0]
    assert best.divergence[1] == pytest.approx(min(each), rel=1e-6)


@pytest.mark.parametrize(
    ("batch", "noise", "message"),
    [(0, NOISE, "batch=0"), (99, NOISE, "batch=99"), (1, {}, "positive"), (1, {"mean_force": 0.0}, "positive")],
)
def test_wrong_questions(model, data, samples, batch, noise, message):
    with pytest.raises(DataError, match=message):
        propose(model, data[:5], samples, batch, noise)


def test_what_proposals_refuse(model, data, samples):
    candidates = data[::3000].drop_labels()
    other = kernelfe.Frames.from_arrays(np.zeros((5, 2, 3)), temperature=300.0)
    sound = {"model": model, "candidates": candidates, "samples": samples[:9], "batch": 2, "noise": NOISE}
    for wrong, message in (
        ({"samples": samples[:0]}, "at least one row"),
        ({"samples": other}, "configurations of shape"),
        ({"candidates": other}, "configurations of shape"),
        ({"candidates": candidates.positions}, "must be Frames"),
        ({"noise": ["mean_force"]}, "noise must be a dict"),
        ({"noise": {"mean_force": "small"}}, "real numbers"),
        ({"batch": 2.0}, "batch=2.0"),
    ):
        with pytest.raises(DataError, match=message):
            propose(**(sound | wrong))
    with pytest.raises(DataError, match="at least one row"):
        expected_divergence(model, samples[:0])
    with pytest.raises(SolverError, match="stated noise"):
        propose(model, candidates[[0] * 10], samples[:9], 5, {"mean_force": 1e-12})
