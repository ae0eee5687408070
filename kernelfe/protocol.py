"""What a sampler or a calculator needs from a model: three small protocols and two adapters.

Any object with these methods can be sampled with :mod:`kernelfe.simulate` and driven from ASE; it need not come from
kernelfe. All tensors live on the device of ``positions``, units are eV, Å and K. A model may work in another floating
type than that of ``positions``; samplers convert what it returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class FreeEnergyModel(Protocol):
    """The one method every sampler relies on.

    An implementation must not keep or change ``positions`` (the sampler updates them in place after the call) and must
    return new tensors at every call. It should return +∞ or NaN, not raise, for configurations outside its domain:
    Monte Carlo moves then reject them and dynamics stops with a :class:`~kernelfe.simulate.SamplingError`.

    An optional attribute ``kinds`` (tuple of str, one per bead, or None) lets the calculator refuse other molecules. An
    optional attribute ``domain`` (a :class:`TrainingDomain`, or None) lets samplers and calculators stop where the
    model knows nothing.
    """

    def energy_and_forces(self, positions: Tensor, temperature: float | Tensor) -> tuple[Tensor, Tensor]:
        """Free energy and mean forces of a batch of configurations.

        Parameters
        ----------
        positions
            (n, beads, 3), Å.
        temperature
            K; one number or one per configuration, shape (n,).

        Returns
        -------
        energy, forces
            A(R; T) in eV, shape (n,), and −∇A in eV/Å, shape (n, beads, 3).
        """
        ...


class TrainingDomain(Protocol):
    """Where a model was trained."""

    def score(self, coordinates: Tensor, cell: Tensor | None = None) -> Tensor:
        """Score of configurations (n, beads, 3), shape (n,): 1 at the edge of the training data."""
        ...

    def culprit(self, coordinates: Tensor) -> str:
        """What is most unusual about one configuration (beads, 3), in words."""
        ...


@dataclass(frozen=True)
class DomainInCell:
    """A :class:`TrainingDomain` asked about configurations in one constant cell (3, 3), Å."""

    domain: TrainingDomain
    cell: Tensor

    def score(self, coordinates: Tensor, cell: Tensor | None = None) -> Tensor:
        """Score of configurations (n, beads, 3) in the constant cell, shape (n,)."""
        return self.domain.score(coordinates, self.cell.to(coordinates).expand(len(coordinates), 3, 3))

    def culprit(self, coordinates: Tensor) -> str:
        """What is most unusual about one configuration (beads, 3), in words."""
        return self.domain.culprit(coordinates)


@runtime_checkable
class PeriodicFreeEnergyModel(FreeEnergyModel, Protocol):
    """A model that knows periodic cells and their strain."""

    def energy_forces_stress(
        self, positions: Tensor, cell: Tensor, temperature: float | Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Free energy, mean forces and excess stress under periodic boundary conditions.

        Parameters
        ----------
        positions
            (n, beads, 3), Å; need not be wrapped into the cell.
        cell
            (n, 3, 3), Å, lattice vectors as rows.
        temperature
            K; one number or shape (n,).

        Returns
        -------
        energy, forces, stress
            As :meth:`FreeEnergyModel.energy_and_forces`, and (∂A/∂strain)/V in eV/Å³, shape (n, 6), Voigt order
            xx, yy, zz, yz, xz, xy, ASE's sign. The kinetic part N kT/V of the pressure is not in it.
        """
        ...


@runtime_checkable
class ObservableModel(FreeEnergyModel, Protocol):
    """A model that predicts further observables of the same free energy, and their uncertainty."""

    def observables(
        self,
        positions: Tensor,
        temperature: float | Tensor,
        keys: Sequence[str],
        return_std: bool = False,
        cell: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Predict quantities of :data:`kernelfe.functionals.OBSERVABLES`.

        Parameters
        ----------
        positions
            (n, beads, 3), Å.
        temperature
            K; one number or shape (n,).
        keys
            Quantity keys, for example ``("mean_energy", "entropy")``.
        return_std
            Also return the marginal posterior standard deviations.
        cell
            (n, 3, 3), Å, or None without periodic boundaries.

        Returns
        -------
        dict
            ``key`` → tensor of shape (n, *shape of the quantity); with ``return_std`` also ``key + "_std"``.
        """
        ...


@dataclass(frozen=True)
class FixedTemperature:
    """A(·; T0) as one Hamiltonian: the thermostat may run at any temperature, the energy does not follow.

    Two-temperature ensemble checks (physical_validation) assume a Hamiltonian that does not depend on T; this is the
    view of a model they need.

    Parameters
    ----------
    model
        The model that is frozen.
    temperature
        T0, K.
    """

    model: FreeEnergyModel
    temperature: float

    @property
    def domain(self) -> TrainingDomain | None:
        """That of the model."""
        return getattr(self.model, "domain", None)

    def energy_and_forces(self, positions: Tensor, temperature: float | Tensor) -> tuple[Tensor, Tensor]:
        """A(R; T0) in eV, shape (n,), and −∇A(R; T0) in eV/Å, shape (n, beads, 3); ``temperature`` is ignored."""
        return self.model.energy_and_forces(positions, self.temperature)


@dataclass(frozen=True)
class FixedCell:
    """A periodic model in one constant cell, for sampling at constant volume.

    Parameters
    ----------
    model
        The periodic model.
    cell
        (3, 3), Å, lattice vectors as rows.
    """

    model: PeriodicFreeEnergyModel
    cell: Tensor

    @property
    def domain(self) -> TrainingDomain | None:
        """That of the model, in the constant cell."""
        domain = getattr(self.model, "domain", None)
        return None if domain is None else DomainInCell(domain, self.cell)

    def energy_and_forces(self, positions: Tensor, temperature: float | Tensor) -> tuple[Tensor, Tensor]:
        """A(R; T) in eV, shape (n,), and −∇A in eV/Å, shape (n, beads, 3), in the constant cell."""
        cell = self.cell.to(positions).expand(positions.shape[0], 3, 3)
        energy, forces, _ = self.model.energy_forces_stress(positions, cell, temperature)
        return energy, forces


__all__ = [
    "DomainInCell",
    "FixedCell",
    "FixedTemperature",
    "FreeEnergyModel",
    "ObservableModel",
    "PeriodicFreeEnergyModel",
    "TrainingDomain",
]
