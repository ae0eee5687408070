"""Ill-conditioned sparse models are solved from their rows, automatically, with the same answer."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest

from kernelfe import Frames, FreeEnergyRegressor, Sparse
from kernelfe.gp import condition
from kernelfe.gp.solvers.sparse import posterior as sparse_solve
from kernelfe.linalg import CONDITION_LIMIT

from ...systems import molecule, one_term, two_terms, variables

QUANTITIES = ("free_energy", "mean_force", "mean_energy", "entropy", "heat_capacity")


def fit(frames, terms=None, **options):
    options = {"solver": Sparse(inducing=9), "optimizer": None, "baseline": False} | options
    return FreeEnergyRegressor(terms=terms or one_term(), **options).fit(frames)


def same(a, b, test, tolerance):
    for quantity in QUANTITIES:
        (mean, std), (mean2, std2) = (m.predict(test, quantity, return_std=True, reference=None) for m in (a, b))
        assert np.abs(mean - mean2).max() <= tolerance * max(np.abs(mean).max(), std.max()), quantity
        np.testing.assert_allclose(std, std2, rtol=10 * tolerance)


def with_pairs(noise=True):
    frames = molecule(noise=noise)
    frames.add_pair_labels([0, 1], [2, 3], [0.0, 0.1], 0.01)
    return frames


CASES = {
    "grouped": lambda: (molecule(), one_term()),
    "learned noise, several terms, wide rows": lambda: (with_pairs(noise=False), two_terms()),
    "many temperatures": lambda: (molecule(20, temperatures=tuple(np.linspace(300, 500, 20))), one_term()),
}


@pytest.mark.parametrize("case", CASES)
def test_both_ways_agree_where_both_are_accurate(monkeypatch, case):
    frames, terms = CASES[case]()
    sums = fit(frames, terms)
    assert sums.posterior_.conditioning.method == "cholesky" and "solved by" not in sums.solver_reason_
    monkeypatch.setattr(sparse_solve, "CONDITION_LIMIT", 0.0)
    rows = fit(frames, terms)
    assert rows.posterior_.conditioning.method == "qr" and "orthogonal factorization" in rows.solver_reason_
    same(sums, rows, molecule(5, seed=9), 1e-9)
    assert rows.log_evidence_ == pytest.approx(sums.log_evidence_, rel=1e-9)


@pytest.mark.parametrize("first_by_rows", [False, True])
@pytest.mark.parametrize("then_by_rows", [False, True])
def test_added_frames_are_all_frames_at_once_either_way(monkeypatch, first_by_rows, then_by_rows):
    """The same posterior, whichever way the first labels were taken in and whichever way the others."""
    frames = molecule(16)
    first, more = frames[:9], frames[9:]
    # all environments of the first frames are inducing, in both
    solver = Sparse(inducing=9, gradients=True)
    at_once = fit(first, solver=solver)
    whole = sparse_solve.solve_sparse(at_once.posterior_.basis, *_labels(at_once, frames))
    monkeypatch.setattr(sparse_solve, "CONDITION_LIMIT", 0.0 if first_by_rows else CONDITION_LIMIT)
    model = fit(first, solver=solver)
    monkeypatch.setattr(sparse_solve, "CONDITION_LIMIT", 0.0 if then_by_rows else CONDITION_LIMIT)
    later = condition(model, more)
    assert model.posterior_.conditioning.method == ("qr" if first_by_rows else "cholesky")
    assert later.posterior_.conditioning.method == ("qr" if then_by_rows else "cholesky")
    assert later.log_evidence_ == pytest.approx(whole.log_evidence, rel=1e-9)
    same(at_once.with_model(replace(at_once.model_, posterior=whole)), later, molecule(5, seed=9), 1e-8)


def _labels(model, frames):
    from kernelfe.gp.observations import assemble
    from kernelfe.gp.observations.levels import NoiseLevels
    from kernelfe.gp.solvers.sparse.streaming import accumulate

    labels = assemble.label_sets(frames, None, None, model.baseline_, model.composition_.counts)
    noise = NoiseLevels.of(model.noise_, model.noise_temperature_)
    return labels, accumulate(model.posterior_.basis, labels, 4096), noise, 4096


def test_tiny_noise_is_solved_from_the_rows_and_says_so(caplog, tmp_path):
    frames = molecule(8)
    tiny = frames.replace(noise={"mean_force": 1e-8, "mean_energy": 1e-8})
    with caplog.at_level(logging.WARNING, "kernelfe"):
        model = fit(tiny, solver=Sparse(inducing=8, gradients=True))
    assert "streamed once more" in caplog.text and "orthogonal factorization" in model.solver_reason_
    assert model.posterior_.conditioning.condition > CONDITION_LIMIT
    # 7 numbers at each of 8 environments for 13 labels each: the best fit that the inducing variables allow
    residual = model.predict(tiny, "mean_force") - frames.labels["mean_force"]
    assert np.sqrt((residual**2).mean()) < 0.02
    model.save(tmp_path / "tiny.kfe")
    import kernelfe

    again = kernelfe.load(tmp_path / "tiny.kfe")
    np.testing.assert_array_equal(again.predict(frames, "mean_force"), model.predict(frames, "mean_force"))
    later = condition(again, molecule(4, seed=3).replace(noise={"mean_force": 1e-8, "mean_energy": 1e-8}))
    assert later.posterior_.conditioning.method == "qr"


@pytest.mark.parametrize("solver", ["dense", Sparse(inducing=7), Sparse(inducing=5, gradients=True)])
@pytest.mark.parametrize("factor", [1e-9, 1e9])
@pytest.mark.parametrize("optimizer", [None, "evidence"])
def test_the_unit_of_energy_does_not_matter(solver, factor, optimizer):
    """Energies, priors and noise multiplied together multiply every prediction."""
    frames = variables(20, labels=("mean_force", "mean_energy", "heat_capacity"), parameter=1.0)
    test = variables(6, seed=5, parameter=1.0)
    scaled = Frames.from_arrays(
        variables=frames.coordinates,
        temperature=frames.temperature,
        labels={k: v * factor for k, v in frames.labels.items()},
        noise={k: v * factor for k, v in frames.noise.items()},
        parameters=frames.parameters,
    )
    plain, other = (
        fit(f, _scaled_term(s), solver=solver, optimizer=optimizer) for f, s in ((frames, 1.0), (scaled, factor))
    )
    for quantity in ("mean_force", "mean_energy", "free_energy", "entropy", "heat_capacity"):
        (mean, std), (mean2, std2) = (m.predict(test, quantity, return_std=True) for m in (plain, other))
        assert np.abs(mean2 / factor - mean).max() <= 1e-6 * np.abs(mean).max(), quantity
        assert np.abs(std2 / factor - std).max() <= 1e-6 * std.max(), quantity


def _scaled_term(factor):
    from kernelfe import ParameterExpansion, Term
    from kernelfe.kernels import RBF, SecondOrder

    thermal = SecondOrder(400.0, energy=0.05 * factor, entropy=2e-4 * factor, heat_capacity=1e-4 * factor)
    return Term(None, RBF(lengthscale=1.2), thermal, (ParameterExpansion("lambda", reference=1.0, scale=1.0, order=2),))
