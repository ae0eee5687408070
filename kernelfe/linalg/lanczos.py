"""Preconditioned conjugate gradients that keep their Lanczos matrices: solutions and quadratures in one batched run.

Conjugate gradients on A x = z, preconditioned by P, are the Lanczos process of Â = P^-½ A P^-½ started at P^-½ z; their
coefficients are its tridiagonal matrix T (Golub & Van Loan, § 11.3). With eigenvalues θ_j of T and first components τ_j
of its eigenvectors,

    ẑᵀ f(Â) ẑ ≈ ‖ẑ‖² Σ_j τ_j² f(θ_j),   ẑ = P^-½ z,

is Gauss' quadrature (Golub & Meurant 2010): exact for polynomials f of degree 2m − 1 after m steps, so it converges
twice as fast as the solution.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import SolverError
from .operators import Preconditioner, SymmetricOperator


@dataclass(frozen=True)
class LanczosRun:
    """Result of preconditioned conjugate gradients on several right-hand sides.

    Attributes
    ----------
    x
        Solutions, shape (N, k).
    residual
        ‖b − A x‖ / ‖b‖ of every column in the norm of P⁻¹, which does not depend on the units of the rows, shape (k,);
        computed from x, not by recurrence.
    iterations
        Products with A, of shrinking blocks, without those of residuals.
    start
        bᵀ P⁻¹ b, shape (k,).
    diagonal, off
        T of every column, shapes (m, k) and (m − 1, k), padded with 1 and 0 if a column took fewer steps.
    """

    x: Tensor
    residual: Tensor
    iterations: int
    start: Tensor
    diagonal: Tensor
    off: Tensor

    def log_quadrature(self) -> Tensor:
        """Σ_j τ_j² log θ_j of every column: b̂ᵀ log(Â) b̂ / ‖b̂‖², shape (k,)."""
        matrices = torch.diag_embed(self.diagonal.T)
        if len(self.off):
            matrices = (
                matrices + torch.diag_embed(self.off.T, offset=1) + torch.diag_embed(self.off.T, offset=-1)
            )  # padded with ones: log 1 = 0, and no weight
        values, vectors = torch.linalg.eigh(matrices)
        if not bool((values > 0).all()):
            raise SolverError(
                "the matrix is not positive definite to rounding: its Lanczos matrix has the eigenvalue "
                f"{float(values.min()):.1e}; raise the noise of the labels"
            )
        return (vectors[:, 0].square() * values.log()).sum(1)


def conjugate_lanczos(
    operator: SymmetricOperator,
    preconditioner: Preconditioner,
    rhs: Tensor,
    tolerance: float = 1e-6,
    max_iterations: int = 1000,
    reorthogonalise: bool = False,
) -> LanczosRun:
    """Solve A x = b for several b at once and keep the Lanczos matrices. Operations have a fixed order.

    Parameters
    ----------
    operator, preconditioner
        A and P.
    rhs
        Right-hand sides, shape (N, k). Every column has its own scalars and leaves the block when it has converged.
    tolerance
        Relative residual to reach, in the norm of P⁻¹.
    max_iterations
        Products with A, at most.
    reorthogonalise
        Keep every residual orthogonal to all previous ones, at the cost of storing 2 N k numbers per iteration. In
        exact arithmetic they are orthogonal. Rounding lets them drift, which costs iterations if A/P is
        ill-conditioned but hardly changes solutions and quadratures (Greenbaum 1989; Strakoš & Tichý 2002).

    Raises
    ------
    SolverError
        If a residual stays above the tolerance, or A or P is not positive definite.
    """
    count = rhs.shape[1]
    x, r = torch.zeros_like(rhs), rhs.clone()
    z = preconditioner.solve(r)
    rho = (r * z).sum(0)
    start = rho.clone()
    _check_positive(start, rhs)
    diagonal: list[Tensor] = []
    off: list[Tensor] = []
    active = torch.nonzero(start > 0)[:, 0]
    r, z, rho = r[:, active], z[:, active], rho[active]
    p = z.clone()
    before = torch.zeros_like(rho)  # β/α of the previous step
    kept: list[tuple[Tensor, Tensor]] = []
    iterations = 0
    while len(active):
        if iterations == max_iterations:
            _fail(float((rho / start[active]).max().sqrt()), tolerance, max_iterations)
        iterations += 1
        q = operator.product(p)
        curvature = (p * q).sum(0)
        if not bool((curvature > 0).all()):
            raise SolverError(
                f"the matrix is not positive definite: pᵀAp = {float(curvature.min()):.1e} in iteration {iterations}; "
                "check the data for non-finite numbers, or raise the noise of the labels"
            )
        alpha = rho / curvature
        x[:, active] += alpha * p
        if reorthogonalise:
            norm = rho.sqrt()
            kept.append((r / norm, z / norm))
        r = r - alpha * q
        for residual, image in kept:
            r = r - residual * (image * r).sum(0)
        z = preconditioner.solve(r)
        new = (r * z).sum(0)
        _check_positive(new, r)
        beta = new / rho
        diagonal.append(torch.ones_like(start).index_copy(0, active, 1.0 / alpha + before))
        going = new > tolerance**2 * start[active]
        slope = torch.where(going, beta.sqrt() / alpha, torch.zeros_like(beta))
        off.append(torch.zeros_like(start).index_copy(0, active, slope))
        before = beta / alpha
        p = z + beta * p
        rho = new
        if not bool(going.all()):
            active, r, z, p = active[going], r[:, going], z[:, going], p[:, going]
            rho, before = rho[going], before[going]
            kept = [(a[:, going], b[:, going]) for a, b in kept]
    empty = rhs.new_zeros(0, count)
    residual = _relative_residual(operator, preconditioner, rhs, x, start)
    return LanczosRun(
        x,
        residual,
        iterations,
        start,
        torch.stack(diagonal) if diagonal else empty,
        torch.stack(off[:-1]) if len(off) > 1 else empty,
    )


def refined(
    operator: SymmetricOperator,
    preconditioner: Preconditioner,
    rhs: Tensor,
    run: LanczosRun,
    tolerance: float,
    max_iterations: int,
    refinements: int = 3,
) -> LanczosRun:
    """The run with solutions whose true residuals are below the tolerance: A d = b − A x is solved, d is added.

    This is repeated at most ``refinements`` times.

    Raises
    ------
    SolverError
        If rounding prevents this.
    """
    x, residual, iterations = run.x, run.residual, run.iterations
    for _ in range(refinements):
        bad = torch.nonzero(residual > tolerance)[:, 0]
        if not len(bad):
            break
        left = rhs[:, bad] - operator.product(x[:, bad])
        share = 0.5 * tolerance / max(tolerance, float(residual.max()))
        more = conjugate_lanczos(operator, preconditioner, left, share, max_iterations - iterations)
        x = x.index_add(1, bad, more.x)
        iterations += more.iterations
        residual = _relative_residual(operator, preconditioner, rhs, x, run.start)
    worst = float(residual.max()) if len(residual) else 0.0
    if worst > tolerance:
        raise SolverError(
            f"rounding leaves a relative residual of {worst:.1e}, above the tolerance {tolerance:.0e}: the matrix "
            "is too ill-conditioned; raise the tolerance, the noise of the labels or the rank of the preconditioner"
        )
    return LanczosRun(x, residual, iterations, run.start, run.diagonal, run.off)


def _relative_residual(operator, preconditioner, rhs: Tensor, x: Tensor, start: Tensor) -> Tensor:
    left = rhs - operator.product(x)
    square = (left * preconditioner.solve(left)).sum(0).clamp_min(0.0)
    return torch.where(start > 0, (square / torch.where(start > 0, start, 1.0)).sqrt(), torch.zeros_like(start))


def _check_positive(rho: Tensor, r: Tensor) -> None:
    if not bool(torch.isfinite(rho).all()):
        raise SolverError("the linear system holds non-finite numbers: check the data and the hyperparameters")
    if bool((rho < 0).any()):
        raise SolverError(f"the preconditioner is not positive definite: rᵀP⁻¹r = {float(rho.min()):.1e}")


def _fail(residual: float, tolerance: float, max_iterations: int) -> None:
    raise SolverError(
        f"conjugate gradients stopped after {max_iterations} iterations at a relative residual of {residual:.1e}, "
        f"above the tolerance {tolerance:.0e}: raise max_iterations or the rank of the preconditioner, or accept a "
        "larger tolerance; small noise and long length scales make the system ill-conditioned"
    )
