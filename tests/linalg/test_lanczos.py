"""Preconditioned conjugate gradients with Lanczos matrices, and log densities from them, against dense algebra."""

from __future__ import annotations

import math

import pytest
import scipy.linalg
import torch

from kernelfe.errors import SolverError
from kernelfe.linalg import LanczosSettings, conjugate_lanczos, log_density

#: Values follow the residuals in the second order: 1e-8 leaves rounding.
TIGHT = 1e-8


class Matrix:
    """A dense matrix as an operator that counts the columns it was multiplied with."""

    def __init__(self, matrix):
        self.matrix, self.rows, self.columns = matrix, len(matrix), []

    def product(self, x):
        self.columns.append(x.shape[1])
        return self.matrix @ x

    def diagonal(self):
        return self.matrix.diagonal()

    def bilinear(self, u, v):
        return (u * (self.matrix @ v)).sum()


class Preconditioner:
    """P = L Lᵀ of a dense matrix."""

    def __init__(self, matrix):
        self.lower = torch.linalg.cholesky(matrix)

    def solve(self, x):
        return torch.cholesky_solve(x, self.lower)

    def logdet(self):
        return float(2.0 * self.lower.diagonal().log().sum())

    def sample(self, n, generator):
        return self.lower @ torch.randn(len(self.lower), n, generator=generator, dtype=torch.float64)


