"""Kernels on environments, thermal parts, and the terms made of them."""

from __future__ import annotations

from .base import Embedding, Kernel
from .composite import Product, Sum
from .dot_product import DotProduct
from .features import FourierFeatures, MonomialFeatures, features_of
from .jets import Jets, spatial_jets
from .parameters import ParameterExpansion, ParameterKernel, ParameterPart
from .periodic import Periodic
from .radial import RBF, Matern52, RadialKernel, RationalQuadratic
from .scalars import Scalar, ScalarKernel
from .sets import label_covariances
from .spline_weights import SplineWeights
from .stationary import StationaryFreeEnergy, StationaryHeatCapacity, TemperatureKernel
from .thermal import SecondOrder, ThermalPart

#: Kernels by name: those that a file may name without ``classes=``.
KERNELS: dict[str, type[Kernel]] = {
    cls.__name__: cls for cls in (RBF, Matern52, RationalQuadratic, Periodic, DotProduct, Sum, Product, SplineWeights)
}

__all__ = [
    "KERNELS",
    "RBF",
    "DotProduct",
    "Embedding",
    "FourierFeatures",
    "Jets",
    "Kernel",
    "Matern52",
    "MonomialFeatures",
    "ParameterExpansion",
    "ParameterKernel",
    "ParameterPart",
    "Periodic",
    "Product",
    "RadialKernel",
    "RationalQuadratic",
    "Scalar",
    "ScalarKernel",
    "SecondOrder",
    "SplineWeights",
    "StationaryFreeEnergy",
    "StationaryHeatCapacity",
    "Sum",
    "TemperatureKernel",
    "ThermalPart",
    "features_of",
    "label_covariances",
    "spatial_jets",
]
