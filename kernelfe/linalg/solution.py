"""What a linear solve returns besides its answer."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Solution:
    """The answer of a linear system and how it came about.

    Parameters
    ----------
    value
        The solution vector or matrix.
    residual
        ‖A x − b‖ / ‖b‖ as measured, or as bounded by the solver.
    iterations
        Iterations of an iterative solver, 0 for a direct one.
    jitter
        Relative jitter: what was added to each diagonal entry, relative to that entry.
    seconds
        Wall-clock time.
    """

    value: Tensor
    residual: float
    iterations: int
    jitter: float
    seconds: float
