"""Dense Cholesky factorization, in place: a Gram matrix of n rows takes n² numbers and no copy."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import SolverError
from .blocked import factorize, solve

logger = logging.getLogger(__name__)


class CholeskyFactor:
    """A = L Lᵀ of a symmetric positive definite matrix.

    Parameters
    ----------
    build
        Returns the matrix, shape (n, n), float64, C-contiguous. Only its lower triangle is read, and it
        is **overwritten** by L. It is called again if a factorization fails and a larger jitter is tried, so
        that no second matrix has to be kept.
    name
        Name of the matrix, for error messages.

    Raises
    ------
    SolverError
        If the matrix holds non-finite numbers or is not positive definite with the largest jitter.
    """

    #: Relative jitters, tried in this order when a factorization fails.
    JITTERS: ClassVar[tuple[float, ...]] = (0.0, 1e-12, 1e-10, 1e-8)

    def __init__(self, build: Callable[[], Tensor], name: str = "matrix"):
        failed = rows = 0
        for jitter in self.JITTERS:
            matrix = build()
            rows, diagonal = len(matrix), matrix.diagonal()
            if not math.isfinite(diagonal.mean().item()):
                raise SolverError(f"the {name} holds non-finite numbers: check the data and the hyperparameters")
            diagonal *= 1.0 + jitter  # row by row: rows may be in different units
            failed = _factorize(matrix)
            if not failed:
                self.lower, self.jitter = matrix, jitter
                if jitter:
                    logger.warning("%s: relative jitter %.0e was added to the diagonal", name, jitter)
                return
            del matrix, diagonal  # before the next one is built
        raise SolverError(
            f"the {name} ({rows} rows) is not positive definite even with relative jitter {self.JITTERS[-1]:.0e} "
            f"(failed at row {failed}): remove duplicated rows, or raise the noise of the labels"
        )

    def extended(self, cross: Tensor, build: Callable[[], Tensor], name: str = "matrix") -> CholeskyFactor:
        """The factor of [[A, Cᵀ], [C, B]]; only the new rows cost time.

        Parameters
        ----------
        cross
            C, shape (m, n).
        build
            Returns B, shape (m, m); as for the class.
        name
            Name of B − C A⁻¹ Cᵀ, for error messages.

        Raises
        ------
        SolverError
            If B − C A⁻¹ Cᵀ is not positive definite with the largest jitter.
        """
        half = self.half_solve(cross.T.contiguous()).T  # C L⁻ᵀ

        def complement() -> Tensor:
            return build().addmm_(half, half.T, alpha=-1.0)

        new, n = CholeskyFactor(complement, name), len(self.lower)
        out = object.__new__(CholeskyFactor)
        out.lower = self.lower.new_zeros(n + len(new.lower), n + len(new.lower))
        out.lower[:n, :n], out.lower[n:, :n], out.lower[n:, n:] = self.lower, half, new.lower
        out.jitter = max(self.jitter, new.jitter)
        return out

    def half_solve(self, b: Tensor) -> Tensor:
        """L⁻¹ b for b of shape (n,) or (n, k)."""
        if self.lower.is_cuda:
            return torch.linalg.solve_triangular(self.lower, b.reshape(len(b), -1), upper=False).reshape(b.shape)
        return solve(self.lower, b.reshape(len(b), -1), half=True).reshape(b.shape)

    def solve(self, b: Tensor) -> Tensor:
        """A⁻¹ b for b of shape (n,) or (n, k)."""
        if self.lower.is_cuda:
            return torch.cholesky_solve(b.reshape(len(b), -1), self.lower).reshape(b.shape)
        return solve(self.lower, b.reshape(len(b), -1)).reshape(b.shape)

    def logdet(self) -> float:
        """log det A."""
        return 2.0 * self.lower.diagonal().log().sum().item()


def _factorize(matrix: Tensor) -> int:
    """Overwrite the lower triangle of a matrix by its factor; return the row at which it failed, or 0."""
    if matrix.dtype != torch.float64 or not matrix.is_contiguous():
        raise SolverError("the matrix to factorize must be contiguous float64")
    if not matrix.is_cuda:
        return factorize(matrix)
    # LAPACK stores columns, and a lower triangle stored by rows is an upper one stored by columns: with the
    # transposed view as input and output nothing is copied
    upper, info = matrix.mT, torch.empty((), dtype=torch.int32, device=matrix.device)
    result, _ = torch.linalg.cholesky_ex(upper, upper=True, out=(upper, info))
    if result.data_ptr() != matrix.data_ptr():
        raise SolverError("this version of torch does not factorize in place: install the one in constraints.txt")
    return int(info)
