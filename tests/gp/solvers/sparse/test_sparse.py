"""Sparse conditioning: equal to dense with all environments inducing, and indifferent to how labels are streamed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kernelfe import Dense, Frames, FreeEnergyRegressor, Sparse, Term
from kernelfe.errors import DataError, SolverError
from kernelfe.gp.solvers.sparse import streaming
from kernelfe.gp.solvers.sparse.inducing import choose_inducing
from kernelfe.kernels import RBF, Matern52
from kernelfe.linalg import Whitening

from ...systems import (
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

SAME = 1e-6
ALL = Sparse(inducing=10_000, gradients=True)
QUANTITIES = ("free_energy", "mean_force", "mean_energy", "entropy", "heat_capacity", "thermal_response_force")


def fit(frames, terms, solver, **options):
    return FreeEnergyRegressor(terms=terms, solver=solver, optimizer=None, baseline=False, **options).fit(frames)


def same(a, b, test, quantities=QUANTITIES, evidence=True):
    for quantity in quantities:
        mean, std = a.predict(test, quantity, return_std=True, reference=None)
        mean2, std2 = b.predict(test, quantity, return_std=True, reference=None)
        scale = max(np.abs(mean).max(), std.max())
        assert np.abs(mean - mean2).max() < SAME * scale, quantity
        assert np.abs(std**2 - std2**2).max() < SAME * (std**2).max(), quantity
    covariance, covariance2 = a.covariance(test, "mean_force"), b.covariance(test, "mean_force")
    assert np.abs(covariance - covariance2).max() < SAME * np.abs(covariance).max()
    if evidence:
        assert a.log_evidence_ == pytest.approx(b.log_evidence_, rel=SAME, abs=SAME)


def unseen():
    return molecule(5, seed=9, temperatures=(330.0, 440.0))


CASES = {
    "molecule": lambda: (molecule(), one_term(), unseen()),
    "matern": lambda: (molecule(), one_term(Matern52(lengthscale=2.0)), unseen()),
    "several environments": lambda: (molecule(8), two_terms(), unseen()),
    "learned noise": lambda: (molecule(noise=False), one_term(), unseen()),
    "parameters": lambda: (
        variables(
            12,
            labels=("mean_force", "mean_energy", "parameter_derivative", "heat_capacity"),
            parameter=np.resize([0.7, 1.3], 12),
        ),
        Term(None, RBF(lengthscale=(1.0, 1.3)), THERMAL, (LAMBDA,)),
        variables(4, seed=5),
    ),
    "stationary in T": lambda: (molecule(8), stationary_terms(), unseen()),
    "stationary in T and λ": lambda: (
        variables(
            10,
            labels=("mean_force", "mean_energy", "parameter_derivative", "heat_capacity"),
            parameter=np.resize([0.7, 1.3], 10),
        ),
        stationary_in_both(),
        variables(4, seed=5),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_all_environments_inducing_is_dense(case):
    frames, terms, test = CASES[case]()
    same(fit(frames, terms, "dense"), fit(frames, terms, ALL), test)


def test_values_suffice_for_value_labels():
    frames = molecule().with_labels(["mean_energy"])
    dense, values = (fit(frames, one_term(), s) for s in ("dense", Sparse(inducing=10_000)))
    same(dense, values, unseen(), evidence=True)


def test_labels_given_as_pairs_blocks_and_arrays():
    rng = np.random.default_rng(3)
    frames = molecule()
    root = 0.01 * (np.eye(12) + 0.2 * rng.normal(size=(len(frames), 12, 12)))
    noise = {"mean_force": root @ root.transpose(0, 2, 1), "mean_energy": rng.uniform(0.005, 0.05, len(frames))}
    frames = frames.replace(noise=noise)
    frames.add_pair_labels([0, 3, 5], [4, 2, 1], [0.01, -0.02, 0.03], [0.01, 0.01, 0.02])
    dense, many = (fit(frames, two_terms(), s) for s in ("dense", ALL))
    same(dense, many, unseen())
    a = dense.predict_difference(unseen()[:2], unseen()[2:4], return_cov=True)
    b = many.predict_difference(unseen()[:2], unseen()[2:4], return_cov=True)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=SAME * np.abs(x).max())


@pytest.mark.parametrize("solver", [Sparse(inducing=9), Sparse(inducing=5, gradients=True)])
@pytest.mark.parametrize("learned", [False, True])
def test_grouping_by_state_changes_nothing(monkeypatch, solver, learned):
    frames = variables(16, labels=("mean_force", "mean_energy", "heat_capacity"), parameter=1.0)
    if learned:
        frames = frames.replace(noise={})
    term = Term(None, RBF(lengthscale=1.2), THERMAL, (LAMBDA,))
    grouped = fit(frames, term, solver)
    by_row = streaming.StreamSettings(max_states=0)
    monkeypatch.setattr(streaming, "StreamSettings", lambda: by_row)
    same(grouped, fit(frames, term, solver), variables(4, seed=5))


def test_many_temperatures_take_the_wide_path_and_agree_with_dense():
    frames = molecule(20, temperatures=tuple(np.linspace(300, 500, 20)))
    same(fit(frames, one_term(), "dense"), fit(frames, one_term(), ALL), unseen())


def test_block_size_changes_nothing():
    frames = molecule()
    frames.add_pair_labels([0, 1], [2, 3], [0.0, 0.1], 0.01)
    models = [fit(frames, two_terms(), Sparse(inducing=20, block_rows=rows)) for rows in (1, 25, 8192)]
    same(models[0], models[2], unseen())
    same(models[1], models[2], unseen())


@pytest.mark.parametrize("gradients", [False, True])
def test_the_collapsed_bound_is_below_the_evidence_and_grows(gradients):
    frames = molecule()
    exact = fit(frames, one_term(), "dense").log_evidence_
    bounds = [fit(frames, one_term(), Sparse(inducing=m, gradients=gradients)).log_evidence_ for m in (1, 4, 12)]
    assert bounds[0] < bounds[1] < bounds[2] < exact + 1e-6 * abs(exact)
    assert bounds[0] < exact - 1.0


def test_few_inducing_environments_are_never_more_certain_than_the_data_allow():
    """The posterior variance keeps what the features miss: far from the data it is the prior's."""
    frames = molecule()
    model = fit(frames, one_term(), Sparse(inducing=4))
    far = Frames.from_arrays(3.0 * beads(2, np.random.default_rng(1)), temperature=[300.0, 400.0])
    dense = fit(frames, one_term(), "dense")
    for quantity in ("mean_force", "entropy"):
        _, std = model.predict(far, quantity, return_std=True)
        _, exact = dense.predict(far, quantity, return_std=True)
        assert np.all(std > 0.9 * exact)


