"""Models of free energies: the regressor, its prior and posterior, evidence, baselines, files."""

from .baseline import BoltzmannInversion
from .concavity import enforce_concavity
from .correlated import noise_covariance
from .frozen import FrozenModel
from .noise import CorrelatedNoise, RelativeNoise
from .persistence import load
from .predictive import JointPredictive, joint_predictive
from .regressor import FreeEnergyRegressor
from .solvers import Dense, Sparse

__all__ = [
    "BoltzmannInversion",
    "CorrelatedNoise",
    "Dense",
    "FreeEnergyRegressor",
    "FrozenModel",
    "JointPredictive",
    "RelativeNoise",
    "Sparse",
    "enforce_concavity",
    "joint_predictive",
    "load",
    "noise_covariance",
]
