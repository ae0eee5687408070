"""Noise of labels: every form does what its covariance matrix does."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from kernelfe.gp.observations.noise_models import Blocks, Given, Learned, noise_of


@st.composite
def cases(draw):
    """Noise of n frames with m components, and its covariance matrix at a level of each frame."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    n, m = draw(st.integers(1, 4)), draw(st.integers(1, 3))

    def positive(*shape):
        return 0.5 + torch.rand(*shape, generator=generator, dtype=torch.float64)

    kind = draw(st.sampled_from(["given", "learned", "relative", "tempered", "tempered relative", "blocks"]))
    level = positive(n, 1)
    if kind == "blocks":
        root = torch.randn(n, m, m, generator=generator, dtype=torch.float64)
        noise = Blocks(root @ root.mT + torch.eye(m, dtype=torch.float64))
        return noise, torch.ones(n, 1, dtype=torch.float64), torch.block_diag(*noise.covariance), (n, m)
    if kind == "given":
        std = positive(n, m)
        return Given(std), torch.ones_like(level), torch.diag(std.flatten() ** 2), (n, m)
    relative = positive(n, m) if "relative" in kind else None
    noise, variances = Learned(relative), (level.expand(n, m) * (1.0 if relative is None else relative)) ** 2
    if "tempered" in kind:
        weight = positive(n, m)
        noise, variances = noise.tempered(weight), variances / weight
    return noise, level, torch.diag(variances.flatten()), (n, m)


@settings(deadline=None, max_examples=80)
@given(cases())
def test_rows_of_noise(case):
    noise, level, dense, (n, m) = case
    rows = noise.at(level, torch.Size((n, m)))
    torch.testing.assert_close(rows.diagonal(), dense.diagonal())
    x = torch.arange(2.0 * n * m, dtype=torch.float64).reshape(-1, 2)
    torch.testing.assert_close(rows.product(x), dense @ x)
    out = torch.ones_like(dense)
    rows.add_to(out, torch.arange(n * m))
    torch.testing.assert_close(out, dense + 1.0)
    several = torch.zeros(n, m, m, dtype=torch.float64)  # a matrix of each frame
    rows.add_to(several, torch.arange(m).repeat(n), torch.arange(n).repeat_interleave(m))
    torch.testing.assert_close(torch.block_diag(*several), dense)
    chosen = torch.tensor([n - 1, 0])
    at = (chosen[:, None] * m + torch.arange(m)).flatten()
    torch.testing.assert_close(rows.take(chosen).diagonal(), dense.diagonal()[at])
    unit = rows.draw(lambda device, *shape: torch.eye(n * m, dtype=torch.float64).reshape(*shape), n * m)
    torch.testing.assert_close(unit @ unit.T, dense)


@settings(deadline=None, max_examples=80)
@given(cases())
def test_whitening_at_unit_level(case):
    noise, _, _, (n, m) = case
    dense = torch.zeros(n * m, n * m, dtype=torch.float64)
    noise.at(torch.ones(n, 1, dtype=torch.float64), torch.Size((n, m))).add_to(dense, torch.arange(n * m))
    whiten = noise.whitening(slice(None), m)
    white = whiten(torch.eye(n * m, dtype=torch.float64))
    torch.testing.assert_close(white @ dense @ white.T, torch.eye(n * m, dtype=torch.float64))
    torch.testing.assert_close(torch.as_tensor(whiten.log, dtype=torch.float64), dense.logdet())
    missing = torch.arange(2.0 * n * m, dtype=torch.float64).reshape(-1, 2)
    torch.testing.assert_close(whiten.trace(missing), torch.linalg.inv(dense).diagonal() @ missing)
    torch.testing.assert_close(whiten.trace(missing[:, 0]), whiten.trace(missing)[0])
    x = torch.arange(1.0 * n * m, dtype=torch.float64)
    torch.testing.assert_close(whiten.slice(n - 1, n)(x[-m:]), whiten(x)[-m:])
    torch.testing.assert_close(noise.whitening(torch.tensor([n - 1]), m)(x[-m:]), whiten(x)[-m:])


@settings(deadline=None, max_examples=40)
@given(cases())
def test_noise_from_its_tensors(case):
    noise, level, dense, (n, m) = case
    found = noise_of(noise.tensors())
    assert type(found) is type(noise) and found.learned == noise.learned
    torch.testing.assert_close(found.at(level, torch.Size((n, m))).diagonal(), dense.diagonal())
    part = noise.map(lambda array: array[:1])
    torch.testing.assert_close(part.at(level[:1], torch.Size((1, m))).diagonal(), dense.diagonal()[:m])


def test_likelihoods_to_a_power():
    """N(y | f, σ²)^w, as a normal density of variance σ²/w and what tempering adds."""
    sigma, weight, y = 0.7, torch.tensor([[0.3], [1.0]], dtype=torch.float64), torch.tensor([0.4, -0.2]).double()
    noise = Learned().tempered(weight)
    rows = noise.at(torch.full((2, 1), sigma, dtype=torch.float64), torch.Size((2, 1)))
    log_density = -0.5 * (y**2 / rows.diagonal() + (2.0 * math.pi * rows.diagonal()).log()).sum()
    plain = -0.5 * (y**2 / sigma**2 + math.log(2.0 * math.pi * sigma**2))
    expected = (weight[:, 0] * plain).sum()
    assert float(log_density + noise.tempering(rows, y)) == pytest.approx(float(expected), rel=1e-12)
    assert noise.counted(slice(None), 2) == (pytest.approx(1.3), 0.0)
    assert Given(weight).tempered(weight).tensors().keys() == {"noise"}
