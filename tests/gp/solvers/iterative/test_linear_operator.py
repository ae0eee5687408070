"""The covariance of the labels passes linear_operator's own contract, and serves GPyTorch's distributions."""

from __future__ import annotations

import unittest

import gpytorch
import linear_operator
import numpy as np
import pytest
import torch
from linear_operator.test.linear_operator_test_case import LinearOperatorTestCase

from kernelfe import Dense, FreeEnergyRegressor, Iterative, Term
from kernelfe.descriptors import Distances
from kernelfe.errors import DataError
from kernelfe.gp import RelativeNoise, as_linear_operator, starting
from kernelfe.gp.observations import assemble
from kernelfe.gp.observations.levels import NoiseLevels
from kernelfe.gp.observations.molecules import MoleculeSet
from kernelfe.gp.solvers.evidence import dense_log_evidence
from kernelfe.gp.solvers.exact import gram_matrix
from kernelfe.gp.solvers.iterative.operator import JetGram
from kernelfe.kernels import RBF, SecondOrder

from ...systems import molecule, one_term, two_terms
from .covariances import problem


def parts(frames, terms):
    """Prior, labels and noise, all of whose hyperparameters want gradients."""
    labels, prior, levels = problem(frames, terms)
    return prior.requires_grad_(True), labels, levels.requires_grad_(True)


def of_order_one():
    """A covariance as the contract's tolerances want it: entries of order one, a small condition number.

    No two eigenvalues are equal, or their derivatives would not be defined: every force has noise of its own.
    """
    frames, scale = molecule(2, noise=False), np.random.default_rng(0).uniform(0.9, 1.1, (2, 4, 3))
    labels = assemble.label_sets(frames, ["mean_force"], {"mean_force": RelativeNoise(scale)}, None, (1.0,))
    term = Term(Distances(), RBF(lengthscale=1.5), SecondOrder(400.0, energy=0.5, entropy=1e-3, heat_capacity=5e-4))
    _, prior, start, reference = starting.build_prior(term, MoleculeSet([frames]), labels)
    levels = NoiseLevels(start, reference, exponent=True)
    with torch.no_grad():
        levels.log_noise.fill_(0.0)
    return prior.requires_grad_(True), labels, levels.requires_grad_(True)


class Holder(torch.nn.Module):
    """The dense covariance as a function of the hyperparameters, by another path: row by row Grams."""

    def __init__(self, prior, labels, noise):
        super().__init__()
        self.prior, self.noise, self.labels = prior, noise, labels

    def forward(self):
        lower = gram_matrix(self.prior, self.labels, self.noise).tril()
        return lower + lower.tril(-1).mT


class TestContract(LinearOperatorTestCase, unittest.TestCase):
    """linear_operator's own tests of its operators, in float64."""

    seed = 0
    should_test_sample = True

    @classmethod
    def setUpClass(cls):
        cls.parts = of_order_one()
        cls.holder = Holder(*cls.parts)

    def setUp(self):
        torch.set_default_dtype(torch.float64)
        super().setUp()

    def tearDown(self):
        super().tearDown()
        torch.set_default_dtype(torch.float32)

    def create_linear_op(self):
        operator = as_linear_operator(JetGram(*self.parts))
        return operator.representation_tree()(*(p.detach().clone().requires_grad_() for p in operator.representation()))

    def evaluate_linear_op(self, linear_op):
        names = [name for name, _ in self.holder.named_parameters()]
        return torch.func.functional_call(self.holder, dict(zip(names, linear_op.representation(), strict=True)), ())

    def test_bilinear_derivative(self):
        """Against the dense matrix: the default, autograd through _matmul, does not apply."""
        operator = self.create_linear_op()
        for shape in ((operator.size(-1), 2), (3, operator.size(-1), 2), (operator.size(-1),)):
            u, v = torch.randn(2, *shape)
            found = operator._bilinear_derivative(u, v)
            columns = (u, v) if u.ndim > 1 else (u[:, None], v[:, None])
            value = (columns[0] * (self.evaluate_linear_op(operator) @ columns[1])).sum()
            expected = torch.autograd.grad(value, operator.representation(), allow_unused=True)
            for a, b in zip(found, expected, strict=True):
                torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", ["one term", "two terms", "covariance blocks", "pairs"])
