"""The covariance of the labels in products and differentiable forms, and hyperparameters from all label rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kernelfe import Dense, FreeEnergyRegressor, Iterative, load
from kernelfe.gp import pathwise_draws
from kernelfe.gp.solvers.evidence import dense_log_evidence
from kernelfe.gp.solvers.iterative import evidence as label_covariance
from kernelfe.gp.solvers.iterative.evidence import LabelCovariance, covariance_builder, lanczos_log_evidence, targets
from kernelfe.gp.solvers.iterative.preconditioner import precondition
from kernelfe.gp.solvers.iterative.settings import PreconditionerSettings
from kernelfe.linalg import LanczosSettings

from ...systems import molecule, one_term, two_terms
from .covariances import DenseOperator, problem


def setting(n=14, terms=None):
    sets, prior, noise = problem(molecule(n, noise=False), terms or two_terms())
    return sets, prior, noise, [p for p in [*prior.parameters(), *noise.parameters()] if p.requires_grad]


def slopes(value, parameters):
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(value, parameters)])


def assert_close(found, exact):
    assert torch.allclose(found, exact, rtol=1e-9, atol=1e-9 * float(exact.abs().max()))


@pytest.mark.parametrize("columns", [1, 400])
def test_bilinear_form_and_its_gradient(columns):
    """One column goes through jets, many through blocks of the Gram."""
    sets, prior, noise, parameters = setting()
    covariance, dense = LabelCovariance(prior, sets, noise), DenseOperator(prior, sets, noise)
    u, v = torch.randn(2, covariance.rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(
        covariance.product(v), dense.product(v), rtol=1e-10, atol=1e-10 * float(dense.diagonal().detach().max())
    )
    found, exact = covariance.bilinear(u, v), dense.bilinear(u, v)
    assert_close(found.detach().reshape(1), exact.detach().reshape(1))
    assert_close(slopes(found, parameters), slopes(exact, parameters))


def test_blocks_of_the_gram_add_up_however_they_are_cut(monkeypatch):
    sets, prior, noise, parameters = setting(8)
    dense, covariance = DenseOperator(prior, sets, noise), LabelCovariance(prior, sets, noise)
    u, v = torch.randn(2, covariance.rows, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(label_covariance, "BLOCK_ENTRIES", 3000)
    found = label_covariance._by_blocks(prior, covariance.slopes.blocks, u, v)
    found = found + (u * covariance.slopes.noise_product(v)).sum()
    exact = dense.bilinear(u, v)
    assert_close(found.detach().reshape(1), exact.detach().reshape(1))
    assert_close(slopes(found, parameters), slopes(exact, parameters))


@pytest.mark.parametrize("rank", [0, 40, None])
def test_gradient_of_the_trace_with_the_preconditioner(rank):
    sets, prior, noise, parameters = setting(20)
    covariance = LabelCovariance(prior, sets, noise)
    preconditioner = precondition(covariance.gram, PreconditionerSettings().for_evidence(), rank)
    with torch.no_grad():
        inverse = preconditioner.solve(torch.eye(covariance.rows, dtype=torch.float64))
    exact = slopes((inverse * DenseOperator(prior, sets, noise).matrix).sum(), parameters)
    found = slopes(covariance.trace(preconditioner), parameters)
    assert torch.allclose(found, exact, rtol=1e-6, atol=1e-6 * float(exact.abs().max()))


@pytest.mark.slow
def test_the_exact_trace_takes_most_of_the_noise_out_of_the_gradient():
    sets, prior, noise, parameters = setting(20)
    y, found = targets(prior, sets), {}
    exact = slopes(dense_log_evidence(prior, sets, noise), parameters)
    build = covariance_builder(prior, sets, noise, 120, 1 << 30)

    class WithoutTrace:
        def __init__(self, covariance):
            self.rows, self.product, self.bilinear = covariance.rows, covariance.product, covariance.bilinear

    def without():
        covariance, preconditioner = build()
        return WithoutTrace(covariance), preconditioner

    for name, made in (("exact", build), ("estimated", without)):
        gradients = []
        for seed in range(6):
            value, _ = lanczos_log_evidence(made, sets, noise, y, LanczosSettings(seed=seed))
            gradients.append(slopes(value, parameters))
        found[name] = float((torch.stack(gradients) - exact).square().sum(1).mean().sqrt())
    assert found["exact"] < 0.35 * found["estimated"]


@pytest.mark.parametrize(
    ("n", "temperatures"), [(8, (400.0,)), pytest.param(11, (300.0, 400.0, 500.0), marks=pytest.mark.slow)]
)
def test_a_fit_to_all_rows_is_that_of_the_dense_solver(tmp_path, n, temperatures):
    """104 rows at one temperature, or 143 at three."""
    frames, test = molecule(n, noise=False, temperatures=temperatures), molecule(5, seed=5)
    dense, found = (
        FreeEnergyRegressor(one_term(), solver=solver, baseline=False).fit(frames)
        for solver in (Dense(evidence_rows=10**6), Iterative(evidence_rows=None))
    )
    # half a nat is one standard deviation of a hyperparameter; the estimate has an error of its own
    assert found.log_evidence_ == pytest.approx(dense.log_evidence_, abs=2.0)
    mean, std = dense.predict(test, "mean_force", temperature=350.0, return_std=True)
    other, width = found.predict(test, "mean_force", temperature=350.0, return_std=True)
    assert np.sqrt(np.mean(((other - mean) / std) ** 2)) < 0.3
    assert np.median(width / std) == pytest.approx(1.0, abs=0.15)
    found.save(tmp_path / "model.kfe")
    again = load(tmp_path / "model.kfe")
    assert again.solver_.evidence_rows is None
    assert np.allclose(again.predict(test, "mean_force"), found.predict(test, "mean_force"), rtol=1e-9)


def test_draws_of_the_iterative_posterior_are_those_of_the_dense_one():
    """The same seed makes the same prior draws and noise, so only the solves differ."""
    frames, test = molecule(10), molecule(5, seed=5)
    draws = [
        pathwise_draws(
            FreeEnergyRegressor(two_terms(), solver=s, optimizer=None, baseline=False).fit(frames), 20, features=64
        )
        for s in (Dense(), Iterative(tolerance=1e-9))
    ]
    for quantity in ("mean_force", "heat_capacity"):
        one, two = (d.predict(test, quantity, temperature=350.0) for d in draws)
        assert np.abs(one - two).max() < 1e-5 * one.std()
