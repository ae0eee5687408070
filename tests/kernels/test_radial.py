"""RBF and Matérn 5/2 through the jet protocol against autograd of κ(z, z') written out."""

from __future__ import annotations

import math

import pytest
import torch

from kernelfe.errors import DataError
from kernelfe.kernels import RBF, Jets, Matern52
from kernelfe.kernels.radial import RadialKernel, half_squared_distances

EXACT = 1e-10
KERNELS = [RBF(), Matern52()]


def kappa(kernel, x, y):
    """κ(z, z') of single points, straight from the textbook; the series where r = 0 is a branch point."""
    s = 0.5 * (x - y).square().sum()
    if isinstance(kernel, RBF):
        return torch.exp(-s)
    if float(s.detach()) < 1e-15:  # the series misses O(s^2.5); there the formula loses digits to cancellation
        return 1.0 - 5.0 * s / 3.0 + 25.0 * s * s / 6.0
    r = (2.0 * s).sqrt()
    return (1.0 + math.sqrt(5.0) * r + 5.0 * r * r / 3.0) * torch.exp(-math.sqrt(5.0) * r)


def jet_covariance(kernel, x, y):
    """(1 + D, 1 + D): value and gradient of κ by the first and the second point, by nested autograd."""
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    size = len(x)
    value = kappa(kernel, x, y)
    (gx,) = torch.autograd.grad(value, x, create_graph=True)
    (gy,) = torch.autograd.grad(value, y, create_graph=True)
    out = torch.zeros(1 + size, 1 + size, dtype=torch.float64)
    out[0, 0], out[1:, 0], out[0, 1:] = value.detach(), gx.detach(), gy.detach()
    for k in range(size):
        out[1 + k, 1:] = torch.autograd.grad(gx[k], y, retain_graph=True)[0]
    return out


