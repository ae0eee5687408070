"""Observables as linear functionals of the free energy."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import DataError
from .base import Functional, Read, Spatial
from .observables import (
    EnergyVariance,
    Entropy,
    FreeEnergy,
    GeneralizedForce,
    GeneralizedThermalResponse,
    HeatCapacity,
    MeanEnergy,
    MeanForce,
    ParameterDerivative,
    ParameterResponseForce,
    SecondThermalResponseForce,
    Stress,
    ThermalResponseForce,
)

#: Every quantity key and the class behind it. A new observable is one class and one entry here.
OBSERVABLES: dict[str, Callable[..., Functional]] = {
    "free_energy": FreeEnergy,
    "mean_force": MeanForce,
    "generalized_force": GeneralizedForce,
    "mean_energy": MeanEnergy,
    "entropy": Entropy,
    "heat_capacity": HeatCapacity,
    "energy_variance": EnergyVariance,
    "thermal_response_force": ThermalResponseForce,
    "generalized_thermal_response": GeneralizedThermalResponse,
    "second_thermal_response_force": SecondThermalResponseForce,
    "parameter_derivative": ParameterDerivative,
    "parameter_response_force": ParameterResponseForce,
    "stress": Stress,
}


def get(key: str | Functional) -> Functional:
    """Return the functional of a quantity key.

    Parameters
    ----------
    key
        A key of :data:`OBSERVABLES`, for the parameter observables optionally followed by ``:name``
        (``"parameter_derivative:charge"``), or a :class:`Functional`, which is returned unchanged.

    Raises
    ------
    DataError
        If the key is unknown.
    """
    if isinstance(key, Functional):
        return key
    name, colon, parameter = str(key).partition(":")
    if name not in OBSERVABLES or (colon and not (parameter and name.startswith("parameter_"))):
        raise DataError(f"unknown quantity {key!r}; known: {', '.join(OBSERVABLES)}")
    return OBSERVABLES[name](parameter) if parameter else OBSERVABLES[name]()


__all__ = [
    "OBSERVABLES",
    "EnergyVariance",
    "Entropy",
    "FreeEnergy",
    "Functional",
    "GeneralizedForce",
    "GeneralizedThermalResponse",
    "HeatCapacity",
    "MeanEnergy",
    "MeanForce",
    "ParameterDerivative",
    "ParameterResponseForce",
    "Read",
    "SecondThermalResponseForce",
    "Spatial",
    "Stress",
    "ThermalResponseForce",
    "get",
]
