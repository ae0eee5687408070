"""Models of free energies: the regressor, its prior and posterior, evidence, baselines, files."""

from .baseline import BoltzmannInversion
from .concavity import enforce_concavity
from .frozen import FrozenModel
from .hyperparameters import HyperparameterEnsemble, MixtureJoint, hyperparameter_ensemble
from .molecules import local_terms
from .persistence import load
from .regressor import FreeEnergyRegressor
from .solvers import Dense, Sparse
from .uncertainty import Joint, Query

__all__ = [
    "BoltzmannInversion",
    "Dense",
    "FreeEnergyRegressor",
    "FrozenModel",
    "HyperparameterEnsemble",
    "Joint",
    "MixtureJoint",
    "Query",
    "Sparse",
    "enforce_concavity",
    "hyperparameter_ensemble",
    "load",
    "local_terms",
]
