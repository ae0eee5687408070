"""Dot-product kernels: polynomials of the environments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ..errors import DataError
from ..specs import Bound, OneOrMore, OrNone, Real, Whole
from .base import Embedding
from .scalars import Profile, Scalar, ScalarKernel


@dataclass(frozen=True)
class DotProduct(ScalarKernel):
    """κ = [(σ² + x·x')/(σ² + 1)]^p, x = (z − centre)/ℓ: polynomials of degree p (Rasmussen & Williams 2006, § 4.2.2).

    Not stationary: the prior variance is 1 where ‖x‖ = 1 and grows as ‖x‖^2p outside. The samples are polynomials of
    the environments, so they extrapolate as such, and (p + D choose p) labels determine one.

    Parameters
    ----------
    power
        Degree p, 1 to 12.
    offset
        σ², a hyperparameter: the weight of the lower degrees.
    lengthscale
        ℓ: one number, one per column, or None: from the data, such that ‖x‖ is about 1 on them, then fitted.
    centre
        Where x = 0: one number, one per column, or None: the mean of the data. Not fitted.
    """

    power: int = 2
    offset: float = 1.0
    lengthscale: float | tuple[float, ...] | None = None
    centre: float | tuple[float, ...] | None = None

    POSITIVE: ClassVar[tuple[str, ...]] = ("lengthscale", "offset")
    STATIONARY: ClassVar[bool] = False
    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        "power": Whole(least=1, most=12, strict=True),  # with higher powers, values outside the data overflow
        "centre": OrNone(OneOrMore(Real())),
    }

    def completed(self, z: Tensor, per_column: bool, factor: float = 1.0) -> Self:
        """The spec with the centre and the length scales of the data."""
        out: Self = self if self.centre is not None else replace(self, centre=tuple(z.mean(0).tolist()))
        if out.lengthscale is not None:
            return out
        # per column they are sqrt(2 D) standard deviations; one for all is 2 sqrt(2) root mean squared norms
        scales = [factor * v / (2.0**0.5 if per_column else 8.0**0.5) for v in self.spread(z, per_column)]
        return replace(out, lengthscale=tuple(scales) if per_column else scales[0])

    def check(self, dimension: int) -> None:
        """Check length scales and centre against the columns of the environments."""
        super().check(dimension)
        if isinstance(self.centre, tuple) and len(self.centre) not in (1, dimension):
            raise DataError(
                f"the kernel has a centre of {len(self.centre)} numbers, its descriptor {dimension} columns: "
                "give one number, or one per column"
            )

    def embedding(self, z: Tensor) -> Embedding:
        """x = (z − centre)/ℓ."""
        centre = torch.as_tensor(0.0 if self.centre is None else self.centre, dtype=z.dtype, device=z.device)
        inner = super().embedding(z - centre)
        return inner

    def scalars(self, width: int) -> list[Scalar]:
        """x·x'."""
        return [Scalar(True, 0, width)]

    def profile(self, s: list[Tensor]) -> Profile:
        """F = [(σ² + s)/(σ² + 1)]^p and its derivatives."""
        p, norm = self.power, 1.0 + self.offset
        base = (self.offset + s[0]) / norm
        lower = base ** (p - 1)
        second = {} if p == 1 else {(0, 0): p * (p - 1) * base ** (p - 2) / norm**2}
        return base * lower, [p * lower / norm], second

    def jet_product(self, z: Tensor, nodes: Tensor, c: Tensor, w: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Value (E, p) and gradient (E, D, p) of expansions on nodes; power 2 through its quadratic form.

        Σ_j c_j (σ² + x·x_j)² + 2 w_j·x (σ² + x·x_j) = σ⁴ Σ c_j + 2σ² b·x + x·A x with b = Σ c_j x_j + w_j and
        A = Σ c_j x_j x_jᵀ + x_j w_jᵀ + w_j x_jᵀ: no pairs of environments and nodes.
        """
        if self.power != 2:
            return super().jet_product(z, nodes, c, w)
        offset: Any = self.offset
        form = torch.einsum("jp,jd,je->dep", c, nodes, nodes)
        linear = nodes.T @ c
        if w is not None:
            cross = torch.einsum("jd,jep->dep", nodes, w)
            form, linear = form + cross + cross.transpose(0, 1), linear + w.sum(0)
        norm = (1.0 + offset) ** 2
        half = torch.einsum("ed,dfp->efp", z, form)  # A x
        value = offset**2 * c.sum(0) + 2.0 * offset * (z @ linear) + torch.einsum("efp,ef->ep", half, z)
        return value / norm, 2.0 * (half + offset * linear) / norm
