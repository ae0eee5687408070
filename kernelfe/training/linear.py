"""Linear models of trainers: any :class:`~kernelfe.protocol.LinearModel`, or a fit of the sparse solver as one."""

from __future__ import annotations

import copy
from functools import cached_property
from typing import Any

import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from ..errors import DataError
from ..frames import Frames
from ..functionals import FreeEnergy
from ..gp import FreeEnergyRegressor
from ..gp.solvers.sparse.posterior import SparsePosterior
from ..protocol import LinearModel


class SparseLinear:
    """Fitted estimator of the sparse solver as a :class:`~kernelfe.protocol.LinearModel`.

    All access of trainers to the inside of a fit is in this class.

    Parameters
    ----------
    estimator
        Fitted to configurations of one molecule, without a cell and without parameters λ.
    """

    def __init__(self, estimator: FreeEnergyRegressor):
        self.estimator = estimator
        self._posterior: SparsePosterior = estimator.posterior_
        self.mean, self.lower = self._posterior.weights, self._posterior.lower
        self.kinds, self.temperatures = estimator.kinds_, estimator.temperatures_
        self.beads = estimator.coordinate_shape_[0]

    @cached_property
    def _frozen(self):
        return self.estimator.frozen()

    @property
    def device(self) -> torch.device:
        """Device of the fit."""
        return self._frozen.device

    @property
    def domain(self):
        """Training domain of the fit."""
        return self._frozen.domain

    @property
    def stiff_bonds(self) -> tuple[tuple[int, int, float], ...]:
        """Bonds of the baseline."""
        return self._frozen.stiff_bonds

    def energy_and_forces(self, positions: Tensor, temperature: float | Tensor) -> tuple[Tensor, Tensor]:
        """Energies and forces of the frozen fit; see the protocol."""
        return self._frozen.energy_and_forces(positions, temperature)

    @torch.no_grad()
    def features(self, positions: Tensor, temperature: float | Tensor) -> Tensor:
        """Features of the sparse basis, (n, W); see the protocol."""
        x = positions.detach().cpu().numpy()
        t = temperature.detach().cpu().numpy() if isinstance(temperature, Tensor) else temperature
        frames = Frames.from_arrays(positions=x, temperature=t, kinds=self.kinds)
        rows = self._posterior.prior.rows(FreeEnergy(), self.estimator._states(frames, None))
        return self._posterior.features(rows)

    def with_weights(self, mean: Tensor, lower: Tensor) -> SparseLinear:
        """Copy of the fit with other weights; see the protocol."""
        posterior = SparsePosterior(self._posterior.basis, mean, lower)
        posterior.log_evidence = self._posterior.log_evidence
        estimator = copy.copy(self.estimator)
        estimator.posterior_ = posterior
        return SparseLinear(estimator)

    def descriptors(self, positions: Tensor) -> Tensor:
        """Columns (n, d) of the terms' descriptors; of many environments in a frame, their mean."""
        columns = []
        for _, term in self.estimator.terms_:
            z, frame, _ = term.spec.descriptor.values_and_pullback(positions)
            if frame is not None:
                total = z.new_zeros(len(positions), z.shape[1]).index_add_(0, frame, z)
                z = total / torch.bincount(frame, minlength=len(positions)).clamp_min(1)[:, None]
            columns.append(z.detach())
        return torch.cat(columns, 1) if columns else positions.new_zeros(len(positions), 0)


def linear_model(model: Any) -> LinearModel:
    """Linear model that trainers work on: the model itself, or a fitted estimator as :class:`SparseLinear`.

    Raises
    ------
    DataError
        If it is neither, or a fit whose weights are not normally distributed given its labels.
    """
    if isinstance(model, LinearModel):
        return model
    estimator = isinstance(model, FreeEnergyRegressor)
    if estimator:
        check_is_fitted(model, "posterior_")
    reasons = {
        "needs a kernelfe.protocol.LinearModel or a fitted FreeEnergyRegressor": not estimator,
        "needs a model of the sparse solver: fit it with solver='sparse'": estimator
        and not isinstance(model.posterior_, SparsePosterior),
        "needs a model of labels alone, this one is conditioned on the density of frames already": estimator
        and model.density_ is not None,
        "must come before C ≥ 0 is enforced, which it would undo": estimator and model.concave_,
        "refines a model of one molecule: pass model.for_molecule(frames)": estimator and model.molecules_ is not None,
        "needs a model of bead positions without a cell and without parameters": estimator
        and model.molecules_ is None
        and (len(model.coordinate_shape_) != 2 or model.periodic_ or bool(model.parameters_)),
    }
    for reason, applies in reasons.items():
        if applies:
            raise DataError(f"relative entropy {reason}")
    return SparseLinear(model)


def trained(model: LinearModel, density: dict[float, float]) -> Any:
    """Model of the type that :func:`linear_model` was given; a fitted estimator records the ``density`` it used."""
    if not isinstance(model, SparseLinear):
        return model
    model.estimator.density_ = density
    return model.estimator


__all__ = ["SparseLinear", "linear_model", "trained"]
