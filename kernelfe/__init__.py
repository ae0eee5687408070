"""kernelfe: temperature-aware coarse-grained free energies from all-atom simulation."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import (
    allatom,
    calculators,
    datasets,
    deploy,
    descriptors,
    functionals,
    geometry,
    gp,
    kernels,
    neural,
    protocol,
    simulate,
    statistics,
    training,
)
from .frames import Frames
from .gp import (
    BoltzmannInversion,
    CorrelatedNoise,
    Dense,
    FreeEnergyRegressor,
    Iterative,
    RelativeNoise,
    RepulsiveCore,
    Sparse,
    WeightSpace,
    liquid_terms,
)
from .gp.prior.term import Term
from .kernels import ParameterExpansion
from .neural import NeuralFreeEnergyRegressor, load

if TYPE_CHECKING:
    from . import analysis

__version__ = "0.3.0.dev0"

__all__ = [
    "BoltzmannInversion",
    "CorrelatedNoise",
    "Dense",
    "Frames",
    "FreeEnergyRegressor",
    "Iterative",
    "NeuralFreeEnergyRegressor",
    "ParameterExpansion",
    "RelativeNoise",
    "RepulsiveCore",
    "Sparse",
    "Term",
    "WeightSpace",
    "allatom",
    "analysis",
    "calculators",
    "datasets",
    "deploy",
    "descriptors",
    "functionals",
    "geometry",
    "gp",
    "kernels",
    "liquid_terms",
    "load",
    "neural",
    "protocol",
    "simulate",
    "statistics",
    "training",
]


def __getattr__(name: str) -> Any:
    """Import ``kernelfe.analysis`` (with matplotlib) and the modules of 0.2 that have moved only when used."""
    if name in ("analysis", "io", "models", "topology"):
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
