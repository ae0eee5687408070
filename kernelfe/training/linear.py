"""Linear models of trainers: any :class:`~kernelfe.protocol.LinearModel`, or a fit of the sparse solver as one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from ..errors import require
from ..frames import Frames
from ..gp import FreeEnergyRegressor
from ..gp.fitted.frozen import FrozenModel
from ..gp.fitted.model import FreeEnergy
from ..protocol import LinearModel, TrainingDomain


@dataclass(frozen=True)
class SparseLinear:
    """Fitted free energy of the sparse solver as a :class:`~kernelfe.protocol.LinearModel`.

    All access of trainers to the inside of a fit is in this class.

    Parameters
    ----------
    fitted
        Of one molecule or box, without parameters λ.
    """

    fitted: FreeEnergy

    def __new__(cls, fitted: FreeEnergy) -> SparseLinear:
        """A :class:`PeriodicSparseLinear` for a fit to frames with a cell."""
        periodic = fitted.molecules.entries[0].molecule.periodic
        return super().__new__(PeriodicSparseLinear if periodic else SparseLinear)

    @property
    def mean(self) -> Tensor:
        """Posterior mean of the weights, (W,)."""
        return self.fitted.posterior.weights

    @property
    def lower(self) -> Tensor:
        """Cholesky factor of their precision, (W, W)."""
        return self.fitted.posterior.lower

    @property
    def prior(self) -> tuple[Tensor, Tensor]:
        """Mean and precision of the weights before any label: the features contain the scales of the prior."""
        return torch.zeros_like(self.mean), torch.eye(len(self.mean)).to(self.mean)

    @property
    def kinds(self) -> tuple[str, ...] | None:
        """Kinds of the beads, or None."""
        return self.fitted.kinds_

    @property
    def temperatures(self) -> tuple[float, ...]:
        """Temperatures of the training frames, K."""
        return self.fitted.provenance.temperatures

    @cached_property
    def _frozen(self) -> FrozenModel:
        return self.fitted.frozen()

    @property
    def beads(self) -> int:
        """Number of beads."""
        return self._frozen.beads

    @property
    def device(self) -> torch.device:
        """Device of the fit."""
        return self._frozen.device

    @property
    def domain(self) -> TrainingDomain | None:
        """Training domain of the fit."""
        return self._frozen.domain

    @property
    def stiff_bonds(self) -> tuple[tuple[int, int, float], ...]:
        """Bonds of the baseline."""
        return self._frozen.stiff_bonds

    def energy_and_forces(self, positions: Tensor, temperature: float | Tensor) -> tuple[Tensor, Tensor]:
        """Energies and forces of the frozen fit; see the protocol."""
        return self._frozen.energy_and_forces(positions, temperature)

    def energies(self, positions: Tensor, temperature: float | Tensor) -> Tensor:
        """Energies of the frozen fit; see the protocol."""
        return self._frozen.energies(positions, temperature)

    @torch.no_grad()
    def features(self, positions: Tensor, temperature: float | Tensor, cell: Tensor | None = None) -> Tensor:
        """Features of the sparse basis, (n, W); see the protocol. ``cell``, (n, 3, 3), is that of periodic models."""
        x = positions.detach().cpu().numpy()
        t = temperature.detach().cpu().numpy() if isinstance(temperature, Tensor) else temperature
        box = None if cell is None else cell.detach().cpu().numpy()
        rows = self.fitted.rows(Frames.from_arrays(positions=x, temperature=t, cell=box, kinds=self.kinds))[0]
        return self.fitted.posterior.features(rows)

    def with_weights(self, mean: Tensor, lower: Tensor) -> SparseLinear:
        """Copy of the fit with other weights; see the protocol."""
        return SparseLinear(replace(self.fitted, posterior=self.fitted.posterior.with_weights(mean, lower)))

    def with_density(self, density: dict[float, float]) -> FreeEnergy:
        """Fitted free energy that records the effective number of frames whose density it is conditioned on."""
        return replace(self.fitted, provenance=replace(self.fitted.provenance, density=density))

    def descriptors(self, positions: Tensor) -> Tensor:
        """Columns (n, d) of the terms' descriptors; of many environments in a frame, their mean."""
        columns = []
        for _, term in self.fitted.terms:
            z, frame, _ = term.spec.descriptor.values_and_pullback(positions)
            if frame is not None:
                total = z.new_zeros(len(positions), z.shape[1]).index_add_(0, frame, z)
                z = total / torch.bincount(frame, minlength=len(positions)).clamp_min(1)[:, None]
            columns.append(z.detach())
        return torch.cat(columns, 1) if columns else positions.new_zeros(len(positions), 0)


@dataclass(frozen=True)
class PeriodicSparseLinear(SparseLinear):
    """A fit to frames with a cell: samplers and trainers give the cell with every configuration."""

    needs_cell: ClassVar[bool] = True

    def energy_forces_stress(
        self, positions: Tensor, cell: Tensor, temperature: float | Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Energies, forces and stress of the frozen fit; see the protocol."""
        return self._frozen.energy_forces_stress(positions, cell, temperature)  # type: ignore[attr-defined]


def linear_model(model: Any) -> LinearModel:
    """Linear model that trainers work on: the model itself, or a fit of the sparse solver as :class:`SparseLinear`.

    Raises
    ------
    DataError
        If it is neither, or a fit whose weights are not normally distributed given its labels.
    """
    if isinstance(model, LinearModel):
        return model
    known = isinstance(model, (FreeEnergyRegressor, FreeEnergy))
    lacking = [n for n in ("energy_and_forces", "mean", "lower", "features", "with_weights") if not hasattr(model, n)]
    require(
        known,
        "relative entropy needs a kernelfe.protocol.LinearModel or a fitted FreeEnergyRegressor; "
        f"{type(model).__name__} lacks {', '.join(lacking)}",
    )
    if isinstance(model, FreeEnergyRegressor):
        check_is_fitted(model, "model_")
        model = model.model_
    made = model.provenance
    require(model.posterior.linear, "relative entropy needs a model of the sparse solver: fit it with solver='sparse'")
    bare = made.density is None
    require(bare, "the model is conditioned on the density of frames already: refine one of labels alone")
    require(not made.concave, "the model is conditioned on C ≥ 0: apply relative entropy before enforcing concavity")
    molecule = model.molecules.one("relative entropy").molecule
    beads = len(molecule.shape) == 2 and not model.parameters
    require(beads, "relative entropy needs a model of bead positions without parameters")
    return SparseLinear(model)


def trained(model: Any, refined: LinearModel, density: dict[float, float]) -> Any:
    """Refined model of the type of ``model``; a fitted free energy records the ``density`` it is conditioned on."""
    if not isinstance(refined, SparseLinear):
        return refined
    fitted = refined.with_density(density)
    return model.with_model(fitted) if isinstance(model, FreeEnergyRegressor) else fitted


__all__ = ["SparseLinear", "linear_model", "trained"]
