"""Kernels of every form, and κ(z, z') of each written out for single points."""

from __future__ import annotations

import math

import torch

from kernelfe.kernels import RBF, DotProduct, Matern52, Periodic, Product, RationalQuadratic, Sum

ELL = torch.tensor([0.6, 1.1, 1.7], dtype=torch.float64)


def s(x, y, ell=ELL):
    return 0.5 * ((x - y) / ell).square().sum()


def circle(x, y, period, ell):
    return torch.exp(-2.0 * (torch.sin(math.pi * (x - y) / period) / ell).square().sum())


def dot(x, y, power, offset, ell, centre):
    return ((offset + ((x - centre) / ell * (y - centre) / ell).sum()) / (1.0 + offset)) ** power


def rational(x, y, alpha, ell=ELL):
    return (1.0 + s(x, y, ell) / alpha) ** (-alpha)


def matern(x, y, ell):
    """By its series where the root has no second derivative."""
    half = s(x, y, ell)
    if float(half.detach()) < 1e-15:
        return 1.0 - 5.0 * half / 3.0 + 25.0 * half * half / 6.0
    a = (10.0 * half).sqrt()
    return (1.0 + a + a * a / 3.0) * torch.exp(-a)


PERIODS = torch.tensor([1.3, 2.0, 3.1], dtype=torch.float64)

#: Name → (kernel of three columns, κ(z, z') of single points).
KERNELS = {
    "rational quadratic": (
        RationalQuadratic(lengthscale=tuple(ELL.tolist()), alpha=0.6),
        lambda x, y: rational(x, y, 0.6),
    ),
    "periodic": (
        Periodic(lengthscale=0.8, period=tuple(PERIODS.tolist())),
        lambda x, y: circle(x, y, PERIODS, 0.8),
    ),
    "partly periodic": (
        Periodic(lengthscale=tuple(ELL.tolist()), period=(1.3, None, 3.1)),
        lambda x, y: (
            circle(x[[0, 2]], y[[0, 2]], PERIODS[[0, 2]], ELL[[0, 2]]) * torch.exp(-s(x[1:2], y[1:2], ELL[1:2]))
        ),
    ),
    "linear": (
        DotProduct(power=1, offset=0.4, lengthscale=1.5, centre=0.0),
        lambda x, y: dot(x, y, 1, 0.4, 1.5, 0.0),
    ),
    "quadratic": (
        DotProduct(power=2, offset=0.4, lengthscale=tuple(ELL.tolist()), centre=(0.1, -0.2, 0.3)),
        lambda x, y: dot(x, y, 2, 0.4, ELL, torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)),
    ),
    "quartic": (
        DotProduct(power=4, offset=1.3, lengthscale=2.0, centre=0.2),
        lambda x, y: dot(x, y, 4, 1.3, 2.0, 0.2),
    ),
    "sum": (
        Sum((RBF(0.7), DotProduct(2, 0.5, 1.2, 0.0), Matern52(2.0)), weights=(1.0, 2.0, 5.0)),
        lambda x, y: (torch.exp(-s(x, y, 0.7)) + 2.0 * dot(x, y, 2, 0.5, 1.2, 0.0) + 5.0 * matern(x, y, 2.0)) / 8.0,
    ),
    "product on columns": (
        Product((RBF(0.7), Periodic(lengthscale=0.9, period=2.0)), columns=((2, 0), (1,))),
        lambda x, y: torch.exp(-s(x[[2, 0]], y[[2, 0]], 0.7)) * circle(x[1:2], y[1:2], 2.0, 0.9),
    ),
    "product of three": (
        RationalQuadratic(0.8, 0.5) * DotProduct(2, 0.5, 1.2, 0.1) * RBF(1.4),
        lambda x, y: rational(x, y, 0.5, 0.8) * dot(x, y, 2, 0.5, 1.2, 0.1) * torch.exp(-s(x, y, 1.4)),
    ),
    "sum of products": (
        Sum(
            (
                RBF(1.0) * RationalQuadratic(0.8, 2.0),
                Periodic(lengthscale=1.1, period=2.5),
                DotProduct(3, 1.0, 1.0, 0.0),
            ),
            columns=((0, 1), (2,), None),
            weights=(3.0, 2.0, 1.0),
        ),
        lambda x, y: (
            (
                3.0 * torch.exp(-s(x[:2], y[:2], 1.0)) * rational(x[:2], y[:2], 2.0, 0.8)
                + 2.0 * circle(x[2:], y[2:], 2.5, 1.1)
                + dot(x, y, 3, 1.0, 1.0, 0.0)
            )
            / 6.0
        ),
    ),
}
