"""Periodic kernels: columns laid on circles, in front of a radial kernel.

A column z of period p becomes the two columns (cos θ, sin θ)/ℓ with θ = 2πz/p. Half the squared distance of two
points is then 2 sin²(π(z − z')/p)/ℓ² (MacKay 1998; Rasmussen & Williams 2006, eq. 4.31). The map carries jets along
by the chain rule, so that everything that holds for the radial kernel holds here, derivatives included.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import DataError, require
from ..specs import Bound, OneOrMore, OrNone, Real
from .base import Embedding, Kernel, spread
from .jets import Jets
from .radial import RBF


@dataclass(frozen=True)
class Periodic(RBF):
    """κ = exp(−2 Σ_d sin²(π(z_d − z'_d)/p_d)/ℓ_d²): the Gaussian kernel on circles of radius 1/ℓ.

    A subclass with other ``functions`` (and ``SLOPE = None``, ``value_``) puts another radial kernel on the circles.

    Parameters
    ----------
    lengthscale
        One number, one per column, or None: from the data. Large against 1: close to a single cosine.
    period
        One number, or one entry per column: its period, or None for a column that is not periodic. Known, not fitted.
    """

    period: float | tuple[float | None, ...] = 2.0 * math.pi

    BOUNDS: ClassVar[Mapping[str, Bound]] = {"period": OneOrMore(OrNone(Real(above=0.0)))}

    def __post_init__(self):
        super().__post_init__()
        periods = self.period if isinstance(self.period, tuple) else (self.period,)
        require(any(periods), f"{type(self).__name__}: period={self.period} must be a number for at least one column")

    def check(self, dimension: int) -> None:
        """Check length scales and periods against the columns of the environments."""
        super().check(dimension)
        if isinstance(self.period, tuple) and len(self.period) not in (1, dimension):
            raise DataError(
                f"the kernel has {len(self.period)} periods, its descriptor {dimension} columns: "
                "give one number, or an entry per column"
            )

    def spread(self, z: Tensor, per_column: bool) -> tuple[float, ...]:
        """Length scales from the spread of environments on their circles."""
        on_circle, frequency = self._circles(z)
        variance = z.var(0, correction=0) if len(z) > 1 else torch.zeros_like(z).sum(0)
        if len(z) > 1:
            angle = z * frequency
            round_ = angle.cos().var(0, correction=0) + angle.sin().var(0, correction=0)
            variance = torch.where(on_circle, round_, variance)
        return spread(variance.sqrt(), z, per_column)

    def embedding(self, z: Tensor) -> Embedding:
        """Columns (cos θ, sin θ)/ℓ; a column without a period becomes (z/ℓ, 0)."""
        on_circle, frequency = self._circles(z)
        one = 1.0 if self.lengthscale is None else self.lengthscale
        scale = 1.0 / torch.as_tensor(one, dtype=z.dtype, device=z.device)
        angle = z * frequency
        cos, sin = angle.cos(), angle.sin()
        x = torch.where(on_circle, cos, z) * scale
        y = torch.where(on_circle, sin, torch.zeros_like(z)) * scale
        slope_x = torch.where(on_circle, -sin * frequency, torch.ones_like(z)) * scale
        slope_y = torch.where(on_circle, cos * frequency, torch.zeros_like(z)) * scale
        width = z.shape[1]
        return Embedding(
            torch.cat([x, y], 1),
            lambda w: torch.cat([w * slope_x[:, None], w * slope_y[:, None]], 2),
            lambda g: g[:, :width] * slope_x + g[:, width:] * slope_y,
        )

    def inducing(self, z: Tensor, gradients: bool) -> Jets:
        """Embedded jets that read the value at z or, with ``gradients``, the slopes along the circles too."""
        return Kernel.inducing(self, z, gradients)

    def _circles(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mask of the periodic columns, and 2π/p, shapes (D,)."""
        given = self.period if isinstance(self.period, tuple) else (self.period,)
        given = given * (z.shape[1] if len(given) == 1 else 1)
        period = torch.tensor([math.inf if p is None else p for p in given], dtype=z.dtype, device=z.device)
        return torch.isfinite(period), 2.0 * math.pi / period
