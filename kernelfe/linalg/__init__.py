"""Linear algebra: it knows operators, not physics."""

from .cholesky import CholeskyFactor
from .normal import Group, NormalEquations, Whitening
from .solution import Solution

__all__ = ["CholeskyFactor", "Group", "NormalEquations", "Solution", "Whitening"]
