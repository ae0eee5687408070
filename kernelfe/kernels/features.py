"""Draws of functions from the Gaussian process of a kernel: explicit features whose products make the kernel.

A stationary kernel is the Fourier transform of a probability density p(ω) (Bochner), so with frequencies ω_f ~ p

    κ(x, x') = E[cos ω·(x − x')] ≈ F⁻¹ Σ_f [cos ω_f·x cos ω_f·x' + sin ω_f·x sin ω_f·x']

(Rahimi & Recht 2007), and g(x) = F^-½ Σ_f [a_f cos ω_f·x + b_f sin ω_f·x] with standard normal a, b is a function with
this covariance: exact at x = x', elsewhere off by O(F^-½), less with the quasi-random ω_f taken here (Yang et al.
2014). A dot-product kernel is a finite sum of monomials, which make its draws exact.

Many labels leave a function open at high frequencies, and few of these would be drawn; those of Matern52, whose
density falls off slowly, also carry the slopes. Half of its frequencies are therefore drawn from a broader
density, and each counts by the ratio of p to the density it was drawn from.

Everything works on the embedded columns of the kernel, where periodic variables are points on circles.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement
from math import comb, factorial, prod
from typing import Any

import numpy as np
import torch
from scipy.special import gammaincinv, gammaln, ndtri
from scipy.stats import qmc
from torch import Tensor

from ..errors import DataError, require
from .base import Kernel
from .composite import Product, Sum
from .dot_product import DotProduct
from .radial import RBF, Matern52, RationalQuadratic


@dataclass(frozen=True)
class FourierFeatures:
    """cos ω·x and sin ω·x, times amplitudes.

    Parameters
    ----------
    omega
        Frequencies, shape (F, D') in the embedded columns.
    amplitude
        Of both, shape (F,).
    """

    omega: Tensor
    amplitude: Tensor

    def to(self, device: torch.device) -> FourierFeatures:
        """The same features on a device."""
        return replace(self, omega=self.omega.to(device), amplitude=self.amplitude.to(device))

    @property
    def size(self) -> int:
        """Number of features, 2 F."""
        return 2 * len(self.omega)

    def jet_product(self, z: Tensor, weights: Tensor, gradient: bool) -> tuple[Tensor, Tensor | None]:
        """Values (E, p) and, if asked for, gradients (E, D', p) of Σ_f weights_f feature_f, weights (size, p)."""
        phase = z @ self.omega.T
        cos, sin = phase.cos(), phase.sin()
        a, b = (self.amplitude[:, None] * part for part in weights.split(len(self.omega)))
        value = cos @ a + sin @ b
        if not gradient:
            return value, None
        slopes = value.new_zeros(len(z), z.shape[1], weights.shape[1])
        for d, column in enumerate(self.omega.T):
            if z.is_cuda or bool(column.any()):  # parts of a sum read columns of their own
                slopes[:, d] = cos @ (b * column[:, None]) - sin @ (a * column[:, None])
        return value, slopes


@dataclass(frozen=True)
class MonomialFeatures:
    """√c_m Π_i x̃_{m_i} with x̃ = (σ, x)/√(σ² + 1): the features of a dot-product kernel of power p.

    Parameters
    ----------
    columns
        Embedded columns it reads, (start, stop).
    offset
        σ².
    index
        Columns of x̃ in every monomial, shape (M, p).
    root
        √c_m, c_m the multinomial coefficients, times an amplitude, shape (M,).
    """

    columns: tuple[int, int]
    offset: float
    index: Tensor
    root: Tensor

    def to(self, device: torch.device) -> MonomialFeatures:
        """The same features on a device."""
        return replace(self, index=self.index.to(device), root=self.root.to(device))

    @property
    def size(self) -> int:
        """Number of features."""
        return len(self.root)

    def jet_product(self, z: Tensor, weights: Tensor, gradient: bool) -> tuple[Tensor, Tensor | None]:
        """Values (E, p) and, if asked for, gradients (E, D', p) of Σ_m weights_m feature_m, weights (size, p)."""
        start, stop = self.columns
        norm = (1.0 + self.offset) ** -0.5
        sigma = z.new_full((len(z), 1), self.offset**0.5)
        factors = norm * torch.cat([sigma, z[:, start:stop]], 1)[:, self.index]  # (E, M, power)
        scaled = self.root[:, None] * weights
        value = factors.prod(2) @ scaled
        if not gradient:
            return value, None
        power = self.index.shape[1]
        slope = z.new_zeros(len(z), 1 + stop - start, weights.shape[1])
        for i in range(power):  # one factor after the other is replaced by its derivative
            others = norm * torch.cat([factors[:, :, :i], factors[:, :, i + 1 :]], 2).prod(2)
            for column in range(1, 1 + stop - start):
                here = self.index[:, i] == column
                slope[:, column] += others[:, here] @ scaled[here]
        out = z.new_zeros(len(z), z.shape[1], weights.shape[1])
        out[:, start:stop] = slope[:, 1:]
        return value, out


Features = FourierFeatures | MonomialFeatures


def features_of(kernel: Kernel, width: int, count: int, seed: int | list[int]) -> list[Features]:
    """Features whose products make a kernel; sums of kernels have those of every part.

    Parameters
    ----------
    kernel
        Bound to its columns (:meth:`~kernelfe.kernels.Kernel.bound` or ``ready``), with numbers.
    width
        Embedded columns D'.
    count
        Frequencies F of every part that has a spectral density; dot-product kernels have all their monomials.
    seed
        Of the frequencies.

    Raises
    ------
    DataError
        If a part of the kernel has no known spectral density, or too many monomials.
    """
    return _parts(kernel, 0, width, width, 1.0, count, np.random.SeedSequence(seed))


def _parts(kernel: Any, start: int, size: int, width: int, variance: float, count: int, seed) -> list[Features]:
    if isinstance(kernel, Sum):
        weights, out, at = torch.as_tensor(kernel.weights, dtype=torch.float64).detach(), [], start
        shares = (variance * weights / weights.sum()).tolist()
        seeds = seed.spawn(len(kernel.kernels))
        for part, columns, share, own in zip(kernel.kernels, kernel._widths, shares, seeds, strict=True):  # type: ignore
            out += _parts(part, at, columns, width, share, count, own)
            at += columns
        return out
    if isinstance(kernel, DotProduct):
        return [_monomials(kernel, start, size, variance)]
    uniform = _quasi_random(count, _dimensions(kernel, size), seed)
    omega = torch.zeros(count, width, dtype=torch.float64)
    found, ratio = _frequencies(kernel, size, uniform)
    omega[:, start : start + size] = torch.from_numpy(found)
    return [FourierFeatures(omega, torch.from_numpy(np.sqrt(variance * ratio / ratio.sum())))]


def _quasi_random(count: int, dimensions: int, seed) -> np.ndarray:
    """Scrambled Sobol points of the open unit cube, (count, dimensions)."""
    power = max(0, int(np.ceil(np.log2(count))))
    points = qmc.Sobol(dimensions, scramble=True, seed=np.random.default_rng(seed)).random_base2(power)[:count]
    return np.clip(points, 1e-12, 1.0 - 1e-12)


def _dimensions(kernel: Any, size: int) -> int:
    """Random numbers that one frequency takes."""
    if isinstance(kernel, (Sum, Product)):
        parts = zip(kernel.kernels, kernel._widths, strict=True)  # type: ignore[union-attr]
        return int(isinstance(kernel, Sum)) + sum(_dimensions(part, own) for part, own in parts)
    functions = getattr(type(kernel), "functions", None)
    if functions is RBF.functions:
        return size
    if functions is RationalQuadratic.functions:
        return size + 1
    if functions is Matern52.functions:
        return size + 2
    raise DataError(
        f"{type(kernel).__name__}: its spectral density is not known here, so functions cannot be drawn from it; "
        "functions are drawn from RBF, Matern52, RationalQuadratic, Periodic, sums and products of them, and (not in "
        "products) DotProduct. Use model.sample or model.joint at given configurations instead"
    )


def _frequencies(kernel: Any, size: int, uniform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies of a kernel, (F, size), and its spectral density over the one they are drawn from, (F,)."""
    if isinstance(kernel, (Sum, Product)):
        return _composite_frequencies(kernel, size, uniform)
    normal = ndtri(uniform[:, :size])
    functions = type(kernel).functions
    if functions is RBF.functions:
        return normal, np.ones(len(uniform))
    if functions is Matern52.functions:  # Student's t of 5 degrees of freedom
        return _student(normal, uniform[:, size], uniform[:, size + 1] < 0.5)
    alpha = float(kernel.alpha)  # a mixture of Gaussian kernels exp(−τ s), τ of a gamma distribution of mean one
    return normal * np.sqrt(gammaincinv(alpha, uniform[:, size:]) / alpha), np.ones(len(uniform))


def _composite_frequencies(kernel: Any, size: int, uniform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies of a product: those of its parts side by side; of a sum: each of one part, by the weights."""
    out, ratio, at, used, chosen = np.zeros((len(uniform), size)), np.ones(len(uniform)), 0, 0, None
    if isinstance(kernel, Sum):
        weights = torch.as_tensor(kernel.weights, dtype=torch.float64).detach().cpu().numpy()
        chosen, used = np.searchsorted(np.cumsum(weights / weights.sum())[:-1], uniform[:, 0], side="right"), 1
    for k, (part, own) in enumerate(zip(kernel.kernels, kernel._widths, strict=True)):  # type: ignore[union-attr]
        count = _dimensions(part, own)
        here = np.ones(len(uniform), bool) if chosen is None else chosen == k
        found, density = _frequencies(part, own, uniform[:, used : used + count])
        out[here, at : at + own] = found[here]
        ratio[here] *= density[here]
        at, used = at + own, used + count
    return out, ratio


def _student(
    normal: np.ndarray, uniform: np.ndarray, plain: np.ndarray, broader: float = 2.0
) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies of Student's t of 5 degrees of freedom where ``plain``, else of a broader one of fewer degrees."""
    degrees = np.where(plain, 5.0, broader)
    omega = normal * np.sqrt(0.5 * degrees / gammaincinv(0.5 * degrees, uniform))[:, None]
    squared, size = (omega**2).sum(1), omega.shape[1]

    def log_density(nu: float) -> np.ndarray:
        constant = gammaln(0.5 * (nu + size)) - gammaln(0.5 * nu) - 0.5 * size * np.log(nu)
        return constant - 0.5 * (nu + size) * np.log1p(squared / nu)

    return omega, 2.0 / (1.0 + np.exp(log_density(broader) - log_density(5.0)))


def _monomials(kernel: Any, start: int, size: int, variance: float, most: int = 20_000) -> MonomialFeatures:
    """All monomials of the kernel; more than ``most`` of them would be too many to draw functions from."""
    power = kernel.power
    count = comb(size + power, power)
    require(
        count <= most,
        f"DotProduct: {count} monomials of degree {power} in {size} columns, above {most}: use a lower power or fewer "
        "columns, or model.sample at given configurations",
    )
    index = np.array(list(combinations_with_replacement(range(size + 1), power)))
    multinomial = [factorial(power) / prod(factorial(v) for v in Counter(row.tolist()).values()) for row in index]
    root = (variance * torch.tensor(multinomial, dtype=torch.float64)).sqrt()
    return MonomialFeatures((start, start + size), float(kernel.offset), torch.from_numpy(index), root)
