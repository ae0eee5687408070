"""Thermal parts that are nonparametric in temperature.

What should be stationary is the heat capacity. Entropies and energies have gauges and scales of their own; C alone is
a property that changes smoothly with T about a constant:

    f(z, T) = a(z) − (T − T0) s(z) + ψ(z, T),   ψ'' = −C(z, T)/T,   ψ(T0) = ψ'(T0) = 0,

with C(z, ·) a stationary Gaussian process in T or ln T, integrated twice. a and s stay what they are in
:class:`~kernelfe.kernels.SecondOrder`, the free energy and the entropy at T0, which is the limit of long length scales.
The Gibbs–Helmholtz relation holds for every draw.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..specs import Bound, Choice, Instance, Interval, Real, Spec
from .series import check_inside, functions_needed, series
from .thermal import ThermalPart, level_and_slope


@dataclass(frozen=True)
class TemperatureKernel(Spec):
    """exp(−(x − x')²/2ℓ²) of x = T or x = ln T, over a range of temperatures.

    Parameters
    ----------
    lengthscale
        ℓ, in K, or without unit for ln T. It is not fitted: compare ``log_evidence_`` of a few.
    range
        Lowest and highest temperature the model will ever be asked about, K.
    variable
        ``"T"`` or ``"lnT"``.
    tolerance
        Share of the variance that may be missed by the functions kept; sparse fits, whose cost grows with their
        number, do well with 1e-4.
    """

    lengthscale: float
    range: tuple[float, float]
    variable: str = "T"
    tolerance: float = 1e-10

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        "lengthscale": Real(above=0.0),
        "range": Interval(Real(above=0.0)),
        "variable": Choice(("T", "lnT")),
        "tolerance": Real(above=0.0, below=1.0),
    }

    def __post_init__(self):
        super().__post_init__()
        _ = self.size

    @property
    def size(self) -> int:
        """Number of functions φ_k."""
        low, high = self.range
        width = high - low if self.variable == "T" else math.log(high / low)
        return functions_needed(0.5 * width / self.lengthscale, self.tolerance, "TemperatureKernel")

    def scaled(self, temperature: Tensor) -> Tensor:
        """x/ℓ about the middle of the range, which takes the fewest functions."""
        low, high = self.range
        if self.variable == "T":
            return (temperature - 0.5 * (low + high)) / self.lengthscale
        return torch.log(temperature / math.sqrt(low * high)) / self.lengthscale

    def derivatives(self, temperature: Tensor, order: int) -> Tensor:
        """∂ⁿφ_k/∂Tⁿ, shape (n, size).

        Raises
        ------
        DataError
            For temperatures outside the range.
        """
        check_inside(temperature, self.range, "temperatures of the thermal part")
        x = self.scaled(temperature)
        if self.variable == "T":
            return series(x, self.size, order) / self.lengthscale**order
        # Tⁿ ∂ⁿ/∂Tⁿ = θ(θ − 1)…(θ − n + 1) with θ = ∂/∂ln T
        powers = np.poly(np.arange(order))[::-1] if order else np.ones(1)
        out = sum(float(c) * series(x, self.size, j) / self.lengthscale**j for j, c in enumerate(powers) if c != 0.0)
        return out * (temperature**-order)[:, None]


#: The bound of the field ``kernel`` of the parts below.
KERNEL = Instance(TemperatureKernel, "a TemperatureKernel(lengthscale, range)")


@dataclass(frozen=True)
class StationaryHeatCapacity(ThermalPart):
    """Free energy and entropy at the reference temperature, and a heat capacity that is a stationary process in T.

    C(z, T) has the covariance heat_capacity² κ(z, z') k(T, T'); then S = s + ∫ C/T dT and ⟨U⟩ = a + T0 s + ∫ C dT, both
    from T0, exactly. With a long length scale this is :class:`~kernelfe.kernels.SecondOrder`.

    Parameters
    ----------
    kernel
        k(T, T'), with the range of temperatures.
    reference_temperature
        T0 in K, within the range and the temperatures of the data; None: their mean.
    energy, entropy, heat_capacity
        Prior standard deviations of a = A(T0) (eV), s (eV/K) and C (eV/K, at any T); None: set from the data.
    anchored
        True: a and s are independent. False: the energy u = a + T0 s and s are, as in kernelfe 0.1 and 0.2.
    """

    kernel: TemperatureKernel
    reference_temperature: float | None = None
    energy: float | None = None
    entropy: float | None = None
    heat_capacity: float | None = None
    anchored: bool = True

    components = ("energy", "entropy", "heat_capacity")

    BOUNDS: ClassVar[Mapping[str, Bound]] = {"kernel": KERNEL}

    def __post_init__(self):
        super().__post_init__()
        _check_reference(self.reference_temperature, self.kernel)

    @property
    def functions(self) -> tuple[int, ...]:
        """One function for the free energy, one for the entropy, and those of the kernel."""
        return (1, 1, self.kernel.size)

    def derivatives(self, temperature: Tensor, order: int) -> Tensor:
        """∂ⁿ/∂Tⁿ of (1, −(T − T0), ψ_k(T)), ψ_k'' = −φ_k/T, shape (n, 2 + K).

        The second is −T if not ``anchored``; ``reference_temperature`` must be set.

        Raises
        ------
        DataError
            For temperatures outside the range.
        """
        level, slope = level_and_slope(temperature, order, self.reference_temperature if self.anchored else 0.0)
        heat = self._integrated(temperature, order) if order < 2 else self._differentiated(temperature, order - 2)
        return torch.cat([level[:, None], slope[:, None], heat], 1)

    def _differentiated(self, t: Tensor, order: int) -> Tensor:
        """∂ⁿ/∂Tⁿ of −φ_k/T, by Leibniz."""
        out = torch.zeros(len(t), self.kernel.size, dtype=t.dtype, device=t.device)
        for j in range(order + 1):
            k = order - j
            inverse = math.comb(order, j) * (-1.0) ** (k + 1) * math.factorial(k) * t ** (-1 - k)
            out = out + inverse[:, None] * self.kernel.derivatives(t, j)
        return out

    def _integrated(self, temperature: Tensor, order: int) -> Tensor:
        """ψ_k' = −∫ φ_k/T dT and ψ_k = −∫ (T − T') φ_k(T')/T' dT' from T0, by Gauss' rule.

        The integrands are smooth on the scale ℓ, and there are more nodes than functions: the rule is exact to
        rounding. Rows often share temperatures, which are taken once.
        """
        check_inside(temperature, self.kernel.range, "temperatures of the thermal part")
        if temperature.requires_grad:
            distinct, which = temperature, slice(None)
        else:
            distinct, which = torch.unique(temperature, return_inverse=True)
        nodes, weights = _gauss(self.kernel.size + 24)
        nodes, weights = nodes.to(distinct), weights.to(distinct)
        reach = (distinct - self.reference_temperature)[:, None]
        at = self.reference_temperature + reach * nodes
        if order == 0:
            weights = weights * (1.0 - nodes)
        scaled = -(reach ** (2 - order)) * weights / at
        phi = series(self.kernel.scaled(at.reshape(-1)), self.kernel.size).reshape(*at.shape, -1)
        return torch.einsum("nq,nqk->nk", scaled, phi)[which]


@lru_cache(maxsize=8)
def _gauss(count: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of Gauss' rule on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return torch.from_numpy(0.5 * (nodes + 1.0)), torch.from_numpy(0.5 * weights)


@dataclass(frozen=True)
class StationaryFreeEnergy(ThermalPart):
    """The free energy at T0, and changes from there that are those of a stationary process in T.

    f(z, T) = a(z) + g(z, T) − g(z, T0), with a ~ energy² κ(z, z') and g ~ energy² κ(z, z') k(T, T').

    For quantities that are known at many temperatures and are not free energies of a potential (an interpolation).
    Energies and entropies follow from derivatives of f and have no scales of their own, so between and beyond the
    temperatures of the data :class:`StationaryHeatCapacity` is more accurate.

    Parameters
    ----------
    kernel
        k(T, T'), with the range of temperatures.
    energy
        Prior standard deviation of a and of g, eV; None: set from the data.
    reference_temperature
        T0 in K, within the range and the temperatures of the data; None: their mean.
    anchored
        False: f = g, which returns to zero away from the temperatures of the data, as in kernelfe 0.1 and 0.2;
        ``reference_temperature`` then has no effect.
    """

    kernel: TemperatureKernel
    energy: float | None = None
    reference_temperature: float | None = None
    anchored: bool = True

    components = ("energy",)

    BOUNDS: ClassVar[Mapping[str, Bound]] = {"kernel": KERNEL}

    def __post_init__(self):
        super().__post_init__()
        _check_reference(self.reference_temperature, self.kernel)

    @property
    def functions(self) -> tuple[int, ...]:
        """One for the free energy at T0, if anchored, and those of the kernel."""
        return (self.kernel.size + int(self.anchored),)

    def missing(self) -> list[str]:
        """Names of the numbers that are still to be set from the data."""
        return [name for name in super().missing() if self.anchored or name != "reference_temperature"]

    def derivatives(self, temperature: Tensor, order: int) -> Tensor:
        """∂ⁿ/∂Tⁿ of (1, φ_k(T) − φ_k(T0)), shape (n, 1 + K), or of the φ_k alone."""
        changes = self.kernel.derivatives(temperature, order)
        if not self.anchored:
            return changes
        level, _ = level_and_slope(temperature, order, 0.0)
        if order == 0:
            changes = changes - self.kernel.derivatives(temperature.new_tensor([self.reference_temperature]), 0)
        return torch.cat([level[:, None], changes], 1)


def _check_reference(reference: float | None, kernel: TemperatureKernel) -> None:
    if reference is not None:
        check_inside(torch.tensor([reference], dtype=torch.float64), kernel.range, "the thermal part")