def test_entries_diagonal_and_products(case):
    frames = molecule(5)
    if case == "pairs":
        frames.add_pair_labels([0, 1], [3, 4], [0.02, -0.01], [0.01, 0.01])
    if case == "covariance blocks":
        root = torch.randn(5, 12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64).numpy()
        frames = frames.replace(noise={"mean_force": 1e-4 * root @ root.swapaxes(1, 2), "mean_energy": 0.01})
    own = parts(frames, two_terms() if case == "two terms" else one_term())
    with torch.no_grad():
        operator, expected = as_linear_operator(JetGram(*own)), Holder(*own)()
        assert operator.shape == expected.shape and operator.dtype == torch.float64
        size = expected.diagonal().sqrt()
        for found, truth in (
            (operator.to_dense(), expected),
            (operator[[3, 0, 3], [1, 60, 3]], expected[[3, 0, 3], [1, 60, 3]]),
            (operator[2:5, 1:9].to_dense(), expected[2:5, 1:9]),
            (operator.diagonal(), expected.diagonal()),
        ):
            assert (found - truth).abs().max() <= 1e-12 * size.max() ** 2
        torch.testing.assert_close(operator.diagonal(), expected.diagonal(), rtol=1e-12, atol=0)


def test_hyperparameters_may_change_after_it_was_made():
    prior, labels, noise = parts(molecule(3), one_term())
    operator = as_linear_operator(JetGram(prior, labels, noise))
    x = torch.ones(operator.size(-1), 1, dtype=torch.float64)
    with torch.no_grad():
        before = operator @ x
        for parameter in prior.parameters():
            parameter.add_(0.1)
        expected = JetGram(prior, labels, noise).product(x)
        assert not torch.allclose(before, expected)
        torch.testing.assert_close(operator @ x, expected, rtol=1e-12, atol=1e-12 * float(expected.abs().max()))


def test_the_log_probability_of_gpytorch_has_the_gradients_of_the_evidence():
    """Above max_cholesky_size nothing is iterated here: both are exact."""
    prior, labels, noise = parts(molecule(4), one_term())
    gram = JetGram(prior, labels, noise)
    operator, y = as_linear_operator(gram), gram.target().detach()
    value = gpytorch.distributions.MultivariateNormal(torch.zeros_like(y), operator).log_prob(y)
    found = torch.autograd.grad(value, operator.representation(), allow_unused=True)
    exact = dense_log_evidence(prior, labels, noise)
    expected = torch.autograd.grad(exact, operator.representation(), allow_unused=True)
    assert float(value.detach()) == pytest.approx(float(exact.detach()), rel=1e-9)
    for a, b in zip(found, expected, strict=True):
        b = torch.zeros_like(a) if b is None else b
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6 * max(1.0, float(b.abs().max()) if b.numel() else 1.0))


def test_its_conjugate_gradients_give_what_they_give_with_the_matrix():
    """They stop at a residual of 1e-5, whatever the tolerance; kernelfe's own solver reaches its tolerance."""
    own = of_order_one()
    gram, matrix = JetGram(*own), Holder(*own)().detach()
    b = torch.ones(gram.rows, 2, dtype=torch.float64)
    found = []
    with torch.no_grad(), linear_operator.settings.max_cholesky_size(0), linear_operator.settings.cg_tolerance(1e-4):
        for operator in (as_linear_operator(gram), linear_operator.to_linear_operator(matrix)):
            found.append(operator.solve(b))
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(matrix @ found[0], b, rtol=0, atol=1e-4)


def test_of_a_fitted_model():
    frames = molecule(5)
    own = {"terms": one_term(), "optimizer": None, "baseline": False}
    model = FreeEnergyRegressor(solver=Iterative(), **own).fit(frames)
    operator = as_linear_operator(model.posterior_.gram)
    torch.testing.assert_close(
        operator.solve(model.posterior_.gram.target()), model.posterior_.weights, rtol=1e-4, atol=1e-4
    )
    dense = FreeEnergyRegressor(solver=Dense(), **own).fit(frames)
    with pytest.raises(DataError, match="not DensePosterior"):
        as_linear_operator(dense.posterior_)
