"""Fitted estimator as the model of a calculator: fast forces, and any observable with its uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import require
from ..protocol import TrainingDomain


class _Fitted:
    """An estimator, its frozen model, and their attributes that calculators read."""

    def __init__(self, estimator: Any, parameters: dict[str, float] | None = None):
        require(
            hasattr(estimator, "frozen") and hasattr(estimator, "predict"),
            f"{type(estimator).__name__} has neither energy_and_forces(positions, temperature) nor frozen() and "
            "predict(); pass a fitted FreeEnergyRegressor or a kernelfe.protocol.FreeEnergyModel",
        )
        self.estimator, self.parameters = estimator, parameters
        self.frozen = estimator.frozen(parameters=parameters) if parameters else estimator.frozen()
        self.device: torch.device | None = getattr(self.frozen, "device", None)
        self.domain: TrainingDomain | None = getattr(self.frozen, "domain", None)
        self.kinds: tuple[str, ...] | None = getattr(estimator, "kinds_", None)
        self.shape: tuple[int, ...] | None = getattr(estimator, "coordinate_shape_", None)

    def energy_and_forces(self, positions: Tensor, temperature: float | Tensor) -> tuple[Tensor, Tensor]:
        """A(R; T) in eV, shape (n,), and −∇A in eV/Å, shape (n, beads, 3), of the frozen model."""
        return self.frozen.energy_and_forces(positions, temperature)

    def observables(
        self,
        positions: Tensor,
        temperature: float | Tensor,
        keys: Sequence[str],
        return_std: bool = False,
        cell: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Predictions of the estimator, absolute (``reference=None``); see the protocol.

        Raises
        ------
        DataError
            If there is a cell for a model of molecules, or none for one of periodic frames.
        """
        return _observables(self.estimator, positions, temperature, keys, return_std, **self._options(cell))

    def _options(self, cell: Tensor | None) -> dict[str, Any]:
        """Further arguments of ``estimator.predict``."""
        raise NotImplementedError


class FittedModel(_Fitted):
    """An estimator with ``frozen`` and ``predict`` as an :class:`~kernelfe.protocol.ObservableModel`.

    Energies and forces come from the frozen model made here, other observables from ``estimator.predict``. Make a new
    one after fitting the estimator again.

    Parameters
    ----------
    estimator
        A fitted :class:`~kernelfe.FreeEnergyRegressor`, or anything with the same two methods.
    parameters
        Values of the parameters λ the model depends on.

    Raises
    ------
    DataError
        If ``estimator`` lacks one of the methods, or was fitted to periodic frames.
    """

    def __init__(self, estimator: Any, parameters: dict[str, float] | None = None):
        super().__init__(estimator, parameters)
        require(
            not getattr(self.frozen, "needs_cell", False),
            "FittedModel is for molecules without a cell, and this estimator was fitted to periodic frames: use "
            "model.calculator(temperature), FreeEnergyCalculator(model, temperature), or PeriodicFittedModel(model)",
        )

    def _options(self, cell: Tensor | None) -> dict[str, Any]:
        require(cell is None, "FittedModel predicts observables of molecules without a cell; set atoms.pbc = False")
        return {"parameters": self.parameters}


class PeriodicFittedModel(_Fitted):
    """An estimator of periodic frames as a periodic and observable model of :mod:`kernelfe.protocol`.

    Parameters
    ----------
    estimator
        A fitted :class:`~kernelfe.FreeEnergyRegressor` of frames with cells.
    parameters
        Values of the parameters λ the model depends on.

    Raises
    ------
    DataError
        If ``estimator`` lacks ``frozen`` or ``predict``.
    """

    needs_cell = True

    def energy_forces_stress(
        self, positions: Tensor, cell: Tensor, temperature: float | Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A(R; T), −∇A and the excess stress of the frozen model; see the protocol."""
        return self.frozen.energy_forces_stress(positions, cell, temperature)

    def _options(self, cell: Tensor | None) -> dict[str, Any]:
        require(cell is not None, "the model was fitted to periodic frames: set atoms.cell and atoms.pbc = True")
        assert cell is not None
        return {"parameters": self.parameters, "cell": cell.detach().cpu().numpy()}


def _observables(
    estimator: Any,
    positions: Tensor,
    temperature: float | Tensor,
    keys: Sequence[str],
    return_std: bool,
    **options: Any,
) -> dict[str, Tensor]:
    """Predictions by key, and their standard deviations."""
    x = positions.detach().cpu().numpy()
    t = temperature.cpu().numpy() if isinstance(temperature, Tensor) else temperature
    found: dict[str, Tensor] = {}
    for key in keys:
        result = estimator.predict(x, key, temperature=t, return_std=return_std, reference=None, **options)
        parts = dict(zip((key, key + "_std"), result, strict=True)) if return_std else {key: result}
        found.update({name: torch.as_tensor(value) for name, value in parts.items()})
    return found


def fitted_model(estimator: Any) -> FittedModel | PeriodicFittedModel:
    """Model of a calculator from a fitted estimator, by whether it was fitted to periodic frames."""
    periodic = hasattr(estimator, "frozen") and getattr(estimator.frozen(), "needs_cell", False)
    return PeriodicFittedModel(estimator) if periodic else FittedModel(estimator)


__all__ = ["FittedModel", "PeriodicFittedModel", "fitted_model"]
