"""Mean functions: what the eliminated degrees of freedom add to every free energy.

    Σ_X N_X [e_X + c_X τ(T)],   τ(T) = T − T0 − T ln(T/T0),

with N_X the number of beads (or molecules) of kind X. The energies of all-atom simulation carry a large
constant and a large heat capacity that no kernel should have to represent: e_X and c_X have broad normal
priors and are conditioned on with everything else. Their entropy counterpart would be gauge; it is zero.
With parameters λ, e_X and c_X are expanded in λ like every term.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..functionals import Read, Spatial
from .term import state_factors
from .thermal import ParameterExpansion, SecondOrder


@dataclass(frozen=True)
class MeanFunction:
    """Mean functions of a fit, with the numbers of their priors.

    Parameters
    ----------
    thermal
        Supplies τ(T): a :class:`SecondOrder` with its reference temperature set.
    parameters
        Parameter expansions, those of the terms.
    offset
        Prior means of e_X, shape (X,); those of c_X are zero.
    energy, heat_capacity
        Prior standard deviations of e_X (eV) and c_X (eV/K), per bead or molecule.
    """

    thermal: SecondOrder
    parameters: tuple[ParameterExpansion, ...]
    offset: tuple[float, ...]
    energy: float
    heat_capacity: float

    @property
    def size(self) -> int:
        """Functions of (T, λ) per kind X."""
        size = 2
        for expansion in self.parameters:
            size *= expansion.order + 1
        return size

    def variances(self) -> Tensor:
        """Prior variances, shape (size,)."""
        squared = torch.tensor([self.energy**2, self.heat_capacity**2], dtype=torch.float64)
        return squared.repeat_interleave(self.size // 2)

    def factors(self, read: Read, temperature: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        """The thermal and parameter operators of ``read`` applied to (1, τ(T)) ⊗ powers of λ, shape (n, size)."""
        all_factors = state_factors(self.thermal, self.parameters, read, temperature, parameters)
        energy, _, heat_capacity = all_factors.reshape(len(temperature), 3, -1).unbind(1)
        return torch.cat([energy, heat_capacity], 1)

    def features(self, spatial: Spatial, counts: Tensor) -> Tensor | None:
        """N_X per row, shape (n, X); None for reads that differentiate in space, which see no constant."""
        return counts if spatial is Spatial.VALUE else None

    def prior_mean(
        self, read: Read, temperature: Tensor, parameters: dict[str, Tensor], counts: Tensor
    ) -> Tensor | float:
        """What the prior means of e_X contribute to the rows of a read, shape (n,)."""
        if read.spatial is not Spatial.VALUE:
            return 0.0
        constant = self.factors(read, temperature, parameters)[:, 0]
        return constant * (counts @ torch.tensor(self.offset, dtype=counts.dtype, device=counts.device))
