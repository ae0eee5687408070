"""Factors and solutions by tiles: those of LAPACK, with the same bits for any number of threads."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelfe.linalg.blocked import factorize, solve
from kernelfe.runtime.threads import at_most

#: Relative to the largest entry: the matrices are well conditioned.
ROUNDING = 1e-12


def definite(n, seed):
    a = torch.from_numpy(np.random.default_rng(seed).standard_normal((n, n + 2)))
    return a @ a.mT + torch.eye(n, dtype=torch.float64)


@given(n=st.integers(1, 40), tile=st.integers(1, 17), columns=st.integers(0, 20), seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_tiles_give_what_lapack_gives_for_any_number_of_threads(n, tile, columns, seed):
    a = definite(n, seed)
    b, expected = torch.from_numpy(np.random.default_rng(seed).standard_normal((n, columns))), torch.linalg.cholesky(a)
    found = []
    for workers in (1, 2, 3):
        lower = a.tril() + torch.full_like(a, torch.nan).triu(1)  # what is above is not read
        with at_most(workers):
            assert factorize(lower, tile) == 0
            found.append((lower, solve(lower, b, tile=tile), solve(lower, b, half=True, tile=tile)))
    lower, whole, half = found[0]
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))
    torch.testing.assert_close(lower, expected, rtol=ROUNDING, atol=ROUNDING * n)
    torch.testing.assert_close(a @ whole, b, rtol=0.0, atol=1e-9)
    torch.testing.assert_close(lower @ half, b, rtol=0.0, atol=1e-9)


@pytest.mark.parametrize("row", [0, 3, 9, 10, 24])
def test_the_row_that_fails_is_named(row):
    a = definite(25, 0)
    a[row, row] = -1.0
    assert factorize(a.clone(), tile=10) == int(torch.linalg.cholesky_ex(a)[1]) == row + 1
