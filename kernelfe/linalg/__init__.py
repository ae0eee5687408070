"""Linear algebra: it knows operators, not physics."""

from .cholesky import CholeskyFactor
from .normal import Group, NormalEquations, Whitening

__all__ = ["CholeskyFactor", "Group", "NormalEquations", "Whitening"]
