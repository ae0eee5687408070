"""Preconditioned conjugate gradients with many right-hand sides, an explicit tolerance, and no global settings.

Every column has its own scalars (Hestenes & Stiefel 1952); all columns share each product with A. The residual is
measured as √(rᵀP⁻¹r / bᵀP⁻¹b): rows may be in different units, and the number does not depend on them. The true
residual b − A x decides about convergence. If rounding has let the recursion drift from it, or if products are
computed in single precision (``fast``), the solution is refined from the true residual until the true residual is also
small.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import SolverError
from .operators import Preconditioner, Solution, SymmetricOperator

logger = logging.getLogger(__name__)


@dataclass
class Step:
    """State of a solve, handed to ``callback`` after every iteration.

    Parameters
    ----------
    iteration
        Products with A so far.
    residual
        Largest relative residual of a column, by the recursion.
    value
        Current x; valid until the callback returns.
    """

    iteration: int
    residual: float
    value: Tensor


def conjugate_gradients(
    operator: SymmetricOperator,
    b: Tensor,
    preconditioner: Preconditioner,
    tolerance: float = 1e-6,
    max_iterations: int = 2000,
    *,
    start: Tensor | None = None,
    fast: Callable[[Tensor], Tensor] | None = None,
    callback: Callable[[Step], None] | None = None,
) -> Solution:
    """Solve A x = b.

    Parameters
    ----------
    operator
        A.
    b
        Right-hand sides, shape (N,) or (N, k).
    preconditioner
        P.
    tolerance
        Relative residual to reach in every column (see the module).
    max_iterations
        Maximum number of products with A.
    start
        Initial x, of the shape of b; None: zero.
    fast
        Products of lower precision, used for the search directions as long as they converge; the residual is always
        computed with ``operator``.
    callback
        Called after every iteration (on a GPU, every fourth); may raise, for example KeyboardInterrupt.

    Returns
    -------
    Solution

    Raises
    ------
    SolverError
        If the tolerance was not reached, or numbers became non-finite; the message names the remedy.
    """
    began, columns = time.perf_counter(), b.reshape(len(b), -1)
    x = torch.zeros_like(columns) if start is None else start.reshape(columns.shape).to(columns, copy=True)
    norm = _dots(columns, preconditioner.solve(columns)).sqrt()
    norm = torch.where(norm > 0, norm, torch.ones_like(norm))
    product = operator.product if fast is None else fast
    search = Search(preconditioner, norm, max_iterations, callback)
    weak, best = 0, math.inf
    safe: Tensor | None = None
    while True:
        r = columns if search.spent == 0 and start is None else columns - operator.product(x)
        search.spent += 0 if search.spent == 0 and start is None else 1
        z = preconditioner.solve(r)
        found = _size(r, z, norm)
        if fast is not None and safe is not None and not found <= best:  # the sweep increased the residual
            logger.info("products in single precision do not converge: continuing in double")
            x.copy_(safe)
            product, fast, weak, search.direction = operator.product, None, 0, None
            continue
        if not math.isfinite(found):
            raise SolverError(
                "conjugate gradients met non-finite numbers: the covariance of the labels is not positive definite in "
                "float64; raise the noise of the labels or remove duplicated rows"
            )
        weak = weak + 1 if found > 0.5 * best else 0
        best = min(best, found)
        if found <= tolerance:
            return Solution(x.reshape(b.shape), found, search.spent, 0.0, time.perf_counter() - began)
        if weak > search.STALLED and fast is not None:
            logger.info("products in single precision stalled at a residual of %.1e: continuing in double", found)
            product, fast, weak = operator.product, None, 0
            search.direction = None
        if search.spent >= max_iterations or weak > search.STALLED:
            raise SolverError(_advice(found, tolerance, search.spent, max_iterations, weak > search.STALLED))
        if weak:
            search.direction = None
        # a little below the tolerance, so that the true residual passes
        if fast is None:
            safe = None
            search.sweep(product, x, r, z, 0.5 * tolerance)
        else:
            safe = x.clone()
            search.sweep(product, x, r, z, max(0.5 * tolerance, search.SINGLE_PRECISION * found), search.GROWTH * found)
        logger.debug("%d products, residual %.1e before this sweep", search.spent, found)


def _size(r: Tensor, z: Tensor, norm: Tensor) -> float:
    """Largest relative residual of a column; for one that is zero to rounding the sign is arbitrary."""
    return float((_dots(r, z).abs().sqrt() / norm).max())


def _dots(a: Tensor, b: Tensor) -> Tensor:
    """Dot products of columns."""
    return torch.dot(a[:, 0], b[:, 0])[None] if a.shape[1] == 1 else (a * b).sum(0)


@dataclass
class Search:
    """Sweeps of one solve, with the number of products used and the last direction."""

    #: Reduction of the residual by one sweep of single-precision products before it is computed again. Since the
    #: directions are kept, this costs one product in double precision and no iterations. With a smaller value (1e-3),
    #: rounding in the recursion costs iterations: 394 instead of 356 for 55,000 labels (359 in double precision).
    SINGLE_PRECISION: ClassVar[float] = 3e-2
    #: Growth of the residual within a sweep of single-precision products at which the sweep is stopped.
    GROWTH: ClassVar[float] = 1e2
    #: Iterations between checks of the residual on a GPU, where every check waits for all queued work.
    LOOK_EVERY: ClassVar[int] = 4
    #: Sweeps without a twofold gain after which the solve stops.
    STALLED: ClassVar[int] = 2

    preconditioner: Preconditioner
    norm: Tensor
    limit: int
    callback: Callable[[Step], None] | None
    spent: int = 0
    #: p and rᵀz: keep the spectral information of the last sweep; only the residual is new.
    direction: tuple[Tensor, Tensor] | None = None

    def sweep(self, product, x: Tensor, r: Tensor, z: Tensor, goal: float, ceiling: float = math.inf) -> None:
        """Conjugate gradients from the residual ``r``, z = P⁻¹r, until ``goal`` or ``ceiling``; ``x`` is changed."""
        norm, rz = self.norm, _dots(r, z)
        p = z.clone()
        if self.direction is not None:
            last, before = self.direction
            p.addcmul_(torch.where(before > 0, rz / before, torch.zeros_like(rz)), last)
        every = self.LOOK_EVERY if r.is_cuda else 1
        while self.spent < self.limit:
            ap = product(p)
            curvature = _dots(p, ap)
            # converged columns would divide by zero; for others, these products give no descent direction
            lost = (curvature <= 0) & (rz.abs().sqrt() > goal * norm)
            step = torch.where(curvature > 0, rz / curvature, torch.zeros_like(rz))
            x.addcmul_(p, step)
            previous, r = r, torch.addcmul(r, ap, step, value=-1.0)
            self.spent += 1
            z = self.preconditioner.solve(r)
            new = _dots(r, z)
            if self.spent % every == 0 or self.spent >= self.limit:
                residual = float((new.abs().sqrt() / norm).masked_fill(lost, math.inf).max())
                if self.callback is not None:
                    self.callback(Step(self.spent, residual, x))
                # also if it is NaN: the true residual shows it
                if not goal < residual < ceiling:
                    break
            # Polak and Ribière's form: a preconditioner in single precision is not exactly the same at every step
            change = new - _dots(previous, z)
            beta = torch.where(rz > 0, change / rz, torch.zeros_like(rz))
            p = torch.addcmul(z, p, beta)
            rz = new
        self.direction = p, rz


def _advice(found: float, tolerance: float, spent: int, limit: int, stalled: bool) -> str:
    if stalled:
        return (
            f"conjugate gradients stalled at a residual of {found:.1e} (requested {tolerance:.1e}) after {spent} "
            "products: float64 cannot reach it at this ratio of prior to noise; raise the noise of the labels or the "
            "tolerance, or use Dense()"
        )
    return (
        f"conjugate gradients reached a residual of {found:.1e} (requested {tolerance:.1e}) after "
        f"max_iterations={limit} products: raise max_iterations, the rank of the preconditioner, the noise of the "
        "labels, or the tolerance"
    )
