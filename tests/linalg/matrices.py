"""Dense matrices as operators and preconditioners: what the tests of iterative solvers are given."""

from __future__ import annotations

import torch


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def positive(n, seed=0, condition=1e3):
    """A random symmetric positive definite matrix of a given condition number."""
    basis, _ = torch.linalg.qr(normal(n, n, seed=seed))
    values = torch.logspace(0, torch.log10(torch.tensor(condition)).item(), n, dtype=torch.float64)
    matrix = (basis * values) @ basis.T
    return 0.5 * (matrix + matrix.T)


class Matrix:
    """A as an operator, or P as a preconditioner; counts the products."""

    def __init__(self, matrix):
        self.matrix, self.rows, self.products = matrix, len(matrix), 0

    def product(self, x):
        self.products += 1
        return self.matrix @ x

    def solve(self, x):
        return torch.linalg.solve(self.matrix, x)


class Diagonal:
    """P = diag(d)."""

    def __init__(self, diagonal):
        self.diagonal = diagonal

    def solve(self, x):
        return x / self.diagonal[:, None]
