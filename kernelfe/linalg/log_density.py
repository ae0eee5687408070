"""Gaussian log densities of large covariances from products alone, with their standard error and their gradient.

log N(y | 0, A) = −½ [yᵀA⁻¹y + log det A + N log 2π]. One batched run of conjugate gradients solves A α = y and, from
probes z ~ N(0, P), estimates

    log det A = log det P + E[ẑᵀ log(Â) ẑ],       Â = P^-½ A P^-½,  ẑ = P^-½ z,
    ∂ log N = ½ αᵀ ∂A α − ½ tr(P⁻¹ ∂A) − ½ E[(A⁻¹z − P⁻¹z)ᵀ ∂A (P⁻¹z)],

the first by Gauss' quadrature on the Lanczos matrices of the probes (Ubaru, Chen & Saad 2017; Gardner et al. 2018).
Both are unbiased for any P. Their variance falls as P improves, and with P = A both are exact. For the gradient this
holds because the operator computes the trace with P⁻¹ exactly, from its own structure and that of P (Wenger et al.
2022 separate ∂ log det P instead). One backward pass gives all hyperparameter gradients. If the operator has no trace,
it is part of the average, E[(A⁻¹z)ᵀ ∂A (P⁻¹z)]; its variance then does not vanish as P → A. Probes are scaled to ‖ẑ‖²
= N: their direction is independent of their norm, so this adds no bias and removes the scatter of the norm.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..errors import SolverError, require
from .lanczos import conjugate_lanczos, refined
from .operators import Preconditioner, SymmetricOperator

logger = logging.getLogger(__name__)


class DifferentiableOperator(SymmetricOperator, Protocol):
    """A matrix that depends on hyperparameters.

    It may also have ``trace(preconditioner)``: tr(P⁻¹ A) as a number, differentiable with P held fixed.
    """

    def bilinear(self, u: Tensor, v: Tensor) -> Tensor:
        """Σ_q u_qᵀ A v_q for u and v of shape (N, q): a number, differentiable in the hyperparameters."""
        ...


def _require(holds: bool, message: str) -> None:
    require(holds, f"LanczosSettings: {message}", SolverError)


@dataclass(frozen=True)
class LanczosSettings:
    """Required accuracy of a log density, and limits of its cost.

    Parameters
    ----------
    tolerance
        Relative residual of every solution, in the norm of P⁻¹. Errors of values are proportional to its square.
    max_iterations
        Number of iterations after which a solve without convergence is an error.
    probes, max_probes
        Initial number of probes (at least 2), and the largest number.
    standard_error
        Standard error of log N at which no more probes are added. None: no more than ``probes``.
    seed
        Seed of the probes: the same seed gives the same probes, so that values at two hyperparameters differ smoothly.
    reorthogonalise
        As in :func:`~kernelfe.linalg.conjugate_lanczos`.
    batch
        Largest number of probes solved at a time: more take more memory, fewer take more passes over the matrix.
    refinements
        Largest number of refinements of a solve whose true residual rounding leaves above the tolerance.

    Raises
    ------
    SolverError
        If a number is out of range.
    """

    tolerance: float = 1e-5
    max_iterations: int = 1000
    probes: int = 8
    max_probes: int = 64
    standard_error: float | None = None
    seed: int = 0
    reorthogonalise: bool = False
    batch: int = 16
    refinements: int = 3

    def __post_init__(self):
        _require(0 < self.tolerance < 1, f"tolerance={self.tolerance} must lie between 0 and 1")
        _require(
            self.max_iterations >= 1 and 2 <= self.probes <= self.max_probes,
            f"max_iterations={self.max_iterations} must be at least 1, probes={self.probes} at least 2 and at most "
            f"max_probes={self.max_probes}",
        )
        _require(
            self.standard_error is None or self.standard_error > 0,
            f"standard_error={self.standard_error} must be positive, or None",
        )
        _require(
            self.batch >= 1 and self.refinements >= 0,
            f"batch={self.batch} must be at least 1, and refinements={self.refinements} not negative",
        )


@dataclass(frozen=True)
class LogDensity:
    """log N(y | 0, A) and the quantities for its gradient.

    Attributes
    ----------
    value, standard_error
        The estimate and its standard error over probes: that of the log determinant; the quadratic form is solved.
    logdet, quadratic
        log det A and yᵀA⁻¹y.
    probes, iterations
        Number of probes; number of iterations of all batches.
    residual
        Largest relative residual of y and of the probes, in the norm of P⁻¹.
    solution
        A⁻¹y, shape (N,).
    left, right, preconditioner
        The gradient is that of Σ_q left_qᵀ A right_q − ½ tr(P⁻¹A), shapes (N, 1 + probes); P is None where the operator
        has no trace.
    """

    value: float
    standard_error: float
    logdet: float
    quadratic: float
    probes: int
    iterations: int
    residual: float
    solution: Tensor
    left: Tensor
    right: Tensor
    preconditioner: Preconditioner | None

    def differentiable(self, operator: DifferentiableOperator) -> Tensor:
        """The value as a tensor whose backward pass gives the estimated gradient in the hyperparameters of A."""
        surrogate = operator.bilinear(self.left, self.right)
        if self.preconditioner is not None:
            surrogate = surrogate - 0.5 * operator.trace(self.preconditioner)  # type: ignore[attr-defined]
        return self.value + (surrogate - surrogate.detach())


@torch.no_grad()
def log_density(
    operator: SymmetricOperator, preconditioner: Preconditioner, y: Tensor, settings: LanczosSettings | None = None
) -> LogDensity:
    """Estimate log N(y | 0, A).

    Parameters
    ----------
    operator, preconditioner
        A and P.
    y
        Shape (N,).
    settings
        Tolerance, probes and seed.

    Raises
    ------
    SolverError
        If a residual stays above the tolerance; the message names the setting to change.
    """
    settings = settings or LanczosSettings()
    rows, generator = len(y), torch.Generator().manual_seed(settings.seed)
    limits = settings.tolerance, settings.max_iterations
    logs: list[float] = []
    left: list[Tensor] = []
    right: list[Tensor] = []
    residual, iterations, wanted = 0.0, 0, settings.probes
    solution, split = y, hasattr(operator, "trace")
    while True:
        size = min(settings.batch, wanted - len(logs))
        z = preconditioner.sample(size, generator)
        rhs = z if logs else torch.cat([y[:, None], z], 1)
        run = conjugate_lanczos(operator, preconditioner, rhs, *limits, settings.reorthogonalise)
        run = refined(operator, preconditioner, rhs, run, *limits, settings.refinements)
        iterations += run.iterations
        residual = max(residual, float(run.residual.max()))
        first = rhs.shape[1] - size
        if first:
            solution = run.x[:, 0]
        logs += run.log_quadrature()[first:].tolist()
        image = preconditioner.solve(z)
        solved = run.x[:, first:] - image if split else run.x[:, first:]
        left.append(solved * (rows / run.start[first:]))
        right.append(image)
        if len(logs) < wanted:
            continue
        values = torch.tensor(logs, dtype=torch.float64)
        error = 0.5 * rows * float(values.std()) / math.sqrt(len(logs))
        enough = settings.standard_error is None or error <= settings.standard_error
        if enough or wanted >= settings.max_probes:
            break
        ratio = (error / settings.standard_error) ** 2  # type: ignore[operator]
        wanted = min(settings.max_probes, max(wanted + 1, math.ceil(min(ratio, 4.0) * wanted)))
    if not enough:
        logger.warning(
            "standard error %.2g of the log density after %d probes, above %.2g: raise max_probes or the rank of the "
            "preconditioner",
            error,
            len(logs),
            settings.standard_error,
        )
    logdet = preconditioner.logdet() + rows * float(values.mean())
    # second order in the residual: yᵀx + xᵀr
    quadratic = float(y @ solution + solution @ (y - operator.product(solution[:, None])[:, 0]))
    return LogDensity(
        -0.5 * (quadratic + logdet + rows * math.log(2.0 * math.pi)),
        error,
        logdet,
        quadratic,
        len(logs),
        iterations,
        residual,
        solution,
        torch.cat([0.5 * solution[:, None], *(-0.5 / len(logs) * v for v in left)], 1),
        torch.cat([solution[:, None], *right], 1),
        preconditioner if split else None,
    )