def test_inducing_environments_are_chosen_greedily():
    z = torch.tensor([[0.0], [0.01], [3.0], [1.5], [3.0]], dtype=torch.float64)
    chosen = choose_inducing(z, RBF(), 3).tolist()
    assert sorted(chosen) == [0, 2, 3]
    assert len(choose_inducing(z, RBF(), 10)) == 4  # the repeated one explains nothing
    assert choose_inducing(z[:0], RBF(), 3).dtype == torch.long


def test_duplicated_environments_need_no_jitter():
    frames = molecule(6)
    twice = Frames.concatenate([frames, frames, frames[:3]])
    model, dense = fit(twice, one_term(), ALL), fit(twice, one_term(), "dense")
    same(dense, model, unseen())
    assert Whitening.of(torch.ones(3, 3, dtype=torch.float64)).rank == 1


def test_fitting_hyperparameters_sparsely():
    frames = molecule(60, noise=False, seed=4)
    model = FreeEnergyRegressor(terms=one_term(), solver=Sparse(inducing=40, evidence_inducing=20), baseline=False).fit(
        frames
    )
    start = FreeEnergyRegressor(terms=one_term(), solver=Sparse(inducing=40), baseline=False, optimizer=None).fit(
        frames
    )
    assert model.log_evidence_ > start.log_evidence_
    assert model.noise_["mean_force"][0] == pytest.approx(0.01, rel=0.4)


def test_auto_says_why(monkeypatch):
    model = fit(molecule(4), one_term(), "auto")
    assert isinstance(model.solver_, Dense) and "52 label rows" in model.solver_reason_
    monkeypatch.setattr("kernelfe.gp.solvers.specs.DENSE_LIMIT", 30)
    model = fit(molecule(4), one_term(), "auto")
    assert isinstance(model.solver_, Sparse) and "> 30" in model.solver_reason_
    with pytest.raises(DataError, match="'cg'"):
        fit(molecule(4), one_term(), "cg")
    for bad in (lambda: Dense(evidence_rows=0), lambda: Sparse(inducing=0)):
        with pytest.raises(DataError, match="at least 1"):
            bad()


def test_noise_far_too_small_is_an_error_that_says_so():
    frames = molecule(noise=False)
    with pytest.raises(SolverError, match=r"noise|positive definite"):
        fit(frames, one_term(), Sparse(inducing=12, gradients=True), noise={"mean_force": 1e-14, "mean_energy": 1e-14})
