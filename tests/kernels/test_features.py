"""Features of kernels: their products against the kernel, their slopes against automatic differentiation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from kernelfe.errors import DataError
from kernelfe.kernels import RBF, DotProduct, Matern52, Periodic, Product, RationalQuadratic, Sum, features_of

#: Kernels in three columns, and the largest error of their features in units of F^-½ (exact: of rounding).
SPECTRAL = {
    "rbf": RBF((0.7, 1.0, 1.4)),
    "matern": Matern52(1.2),
    "rational": RationalQuadratic(1.0, alpha=0.8),
    "periodic": Periodic((0.9, 1.1, 0.8), period=(2.0, None, 3.0)),
    "sum": Sum((RBF(1.0), Matern52(0.6)), weights=(1.0, 3.0)),
    "product": Product((RBF(1.0), Matern52(2.0)), columns=((0, 1), (1, 2))),
    "product of sums": RBF(1.5) * Sum((Matern52(1.0), RationalQuadratic(2.0)), weights=(2.0, 1.0)),
}
EXACT = {
    "linear": DotProduct(power=1, offset=0.5, lengthscale=(1.0, 2.0, 0.5)),
    "cubic": DotProduct(power=3, offset=2.0, lengthscale=1.5, centre=(0.1, 0.2, 0.3)),
    "sum of both": Sum(
        (DotProduct(power=2, lengthscale=1.0), DotProduct(power=1, lengthscale=2.0)), weights=(1.0, 4.0)
    ),
}


def environments(n=40, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).uniform(-1.0, 1.0, (n, 3)))


def embedded(spec, z):
    kernel = spec.ready(3)
    return kernel, kernel.embedding(z).z


def values(features, x, gradient=False):
    """All features side by side, (E, size), and their slopes, (E, D', size)."""
    found = [f.jet_product(x, torch.eye(f.size, dtype=torch.float64), gradient) for f in features]
    return torch.cat([v for v, _ in found], 1), torch.cat([g for _, g in found], 2) if gradient else None


@pytest.mark.parametrize("name", SPECTRAL)
def test_products_of_fourier_features_are_the_kernel(name):
    kernel, x = embedded(SPECTRAL[name], environments())
    exact, errors = kernel.value(x, x), {}
    for count in (128, 2048):
        phi, _ = values(features_of(kernel, x.shape[1], count, seed=1), x)
        errors[count] = float((phi @ phi.T - exact).square().mean().sqrt())
        assert torch.allclose(phi.square().sum(1), exact.diagonal(), rtol=1e-12)
    # independent frequencies have √((1 + κ(2δ) − 2κ²)/2F) < F^-½; quasi-random ones less
    assert errors[2048] < 2048**-0.5
    assert errors[2048] < 0.5 * errors[128]


@pytest.mark.parametrize("name", EXACT)
def test_products_of_monomials_are_the_kernel_exactly(name):
    kernel, x = embedded(EXACT[name], environments())
    phi, _ = values(features_of(kernel, x.shape[1], 1, seed=1), x)
    exact = kernel.value(x, x)
    assert torch.allclose(phi @ phi.T, exact, rtol=1e-12, atol=1e-12 * float(exact.max()))


@pytest.mark.parametrize("spec", [*SPECTRAL.values(), *EXACT.values()], ids=[*SPECTRAL, *EXACT])
def test_slopes_are_those_of_automatic_differentiation(spec):
    kernel, x = embedded(spec, environments(5))
    features = features_of(kernel, x.shape[1], 16, seed=2)
    weights = [
        torch.randn(f.size, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) for f in features
    ]
    x = x.detach().requires_grad_(True)
    found = [f.jet_product(x, w, True) for f, w in zip(features, weights, strict=True)]
    value, slope = sum(v for v, _ in found), sum(g for _, g in found)
    for k in range(3):
        (expected,) = torch.autograd.grad(value[:, k].sum(), x, retain_graph=True)
        assert torch.allclose(slope[:, :, k], expected, rtol=1e-10, atol=1e-10)


def test_slopes_have_the_covariance_of_the_kernel():
    """Their variance is Σ_f p(ω_f) ω²: what heavy tails of the density make noisy."""
    for spec in (RBF(1.0), Matern52(1.0)):
        (features,) = features_of(kernel := spec.ready(3), 3, 4096, seed=3)
        variance = (features.amplitude[:, None] * features.omega).square().sum(0).mean()
        exact = -float(kernel.functions(torch.zeros(1, dtype=torch.float64))[1])
        assert float(variance) == pytest.approx(exact, rel=0.05)


def test_seeds():
    kernel, x = embedded(RBF(1.0), environments(4))
    one, same, other = (values(features_of(kernel, 3, 64, seed), x)[0] for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)


def test_kernels_without_known_density_are_refused():
    @dataclass(frozen=True)
    class Own(RBF):
        def functions(self, s):
            return 1.0 / (1.0 + s), -((1.0 + s) ** -2.0), 2.0 * (1.0 + s) ** -3.0

    with pytest.raises(DataError, match=r"Own: its spectral density.*model\.sample"):
        features_of(Own(1.0).ready(2), 2, 8, 0)
    with pytest.raises(DataError, match="DotProduct: its spectral density"):
        kernel = (RBF(1.0) * DotProduct(lengthscale=1.0)).ready(2)
        features_of(kernel, 4, 8, 0)
    with pytest.raises(DataError, match="monomials"):
        features_of(DotProduct(power=12, lengthscale=1.0).ready(12), 12, 8, 0)
