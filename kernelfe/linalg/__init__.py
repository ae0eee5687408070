"""Linear algebra: it knows operators, not physics."""

from .checkpoint import Checkpoint
from .cholesky import CholeskyFactor
from .chunk_sums import sum_chunks
from .conjugate import Step, conjugate_gradients
from .lanczos import LanczosRun, conjugate_lanczos
from .leading import lead
from .log_density import DifferentiableOperator, LanczosSettings, LogDensity, log_density
from .normal import Group, NormalEquations, Whitening
from .operators import Identity, Preconditioner, Solution, SymmetricOperator
from .preconditioner import LocalFactor, LowRankAndLocal
from .processes import Processes, launched
from .qr import CONDITION_LIMIT, Conditioning, TriangularEquations, precision_condition
from .tree_sum import TreeSum

__all__ = [
    "CONDITION_LIMIT",
    "Checkpoint",
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
    "Processes",
    "Solution",
    "Step",
    "SymmetricOperator",
    "TreeSum",
    "TriangularEquations",
    "Whitening",
    "conjugate_gradients",
    "conjugate_lanczos",
    "launched",
    "lead",
    "log_density",
    "precision_condition",
    "sum_chunks",
]
