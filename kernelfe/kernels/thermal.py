"""The thermal part: how a term depends on temperature.

Second order about T0 (exact for a constant heat capacity at every R):

    f(z, T) = u(z) − T s(z) + c(z)·τ(T),   τ(T) = T − T0 − T ln(T/T0),

with u, s, c independent Gaussian processes that share the kernel on z. The thermal operator of a read
turns the three functions of T into three plain numbers per row, its **factors**.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import DataError
from ..functionals import Read
from ..specs import Spec


@dataclass(frozen=True)
class SecondOrder(Spec):
    """Energy, entropy and heat capacity at the reference temperature, each a Gaussian process.

    ⟨U⟩ = u + c (T − T0), S = s + c ln(T/T0), C = c, exactly.

    Parameters
    ----------
    reference_temperature
        T0 in K; None: the mean temperature of the data.
    energy, entropy, heat_capacity
        Prior standard deviations of u (eV), s (eV/K), c (eV/K); None: set from the data.
    """

    reference_temperature: float | None = None
    energy: float | None = None
    entropy: float | None = None
    heat_capacity: float | None = None

    def __post_init__(self):
        for name, value in self.get_params(deep=False).items():
            if value is not None and not (math.isfinite(value) and value > 0):
                raise DataError(f"SecondOrder: {name}={value} must be positive and finite")

    #: Number of functions of T, and their names.
    components = ("energy", "entropy", "heat_capacity")

    def derivatives(self, temperature: Tensor, order: int) -> Tensor:
        """∂ⁿ/∂Tⁿ of (1, −T, τ(T)), shape (n, 3); ``reference_temperature`` must be set."""
        t, t0 = temperature, self.reference_temperature
        zero = torch.zeros_like(t)
        if order == 0:
            parts = (torch.ones_like(t), -t, t - t0 - t * torch.log(t / t0))
        elif order == 1:
            parts = (zero, -torch.ones_like(t), -torch.log(t / t0))
        else:  # τ'' = −1/T and so on
            parts = (zero, zero, (-1.0) ** (order - 1) * math.factorial(order - 2) * t ** (1 - order))
        return torch.stack(parts, 1)

    def factors(self, read: Read, temperature: Tensor) -> Tensor:
        """The thermal operator of ``read`` applied to (1, −T, τ(T)), shape (n, 3)."""
        out = temperature.new_zeros(len(temperature), len(self.components))
        for coefficient, power, order in read.thermal:
            out = out + coefficient * (temperature**power)[:, None] * self.derivatives(temperature, order)
        return out


@dataclass(frozen=True)
class ParameterExpansion(Spec):
    """Dependence on a parameter λ: f = Σ_j f_j (λ − λ0)^j / j!, j = 0…order, the f_j independent.

    The prior standard deviation of f_j is that of the thermal part times ``scale``^j: ``scale`` is the
    inverse of the change of λ over which A changes by its own size.

    Parameters
    ----------
    name
        The parameter's name in the Frames.
    reference
        λ0.
    scale
        Inverse of the natural scale of λ, in 1/[λ].
    order
        Highest power.
    """

    name: str
    reference: float = 0.0
    scale: float = 1.0
    order: int = 2

    def __post_init__(self):
        if not (math.isfinite(self.scale) and self.scale > 0) or self.order < 1:
            raise DataError(f"ParameterExpansion {self.name!r}: scale must be positive and order at least 1")

    def factors(self, read: Read, value: Tensor) -> Tensor:
        """Powers (or, for a read that differentiates by this parameter, their derivatives), shape (n, order + 1)."""
        x, derivative = value - self.reference, int(read.parameter == self.name)
        columns = []
        for j in range(self.order + 1):
            k = j - derivative
            columns.append(self.scale**j * x**k / math.factorial(k) if k >= 0 else torch.zeros_like(x))
        return torch.stack(columns, 1)
