"""Protocols of a free energy: what samplers, calculators, trainers and deployment require of a model.

Any object with these methods can be sampled with :mod:`kernelfe.simulate`, refined with :mod:`kernelfe.training` and
driven from ASE; it need not come from kernelfe. Each protocol is small, and a model offers those it can:

==================================  ==============================================  ===================================
protocol                            methods                                         required by
==================================  ==============================================  ===================================
:class:`FreeEnergyModel`            ``energy_and_forces``                           samplers, calculators
:class:`PeriodicFreeEnergyModel`    ``energy_forces_stress``                        calculators of periodic systems
:class:`ObservableModel`            ``observables``                                 extra results of calculators
:class:`LinearModel`                ``features``, ``with_weights``, mean, lower     relative entropy
:class:`DifferentiableModel`        ``energy``, ``parameters``                      gradient-based trainers
==================================  ==============================================  ===================================

:class:`LinearBase` and :class:`DifferentiableBase` supply forces by automatic differentiation, so that a model of your
own is one short class. :func:`kernelfe.testing.check_model` checks it.

All tensors live on the device of ``positions``, units are eV, Å and K. A model may work in another floating type than
that of ``positions``; samplers convert the results.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from .errors import DataError, require


@runtime_checkable
class FreeEnergyModel(Protocol):
    """Energies and forces: the one method every sampler requires.

    An implementation must not keep or change ``positions`` (the sampler updates them in place after the call) and must
    return new tensors at every call. It should return +∞ or NaN, not raise, for configurations outside its domain:
    Monte Carlo moves then reject them and dynamics stops with a :class:`~kernelfe.simulate.SamplingError`.

    Optional attributes, used where they exist and are not None:

    ``kinds``
        Tuple of str, one per bead: calculators refuse other molecules.
    ``domain``
        A :class:`TrainingDomain`: samplers and calculators stop outside of it.
    ``stiff_bonds``
        Sequence of (i, j, stiffness in eV/Å²): samplers choose a stable time step, and the bonds of torsion moves.
    ``temperatures``
        Temperatures of the training data, K: trainers warn outside their range.
    ``device``
        Device on which the model computes: samplers keep the replicas there.
    ``needs_cell``
        True if the model knows periodic systems only: calculators ask for a cell.
    ``energies``
        Method ``energies(positions, temperature)``, the energies (n,) in less time: Monte Carlo moves judge by them.
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
    """Region of configurations that the training data cover."""

    def score(self, coordinates: Tensor, cell: Tensor | None = None) -> Tensor:
        """Score of configurations (n, beads, 3), shape (n,): 1 at the edge of the training data."""
        ...

    def culprit(self, coordinates: Tensor) -> str:
        """Description of the most unusual coordinate of one configuration (beads, 3)."""
        ...


@dataclass(frozen=True)
class DomainInCell:
    """:class:`TrainingDomain` for configurations in one constant cell (3, 3), Å."""

    domain: TrainingDomain
    cell: Tensor

    def score(self, coordinates: Tensor, cell: Tensor | None = None) -> Tensor:
        """Score of configurations (n, beads, 3) in the constant cell, shape (n,)."""
        return self.domain.score(coordinates, self.cell.to(coordinates).expand(len(coordinates), 3, 3))

    def culprit(self, coordinates: Tensor) -> str:
        """Description of the most unusual coordinate of one configuration (beads, 3)."""
        return self.domain.culprit(coordinates)


