"""Orthogonal factorization of streamed rows, where the normal equations lose their digits."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch

from kernelfe.errors import SolverError
from kernelfe.linalg import NormalEquations, TriangularEquations, precision_condition
from kernelfe.linalg.qr import CONDITION_LIMIT

from .test_normal import VARIANCES, problem, randn

ONE = torch.ones(1, dtype=torch.float64)


def test_same_as_the_normal_equations_where_these_are_accurate():
    _, _, noise, normal = problem()
    _, _, _, triangular = problem(TriangularEquations)
    levels = torch.tensor([v for _, v in noise], dtype=torch.float64)
    a, b = normal.stacked(), triangular.stacked()
    assert a.kinds == b.kinds and a.temperature.tolist() == b.temperature.tolist()
    mean, lower = a.solve(VARIANCES, levels)
    found, triangle, evidence = b.solve(VARIANCES, levels)
    assert torch.allclose(found, mean, rtol=1e-12, atol=1e-12)
    assert torch.allclose(triangle, lower, rtol=1e-12, atol=1e-12)
    assert evidence == pytest.approx(float(a.log_evidence(VARIANCES, levels)), rel=1e-12)


def vandermonde(rows=40, columns=8):
    """Rows with nearly equal columns, and labels that determine all weights."""
    x = torch.linspace(-1.0, 1.0, rows, dtype=torch.float64)
    features = torch.stack([(0.3 * x + 1.0) ** k for k in range(columns)], 1)
    return features, features @ randn(columns, seed=3)


def exact(features, y, sigma):
    """Mean weights and ½ log det Λ of the rows by 80 digits."""
    with mpmath.workdps(80):
        a = mpmath.matrix(features.tolist()) / mpmath.mpf(sigma)
        precision = a.T * a + mpmath.eye(features.shape[1])
        mean = mpmath.lu_solve(precision, a.T * (mpmath.matrix(y.tolist()) / mpmath.mpf(sigma)))
        return torch.tensor([float(v) for v in mean], dtype=torch.float64), float(mpmath.log(mpmath.det(precision)) / 2)


def solved(kind, features, y, sigma):
    equations = kind([features.shape[1]], [1])
    for part in (slice(0, 3), slice(3, None)):
        rows = features[part]
        equations.add(("k", 300.0), [ONE], rows, y[part], 0.0 * ONE, 0.0)
    one, level = [ONE], torch.tensor([sigma**2], dtype=torch.float64)
    return equations.stacked().solve(one, level)[:2]


def test_tiny_noise_costs_the_normal_equations_digits_and_not_the_triangle():
    features, y = vandermonde()
    wanted, half_log_det = exact(features, y, 1e-6)
    cholesky, lower = solved(NormalEquations, features, y, 1e-6)
    triangle, root = solved(TriangularEquations, features, y, 1e-6)
    lost = float((cholesky - wanted).abs().max())
    assert precision_condition(lower) > CONDITION_LIMIT  # so that a fit would not have trusted it
    assert lost > 1e-5
    assert float((triangle - wanted).abs().max()) < 1e-3 * lost
    assert float(root.diagonal().log().sum()) == pytest.approx(half_log_det, rel=1e-8)


def test_where_the_normal_equations_cannot_be_factorized_at_all():
    features, y = vandermonde(columns=10)
    wanted, _ = exact(features, y, 1e-9)
    with pytest.raises(SolverError, match="positive definite"):
        solved(NormalEquations, features, y, 1e-9)
    triangle, root = solved(TriangularEquations, features, y, 1e-9)
    # eps × condition number of the rows, 1e11
    assert float((triangle - wanted).abs().max()) < 1e-3 * float(wanted.abs().max())
    assert 1e16 < precision_condition(root) < 1e24


def test_beyond_float64_is_an_error_that_says_so():
    features, y = vandermonde(columns=14)
    with pytest.raises(SolverError, match="noise is too small"):
        solved(TriangularEquations, features, y, 1e-16)


def test_condition_number_is_that_of_the_scaled_matrix():
    a = randn(30, 30, seed=1)
    precision = a @ a.T + torch.eye(30, dtype=torch.float64)
    units = torch.logspace(-9, 9, 30, dtype=torch.float64)
    d = precision.diagonal().rsqrt()
    wanted = float(torch.linalg.cond(d[:, None] * precision * d))
    lower = torch.linalg.cholesky(units[:, None] * precision * units)
    assert wanted / 30 < precision_condition(lower) < 30 * 30 * wanted
    assert math.isinf(precision_condition(torch.full((2, 2), torch.nan, dtype=torch.float64)))
    assert precision_condition(torch.zeros(0, 0, dtype=torch.float64)) == 1.0


def test_memory_does_not_grow_with_the_rows():
    equations = TriangularEquations([20], [1])
    for block in range(300):
        psi = randn(7, 20, seed=block)
        equations.add(("k", 300.0), [ONE], psi, psi[:, 0], 0.0 * ONE, 0.0)
        triangle = equations._groups["k", 300.0]
        assert triangle._rows < 2 * 21 + 7
    assert equations.stacked().roots[0].shape == (21, 21)
