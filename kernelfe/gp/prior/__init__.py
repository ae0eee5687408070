"""The Gaussian-process prior: terms, mean functions and the rows that read them."""

from .mean import MeanFunction
from .prior import Prior
from .term import Term, TermModule

__all__ = ["MeanFunction", "Prior", "Term", "TermModule"]
