"""Observables as linear functionals of the free energy."""

from __future__ import annotations

from .base import Functional, Read, Spatial
from .observables import (
    OBSERVABLES,
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
    get,
    register,
)

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
    "register",
]
