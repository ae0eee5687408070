"""Kernels on environments, thermal parts, and the terms made of them."""

from .jets import Jets, spatial_jets
from .mean import MeanFunction
from .radial import RBF, Matern52, RadialKernel
from .term import Term, TermModule, state_factors
from .thermal import ParameterExpansion, SecondOrder

__all__ = [
    "RBF",
    "Jets",
    "Matern52",
    "MeanFunction",
    "ParameterExpansion",
    "RadialKernel",
    "SecondOrder",
    "Term",
    "TermModule",
    "spatial_jets",
    "state_factors",
]
