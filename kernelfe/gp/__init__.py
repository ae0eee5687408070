"""Models of free energies: the regressor, its prior and posterior, evidence, baselines, files."""

from __future__ import annotations

from .baseline import BoltzmannInversion
from .correlated_noise.model import noise_covariance
from .default_terms import local_terms
from .file.save import load
from .fitted.concavity import enforce_concavity
from .fitted.draws import PosteriorDraws, pathwise_draws
from .fitted.ensemble import HyperparameterEnsemble, MixtureJoint, hyperparameter_ensemble
from .fitted.frozen import FrozenModel
from .fitted.joint import Joint, Query
from .fitted.predictive import JointPredictive, joint_predictive
from .fitted.update import condition
from .observations.noise import CorrelatedNoise, RelativeNoise
from .regressor import FreeEnergyRegressor
from .solvers.iterative.linear_operator import JetLinearOperator, as_linear_operator
from .solvers.sparse.check import SolverCheck
from .solvers.specs import Dense, Iterative, Sparse

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
