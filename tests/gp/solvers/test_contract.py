"""Every solver keeps the contract; a new one is one class and its posterior, in one file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from kernelfe import Dense, FreeEnergyRegressor, Iterative, Sparse, load
from kernelfe.errors import DataError, SolverError
from kernelfe.gp import hyperparameter_ensemble
from kernelfe.gp.solvers.exact import ExactPosterior, ExactSolver, gram_matrix
from kernelfe.testing import check_solver

from ..systems import molecule, one_term

SOLVERS = [
    Dense(),
    Iterative(tolerance=1e-10),
    Iterative(tolerance=1e-10, evidence_rows=None, precision="double"),
    Sparse(inducing=10),
    Sparse(inducing=10, gradients=True, selection="farthest"),
]


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_contract(solver):
    check_solver(solver)


# ------------------------------------------------------------------ a solver in one file


class EigenPosterior(ExactPosterior):
    """Exact posterior by the eigenvectors of the covariance of the labels."""

    _eigen: tuple[Tensor, Tensor] | None = None

    def solve(self, b: Tensor) -> Tensor:
        if self._eigen is None:
            with torch.no_grad():
                self._eigen = torch.linalg.eigh(gram_matrix(self.prior, self.labels, self.noise))
        values, vectors = self._eigen
        rotated = vectors.T @ b
        return vectors @ (rotated / (values if b.ndim == 1 else values[:, None]))


@dataclass(frozen=True)
class Eigen(ExactSolver):
    """Exact conditioning by an eigenvalue decomposition."""

    evidence_rows: int = 30
    posterior: ClassVar[type[ExactPosterior]] = EigenPosterior


def test_a_solver_of_ones_own_passes_the_contract():
    check_solver(Eigen())


def test_its_ensemble_is_that_of_dense():
    frames = molecule(6)
    models = [FreeEnergyRegressor(one_term(), solver, False).fit(frames) for solver in (Eigen(200), Dense(200))]
    found, wanted = (hyperparameter_ensemble(m, 3).predict(molecule(4, seed=5), "mean_force") for m in models)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-7)


class WrongPosterior(EigenPosterior):
    """Right means, wrong covariances."""

    def explained(self, left: Tensor, right: Tensor) -> Tensor:
        return 0.9 * super().explained(left, right)


@dataclass(frozen=True)
class Wrong(Eigen):
    """A solver with wrong covariances."""

    posterior: ClassVar[type[ExactPosterior]] = WrongPosterior


def test_the_check_finds_a_wrong_solver():
    with pytest.raises(AssertionError, match="the fit, standard deviation"):
        check_solver(Wrong())


def test_what_only_some_posteriors_have_is_refused_with_advice():
    posterior = FreeEnergyRegressor(one_term(), "dense", False, None).fit(molecule(4)).posterior_
    assert not posterior.linear
    with pytest.raises(DataError, match="solver='sparse'"):
        posterior.with_weights(posterior.weights, posterior.weights)
    sparse = FreeEnergyRegressor(one_term(), Sparse(4), False, None).fit(molecule(4)).posterior_
    with pytest.raises(DataError, match="solver='dense'"):
        sparse.reconditioned(sparse.prior, None)


def test_linear_features_are_those_of_the_weights():
    """f·w is the mean without the prior mean, L⁻¹f of unit covariance; with other weights the mean changes by f·dw."""
    model = FreeEnergyRegressor(one_term(), Sparse(6), False, None).fit(molecule(8))
    posterior, label = model.posterior_, FreeEnergyRegressor(one_term(), "dense", False, None)
    rows = label.fit(molecule(5, seed=2)).posterior_.labels[0].rows(posterior.prior)
    features = posterior.features(rows)
    mean = features @ posterior.weights + rows.prior_mean
    torch.testing.assert_close(mean, posterior.mean(rows), rtol=0, atol=1e-10)
    whitened = torch.linalg.solve_triangular(posterior.lower, features.T, upper=False)
    torch.testing.assert_close(whitened.T @ whitened, posterior.reducible(rows), rtol=0, atol=1e-12)
    step = torch.randn(len(posterior.weights), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    moved = posterior.with_weights(posterior.weights + step, posterior.lower)
    torch.testing.assert_close(moved.mean(rows) - posterior.mean(rows), features @ step, rtol=0, atol=1e-9)
    assert moved.log_evidence == posterior.log_evidence


class SilentPosterior(EigenPosterior):
    """A solve that returns no numbers."""

    def solve(self, b: Tensor) -> Tensor:
        return b * torch.nan


@dataclass(frozen=True)
class Silent(Eigen):
    """A solver that fails without a word."""

    posterior: ClassVar[type[ExactPosterior]] = SilentPosterior


def test_bad_solvers_are_named(tmp_path):
    frames = molecule(5)
    with pytest.raises(SolverError, match="SilentPosterior: the weights"):
        FreeEnergyRegressor(one_term(), Silent(), False).fit(frames)
    with pytest.raises(DataError, match=r"pass an instance, Eigen\(\.\.\.\)"):
        FreeEnergyRegressor(one_term(), Eigen, False).fit(frames)
    with pytest.raises(DataError, match="Eigen: evidence_rows=-3"):
        Eigen(evidence_rows=-3)
    impostor = dataclass(frozen=True)(type("Dense", (Eigen,), {"__module__": __name__}))
    model = FreeEnergyRegressor(one_term(), impostor(), False).fit(frames)
    with pytest.raises(DataError, match="has the name of a class of kernelfe"):
        model.save(tmp_path / "a.kfe")
    FreeEnergyRegressor(one_term(), Eigen(), False).fit(frames).save(tmp_path / "b.kfe")
    for classes in (Eigen, [Eigen()]):
        with pytest.raises(DataError, match="pass a list of classes"):
            load(tmp_path / "b.kfe", classes)


def test_the_part_of_a_gram_matrix_that_is_not_filled_in_is_zero():
    model = FreeEnergyRegressor(one_term(), Dense(), False, optimizer=None).fit(molecule(9)).posterior_
    gram = gram_matrix(model.prior, model.labels, model.noise).tril()
    symmetric = gram + gram.tril(-1).T
    assert torch.isfinite(symmetric).all() and float(torch.linalg.eigvalsh(symmetric)[0]) > 0.0
