"""Radial kernels κ(s) on environments, s = ½ ‖(z − z')/ℓ‖², through the jet protocol.

With δ = z − z' (in units of ℓ) and jets (c, w), (c', w'), the covariance of two rows is

    c c' κ − c κ' (δ·w') + c' κ' (δ·w) − κ'' (δ·w)(δ·w') − κ' (w·w'),

and an expansion Σ_j [c_j κ(z, z_j) + w_j·∇' κ(z, z_j)] has

    value = Σ_j κ c_j − κ' (δ·w_j),    gradient = Σ_j κ' δ c_j − κ'' δ (δ·w_j) − κ' w_j.

Primes on κ are derivatives by s. No Jacobian and no Gram of size (rows × D)² is formed on the way.
A new radial kernel is a subclass with its three functions of s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .jets import Jets, linear, minus, plus
from .scalars import Profile, ScalarKernel, add_product, along, half_squared_distances


@dataclass(frozen=True)
class RadialKernel(ScalarKernel):
    """Base of the radial kernels, of unit variance: the scale lives in the thermal part.

    Parameters
    ----------
    lengthscale
        One number, one per dimension, or None: set from the data, then fitted unless ``optimizer=None``.
    """

    lengthscale: float | tuple[float, ...] | None = None

    #: κ'/κ where it is constant: then one product of κ with coefficients gives values and slopes alike.
    SLOPE: ClassVar[float | None] = None

    def functions(self, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """κ(s), κ'(s), κ''(s)."""
        raise NotImplementedError

    def value_(self, s: Tensor) -> Tensor:
        """κ(s) alone; may overwrite ``s``."""
        return self.functions(s)[0]

    def of_minus_(self, minus_s: Tensor) -> Tensor:
        """κ(s) alone from −s, which rounding may have left above 0; may overwrite it."""
        return self.value_(minus_s.neg_().clamp_min_(0.0))

    def profile(self, s: list[Tensor]) -> Profile:
        """The three functions, as parts of sums and products want them."""
        k0, k1, k2 = self.functions(s[0])
        return k0, [k1], {(0, 0): k2}

    def value(self, z: Tensor, nodes: Tensor) -> Tensor:
        """κ of all pairs, shape (E, m)."""
        return self.value_(half_squared_distances(z, nodes))

    def inducing(self, z: Tensor, gradients: bool) -> Jets:
        """Embedded jets that read the value at z or, with ``gradients``, the slopes along z/ℓ too."""
        x = self.embedding(z).z
        return Jets.full(x) if gradients else Jets.values(x)

    def gram(self, a: Jets, b: Jets, weight: Tensor | None = None) -> Tensor:
        """Covariances of all rows of ``a`` with all rows of ``b``, both scaled by 1/ℓ.

        Parameters
        ----------
        weight
            Shape (E_a, E_b): multiplies the kernel, pair by pair (the thermal factors of the rows).

        Returns
        -------
        Tensor, shape (E_a, r_a, E_b, r_b)
        """
        k0, k1, k2 = self.functions(half_squared_distances(a.z, b.z))
        if weight is not None:
            k0, k1, k2 = k0 * weight, k1 * weight, k2 * weight
        k0, k1, k2 = k0[:, None, :, None], k1[:, None, :, None], k2[:, None, :, None]
        # what multiplies c and what multiplies δ·w, with everything that belongs to the second row folded in
        q = linear(lambda w: -along(w, b.z, a.z).permute(2, 0, 1)[:, None], b.w)  # δ·w', shape (E_a, 1, E_b, r_b)
        by_value = minus(linear(torch.mul, k0, b.c), linear(torch.mul, k1, q))
        by_slope = minus(linear(torch.mul, k1, b.c), linear(torch.mul, k2, q))
        out = linear(lambda w, v: along(w, a.z, b.z)[..., None] * v, a.w, by_slope)
        out = add_product(out, k1, linear(_dots, a.w, b.w), -1.0)
        return plus(out, linear(lambda c, v: c[:, :, None, None] * v, a.c, by_value))  # type: ignore[return-value]

    def gram_of_sets(self, a: Jets, b: Jets) -> Tensor:
        """:meth:`gram` of many small sets of environments at once.

        Parameters
        ----------
        a, b
            Jets with a leading dimension: z (B, E, D), c (B, E, r) or None, w (B, E, r, D) or None.

        Returns
        -------
        Tensor, shape (B, E_a, r_a, E_b, r_b)
        """
        centre = b.z.mean(1, keepdim=True)
        x, y = a.z - centre, b.z - centre
        squares = 0.5 * (x.square().sum(2)[:, :, None] + y.square().sum(2)[:, None])
        k = self.functions(torch.baddbmm(squares, x, y.mT, alpha=-1.0).clamp_min_(0.0))
        k0, k1, k2 = (part[:, :, None, :, None] for part in k)  # (B, E_a, 1, E_b, 1)

        def along_y(w: Tensor) -> Tensor:
            out = (x @ w.flatten(1, 2).mT).unflatten(2, w.shape[1:3]) - (w * y[:, :, None]).sum(3)[:, None]
            return out[:, :, None]  # δ·w', (B, E_a, 1, E_b, r_b)

        def along_x(w: Tensor) -> Tensor:
            out = (w * x[:, :, None]).sum(3)[..., None] - (w.flatten(1, 2) @ y.mT).unflatten(1, w.shape[1:3])
            return out[..., None]  # δ·w, (B, E_a, r_a, E_b, 1)

        def mixed(u: Tensor, v: Tensor) -> Tensor:
            out = torch.bmm(u.flatten(1, 2), v.flatten(1, 2).mT).unflatten(2, v.shape[1:3])
            return out.unflatten(1, u.shape[1:3]).mul_(-k1)

        q, c = linear(along_y, b.w), linear(lambda c: c[:, None, None], b.c)
        by_value = minus(linear(torch.mul, k0, c), linear(torch.mul, k1, q))
        by_slope = minus(linear(torch.mul, k1, c), linear(torch.mul, k2, q))
        out = add_product(linear(mixed, a.w, b.w), linear(along_x, a.w), by_slope)
        return add_product(out, linear(lambda c: c[..., None, None], a.c), by_value)  # type: ignore[return-value]

    def fill_gram(self, a: Jets, b: Jets, out: Tensor) -> None:
        """:meth:`gram` written into ``out``; of slopes with values two passes over it, one of them the product's."""
        if a.reads_values or b.reads_slopes:
            return super().fill_gram(a, b, out)
        slope = self.functions(half_squared_distances(a.z, b.z))[1] * b.c[:, 0]  # type: ignore[index]
        # w·z − w·z' is one product of (w, w·z) with (−z', 1)
        w: Tensor = a.w  # type: ignore[assignment]
        left = torch.cat([w, (w * a.z[:, None]).sum(2, keepdim=True)], 2).flatten(0, 1)
        torch.mm(left, torch.cat([-b.z, b.z.new_ones(len(b), 1)], 1).T, out=out)
        out.view(*w.shape[:2], len(b)).mul_(slope[:, None])

    def jet_product(self, z: Tensor, nodes: Tensor, c: Tensor, w: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Value and gradient at ``z`` of expansions on ``nodes`` (both scaled by 1/ℓ): four thin products a block.

        Parameters
        ----------
        z, nodes
            Shapes (E, D) and (m, D).
        c, w
            Coefficients, shapes (m, p) and (m, D, p): p right-hand sides in one pass.

        Returns
        -------
        Tensor, Tensor
            Values (E, p) and gradients (E, D, p), the latter by z in units of ℓ.
        """
        k0, k1, k2 = self.functions(half_squared_distances(z, nodes))
        value, gradients = k0 @ c, []
        for column in range(c.shape[1]):
            radial = k1 * c[:, column]
            if w is not None:
                wp = w[:, :, column]
                along = z @ wp.T - (nodes * wp).sum(1)
                value[:, column] -= (k1 * along).sum(1)
                radial = radial - k2 * along
            gradient = z * radial.sum(1, keepdim=True) - radial @ nodes
            gradients.append(gradient if w is None else gradient - k1 @ wp)
        return value, torch.stack(gradients, 2)

    def diagonal(self, a: Jets) -> Tensor:
        """Prior variance of every row, shape (E, r): κ(0) c² − κ'(0) ‖w‖²."""
        k0, k1, _ = self.functions(a.z.new_zeros(1))
        values = linear(lambda c: k0 * c**2, a.c)
        return minus(values, linear(lambda w: k1 * (w**2).sum(2), a.w))  # type: ignore[return-value]


def _dots(u: Tensor, v: Tensor) -> Tensor:
    """w·w' of all rows, shape (E_a, r_a, E_b, r_b)."""
    return (u.reshape(-1, u.shape[2]) @ v.reshape(-1, v.shape[2]).T).reshape(*u.shape[:2], *v.shape[:2])


@dataclass(frozen=True)
class RBF(RadialKernel):
    """κ(s) = exp(−s), the Gaussian (squared-exponential) kernel: infinitely smooth."""

    SLOPE: ClassVar[float | None] = -1.0

    def value_(self, s: Tensor) -> Tensor:
        """κ(s), in place."""
        return s.neg_().exp_()

    def of_minus_(self, minus_s: Tensor) -> Tensor:
        """κ(s) from −s, in place."""
        return minus_s.exp_()

    def functions(self, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """κ, −κ and κ."""
        k0 = torch.exp(-s)
        return k0, -k0, k0


@dataclass(frozen=True)
class Matern52(RadialKernel):
    """κ = (1 + √5 r + 5r²/3) exp(−√5 r), r² = 2s (Rasmussen & Williams 2006, eq. 4.17): twice differentiable.

    κ' = −(5/3)(1 + √5 r) exp(−√5 r) and κ'' = (25/3) exp(−√5 r), both finite at r = 0.
    """

    def functions(self, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """κ, κ' and κ''."""
        # the shift keeps the derivative of the square root finite at s = 0 and changes κ by less than 1e-29
        a = torch.sqrt(10.0 * s + 1e-30)
        e = torch.exp(-a)
        return (1.0 + a + a * a / 3.0) * e, (-5.0 / 3.0) * (1.0 + a) * e, (25.0 / 3.0) * e


@dataclass(frozen=True)
class RationalQuadratic(RadialKernel):
    """κ = (1 + s/α)^(−α): Gaussian kernels of many length scales, mixed (Rasmussen & Williams 2006, eq. 4.19).

    κ' = −(1 + s/α)^(−α−1) and κ'' = (1 + 1/α)(1 + s/α)^(−α−2). Large α is the RBF; small α has long tails.

    Parameters
    ----------
    lengthscale
        As of every radial kernel.
    alpha
        α > 0, a hyperparameter: fitted like the length scale, starting from here.
    """

    alpha: float = 1.0

    POSITIVE: ClassVar[tuple[str, ...]] = ("lengthscale", "alpha")

    def functions(self, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """κ, κ' and κ''."""
        base = 1.0 + s / self.alpha
        k0 = torch.exp(-self.alpha * torch.log1p(s / self.alpha))  # a power of base would lose digits at large α
        k1 = -k0 / base
        return k0, k1, -(1.0 + 1.0 / self.alpha) * k1 / base
