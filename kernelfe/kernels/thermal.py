"""The thermal part: how a term depends on temperature.

A thermal part is a finite list of functions of temperature, each with its own Gaussian process on environments,

    f(z, T) = Σ_k φ_k(T) g_k(z),

so that the thermal operator of a read becomes a few plain numbers per row, its **factors**. The simplest is of second
order about T0 (exact for a constant heat capacity at every R):

    f(z, T) = a(z) − (T − T0) s(z) + c(z)·τ(T),   τ(T) = T − T0 − T ln(T/T0).

a, the free energy at T0, and its changes with temperature are independent a priori: what is known at T0 alone then
holds at other temperatures too, with error bars that grow with |T − T0|. Were the energy u = a + T0 s and s
independent, forces at one temperature would imply a response, f ∝ 1 + (T − T0)/2T0 with usual scales.

Heat capacities that change with temperature are in :mod:`kernelfe.kernels.stationary`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..functionals import Read
from ..specs import Bound, Flag, OrNone, Real, Spec, field_names


class ThermalPart(Spec):
    """Base of thermal parts: frozen dataclasses with one prior standard deviation per component.

    A subclass names its ``components``, which are also the fields that hold their prior standard deviations, and
    gives ``derivatives``. Where a component consists of several functions of T that share the standard deviation, it
    overrides ``functions``.
    """

    #: Components and names of their prior standard deviations.
    components: tuple[str, ...] = ()

    @property
    def functions(self) -> tuple[int, ...]:
        """Number of functions φ_k of each component."""
        return (1,) * len(self.components)

    @property
    def size(self) -> int:
        """Number of functions φ_k."""
        return sum(self.functions)

    def derivatives(self, temperature: Tensor, order: int) -> Tensor:
        """∂ⁿφ_k/∂Tⁿ, shape (n, size), components in their order."""
        raise NotImplementedError

    def factors(self, read: Read, temperature: Tensor) -> Tensor:
        """The thermal operator of ``read`` applied to every φ_k, shape (n, size)."""
        out = temperature.new_zeros(len(temperature), self.size)
        for coefficient, power, order in read.thermal:
            out = out + coefficient * (temperature**power)[:, None] * self.derivatives(temperature, order)
        return out

    def missing(self) -> list[str]:
        """Names of the numbers that are still to be set from the data."""
        params = self.get_params(deep=False)
        return [name for name in (*self.components, "reference_temperature") if params.get(name, 0.0) is None]

    @classmethod
    def field_bounds(cls) -> dict[str, Bound]:
        """Bounds of the fields: standard deviations and the reference temperature are positive, or None."""
        own = [name for name in (*cls.components, "reference_temperature") if name in field_names(cls)]
        flags = {"anchored": Flag()} if "anchored" in field_names(cls) else {}
        return dict.fromkeys(own, OrNone(Real(above=0.0))) | flags | super().field_bounds()


@dataclass(frozen=True)
class SecondOrder(ThermalPart):
    """Free energy, entropy and heat capacity at the reference temperature, each a Gaussian process.

    A = a − (T − T0) s + c τ(T), ⟨U⟩ = a + T0 s + c (T − T0), S = s + c ln(T/T0), C = c, exactly.

    Parameters
    ----------
    reference_temperature
        T0 in K, within the temperatures of the data; None: their mean.
    energy, entropy, heat_capacity
        Prior standard deviations of a = A(T0) (eV), s (eV/K), c (eV/K); None: set from the data.
    anchored
        True: a and s are independent. False: u = a + T0 s and s are, with ``energy`` the standard deviation of u; this
        is the prior of kernelfe 0.1 and 0.2, in which forces at one temperature imply a response to temperature.
    """

    reference_temperature: float | None = None
    energy: float | None = None
    entropy: float | None = None
    heat_capacity: float | None = None
    anchored: bool = True

    components = ("energy", "entropy", "heat_capacity")

    def derivatives(self, temperature: Tensor, order: int) -> Tensor:
        """∂ⁿ/∂Tⁿ of (1, −(T − T0), τ(T)), shape (n, 3); ``reference_temperature`` must be set.

        The second is −T if not ``anchored``.
        """
        t, t0 = temperature, self.reference_temperature
        if order == 0:
            heat = t - t0 - t * torch.log(t / t0)
        elif order == 1:
            heat = -torch.log(t / t0)
        else:  # τ'' = −1/T and so on
            heat = (-1.0) ** (order - 1) * math.factorial(order - 2) * t ** (1 - order)
        return torch.stack([*level_and_slope(t, order, t0 if self.anchored else 0.0), heat], 1)


def level_and_slope(temperature: Tensor, order: int, origin: float | None) -> tuple[Tensor, Tensor]:
    """∂ⁿ/∂Tⁿ of 1 and of −(T − origin), shapes (n,)."""
    zero, one = torch.zeros_like(temperature), torch.ones_like(temperature)
    return (one, -(temperature - origin)) if order == 0 else (zero, -one) if order == 1 else (zero, zero)
