"""kernelfe: temperature-aware coarse-grained free energies from all-atom simulation."""

from . import calculators, datasets, descriptors, functionals, kernels, models, simulate, statistics
from .frames import Frames
from .kernels import ParameterExpansion, Term
from .models import BoltzmannInversion, Dense, FreeEnergyRegressor, Sparse, load

__version__ = "0.1.0"

__all__ = [
    "BoltzmannInversion",
    "Dense",
    "Frames",
    "FreeEnergyRegressor",
    "ParameterExpansion",
    "Sparse",
    "Term",
    "calculators",
    "datasets",
    "descriptors",
    "functionals",
    "kernels",
    "load",
    "models",
    "simulate",
    "statistics",
]
