"""The in-place Cholesky factor: solves, jitter in the units of each row, errors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernelfe.errors import SolverError
from kernelfe.linalg import CholeskyFactor


def positive(n, seed=0):
    root = torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return root @ root.T + torch.eye(n, dtype=torch.float64)


@given(st.integers(1, 40), st.integers(0, 5), st.integers(0, 1000))
def test_solves_and_determinants(n, columns, seed):
    a = positive(n, seed)
    factor = CholeskyFactor(lambda: a.tril().contiguous())  # only the lower triangle is read
    assert factor.jitter == 0.0
    shape = (n, columns) if columns else (n,)
    b = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = factor.solve(b)
    assert x.shape == b.shape
    assert torch.allclose(a @ x, b, atol=1e-9)
    half = factor.half_solve(b)
    assert half.shape == b.shape
    assert torch.allclose((half * half).sum(0), (b * x).sum(0), rtol=1e-9)
    assert factor.logdet() == pytest.approx(torch.logdet(a).item(), rel=1e-10, abs=1e-10)


def test_arguments_are_left_alone():
    a, b = positive(6), torch.ones(6, 2, dtype=torch.float64)
    factor = CholeskyFactor(a.clone)
    before = b.clone()
    factor.solve(b)
    factor.half_solve(b)
    assert torch.equal(b, before)
    lower = torch.linalg.cholesky(a)
    assert torch.allclose(factor.lower.tril(), lower)


def test_jitter_is_relative_to_each_row():
    """Rows in eV together with rows in eV/K: the jitter of the small ones stays small."""
    calls = []

    def build():
        calls.append(None)
        a = torch.ones(3, 3, dtype=torch.float64)
        a[2] = a[:, 2] = 0.0
        a[2, 2] = 1e-12
        a[0, 0] -= 1e-14  # a shade indefinite
        return a

    factor = CholeskyFactor(build)
    assert factor.jitter > 0 and len(calls) > 1
    assert float(factor.lower[2, 2]) ** 2 == pytest.approx(1e-12, rel=1e-7)


def test_what_cannot_be_factorized_is_named():
    with pytest.raises(SolverError, match=r"covariance of the labels.*not positive definite"):
        CholeskyFactor(lambda: torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64)), "covariance of the labels")
    with pytest.raises(SolverError, match="non-finite"):
        CholeskyFactor(lambda: torch.full((2, 2), torch.nan, dtype=torch.float64))
