"""Models of free energies: the regressor, its prior and posterior, evidence, baselines, files."""

from .baseline import BoltzmannInversion
from .concavity import enforce_concavity
from .frozen import FrozenModel
from .molecules import local_terms
from .persistence import load
from .regressor import FreeEnergyRegressor
from .solvers import Dense, Sparse

__all__ = [
    "BoltzmannInversion",
    "Dense",
    "FreeEnergyRegressor",
    "FrozenModel",
    "Sparse",
    "enforce_concavity",
    "load",
    "local_terms",
]
