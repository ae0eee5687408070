"""Models of free energies: the regressor, its prior and posterior, evidence, baselines, files."""

from .baseline import BoltzmannInversion
from .concavity import enforce_concavity
from .correlated import noise_covariance
from .frozen import FrozenModel
from .gram_operator import JetLinearOperator, as_linear_operator
from .hyperparameters import HyperparameterEnsemble, MixtureJoint, hyperparameter_ensemble
from .molecules import local_terms
from .noise import CorrelatedNoise, RelativeNoise
from .pathwise import PosteriorDraws, pathwise_draws
from .persistence import load
from .predictive import JointPredictive, joint_predictive
from .regressor import FreeEnergyRegressor
from .solver_check import SolverCheck
from .solvers import Dense, Iterative, Sparse
from .uncertainty import Joint, Query
from .update import condition

__all__ = [
    "BoltzmannInversion",
    "CorrelatedNoise",
    "Dense",
    "FreeEnergyRegressor",
    "FrozenModel",
    "HyperparameterEnsemble",
    "Iterative",
    "JetLinearOperator",
    "Joint",
    "JointPredictive",
    "MixtureJoint",
    "PosteriorDraws",
    "Query",
    "RelativeNoise",
    "SolverCheck",
    "Sparse",
    "as_linear_operator",
    "condition",
    "enforce_concavity",
    "hyperparameter_ensemble",
    "joint_predictive",
    "load",
    "local_terms",
    "noise_covariance",
    "pathwise_draws",
]
