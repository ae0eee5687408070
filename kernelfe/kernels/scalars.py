"""Kernels that are functions of scalars: κ = F(s_1, …, s_n), each s_i of two environments.

A scalar is either half a squared distance, ½‖x − x'‖², or a dot product, x·x', of some of the embedded columns x.
Radial and dot-product kernels read one scalar; their sums and products read those of all their parts, so one set of
formulas serves them all. With jets (c, w), (c', w') and

    u_i = w·∇s_i,   u'_i = w'·∇'s_i,   m_i = w·∇∇'s_i·w'

(distance: u = w·δ, u' = −w'·δ, m = −w·w' with δ = x − x'; dot product: u = w·x', u' = w'·x, m = w·w'), the
covariance of two rows is

    c c' F + c Σ_i F_i u'_i + c' Σ_i F_i u_i + Σ_ij F_ij u_i u'_j + Σ_i F_i m_i,

indices of F being derivatives. An expansion on nodes costs a few thin products per scalar.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Kernel
from .jets import Jets, linear, plus

#: F, its first derivatives, and its second ones by (i, j) with i ≤ j where they are not zero throughout.
Profile = tuple[Tensor, list[Tensor], dict[tuple[int, int], Tensor]]


@dataclass(frozen=True)
class Scalar:
    """One scalar of two environments.

    Parameters
    ----------
    dot
        Dot product instead of half a squared distance.
    start, stop
        The embedded columns it reads.
    """

    dot: bool
    start: int
    stop: int

    def moved(self, by: int) -> Scalar:
        """The same scalar of columns further on."""
        return Scalar(self.dot, self.start + by, self.stop + by)

    def of(self, z: Tensor) -> Tensor:
        """The columns it reads, of the last dimension."""
        return z[..., self.start : self.stop]

    def value(self, z: Tensor, other: Tensor) -> Tensor:
        """s of all pairs, shape (E, E')."""
        a, b = self.of(z), self.of(other)
        return a @ b.T if self.dot else half_squared_distances(a, b)

    def slope(self, w: Tensor, z: Tensor, other: Tensor) -> Tensor:
        """w·∇s, the derivative by the environment that w belongs to, shape (E, r, E')."""
        w, z, other = self.of(w), self.of(z), self.of(other)
        return _dots(w, other) if self.dot else along(w, z, other)

    def mixed(self, w: Tensor, other: Tensor) -> Tensor:
        """w·∇∇'s·w' of all rows, shape (E, r, E', r')."""
        a, b = self.of(w), self.of(other)
        product = (a.reshape(-1, a.shape[2]) @ b.reshape(-1, b.shape[2]).T).reshape(*w.shape[:2], *other.shape[:2])
        return product if self.dot else -product


class ScalarKernel(Kernel):
    """Base of the kernels that are functions of scalars; a subclass has its :meth:`scalars` and :meth:`profile`."""

    def scalars(self, width: int) -> list[Scalar]:
        """Scalars of two environments with ``width`` embedded columns."""
        return [Scalar(False, 0, width)]

    def profile(self, s: list[Tensor]) -> Profile:
        """F and its derivatives at the scalars, elementwise."""
        raise NotImplementedError(f"{type(self).__name__} has no profile")

    def gram(self, a: Jets, b: Jets, weight: Tensor | None = None) -> Tensor:
        """Covariances of all rows of ``a`` with all rows of ``b``, shape (E_a, r_a, E_b, r_b)."""
        scalars = self.scalars(a.z.shape[1])
        f, first, second = self.profile([s.value(a.z, b.z) for s in scalars])
        if weight is not None:
            f, first = f * weight, [g * weight for g in first]
            second = {key: g * weight for key, g in second.items()}
        f, first = f[:, None, :, None], [g[:, None, :, None] for g in first]
        second = {key: g[:, None, :, None] for key, g in second.items()}
        # what multiplies c and what multiplies every u_i, with everything that belongs to the second row folded in
        by_value = linear(lambda c: f * c, b.c)
        by_slope = [linear(lambda c, g=g: g * c, b.c) for g in first]
        # u', (E_a, 1, E_b, r_b)
        right = [linear(lambda w, s=s: s.slope(w, b.z, a.z).permute(2, 0, 1)[:, None], b.w) for s in scalars]
        for i, slope in enumerate(right):
            by_value = plus(by_value, linear(torch.mul, first[i], slope))
        for (i, j), g in second.items():
            by_slope[i] = plus(by_slope[i], linear(torch.mul, g, right[j]))
            if i != j:
                by_slope[j] = plus(by_slope[j], linear(torch.mul, g, right[i]))
        out = linear(lambda c, v: c[:, :, None, None] * v, a.c, by_value)
        for i, s in enumerate(scalars):
            along_a = linear(lambda w, s=s: s.slope(w, a.z, b.z)[..., None], a.w)
            out = plus(out, linear(torch.mul, along_a, by_slope[i]))
            out = add_product(out, first[i], linear(s.mixed, a.w, b.w))
        return out  # type: ignore[return-value]

    def value(self, z: Tensor, nodes: Tensor) -> Tensor:
        """κ(z, z') of all pairs, shape (E, m)."""
        return self.profile([s.value(z, nodes) for s in self.scalars(z.shape[1])])[0]

    def jet_product(self, z: Tensor, nodes: Tensor, c: Tensor, w: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Value (E, p) and gradient (E, D', p) of expansions on nodes: a few thin products per scalar."""
        scalars = self.scalars(z.shape[1])
        f, first, second = self.profile([s.value(z, nodes) for s in scalars])
        value, gradients = f @ c, []
        for p in range(c.shape[1]):
            radial = [g * c[:, p] for g in first]
            if w is not None:
                slopes = [s.slope(w[:, None, :, p], nodes, z)[:, 0].T for s in scalars]  # u', (E, m)
                for i, slope in enumerate(slopes):
                    value[:, p] += (first[i] * slope).sum(1)
                for (i, j), g in second.items():
                    radial[i] = radial[i] + g * slopes[j]
                    if i != j:
                        radial[j] = radial[j] + g * slopes[i]
            gradient = torch.zeros_like(z)
            for i, s in enumerate(scalars):  # Σ_j radial ∇s + F_i ∇u'
                part = radial[i] @ s.of(nodes)
                if not s.dot:
                    part = s.of(z) * radial[i].sum(1, keepdim=True) - part
                if w is not None:
                    part = part + (1.0 if s.dot else -1.0) * (first[i] @ s.of(w[:, :, p]))
                s.of(gradient).add_(part)
            gradients.append(gradient)
        return value, torch.stack(gradients, 2)

    def diagonal(self, a: Jets) -> Tensor:
        """Prior variance of every row, shape (E, r)."""
        scalars = self.scalars(a.z.shape[1])
        squares = [s.of(a.z).square().sum(1) if s.dot else a.z.new_zeros(len(a.z)) for s in scalars]
        f, first, second = self.profile(squares)
        out = linear(lambda c: f[:, None] * c**2, a.c)
        # distances have no slope where they vanish
        slopes = [
            linear(lambda w, s=s: torch.einsum("erd,ed->er", s.of(w), s.of(a.z)), a.w if s.dot else None)
            for s in scalars
        ]
        for s, g, slope in zip(scalars, first, slopes, strict=True):
            sign = 1.0 if s.dot else -1.0
            out = plus(out, linear(lambda w, s=s, g=g, sign=sign: sign * g[:, None] * s.of(w).square().sum(2), a.w))
            out = plus(out, linear(lambda c, u, g=g: 2.0 * g[:, None] * c * u, a.c, slope))
        for (i, j), g in second.items():
            times = (1.0 if i == j else 2.0) * g[:, None]
            out = plus(out, linear(lambda u, v, times=times: times * u * v, slopes[i], slopes[j]))
        return out  # type: ignore[return-value]


def _dots(w: Tensor, other: Tensor) -> Tensor:
    """w·x' for all pairs: shape (E, r, E')."""
    return (w.reshape(-1, w.shape[2]) @ other.T).reshape(*w.shape[:2], len(other))


def along(w: Tensor, z: Tensor, other: Tensor) -> Tensor:
    """w·(z − other) for all pairs: shape (E, r, E')."""
    return (w * z[:, None]).sum(2)[..., None] - _dots(w, other)


def add_product(out: Tensor | None, a: Tensor | None, b: Tensor | None, value: float = 1.0) -> Tensor | None:
    """out + value·a·b, None being zero; in place when no gradient is recorded: these are the largest arrays."""
    if a is None or b is None:
        return out
    if out is None:
        return a * b if value == 1.0 else value * a * b
    return torch.addcmul(out, a, b, value=value) if torch.is_grad_enabled() else out.addcmul_(a, b, value=value)


def half_squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """½‖a_i − b_j‖² by one matrix product, about the mean of b so that little cancels; never negative."""
    centre = b.mean(0)
    a, b = a - centre, b - centre
    return (
        torch.addmm((0.5 * (b * b).sum(1)).expand(len(a), -1), a, b.T, alpha=-1.0)
        .add(0.5 * (a * a).sum(1, keepdim=True))
        .clamp_min(0.0)
    )
