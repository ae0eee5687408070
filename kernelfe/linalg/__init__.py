"""Linear algebra: it knows operators, not physics."""

from .cholesky import CholeskyFactor
from .normal import Group, NormalEquations, Whitening
from .processes import Processes, launched

__all__ = ["CholeskyFactor", "Group", "NormalEquations", "Processes", "Whitening", "launched"]
