"""Contract checks for your own kernels, descriptors, functionals, models and solvers.

Call them from a test of your class. Each compares the class with a definition that shares no code with it (automatic
differentiation, or finite differences where a class need not be differentiable) and raises AssertionError, with a
message that names the broken part of the contract. Nothing in kernelfe imports this module.
"""

from __future__ import annotations

from .descriptors import check_descriptor
from .functionals import FreeEnergyFunction, apply_functional, check_functional
from .kernels import check_kernel
from .models import check_model
from .solvers import check_solver

__all__ = [
    "FreeEnergyFunction",
    "apply_functional",
    "check_descriptor",
    "check_functional",
    "check_kernel",
    "check_model",
    "check_solver",
]
