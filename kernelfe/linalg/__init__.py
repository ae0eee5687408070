"""Linear algebra for operators, without physics."""

from __future__ import annotations

from .cholesky import CholeskyFactor
from .conjugate import Step, conjugate_gradients
from .lanczos import LanczosRun, conjugate_lanczos
from .log_density import DifferentiableOperator, LanczosSettings, LogDensity, log_density
from .normal import Group, NormalEquations, Whitening
from .operators import Identity, Preconditioner, Solution, SymmetricOperator
from .preconditioner import LocalFactor, LowRankAndLocal
from .qr import CONDITION_LIMIT, Conditioning, TriangularEquations, precision_condition

__all__ = [
    "CONDITION_LIMIT",
    "CholeskyFactor",
    "Conditioning",
    "DifferentiableOperator",
    "Group",
    "Identity",
    "LanczosRun",
    "LanczosSettings",
    "LocalFactor",
    "LogDensity",
    "LowRankAndLocal",
    "NormalEquations",
    "Preconditioner",
    "Solution",
    "Step",
    "SymmetricOperator",
    "TriangularEquations",
    "Whitening",
    "conjugate_gradients",
    "conjugate_lanczos",
    "log_density",
    "precision_condition",
]
