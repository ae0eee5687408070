"""Mean functions: what the eliminated degrees of freedom add to every free energy.

    Σ_X N_X [e_X + c_X τ(T)],   τ(T) = T − T0 − T ln(T/T0),

with N_X the number of beads (or molecules) of kind X. The energies of all-atom simulation carry a large
constant and a large heat capacity that no kernel should have to represent: e_X and c_X have broad normal
priors and are conditioned on with everything else. Their entropy counterpart would be gauge; it is zero.
With parameters λ, e_X and c_X are expanded in λ like every term; with a heat capacity that changes with
temperature (:mod:`kernelfe.kernels.stationary`), c_X τ(T) becomes Σ_k c_Xk ψ_k(T).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..functionals import Read, Spatial
from .parameters import ParameterPart
from .term import state_factors
from .thermal import ThermalPart


@dataclass(frozen=True)
class MeanFunction:
    """Mean functions of a fit, with the numbers of their priors.

    Parameters
    ----------
    thermal
        Supplies τ(T) or the ψ_k: a :class:`SecondOrder` or :class:`StationaryHeatCapacity` with its reference
        temperature set.
    parameters
        Parameter parts.
    offset
        Prior means of e_X, shape (X,), at every λ; those of c_X are zero.
    energy, heat_capacity
        Prior standard deviations of e_X (eV) and c_X (eV/K), per bead or molecule.
    """

    thermal: ThermalPart
    parameters: tuple[ParameterPart, ...]
    offset: tuple[float, ...]
    energy: float
    heat_capacity: float

    @property
    def size(self) -> int:
        """Functions of (T, λ) per kind X."""
        return (self.thermal.size - 1) * self._products()

    def _products(self) -> int:
        """Functions of all parameters together."""
        return math.prod(part.size for part in self.parameters)

    def variances(self) -> Tensor:
        """Prior variances, shape (size,)."""
        energy, _, heat_capacity = self.thermal.functions
        squared = torch.tensor([self.energy**2] * energy + [self.heat_capacity**2] * heat_capacity, dtype=torch.float64)
        return squared.repeat_interleave(self._products())

    def factors(self, read: Read, temperature: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        """The thermal and parameter operators of ``read`` applied to (1, ψ_k(T)) ⊗ functions of λ, shape (n, size)."""
        columns = state_factors(self.thermal, self.parameters, read, temperature, parameters)
        entropy = self._products()  # where the columns of −T begin, and how many they are
        return torch.cat([columns[:, :entropy], columns[:, 2 * entropy :]], 1)

    def features(self, spatial: Spatial, counts: Tensor) -> Tensor | None:
        """N_X per row, shape (n, X); None for reads that differentiate in space, which see no constant."""
        return counts if spatial is Spatial.VALUE else None

    def prior_mean(
        self, read: Read, temperature: Tensor, parameters: dict[str, Tensor], counts: Tensor
    ) -> Tensor | float:
        """What the prior means of e_X contribute to the rows of a read, shape (n,)."""
        if read.spatial is not Spatial.VALUE or read.parameter is not None:
            return 0.0
        constant = self.thermal.factors(read, temperature)[:, 0]
        return constant * (counts @ torch.tensor(self.offset, dtype=counts.dtype, device=counts.device))
