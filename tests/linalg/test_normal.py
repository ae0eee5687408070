"""Streamed normal equations against the dense algebra they stand for."""

from __future__ import annotations

import math

import pytest
import torch

from kernelfe.errors import SolverError
from kernelfe.linalg import NormalEquations, Whitening

RANKS, FUNCTIONS = [3, 2], [2, 1]
VARIANCES = [torch.tensor([0.5, 2.0], dtype=torch.float64), torch.tensor([1.5], dtype=torch.float64)]


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def problem(kind=NormalEquations):
    """Two groups of rows with shared factors, and a wide block: (rows expanded, y, noise, equations)."""
    equations = kind(RANKS, FUNCTIONS)
    dense, targets, noise = [], [], []
    for k, (count, variance) in enumerate([(7, 0.3), (5, 0.8)]):
        features, y = randn(count, 5, seed=k), randn(count, seed=10 + k)
        factors = [randn(2, seed=20 + k), randn(1, seed=30 + k)]
        for part in (slice(0, 3), slice(3, count)):  # in two blocks
            equations.add(
                ("kind", 300.0, k), factors, features[part], y[part], torch.zeros(2, dtype=torch.float64), 0.0
            )
        first = (factors[0][None, :, None] * features[:, None, :3]).flatten(1)
        dense.append(torch.cat([first, factors[1] * features[:, 3:]], 1))
        targets.append(y)
        noise.append((count, variance))
    wide, y = randn(4, 8, seed=5), randn(4, seed=6)
    equations.add_wide("other", 400.0, wide, y, torch.zeros(3, dtype=torch.float64), 0.0)
    return torch.cat([*dense, wide]), torch.cat([*targets, y]), [*noise, (4, 0.5)], equations


def amplitudes():
    return torch.cat([v.sqrt().repeat_interleave(r) for v, r in zip(VARIANCES, RANKS, strict=True)])


def test_solution_and_evidence_are_those_of_the_expanded_rows():
    rows, y, noise, equations = problem()
    stacked = equations.stacked()
    assert stacked.kinds == ["kind", "kind", "other"] and stacked.temperature.tolist() == [300.0, 300.0, 400.0]
    levels = torch.tensor([v for _, v in noise], dtype=torch.float64)
    variance = torch.cat([torch.full((n,), v, dtype=torch.float64) for n, v in noise])
    a = rows * amplitudes()
    precision = torch.eye(8, dtype=torch.float64) + a.T @ (a / variance[:, None])
    found, b = stacked.precision(VARIANCES, levels)
    assert torch.allclose(found, precision, atol=1e-12)
    assert torch.allclose(b, a.T @ (y / variance), atol=1e-12)
    mean, lower = stacked.solve(VARIANCES, levels)
    assert torch.allclose(mean, torch.linalg.solve(precision, a.T @ (y / variance)), atol=1e-10)
    assert torch.allclose(lower @ lower.T, precision, atol=1e-10)
    k = a @ a.T + torch.diag(variance)
    expected = -0.5 * (y @ torch.linalg.solve(k, y) + torch.logdet(k) + len(y) * math.log(2 * math.pi))
    assert float(stacked.log_evidence(VARIANCES, levels)) == pytest.approx(float(expected), rel=1e-10)


def test_what_features_miss_lowers_the_bound():
    def bound(missing):
        equations = NormalEquations([1], [1])
        y = torch.ones(3, dtype=torch.float64)
        lost = torch.full((1,), missing, dtype=torch.float64)
        equations.add(("a", 300.0, 0), [torch.full((1,), 2.0, dtype=torch.float64)], y[:, None], y, lost, 0.0)
        equations.add_wide("a", 300.0, y[:, None], y, lost, 0.0)
        stacked = equations.stacked()
        return float(stacked.log_evidence([torch.full((1,), 3.0, dtype=torch.float64)], torch.full((2,), 0.5).double()))

    # ½ a² f² · missing / σ² of the grouped rows, ½ a² · missing / σ² of the wide ones
    assert bound(0.0) - bound(0.1) == pytest.approx(0.5 * 3.0 * (4.0 + 1.0) * 0.1 / 0.5, rel=1e-9)


def test_the_evidence_can_be_differentiated():
    _, _, _, equations = problem()
    stacked = equations.stacked()
    logs = torch.zeros(6, dtype=torch.float64)

    def value(x):
        return stacked.log_evidence([x[:2].exp(), x[2:3].exp()], x[3:].exp())

    assert torch.autograd.gradcheck(value, (logs.requires_grad_(),))


def test_whitening():
    root = randn(5, 3)
    gram = root @ root.T  # rank 3
    whitening = Whitening.of(gram)
    assert whitening.rank == 3
    projected = whitening.matrix.T @ gram @ whitening.matrix
    assert torch.allclose(projected, torch.eye(3, dtype=torch.float64), atol=1e-10)
    assert torch.allclose(gram @ whitening.matrix @ whitening.matrix.T @ gram, gram, atol=1e-10)
    assert Whitening.of(gram[:0, :0]).rank == 0
    with pytest.raises(SolverError, match="not finite"):
        Whitening.of(gram * torch.nan)


def test_errors():
    with pytest.raises(SolverError, match="no labels"):
        NormalEquations([1], [1]).stacked()
    equations = NormalEquations([2], [1])
    one = torch.ones(1, dtype=torch.float64)
    equations.add(("a", 300.0, 0), [one], 1e200 * torch.ones(1, 2, dtype=torch.float64), one, one * 0, 0.0)
    with pytest.raises(SolverError, match="normal equations"):
        equations.stacked().solve([one], one)
