"""The evidence of the exact model by stochastic Lanczos, against the dense one."""

from __future__ import annotations

import pytest
import torch

from kernelfe.errors import SolverError
from kernelfe.gp.solvers.evidence import dense_log_evidence, fit_dense
from kernelfe.gp.solvers.iterative.evidence import fit_lanczos, lanczos_log_evidence, targets
from kernelfe.linalg import LanczosSettings

from ...systems import molecule, two_terms
from .covariances import build, problem


def flat(tensors):
    return torch.cat([t.reshape(-1) for t in tensors])


def free(prior, noise):
    return [p for p in [*prior.parameters(), *noise.parameters()] if p.requires_grad]


def test_value_and_gradient_agree_with_the_dense_ones_within_their_errors():
    """312 rows of forces and energies at three temperatures, learned noise; z-scores over seeds."""
    sets, prior, noise = problem(molecule(24, noise=False), two_terms())
    parameters = free(prior, noise)
    exact = dense_log_evidence(prior, sets, noise)
    slope = flat(torch.autograd.grad(exact, parameters))
    y = targets(prior, sets)
    assert len(y) == 312
    values, slopes = [], []
    at_present = build(prior, sets, noise, rank=70)
    for seed in range(24):
        value, found = lanczos_log_evidence(at_present, sets, noise, y, LanczosSettings(probes=16, seed=seed))
        slopes.append(flat(torch.autograd.grad(value, parameters)))
        values.append((found.value - exact.item()) / found.standard_error)
        assert value.item() == pytest.approx(found.value, rel=1e-12)
    z, slopes = torch.tensor(values), torch.stack(slopes)
    # 24 values: the mean is known to 0.2, the standard deviation to 15 %
    assert abs(float(z.mean())) < 0.8
    assert 0.65 < float(z.std()) < 1.6
    off = (slopes.mean(0) - slope) / (slopes.std(0) / 24**0.5)
    assert float(off.abs().max()) < 4.0  # of 12 hyperparameters
    assert 0.5 < float(off.square().mean().sqrt()) < 1.8


def test_gradients_get_exact_with_the_preconditioner():
    sets, prior, noise = problem(molecule(12, noise=False), two_terms())
    parameters = free(prior, noise)
    slope = flat(torch.autograd.grad(dense_log_evidence(prior, sets, noise), parameters))
    y = targets(prior, sets)
    errors = []
    for rank in (10, 60, 156):
        value, _ = lanczos_log_evidence(build(prior, sets, noise, rank), sets, noise, y, LanczosSettings(1e-8))
        errors.append(float((flat(torch.autograd.grad(value, parameters)) - slope).norm() / slope.norm()))
    assert errors[0] > 5.0 * errors[1] > 5.0 * errors[2]
    assert errors[2] < 1e-6


def test_hyperparameters_are_those_of_the_dense_fit():
    """The maximum is found to a small part of what the data leave open: half a nat is one standard deviation."""
    sets, prior, noise = problem(molecule(12, noise=False), two_terms())
    best = fit_dense(prior, sets, noise)
    other_sets, other, levels = problem(molecule(12, noise=False), two_terms())
    found = fit_lanczos(build(other, other_sets, levels, 100), other, other_sets, levels, LanczosSettings(probes=16))
    reached = dense_log_evidence(other, other_sets, levels) + other.hyperpriors() + levels.hyperprior()
    assert reached.item() == pytest.approx(best, abs=0.1)
    exact = dense_log_evidence(other, other_sets, levels).item()
    assert abs(found.value - exact) < 5.0 * found.standard_error + 1e-6


def test_weights_of_rows_below_one_count_as_in_the_dense_evidence():
    sets, prior, noise = problem(molecule(8, noise=False), two_terms())
    for label in sets:
        label.noise = label.noise.tempered(torch.full_like(label.y, 0.4))
    value, _ = lanczos_log_evidence(
        build(prior, sets, noise, 104), sets, noise, targets(prior, sets), LanczosSettings()
    )
    dense = dense_log_evidence(prior, sets, noise)
    assert value.item() == pytest.approx(dense.item(), rel=1e-6)
    parameters = list(noise.parameters())
    for a, b in zip(torch.autograd.grad(value, parameters), torch.autograd.grad(dense, parameters), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))


def test_without_convergence_the_fit_says_what_to_change():
    sets, prior, noise = problem(molecule(8, noise=False), two_terms())
    with pytest.raises(SolverError, match="raise max_iterations or the rank"):
        fit_lanczos(build(prior, sets, noise, 0), prior, sets, noise, LanczosSettings(max_iterations=3))
