"""Low rank and neighbours: solves, determinants and draws against dense algebra written another way."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernelfe.errors import SolverError
from kernelfe.linalg import LocalFactor, LowRankAndLocal
from kernelfe.linalg.preconditioner import last_columns

from .matrices import generator, normal, positive


def divided(n, groups, reach, seed=0):
    """Random groups of all rows in a random order, and for each the ``reach`` rows before it in that order."""
    draws = generator(seed)
    order = torch.randperm(n, generator=draws)
    inner = torch.randperm(n - 1, generator=draws)[: groups - 1].sort().values + 1
    cuts = [0, *inner.tolist(), n]
    own = [order[a:b] for a, b in itertools.pairwise(cuts)]
    near = [order[max(0, a - reach) : a] for a in cuts[:-1]]
    return own, near


def local(matrix, own, near, **more):
    return LocalFactor.of_groups(own, near, lambda rows: matrix[rows][:, rows].clone(), **more)


def vecchia(matrix, own, near):
    """Its precision by regressions: Σ_g (x_g − W x_N)ᵀ C⁻¹ (x_g − W x_N), W = B_gN B_NN⁻¹, C the conditional."""
    precision = torch.zeros_like(matrix)
    for mine, others in zip(own, near, strict=True):
        cross = matrix[mine][:, others]
        weights = torch.linalg.solve(matrix[others][:, others], cross.T).T
        left = matrix[mine][:, mine] - weights @ cross.T
        rows = torch.zeros(len(mine), len(matrix), dtype=torch.float64)
        rows[torch.arange(len(mine)), mine] = 1.0
        rows[:, others] = -weights
        precision += rows.T @ torch.linalg.solve(left, rows)
    return precision


def all_of(factor, n):
    """UUᵀ, U⁻ᵀ as matrices."""
    one = torch.eye(n, dtype=torch.float64)
    return factor.solve(one), factor.root(one)


@given(st.integers(3, 40), st.integers(1, 8), st.integers(0, 12), st.integers(0, 1000))
def test_the_factor_is_vecchias(n, groups, reach, seed):
    matrix = positive(n, seed)
    own, near = divided(n, min(groups, n), reach, seed)
    expected = vecchia(matrix, own, near)
    factor = local(matrix, own, near)
    inverse, root = all_of(factor, n)
    scale = expected.abs().max()
    assert (inverse - expected).abs().max() <= 1e-9 * scale
    assert factor.logdet() == pytest.approx(-float(torch.linalg.slogdet(expected)[1]), abs=1e-8 * n)
    # draws: the covariance of root(ε) is the inverse of the precision
    assert (root @ root.T @ expected - torch.eye(n)).abs().max() <= 1e-7
    x = normal(n, 3, seed=seed)
    torch.testing.assert_close(factor.solve(x), expected @ x, rtol=1e-8, atol=1e-9 * float(scale))
    torch.testing.assert_close(factor.root(x), root @ x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("groups", "reach"), [(1, 0), (5, 40), (40, 40)])
def test_with_all_rows_before_it_is_the_inverse(groups, reach):
    matrix = positive(40)
    inverse, _ = all_of(local(matrix, *divided(40, groups, reach)), 40)
    torch.testing.assert_close(inverse @ matrix, torch.eye(40, dtype=torch.float64), rtol=0, atol=1e-9)


def test_without_neighbours_it_is_the_inverse_of_the_blocks():
    matrix = positive(30)
    own, near = divided(30, 6, 0)
    inverse, _ = all_of(local(matrix, own, near), 30)
    expected = torch.zeros_like(matrix)
    for rows in own:
        expected[rows[:, None], rows] = torch.linalg.inv(matrix[rows][:, rows])
    torch.testing.assert_close(inverse, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


def test_more_neighbours_come_closer():
    """Kullback–Leibler divergence from the matrix: the log determinant falls towards that of the matrix."""
    x = torch.linspace(0.0, 6.0, 60, dtype=torch.float64)
    matrix = torch.exp(-(x[:, None] - x).abs() / 0.7) * torch.cos(2.0 * (x[:, None] - x)) + 0.01 * torch.eye(60)
    own = list(torch.arange(60).split(4))
    found = [
        local(matrix, own, [torch.arange(max(0, 4 * g - reach), 4 * g) for g in range(len(own))]).logdet()
        for reach in (0, 2, 4, 8, 16, 60)
    ]
    assert all(a > b - 1e-9 for a, b in itertools.pairwise(found)) and found[0] > found[-1] + 1.0
    assert found[-1] == pytest.approx(float(torch.linalg.slogdet(matrix)[1]), abs=1e-8)


@given(st.integers(0, 1000))
def test_units_of_rows_change_nothing(seed):
    n = 24
    matrix, d = positive(n, seed), 10.0 ** (4.0 * normal(n, seed=seed)).clamp(-9, 9)
    own, near = divided(n, 5, 6, seed)
    low = 3.0 * normal(n, 4, seed=seed)
    one = LowRankAndLocal(local(matrix, own, near), low)
    two = LowRankAndLocal(local(d[:, None] * matrix * d, own, near), d[:, None] * low)
    x = normal(n, 2, seed=seed)
    a, b = one.solve(x), d[:, None] * two.solve(d[:, None] * x)
    assert (a - b).abs().max() <= 1e-9 * a.abs().max()
    assert two.logdet() == pytest.approx(one.logdet() + 2.0 * float(d.log().sum()), abs=1e-7)


@given(st.integers(4, 30), st.integers(0, 9), st.integers(0, 1000))
def test_both_parts_together(n, rank, seed):
    matrix = positive(n, seed, condition=100.0)
    own, near = divided(n, 3, 4, seed)
    low = 5.0 * normal(n, rank, seed=seed)
    factor = local(matrix, own, near)
    found = LowRankAndLocal(factor, low if rank else None)
    p = low @ low.T + torch.linalg.inv(vecchia(matrix, own, near))
    one = torch.eye(n, dtype=torch.float64)
    assert found.rank == rank and found.rows == n
    assert (found.solve(one) @ p - one).abs().max() <= 1e-7
    assert found.logdet() == pytest.approx(float(torch.linalg.slogdet(p)[1]), abs=1e-7)
    if rank:
        w = found.subtracted()
        inverse = torch.linalg.inv(p)
        assert (factor.solve(one) - w @ w.T - inverse).abs().max() <= 1e-8 * factor.solve(one).abs().max()
    else:
        assert found.subtracted() is None


@pytest.mark.parametrize("rank", [0, 6])
def test_covariance_of_draws(rank):
    """A draw is a matrix times standard normal numbers: M Mᵀ = P to rounding, without any statistics."""
    n = 25
    matrix, low = positive(n), normal(n, rank, seed=2)
    own, near = divided(n, 4, 6)
    found = LowRankAndLocal(local(matrix, own, near), low)
    draws = found.sample(n + rank, generator(7))
    noise = torch.randn(n + rank, n + rank, generator=generator(7), dtype=torch.float64)
    m = torch.linalg.solve(noise.T, draws.T).T
    p = low @ low.T + torch.linalg.inv(vecchia(matrix, own, near))
    torch.testing.assert_close(m @ m.T, p, rtol=0, atol=1e-8 * float(p.abs().max()))
    assert torch.equal(found.sample(3, generator(1)), found.sample(3, generator(1)))


def test_faster_ways_to_the_low_rank_part_are_used():
    matrix, low, calls = positive(20), normal(20, 3), []

    def left(a):
        calls.append("left")
        return low @ a

    def right(x):
        calls.append("right")
        return low.T @ x

    own, near = divided(20, 4, 5)
    plain = LowRankAndLocal(local(matrix, own, near), low)
    fast = LowRankAndLocal(local(matrix, own, near), low, left, right)
    x = normal(20, 2)
    torch.testing.assert_close(fast.solve(x), plain.solve(x), rtol=1e-12, atol=1e-12)
    assert calls == ["right", "left"]


def test_sites_of_several_rows():
    """Rows of a frame read as one: the same factor as row by row."""
    matrix, each, count = positive(24, seed=3), 4, 6
    rows = torch.randperm(24, generator=generator(1)).reshape(count, each)
    index = torch.tensor([[0, 0], *([i - 1, i] for i in range(1, count))])
    factor = torch.zeros(count, 2 * each, each, dtype=torch.float64)
    for g in range(count):
        used = rows[index[g, 1:]] if g == 0 else rows[index[g]]
        flat = used.reshape(-1)
        factor[g, -len(flat) :] = last_columns(matrix[flat][:, flat][None], each)[0]
    sites = LocalFactor(rows, index, factor, torch.full((count,), each), torch.arange(1, count + 1).clamp_max(2))
    plain = local(matrix, list(rows), [rows[max(0, g - 1) : g].reshape(-1) for g in range(count)])
    x = normal(24, 3)
    torch.testing.assert_close(sites.solve(x), plain.solve(x), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(sites.root(x), plain.root(x), rtol=1e-11, atol=1e-11)
    assert sites.logdet() == pytest.approx(plain.logdet(), abs=1e-10)
    found = torch.cat(list(sites.whitened(x[rows.reshape(-1)])))
    torch.testing.assert_close(found, torch.cat(list(plain.whitened(x))), rtol=1e-11, atol=1e-11)
    # the low-rank part has its rows in the order of the sites
    low = normal(24, 5, seed=9)
    one = LowRankAndLocal(sites, low[rows.reshape(-1)])
    torch.testing.assert_close(one.solve(x), LowRankAndLocal(plain, low).solve(x), rtol=1e-10, atol=1e-10)


@given(st.integers(4, 30), st.integers(0, 5), st.integers(1, 3), st.integers(0, 1000))
def test_broad_functions(n, rank, count, seed):
    """F Fᵀ with variances of a million, and of 10¹²."""
    matrix = positive(n, seed, condition=100.0)
    own, near = divided(n, 3, 4, seed)
    low, size = normal(n, rank, seed=seed), 1e6 if seed % 2 else 1e3
    broad = size * normal(n, count, seed=seed + 1)
    found = LowRankAndLocal(local(matrix, own, near), low, broad=broad)
    v = vecchia(matrix, own, near)
    p = broad @ broad.T + low @ low.T + torch.linalg.inv(v)
    assert found.rank == rank + count
    x = normal(n, 2, seed=seed)
    # P⁻¹ x by projection: what F does not see, and next to nothing of the rest
    weight = torch.linalg.inv(low @ low.T + torch.linalg.inv(v))
    middle = torch.linalg.inv(torch.eye(count) / size**2 + broad.T @ weight @ broad / size**2)
    expected = weight @ x - weight @ broad @ middle @ (broad.T @ (weight @ x)) / size**2
    scale = (weight @ x).abs().max()
    assert (found.solve(x) - expected).abs().max() <= 1e-8 * scale
    # the determinant of a sum, since that of p has lost its digits
    seen = torch.eye(count, dtype=torch.float64) + broad.T @ weight @ broad
    logdet = torch.linalg.slogdet(seen)[1] - torch.linalg.slogdet(weight)[1]
    assert found.logdet() == pytest.approx(float(logdet), abs=1e-6)
    w = found.subtracted()
    assert (found.local.solve(x) - w @ (w.T @ x) - expected).abs().max() <= 1e-7 * scale
    draws = found.sample(n + rank + count, generator(7))
    noise = torch.randn(n + rank + count, n + rank + count, generator=generator(7), dtype=torch.float64)
    m = torch.linalg.solve(noise.T, draws.T).T
    assert (m @ m.T - p).abs().max() <= 1e-7 * p.abs().max()


def test_single_precision_resolves_what_is_left_beside_broad_functions():
    """U in single precision has seven digits; functions with a variance of 10¹² are removed before it is applied."""
    matrix, low, broad = positive(30, condition=50.0), normal(30, 4), 1e6 * normal(30, 1, seed=5)
    own, near = divided(30, 5, 8)
    double = LowRankAndLocal(local(matrix, own, near), low, broad=broad)
    single = LowRankAndLocal(local(matrix, own, near, dtype=torch.float32), low.float(), broad=broad)
    x = normal(30, 2)
    found, expected = single.solve(x), double.solve(x)
    assert found.dtype == torch.float64 and single.local.factor.dtype == torch.float32
    assert 0.0 < (found - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert single.logdet() == pytest.approx(double.logdet(), abs=1e-3)
    assert single.consistent() and double.consistent()
    # as a low-rank part like any other it would be lost
    large = torch.cat([low, broad], 1)
    assert LowRankAndLocal(local(matrix, own, near), large).consistent()
    assert not LowRankAndLocal(local(matrix, own, near, dtype=torch.float32), large.float()).consistent()
    alone = LowRankAndLocal(local(matrix, own, near, dtype=torch.float32))
    assert alone.consistent() and alone.solve(x).dtype == torch.float64


def test_repeated_rows_take_a_jitter_and_bad_ones_an_error():
    matrix = torch.ones(4, 4, dtype=torch.float64)  # one row four times
    found = local(matrix, [torch.arange(4)], [torch.arange(0)])
    assert math.isfinite(found.logdet()) and found.logdet() < -50.0
    for bad, said in ((-positive(4), "not positive definite"), (torch.full((4, 4), torch.nan), "not finite")):
        with pytest.raises(SolverError, match=f"of 4 neighbouring labels is {said}.*remove duplicated rows, or raise"):
            local(bad.double(), [torch.arange(4)], [torch.arange(0)])
    with pytest.raises(SolverError, match="low-rank part of the preconditioner is not finite"):
        LowRankAndLocal(
            local(positive(4), [torch.arange(4)], [torch.arange(0)]),
            torch.full((4, 1), torch.inf, dtype=torch.float64),
        )
