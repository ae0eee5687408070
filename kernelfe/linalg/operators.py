"""Interfaces of matrices and preconditioners for iterative solvers, and the result of a solve.

Solvers use operators, without physics: they accept any object with these methods.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class SymmetricOperator(Protocol):
    """A symmetric positive definite matrix A of N rows that is never formed."""

    @property
    def rows(self) -> int:
        """N."""
        ...

    def product(self, x: Tensor) -> Tensor:
        """A x for x of shape (N, k), float64."""
        ...


class Preconditioner(Protocol):
    """A symmetric positive definite P ≈ A whose inverse is cheap to apply."""

    def solve(self, x: Tensor) -> Tensor:
        """P⁻¹ x, shape (N, k)."""
        ...

    def logdet(self) -> float:
        """log det P."""
        ...

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draws of N(0, P), shape (N, n)."""
        ...


@dataclass(frozen=True)
class Solution:
    """Result of a solver.

    Parameters
    ----------
    value
        x of A x = b, of the shape of b.
    residual
        Largest relative residual of a column, √(rᵀP⁻¹r / bᵀP⁻¹b) with r = b − A x computed afresh.
    iterations
        Products with A.
    jitter
        Relative jitter added to the diagonal.
    seconds
        Wall time.
    """

    value: Tensor
    residual: float
    iterations: int
    jitter: float
    seconds: float

    def tensors(self) -> dict[str, Tensor]:
        """Fields by name, as processes exchange them."""
        numbers = [self.residual, float(self.iterations), self.jitter, self.seconds]
        return {"value": self.value, "numbers": torch.tensor(numbers, dtype=torch.float64)}

    @classmethod
    def from_tensors(cls, found: dict[str, Tensor]) -> Solution:
        """The inverse of :meth:`tensors`."""
        residual, iterations, jitter, seconds = found["numbers"].tolist()
        return cls(found["value"], residual, int(iterations), jitter, seconds)


class Identity:
    """No preconditioning: P = 1.

    Parameters
    ----------
    rows
        N.
    """

    def __init__(self, rows: int):
        self.rows = rows

    def solve(self, x: Tensor) -> Tensor:
        """X itself."""
        return x

    def logdet(self) -> float:
        """Zero."""
        return 0.0

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Standard normal numbers, shape (N, n)."""
        return torch.randn(self.rows, n, generator=generator, dtype=torch.float64, device="cpu")
