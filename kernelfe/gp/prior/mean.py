"""Mean functions: what the eliminated degrees of freedom add to every free energy.

    Σ_X N_X [e_X + c_X τ(T)],   τ(T) = T − T0 − T ln(T/T0),

with N_X the number of beads (or molecules) of kind X. The energies of all-atom simulation carry a large
constant and a large heat capacity that no kernel should have to represent: e_X and c_X have broad normal
priors and are conditioned on with everything else. Their entropy counterpart would be gauge; it is zero.
With parameters λ, e_X and c_X are expanded in λ like every term; with a heat capacity that changes with
temperature (:mod:`kernelfe.kernels.stationary`), a change of c_X with temperature, Σ_k c_Xk ψ_k(T), is added.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ...functionals import Read, Spatial
from ...kernels.parameters import ParameterPart
from ...kernels.thermal import SecondOrder, ThermalPart
from .term import state_factors


@dataclass(frozen=True)
class MeanFunction:
    """Mean functions of a fit, with the numbers of their priors.

    Parameters
    ----------
    thermal
        Supplies τ(T) and the ψ_k, if any: a :class:`SecondOrder` or :class:`StationaryHeatCapacity` with its
        reference temperature set.
    parameters
        Parameter parts.
    offset
        Prior means of e_X, shape (X,), at every λ; those of c_X are zero.
    energy, heat_capacity
        Prior standard deviations of e_X (eV) and c_X (eV/K), per bead or molecule.
    change
        Prior standard deviation of the change of c_X with temperature, relative to that of c_X, which is some 30 times
        as broad as the data suggest: a heat capacity may change by its own size.
    """

    thermal: ThermalPart
    parameters: tuple[ParameterPart, ...]
    offset: tuple[float, ...]
    energy: float
    heat_capacity: float
    change: float = 1.0 / 30.0

    @property
    def size(self) -> int:
        """Functions of (T, λ) per kind X."""
        return (2 + self._changes) * self._products()

    @property
    def _changes(self) -> int:
        """Number of functions ψ_k."""
        return 0 if isinstance(self.thermal, SecondOrder) else self.thermal.functions[2]

    def _products(self) -> int:
        """Functions of all parameters together."""
        return math.prod(part.size for part in self.parameters)

    def variances(self, device: torch.device | None = None) -> Tensor:
        """Prior variances, shape (size,), on a device."""
        change = [(self.change * self.heat_capacity) ** 2] * self._changes
        return _numbers((self.energy**2, self.heat_capacity**2, *change), device).repeat_interleave(self._products())

    def factors(self, read: Read, temperature: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        """The thermal and parameter operators of ``read`` applied to (1, τ, ψ_k) ⊗ functions of λ, shape (n, size)."""
        thermal: Any = self.thermal
        simple = SecondOrder(reference_temperature=thermal.reference_temperature)
        columns = state_factors(simple, self.parameters, read, temperature, parameters)
        block = self._products()  # columns that belong to one function of T; those of −T are left out
        parts = [columns[:, :block], columns[:, 2 * block :]]
        if self._changes:
            columns = state_factors(thermal, self.parameters, read, temperature, parameters)
            parts.append(columns[:, 2 * block :])
        return torch.cat(parts, 1)

    def features(self, spatial: Spatial, counts: Tensor) -> Tensor | None:
        """N_X per row, shape (n, X); None for reads that differentiate in space: constants vanish."""
        return counts if spatial is Spatial.VALUE else None

    def prior_mean(
        self, read: Read, temperature: Tensor, parameters: dict[str, Tensor], counts: Tensor
    ) -> Tensor | float:
        """Contribution of the prior means of e_X to the rows of a read, shape (n,)."""
        if read.spatial is not Spatial.VALUE or read.parameter is not None:
            return 0.0
        constant = self.thermal.factors(read, temperature)[:, 0]
        return constant * (counts @ _numbers(self.offset, counts.device))


@lru_cache(maxsize=128)  # a memo of a pure function: they are copied to a GPU once
def _numbers(values: tuple[float, ...], device: torch.device | None) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float64, device=device)