def covariance(size=120, noise=1e-2, seed=0):
    """A Gaussian kernel on points of the unit cube, plus noise."""
    x = torch.rand(size, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.exp(-2.0 * torch.cdist(x, x) ** 2) + noise * torch.eye(size, dtype=torch.float64)


def rough(matrix):
    """A preconditioner that is neither good nor diagonal."""
    size = len(matrix)
    return Preconditioner(0.3 * matrix + 0.1 * torch.diag(torch.linspace(1.0, 2.0, size, dtype=torch.float64)))


def randn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_solutions_and_residuals():
    matrix = covariance()
    rhs = randn(120, 4)
    rhs[:, 2] = 0.0
    run = conjugate_lanczos(Matrix(matrix), rough(matrix), rhs, tolerance=TIGHT)
    assert torch.allclose(run.x, torch.linalg.solve(matrix, rhs), rtol=0.0, atol=1e-5 * float(run.x.abs().max()))
    assert float(run.residual.max()) <= TIGHT
    assert float(run.x[:, 2].abs().max()) == 0.0


def test_columns_leave_the_block_when_they_have_converged():
    matrix = covariance()
    operator, preconditioner = Matrix(matrix), rough(matrix)
    # A v = λ P v: one step solves A x = A v
    vectors = scipy.linalg.eigh(matrix, preconditioner.lower @ preconditioner.lower.T)[1]
    easy = matrix @ torch.from_numpy(vectors[:, -1:])
    conjugate_lanczos(operator, preconditioner, torch.cat([randn(120, 1), easy, matrix @ randn(120, 1)], 1))
    *steps, residual = operator.columns
    assert steps == sorted(steps, reverse=True)
    assert steps[:2] == [3, 2] and residual == 3


def test_quadratures_are_those_of_the_preconditioned_matrix():
    matrix, rhs = covariance(), randn(120, 3)
    preconditioner = rough(matrix)
    run = conjugate_lanczos(Matrix(matrix), preconditioner, rhs, tolerance=TIGHT)
    values, vectors = torch.linalg.eigh(preconditioner.lower @ preconditioner.lower.T)
    root = vectors @ torch.diag(values.rsqrt()) @ vectors.T
    values, vectors = torch.linalg.eigh(root @ matrix @ root)
    start = root @ rhs
    exact = (start * (vectors @ (values.log()[:, None] * (vectors.T @ start)))).sum(0) / start.square().sum(0)
    assert torch.allclose(run.log_quadrature(), exact, rtol=1e-9)
    assert torch.allclose(run.start, start.square().sum(0), rtol=1e-9)


def test_reorthogonalising_saves_iterations_and_changes_no_result():
    """Rounding spoils orthogonality where A/P is ill-conditioned: more iterations, the same numbers."""
    matrix, rhs = covariance(300, 1e-4), randn(300, 2)
    operator, preconditioner = Matrix(matrix), Preconditioner(torch.eye(300, dtype=torch.float64))
    plain = conjugate_lanczos(operator, preconditioner, rhs, tolerance=TIGHT)
    clean = conjugate_lanczos(operator, preconditioner, rhs, tolerance=TIGHT, reorthogonalise=True)
    assert clean.iterations < 0.5 * plain.iterations
    assert torch.allclose(plain.log_quadrature(), clean.log_quadrature(), rtol=1e-8)
    assert torch.allclose(plain.x, clean.x, rtol=0.0, atol=1e-5 * float(clean.x.abs().max()))


def test_log_density_is_exact_with_the_matrix_itself_as_preconditioner():
    matrix, y = covariance(), randn(120)
    found = log_density(Matrix(matrix), Preconditioner(matrix), y)
    exact = torch.distributions.MultivariateNormal(torch.zeros(120, dtype=torch.float64), matrix).log_prob(y)
    assert found.value == pytest.approx(float(exact), rel=1e-10)
    assert found.logdet == pytest.approx(float(torch.logdet(matrix)), rel=1e-10)
    assert found.standard_error < 1e-8 and found.iterations == 1


def test_standard_errors_are_calibrated():
    matrix, y = covariance(), randn(120)
    operator, preconditioner = Matrix(matrix), rough(matrix)
    exact = float(-0.5 * (y @ torch.linalg.solve(matrix, y) + torch.logdet(matrix) + 120 * math.log(2 * math.pi)))
    runs = [
        log_density(operator, preconditioner, y, LanczosSettings(1e-3, probes=32, seed=seed)) for seed in range(150)
    ]
    z = torch.tensor([(run.value - exact) / run.standard_error for run in runs])
    # 150 values: the mean is known to 0.08, the standard deviation to 6 %; Student's t of 31 adds 3 %
    assert abs(float(z.mean())) < 0.35
    assert 0.8 < float(z.std()) < 1.25


def test_more_probes_until_the_standard_error_is_reached():
    matrix, y = covariance(), randn(120)
    args = Matrix(matrix), rough(matrix), y
    first = log_density(*args, LanczosSettings(probes=4))
    wanted = 0.4 * first.standard_error
    more = log_density(*args, LanczosSettings(probes=4, max_probes=400, standard_error=wanted))
    assert more.standard_error <= wanted
    assert 4 < more.probes < 400
    few = log_density(*args, LanczosSettings(probes=4, max_probes=6, standard_error=1e-6 * wanted))
    assert few.probes == 6


def test_the_same_seed_gives_the_same_number():
    matrix, y = covariance(), randn(120)
    values = {log_density(Matrix(matrix), rough(matrix), y, LanczosSettings(seed=3)).value for _ in range(2)}
    assert len(values) == 1
    assert log_density(Matrix(matrix), rough(matrix), y, LanczosSettings(seed=4)).value not in values


def test_units_of_the_rows_do_not_matter():
    matrix, y = covariance(), randn(120)
    scale = torch.logspace(-9, 9, 120, dtype=torch.float64)
    scaled = scale[:, None] * matrix * scale
    preconditioner = rough(matrix)
    other = rough(matrix)
    other.lower = scale[:, None] * preconditioner.lower
    one = log_density(Matrix(matrix), preconditioner, y)
    two = log_density(Matrix(scaled), other, scale * y)
    assert two.iterations == one.iterations
    assert two.value + float(scale.log().sum()) == pytest.approx(one.value, rel=1e-9)


def test_gradient_without_the_factor_of_the_preconditioner_is_unbiased():
    """By the variance of the noise: d log N/dt = ½ ‖A⁻¹y‖² − ½ tr A⁻¹."""
    matrix, y = covariance(), randn(120)
    exact = 0.5 * float(torch.linalg.solve(matrix, y).square().sum() - torch.linalg.inv(matrix).trace())
    found = []
    for seed in range(60):
        operator, t = Matrix(matrix), torch.zeros((), dtype=torch.float64, requires_grad=True)
        run = log_density(operator, rough(matrix), y, LanczosSettings(seed=seed))
        operator.matrix = matrix + t * torch.eye(120, dtype=torch.float64)
        run.differentiable(operator).backward()
        found.append(float(t.grad))
    z = (torch.tensor(found).mean() - exact) / (torch.tensor(found).std() / 60**0.5)
    assert abs(float(z)) < 3.5


def test_refusals_name_the_mend():
    matrix, y = covariance(120, 1e-6), randn(120)
    unit = Preconditioner(torch.eye(120, dtype=torch.float64))
    with pytest.raises(SolverError, match="raise max_iterations or the rank"):
        log_density(Matrix(matrix), unit, y, LanczosSettings(max_iterations=5))
    with pytest.raises(SolverError, match="not positive definite"):
        log_density(Matrix(-matrix), unit, y)
    with pytest.raises(SolverError, match="non-finite"):
        log_density(Matrix(matrix), unit, y * math.nan)
    with pytest.raises(SolverError, match="probes=1"):
        LanczosSettings(probes=1)
    with pytest.raises(SolverError, match="tolerance"):
        LanczosSettings(tolerance=0.0)
    with pytest.raises(SolverError, match="standard_error"):
        LanczosSettings(standard_error=-1.0)


def test_rounding_that_forbids_the_tolerance_is_an_error():
    matrix, y = covariance(120, 1e-9), randn(120)
    unit = Preconditioner(torch.eye(120, dtype=torch.float64))
    with pytest.raises(SolverError, match="tolerance"):
        log_density(Matrix(matrix), unit, y, LanczosSettings(tolerance=1e-15, max_iterations=4000))
