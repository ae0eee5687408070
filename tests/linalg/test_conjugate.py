"""Conjugate gradients: known solutions, the meaning of the residual, refinement, errors that name the remedy."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernelfe.errors import SolverError
from kernelfe.linalg import Identity, conjugate_gradients
from kernelfe.linalg.conjugate import Search

from .matrices import Diagonal, Matrix, normal, positive


def residual(a, p, b, x):
    """√(rᵀP⁻¹r / bᵀP⁻¹b), largest of the columns that are not zero."""
    r = b - a @ x
    size = (b * p.solve(b)).sum(0)
    return float(((r * p.solve(r)).sum(0)[size > 0] / size[size > 0]).max().sqrt())


@given(st.integers(1, 60), st.integers(0, 7), st.integers(0, 1000), st.sampled_from([1e-4, 1e-8, 1e-11]))
def test_known_solutions_and_the_residual_that_was_asked_for(n, columns, seed, tolerance):
    a = positive(n, seed, condition=1e3)
    p = Matrix(a + 0.3 * positive(n, seed + 1, condition=10.0))
    truth = normal(n, columns, seed=seed) if columns else normal(n, seed=seed)
    b, operator = a @ truth, Matrix(a)
    found = conjugate_gradients(operator, b, p, tolerance, 400)
    assert found.value.shape == b.shape and found.jitter == 0.0 and found.seconds > 0.0
    assert found.iterations == operator.products
    two, x = b.reshape(n, -1), found.value.reshape(n, -1)
    assert found.residual <= tolerance
    assert residual(a, p, two, x) == pytest.approx(found.residual, rel=1e-3, abs=1e-14)
    # ‖x − x*‖_A ≤ √cond(P⁻¹A) × residual × √(bᵀP⁻¹b), and the spectrum of P⁻¹A lies in (0.2, 1)
    error = x - truth.reshape(n, -1)
    bound = 1e2 * tolerance * (two * p.solve(two)).sum(0).sqrt()
    assert bool(((error * (a @ error)).sum(0).clamp_min(0.0).sqrt() <= bound + 1e-12).all())


def test_as_many_iterations_as_distinct_eigenvalues():
    basis, _ = torch.linalg.qr(normal(50, 50))
    a = (basis * torch.tensor([1.0, 2.0, 5.0, 9.0, 20.0], dtype=torch.float64).repeat(10)) @ basis.T
    found = conjugate_gradients(Matrix(a), normal(50, 3), Identity(50), 1e-10)
    assert found.iterations == 5 + 1  # and one for the true residual


def test_the_inverse_as_preconditioner_takes_one_iteration():
    a = positive(30)
    assert conjugate_gradients(Matrix(a), normal(30), Matrix(a), 1e-8).iterations == 2


def test_columns_do_not_disturb_one_another():
    """Columns of sizes that differ by 10^200, easy, hard and zero: each is solved as if it were alone."""
    a = positive(40, condition=1e4)
    b = normal(40, 4) * torch.tensor([1e-100, 1.0, 0.0, 1e100], dtype=torch.float64)
    b[:, 1] = a @ torch.ones(40, dtype=torch.float64)
    p, truth = Diagonal(a.diagonal()), torch.linalg.solve(a, b)
    found = conjugate_gradients(Matrix(a), b, p, 1e-10)
    assert bool((found.value[:, 2] == 0.0).all()) and bool(torch.isfinite(found.value).all())
    size = truth.abs().amax(0)
    assert bool(((found.value - truth).abs().amax(0) <= 1e-7 * size).all())
    nothing = conjugate_gradients(Matrix(a), torch.zeros(40, 2, dtype=torch.float64), p)
    assert nothing.iterations == 0 and nothing.residual == 0.0 and not nothing.value.any()
    none = conjugate_gradients(Matrix(a), torch.zeros(40, 1, dtype=torch.float64), p, start=torch.zeros(40, 1))
    assert none.iterations == 1


@given(st.integers(2, 30), st.integers(0, 1000), st.integers(0, 3))
def test_units_of_rows_and_of_labels_change_nothing(n, seed, columns):
    """D A D x' = D b with x' = D⁻¹x. Powers of two are exact: the same bits."""
    a, b = positive(n, seed), normal(n, max(1, columns), seed=seed)
    powers = torch.randint(-40, 40, (n,), generator=torch.Generator().manual_seed(seed))
    d = torch.pow(torch.tensor(2.0, dtype=torch.float64), powers)
    one = conjugate_gradients(Matrix(a), b, Diagonal(a.diagonal()), 1e-9)
    scaled = d[:, None] * a * d
    two = conjugate_gradients(Matrix(scaled), 2.0**30 * d[:, None] * b, Diagonal(scaled.diagonal()), 1e-9)
    assert (one.iterations, one.residual) == (two.iterations, two.residual)
    assert torch.equal(one.value, 2.0**-30 * d[:, None] * two.value)


def single(a):
    low = a.float()
    return lambda x: (low @ x.float()).double()


def test_single_precision_products_reach_double_precision():
    a, truth = positive(60, condition=1e3), normal(60, 3)
    b, p, operator = a @ truth, Diagonal(a.diagonal()), Matrix(a)
    found = conjugate_gradients(operator, b, p, 1e-12, fast=single(a))
    assert found.residual <= 1e-12 and (found.value - truth).abs().max() < 1e-9
    sweeps = math.ceil(math.log(1e-12) / math.log(Search.SINGLE_PRECISION))
    assert operator.products <= sweeps  # one each: the rest was done in single precision
    assert found.iterations > 4 * operator.products


def test_products_that_are_a_percent_off_are_refined_too():
    """Refinement needs no more than that the fast product contracts the error."""
    a, truth = positive(40, condition=20.0), normal(40, 2)
    off = positive(40, 3, condition=20.0)
    operator = Matrix(a)
    found = conjugate_gradients(operator, a @ truth, Identity(40), 1e-11, fast=lambda x: (a + 0.005 * off) @ x)
    assert (found.value - truth).abs().max() < 1e-9


def test_a_start_is_gone_on_from():
    a, truth = positive(60, condition=1e4), normal(60, 2)
    b, p = a @ truth, Identity(60)
    cold = conjugate_gradients(Matrix(a), b, p, 1e-8)
    exact = conjugate_gradients(Matrix(a), b, p, 1e-8, start=truth)
    assert exact.iterations == 1 and torch.equal(exact.value, truth)
    start = truth + 1e-5 * normal(60, 2, seed=5)
    before = start.clone()
    warm = conjugate_gradients(Matrix(a), b, p, 1e-8, start=start)
    assert warm.iterations < 0.7 * cold.iterations and (warm.value - truth).abs().max() < 1e-4
    assert torch.equal(start, before)  # it is the caller's
    bad = conjugate_gradients(Matrix(a), b, p, 1e-8, start=1e6 * normal(60, 2, seed=6))
    assert bad.residual <= 1e-8
    vector = conjugate_gradients(Matrix(a), b[:, 0], p, 1e-8, start=truth[:, 0])
    assert vector.value.shape == (60,)


def test_the_callback_sees_every_step_and_may_stop_it():
    a, b, p, seen = positive(40), normal(40, 2), Identity(40), []

    def told(step):
        seen.append((step.iteration, step.residual, residual(a, p, b, step.value)))

    found = conjugate_gradients(Matrix(a), b, p, 1e-6, callback=told)
    assert [k for k, _, _ in seen] == list(range(1, found.iterations))  # and the last product is the true residual
    for _, said, truth in seen:
        assert said == pytest.approx(truth, rel=1e-6)

    def stops(step):
        if step.iteration == 3:
            raise KeyboardInterrupt("enough")

    with pytest.raises(KeyboardInterrupt, match="enough"):
        conjugate_gradients(Matrix(a), b, p, 1e-6, callback=stops)


def test_not_finite_is_an_error_with_advice():
    a = positive(10)
    with pytest.raises(SolverError, match="not positive definite in float64; raise the noise of the labels or remove"):
        conjugate_gradients(Matrix(a), torch.full((10,), torch.nan, dtype=torch.float64), Identity(10))
    a[3, 3] = torch.inf
    with pytest.raises(SolverError, match="non-finite numbers"):
        conjugate_gradients(Matrix(a), normal(10), Identity(10))


def test_a_matrix_that_is_not_positive_definite_is_no_answer():
    basis, _ = torch.linalg.qr(normal(20, 20))
    a = (basis * torch.linspace(-1.0, 1.0, 20, dtype=torch.float64)) @ basis.T
    with pytest.raises(SolverError):
        conjugate_gradients(Matrix(a), normal(20, 2), Identity(20), 1e-8, 200)


def test_a_limit_is_an_error_with_advice():
    operator = Matrix(positive(80, condition=1e6))
    with pytest.raises(SolverError, match=r"of .* \(requested 1.0e-10\) after max_iterations=7 products: raise max"):
        conjugate_gradients(operator, normal(80), Identity(80), 1e-10, 7)
    assert operator.products <= 8


def test_a_stall_is_an_error_with_advice():
    """Products with a relative error of 1e-6 cannot give residuals of 1e-12; it is noticed and said, not tried on."""
    a, calls = positive(50, condition=100.0), []

    class Rough(Matrix):
        def product(self, x):
            calls.append(1)
            return super().product(x) * (1.0 + 1e-6 * normal(50, 1, seed=len(calls)))

    with pytest.raises(SolverError, match=r"stalled at a residual of .*e-0[5678] .*raise the noise .* or use Dense"):
        conjugate_gradients(Rough(a), normal(50), Identity(50), 1e-12, 100_000)
    assert len(calls) < 5000