@runtime_checkable
class PeriodicFreeEnergyModel(FreeEnergyModel, Protocol):
    """Model of periodic systems, with its derivative by strain."""

    def energy_forces_stress(
        self, positions: Tensor, cell: Tensor, temperature: float | Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Free energy, mean forces and excess stress under periodic boundary conditions.

        Parameters
        ----------
        positions
            (n, beads, 3), Å; wrapped into the cell or not.
        cell
            (n, 3, 3), Å, lattice vectors as rows.
        temperature
            K; one number or shape (n,).

        Returns
        -------
        energy, forces, stress
            As :meth:`FreeEnergyModel.energy_and_forces`, and (∂A/∂strain)/V in eV/Å³, shape (n, 6), Voigt order
            xx, yy, zz, yz, xz, xy, ASE's sign. It excludes the kinetic part N kT/V of the pressure.
        """
        ...


@runtime_checkable
class ObservableModel(FreeEnergyModel, Protocol):
    """Model that predicts further observables of the same free energy, and their uncertainty."""

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


@runtime_checkable
class LinearModel(FreeEnergyModel, Protocol):
    """Model that is linear in normally distributed weights: A(R; T) = w·φ(R, T) + baseline(R, T).

    The weights have the mean ``mean``, shape (W,), and the precision (inverse covariance) L Lᵀ with the lower
    triangular Cholesky factor L = ``lower``, shape (W, W). ``energy_and_forces`` uses the mean. The baseline holds
    everything that does not depend on the weights and may be zero.

    An optional method ``descriptors(positions)`` returns coordinates (n, columns) whose time series show how slowly
    configurations change; without it, trainers use the distances between beads. An optional attribute ``prior``, mean
    (W,) and precision (W, W) of the weights before any label, lets relative entropy weigh the labels alone. A periodic
    model takes the cells (n, 3, 3) as the third argument of ``features``.

    :class:`LinearBase` implements all but ``features``.
    """

    @property
    def mean(self) -> Tensor:
        """Mean of the weights, (W,)."""
        ...

    @property
    def lower(self) -> Tensor:
        """Lower triangular Cholesky factor of the precision of the weights, (W, W)."""
        ...

    def features(self, positions: Tensor, temperature: float | Tensor) -> Tensor:
        """Features φ(R, T) of a batch of configurations, (n, W), eV per unit of the weights: the derivatives ∂A/∂w.

        Arguments as in :meth:`FreeEnergyModel.energy_and_forces`.
        """
        ...

    def with_weights(self, mean: Tensor, lower: Tensor) -> Self:
        """Model of the same type with another mean (W,) and ``lower`` (W, W); this one does not change."""
        ...


@runtime_checkable
class DifferentiableModel(FreeEnergyModel, Protocol):
    """Model whose energy torch differentiates by its parameters θ and by the positions.

    A ``torch.nn.Module`` with a method ``energy`` has all of it but ``energy_and_forces``, which
    :class:`DifferentiableBase` supplies.
    """

    def parameters(self) -> Iterable[Tensor]:
        """Parameters θ: leaf tensors with ``requires_grad``, in a fixed order; trainers change them in place."""
        ...

    def energy(self, positions: Tensor, temperature: float | Tensor) -> Tensor:
        """A(R; T) in eV, shape (n,), with its graph: differentiable by ``positions`` and by the parameters.

        Arguments as in :meth:`FreeEnergyModel.energy_and_forces`; row i depends on configuration i only.
        """
        ...


class DifferentiableBase(ABC):
    """Base of models that define ``energy``: forces by automatic differentiation."""

    @abstractmethod
    def energy(self, positions: Tensor, temperature: float | Tensor) -> Tensor:
        """A(R; T) in eV, shape (n,), differentiable by the positions."""

    def energy_and_forces(self, positions: Tensor, temperature: float | Tensor) -> tuple[Tensor, Tensor]:
        """A(R; T) in eV, shape (n,), and −∇A in eV/Å, shape (n, beads, 3)."""
        with torch.enable_grad():
            x = positions.detach().clone().requires_grad_()
            energy = self.energy(x, temperature)
            (gradient,) = torch.autograd.grad(energy.sum(), x)
        return energy.detach(), gradient.neg_()


class LinearBase(DifferentiableBase):
    """Base of :class:`LinearModel`: a subclass defines ``features``, and ``baseline_energy`` if it has a baseline.

    Both must be differentiable by the positions with torch.

    Parameters
    ----------
    mean
        (W,), means of the weights.
    lower
        (W, W), Cholesky factor of their precision; one number for a multiple of the identity: 1/standard deviation.
    """

    def __init__(self, mean: Tensor, lower: Tensor | float):
        name = type(self).__name__
        self.mean = torch.as_tensor(mean, dtype=torch.float64).detach().clone()
        finite = self.mean.ndim == 1 and bool(torch.isfinite(self.mean).all())
        require(finite, f"{name}: mean must be finite numbers, shape (W,); it has {tuple(self.mean.shape)}")
        self.lower, size = torch.as_tensor(lower, dtype=torch.float64).detach(), len(self.mean)
        if self.lower.ndim == 0:
            self.lower = self.lower * torch.eye(size, dtype=torch.float64)
        factor = self.lower.shape == (size, size) and torch.equal(self.lower, self.lower.tril())
        factor = factor and bool(torch.isfinite(self.lower).all()) and bool((self.lower.diagonal() > 0).all())
        require(
            factor,
            f"{name}: lower must be one positive number, or the lower triangular Cholesky factor ({size}, {size}) of "
            "the precision of the weights, with a positive diagonal",
        )

    @abstractmethod
    def features(self, positions: Tensor, temperature: float | Tensor) -> Tensor:
        """Features φ(R, T), shape (n, W), differentiable by the positions."""

    def baseline_energy(self, positions: Tensor, temperature: float | Tensor) -> Tensor:
        """Part of A that does not depend on the weights, eV, shape (n,)."""
        return positions.new_zeros(len(positions))

    def energy(self, positions: Tensor, temperature: float | Tensor) -> Tensor:
        """A(R; T) at the mean weights in eV, shape (n,), differentiable by the positions."""
        phi, wanted = self.features(positions, temperature), (len(positions), len(self.mean))
        if phi.shape != wanted:
            raise DataError(f"{type(self).__name__}: features have the shape {tuple(phi.shape)}, not {wanted}")
        return phi @ self.mean.to(phi) + self.baseline_energy(positions, temperature)

    def with_weights(self, mean: Tensor, lower: Tensor) -> Self:
        """Model with another distribution of the weights; shares everything else with this one."""
        out: Any = copy.copy(self)
        LinearBase.__init__(out, mean, lower)
        return out


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
        """Domain of the model."""
        return getattr(self.model, "domain", None)

    @property
    def stiff_bonds(self) -> Sequence[tuple[int, int, float]] | None:
        """Stiff bonds of the model."""
        return getattr(self.model, "stiff_bonds", None)

    def energy_and_forces(self, positions: Tensor, temperature: float | Tensor) -> tuple[Tensor, Tensor]:
        """A(R; T0) in eV, shape (n,), and −∇A(R; T0) in eV/Å, shape (n, beads, 3); ``temperature`` is ignored."""
        return self.model.energy_and_forces(positions, self.temperature)


@dataclass(frozen=True)
class FixedCell:
    """Periodic model in one constant cell, for sampling at constant volume.

    Parameters
    ----------
    model
        The periodic model, for example ``model.frozen()`` of an estimator.
    cell
        (3, 3), Å, lattice vectors as rows; a tensor or an array.

    Raises
    ------
    DataError
        If the model is not periodic, or the cell has another shape.
    """

    model: PeriodicFreeEnergyModel
    cell: Tensor

    def __post_init__(self) -> None:
        require(
            hasattr(self.model, "energy_forces_stress"),
            f"FixedCell needs a periodic model, not {type(self.model).__name__}: pass model.frozen() of an estimator "
            "that was fitted to frames with a cell",
        )
        cell = torch.as_tensor(np.array(self.cell, dtype=float) if not isinstance(self.cell, Tensor) else self.cell)
        require(
            cell.shape == (3, 3) and bool(torch.isfinite(cell).all()) and float(torch.linalg.det(cell).abs()) > 0,
            f"cell must hold three independent lattice vectors, shape (3, 3); it has shape {tuple(cell.shape)}",
        )
        object.__setattr__(self, "cell", cell)

    @property
    def domain(self) -> TrainingDomain | None:
        """Domain of the model, in the constant cell."""
        domain = getattr(self.model, "domain", None)
        return None if domain is None else DomainInCell(domain, self.cell)

    @property
    def stiff_bonds(self) -> Sequence[tuple[int, int, float]] | None:
        """Stiff bonds of the model."""
        return getattr(self.model, "stiff_bonds", None)

    @property
    def device(self) -> torch.device | None:
        """Device of the model."""
        return getattr(self.model, "device", None)

    def energy_and_forces(self, positions: Tensor, temperature: float | Tensor) -> tuple[Tensor, Tensor]:
        """A(R; T) in eV, shape (n,), and −∇A in eV/Å, shape (n, beads, 3), in the constant cell."""
        cell = self.cell.to(positions).expand(positions.shape[0], 3, 3)
        energy, forces, _ = self.model.energy_forces_stress(positions, cell, temperature)
        return energy, forces


__all__ = [
    "DifferentiableBase",
    "DifferentiableModel",
    "DomainInCell",
    "FixedCell",
    "FixedTemperature",
    "FreeEnergyModel",
    "LinearBase",
    "LinearModel",
    "ObservableModel",
    "PeriodicFreeEnergyModel",
    "TrainingDomain",
]
