"""Gaussian-process free energies: the estimator, the fitted model, priors, posteriors, solvers, files."""

from __future__ import annotations

from .baseline import BoltzmannInversion
from .core import RepulsiveCore
from .default_terms import local_terms
from .fitted.draws import PosteriorDraws
from .fitted.ensemble import HyperparameterEnsemble, MixtureJoint
from .fitted.frozen import FrozenModel
from .fitted.joint import Joint, Query
from .fitted.model import FreeEnergy
from .fitted.predictive import JointPredictive
from .functions import (
    condition,
    enforce_concavity,
    hyperparameter_ensemble,
    joint_predictive,
    noise_covariance,
    pathwise_draws,
)
from .liquids import liquid_terms
from .loading import load
from .observations.noise import CorrelatedNoise, RelativeNoise
from .regressor import FreeEnergyRegressor
from .solvers.iterative.linear_operator import JetLinearOperator, as_linear_operator
from .solvers.sparse.check import SolverCheck
from .solvers.specs import Dense, Iterative, Sparse, WeightSpace

__all__ = [
    "BoltzmannInversion",
    "CorrelatedNoise",
    "Dense",
    "FreeEnergy",
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
    "RepulsiveCore",
    "SolverCheck",
    "Sparse",
    "WeightSpace",
    "as_linear_operator",
    "condition",
    "enforce_concavity",
    "hyperparameter_ensemble",
    "joint_predictive",
    "liquid_terms",
    "load",
    "local_terms",
    "noise_covariance",
    "pathwise_draws",
]
