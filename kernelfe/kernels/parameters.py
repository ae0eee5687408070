"""Dependence of a term on parameters λ of the potential: a field, an alchemical charge, a composition.

Like a thermal part, a parameter part is a finite list of functions; a term takes all products of its thermal functions
with those of its parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..functionals import Read
from ..specs import Bound, Interval, Real, Spec, Text, Whole
from .series import check_inside, functions_needed, series


class ParameterPart(Spec):
    """Base of parameter parts: frozen dataclasses with the ``name`` of their parameter."""

    name: str

    BOUNDS: ClassVar[Mapping[str, Bound]] = {"name": Text()}

    @property
    def _title(self) -> str:
        return f"{type(self).__name__} {self.name!r}"

    @property
    def size(self) -> int:
        """Number of functions of λ."""
        raise NotImplementedError

    @property
    def example(self) -> float:
        """A value of λ at which the functions are defined."""
        return 0.0

    def factors(self, read: Read, value: Tensor) -> Tensor:
        """The functions (or, for a read that differentiates by this parameter, their slopes), shape (n, size)."""
        raise NotImplementedError


@dataclass(frozen=True)
class ParameterExpansion(ParameterPart):
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

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        "reference": Real(),
        "scale": Real(above=0.0),
        "order": Whole(least=1),
    }

    @property
    def size(self) -> int:
        """Number of powers."""
        return self.order + 1

    def factors(self, read: Read, value: Tensor) -> Tensor:
        """Powers (or, for a read that differentiates by this parameter, their derivatives), shape (n, order + 1)."""
        x, derivative = value - self.reference, int(read.parameter == self.name)
        columns = []
        for j in range(self.order + 1):
            k = j - derivative
            columns.append(self.scale**j * x**k / math.factorial(k) if k >= 0 else torch.zeros_like(x))
        return torch.stack(columns, 1)


@dataclass(frozen=True)
class ParameterKernel(ParameterPart):
    """Dependence on a parameter λ by the stationary kernel exp(−(λ − λ')²/2ℓ²), over a range of λ.

    Nonparametric: no order has to be chosen, and the prior variance is the same at every λ of the range.

    Parameters
    ----------
    name
        The parameter's name in the Frames.
    lengthscale
        ℓ, in the unit of λ: the change over which A changes by its own size. It is not fitted: compare
        ``log_evidence_`` of a few.
    range
        Lowest and highest value of λ the model will ever be asked about.
    tolerance
        Share of the variance that may be missed by the functions kept; sparse fits, whose cost grows with their
        number, do well with 1e-4.
    """

    name: str
    lengthscale: float
    range: tuple[float, float]
    tolerance: float = 1e-10

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        "lengthscale": Real(above=0.0),
        "range": Interval(),
        "tolerance": Real(above=0.0, below=1.0),
    }

    def __post_init__(self):
        super().__post_init__()
        _ = self.size

    @property
    def size(self) -> int:
        """Number of functions φ_k."""
        low, high = self.range
        reach = 0.5 * (high - low) / self.lengthscale
        return functions_needed(reach, self.tolerance, f"ParameterKernel {self.name!r}")

    @property
    def example(self) -> float:
        """The middle of the range."""
        return 0.5 * (self.range[0] + self.range[1])

    def factors(self, read: Read, value: Tensor) -> Tensor:
        """φ_k (or, for a read that differentiates by this parameter, ∂φ_k/∂λ), shape (n, size).

        Raises
        ------
        DataError
            For values outside the range.
        """
        check_inside(value, self.range, f"the parameter {self.name!r}")
        order = int(read.parameter == self.name)
        return series((value - self.example) / self.lengthscale, self.size, order) / self.lengthscale**order
