"""Kernels on environments, thermal parts, and the terms made of them."""

from .jets import Jets, spatial_jets
from .mean import MeanFunction
from .parameters import ParameterExpansion, ParameterKernel, ParameterPart
from .radial import RBF, Matern52, RadialKernel
from .stationary import StationaryFreeEnergy, StationaryHeatCapacity, TemperatureKernel
from .term import Term, TermModule, state_factors
from .thermal import SecondOrder, ThermalPart

__all__ = [
    "RBF",
    "Jets",
    "Matern52",
    "MeanFunction",
    "ParameterExpansion",
    "ParameterKernel",
    "ParameterPart",
    "RadialKernel",
    "SecondOrder",
    "StationaryFreeEnergy",
    "StationaryHeatCapacity",
    "TemperatureKernel",
    "Term",
    "TermModule",
    "ThermalPart",
    "spatial_jets",
    "state_factors",
]