def points(n, dimension, seed):
    return torch.randn(n, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_jets(z, rows, seed, c=True, w=True):
    g = torch.Generator().manual_seed(seed)
    size, dimension = z.shape
    return Jets(
        z,
        torch.randn(size, rows, generator=g, dtype=torch.float64) if c else None,
        torch.randn(size, rows, dimension, generator=g, dtype=torch.float64) if w else None,
    )


def oracle(kernel, a, b):
    """Covariances of all rows from those of full jets, pair by pair."""
    out = torch.zeros(len(a.z), a.rows, len(b.z), b.rows, dtype=torch.float64)
    for i in range(len(a.z)):
        for j in range(len(b.z)):
            full = jet_covariance(kernel, a.z[i], b.z[j])
            left, right = (
                torch.cat(
                    [
                        torch.zeros(q.rows, 1, dtype=torch.float64) if q.c is None else q.c[k, :, None],
                        torch.zeros(q.rows, q.z.shape[1], dtype=torch.float64) if q.w is None else q.w[k],
                    ],
                    1,
                )
                for q, k in ((a, i), (b, j))
            )
            out[i, :, j] = left @ full @ right.T
    return out


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("which", ["value-value", "value-slope", "slope-value", "slope-slope", "both-both"])
def test_gram_is_the_derivative_of_kappa(kernel, which):
    parts = {"value": (True, False), "slope": (False, True), "both": (True, True)}
    first, second = (parts[name] for name in which.split("-"))
    z = points(4, 3, 0)
    a = random_jets(z, 2, 1, *first)
    b = random_jets(torch.cat([z[:2], points(2, 3, 2)]), 3, 3, *second)  # two coincident points
    expected = oracle(kernel, a, b)
    found = kernel.gram(a, b)
    assert float((found - expected).abs().max()) <= EXACT * float(expected.abs().max())
    weight = torch.rand(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    weighted = kernel.gram(a, b, weight)
    assert torch.allclose(weighted, found * weight[:, None, :, None], rtol=0, atol=1e-13)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("offset", [0.0, 1e-9, 1e-5])
def test_coincident_and_nearly_coincident_points(kernel, offset):
    z = points(3, 2, 5) + 4.0
    a, b = random_jets(z, 2, 6), random_jets(z + offset, 2, 7)
    found, expected = kernel.gram(a, b), oracle(kernel, a, b)
    assert bool(torch.isfinite(found).all())
    scale = float(expected.abs().max())
    assert float((found - expected).abs().max()) <= EXACT * scale
    full = kernel.gram(Jets.full(z), Jets.full(z))[0, :, 0]
    curvature = 1.0 if isinstance(kernel, RBF) else 5.0 / 3.0
    assert torch.allclose(full, torch.diag(torch.tensor([1.0, curvature, curvature]).double()), atol=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
def test_diagonal_and_jet_product(kernel):
    a, b = random_jets(points(5, 3, 0), 2, 1), Jets.full(points(4, 3, 2))
    square = kernel.gram(a, a)
    diagonal = torch.stack([square[i, :, i].diagonal() for i in range(5)])
    assert torch.allclose(kernel.diagonal(a), diagonal, rtol=1e-12, atol=1e-13)
    for c, w in ((True, False), (False, True)):
        part = random_jets(a.z, 2, 3, c, w)
        square = kernel.gram(part, part)
        expected = torch.stack([square[i, :, i].diagonal() for i in range(5)])
        assert torch.allclose(kernel.diagonal(part), expected, rtol=1e-12, atol=1e-13)
    generator = torch.Generator().manual_seed(9)
    coefficients = torch.randn(4, 4, 3, generator=generator, dtype=torch.float64)
    z = torch.cat([a.z, b.z[:1]])  # one point on a node
    expected = torch.einsum("eimj,mjp->eip", kernel.gram(Jets.full(z), b), coefficients)
    value, gradient = kernel.jet_product(z, b.z, coefficients[:, 0].contiguous(), coefficients[:, 1:].contiguous())
    assert torch.allclose(value, expected[:, 0], rtol=0, atol=EXACT)
    assert torch.allclose(gradient, expected[:, 1:], rtol=0, atol=EXACT)
    value, gradient = kernel.jet_product(z, b.z, coefficients[:, 0].contiguous())
    expected = torch.einsum("eim,mp->eip", kernel.gram(Jets.full(z), b)[..., 0], coefficients[:, 0])
    assert torch.allclose(torch.cat([value[:, None], gradient], 1), expected, rtol=0, atol=EXACT)


@pytest.mark.parametrize("kernel", KERNELS)
def test_gram_is_symmetric_and_positive_semidefinite(kernel):
    z = points(12, 3, 3)
    z = torch.cat([z, z[:3]])
    a = Jets.full(z)
    gram = kernel.gram(a, a).reshape(60, 60)
    assert torch.allclose(gram, gram.T, atol=1e-13)
    assert float(torch.linalg.eigvalsh(0.5 * (gram + gram.T))[0]) > -1e-12 * float(gram.diagonal().max())


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("lengthscale", [(0.7,), (0.5, 1.1, 2.3)])
def test_length_scales_and_their_gradients(kernel, lengthscale):
    """κ(z/ℓ, z'/ℓ) with rows in the units of z; gradients by log ℓ by differences, coincident points included."""
    z = points(5, 3, 4)
    raw = random_jets(torch.cat([z, z[:1]]), 2, 5)
    weights = torch.randn(12, 12, generator=torch.Generator().manual_seed(6), dtype=torch.float64)

    def total(log):
        scaled = raw.scaled((-log).exp())
        return (kernel.gram(scaled, scaled).reshape(12, 12) * weights).sum()

    start = torch.tensor(lengthscale, dtype=torch.float64).log().requires_grad_()
    (gradient,) = torch.autograd.grad(total(start), start)
    assert bool(torch.isfinite(gradient).all())
    for k in range(len(start)):
        step = torch.zeros_like(start)
        step[k] = 1e-4
        with torch.no_grad():
            values = [float(total(start + m * step)) for m in (-2, -1, 1, 2)]
        numeric = (8 * (values[2] - values[1]) - (values[3] - values[0])) / 12e-4
        assert float(gradient[k]) == pytest.approx(numeric, rel=1e-7, abs=1e-7)
    with torch.no_grad():  # the chain rule: the same rows, differentiated by z itself
        ell = start.exp()
        a = raw.scaled(1.0 / ell)
        found = kernel.gram(a, a)
        i, j = 1, 3
        with torch.enable_grad():
            full = jet_covariance(kernel, (raw.z / ell)[i], (raw.z / ell)[j])
        full[1:] /= ell.expand(3)[:, None]
        full[:, 1:] /= ell.expand(3)
        left, right = (torch.cat([raw.c[k, :, None], raw.w[k]], 1) for k in (i, j))
        assert torch.allclose(found[i, :, j], left @ full @ right.T, atol=EXACT)


def test_half_squared_distances_far_from_the_origin():
    a = points(6, 3, 1) + 1e3
    b = torch.cat([a[:2], points(3, 3, 2) + 1e3])
    exact = 0.5 * (a[:, None] - b).square().sum(2)
    found = half_squared_distances(a, b)
    assert float(found.min()) >= 0.0
    assert torch.allclose(found, exact, atol=1e-12)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf, (1.0, -2.0)])
def test_length_scales_must_be_positive(bad):
    for cls in (RBF, Matern52):
        with pytest.raises(DataError, match="lengthscale"):
            cls(lengthscale=bad)


def test_a_kernel_without_its_functions_says_so():
    with pytest.raises(NotImplementedError):
        RadialKernel().functions(torch.zeros(1))
