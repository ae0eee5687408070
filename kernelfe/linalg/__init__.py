"""Linear algebra: it knows operators, not physics."""

from .cholesky import CholeskyFactor
from .conjugate import Step, conjugate_gradients
from .normal import Group, NormalEquations, Whitening
from .operators import Identity, Preconditioner, Solution, SymmetricOperator
from .preconditioner import LocalFactor, LowRankAndLocal
from .processes import Processes, launched
from .qr import CONDITION_LIMIT, Conditioning, TriangularEquations, precision_condition

__all__ = [
    "CONDITION_LIMIT",
    "CholeskyFactor",
    "Conditioning",
    "Group",
    "Identity",
    "LocalFactor",
    "LowRankAndLocal",
    "NormalEquations",
    "Preconditioner",
    "Processes",
    "Solution",
    "Step",
    "SymmetricOperator",
    "TriangularEquations",
    "Whitening",
    "conjugate_gradients",
    "launched",
    "precision_condition",
]
