"""Error bars from the scatter of frames: calibrated where noise is correlated within frames and along time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import kernelfe
from kernelfe import FreeEnergyRegressor, Term
from kernelfe.descriptors import PairSplines
from kernelfe.gp.solvers.scores import shrunk, statistical_inefficiency
from kernelfe.gp.solvers.specs import WeightSpace
from kernelfe.kernels import SecondOrder, SplineWeights

PAIRS = PairSplines(3.6, start=0.6, spacing=0.5)
TERM = Term(
    PAIRS,
    SplineWeights(PAIRS.weight_nodes.nodes, lengthscale=0.6),
    SecondOrder(300.0, energy=0.3, entropy=1e-6, heat_capacity=1e-6),
    fixed=True,
)
CELL = 8.0 * np.eye(3)


def data(rng, weights, frames=60, beads=4):
    """Forces of partners with opposite noise along the line between them, and no other noise."""
    x = rng.random((frames, beads, 3)) * 3.0
    forces = -np.einsum("nwq,w->nq", PAIRS.environments(torch.from_numpy(x)).jacobian.numpy(), weights)
    forces = forces.reshape(x.shape)
    for i, j in ((0, 1), (2, 3)):
        line = x[:, j] - x[:, i]
        noise = rng.normal(scale=0.1, size=(frames, 1)) * line / np.linalg.norm(line, axis=1, keepdims=True)
        forces[:, j] += noise
        forces[:, i] -= noise
    labels = {"mean_force": forces}
    return kernelfe.Frames.from_arrays(x, temperature=300.0, cell=CELL, labels=labels, kinds=["W"] * beads)


def test_coverage_with_opposite_noise_of_partners():
    rng = np.random.default_rng(0)
    covariance = TERM.kernel.ready(len(PAIRS.weight_nodes.nodes)).covariance().numpy()
    inside = {"frames": [], "rows": []}
    x = torch.tensor([[[0.0, 0, 0], [1.9, 0, 0]], [[0.0, 0, 0], [2.4, 0, 0]]], dtype=torch.float64)
    slopes = PAIRS.environments(x).jacobian[:, :, 3].numpy()  # pair forces at two distances
    for _ in range(30):
        weights = 0.3 * rng.multivariate_normal(np.zeros(len(covariance)), covariance)
        frames = data(rng, weights)
        for errors, found in inside.items():
            model = FreeEnergyRegressor(TERM, baseline=False, solver=WeightSpace(errors=errors), progress=False)
            model.fit(frames)
            mean, std = _pair_force(model, x)
            found.append(np.abs(mean + slopes @ weights) < 1.96 * std)
    coverage = {errors: np.mean(found) for errors, found in inside.items()}
    assert coverage["rows"] < 0.87  # assumed independent, the noise of partners is underestimated
    assert 0.88 <= coverage["frames"] <= 1.0


def _pair_force(model, x):
    """Mean and standard deviation of the force on the second of two beads, from the posterior of the weights."""
    posterior = model.posterior_
    jacobian = PAIRS.environments(x).jacobian[:, :, 3]
    features = posterior.basis.prior.terms[0].kernel.embedding(jacobian).z
    whole = torch.cat([features, torch.zeros(len(x), 2 * features.shape[1])], 1) * posterior.basis.amplitudes()
    half = torch.linalg.solve_triangular(posterior.lower, whole.T, upper=False)
    return -(whole @ posterior.weights).numpy(), half.square().sum(0).sqrt().numpy()


def test_inefficiency_of_an_autoregressive_series():
    rng = np.random.default_rng(1)
    phi, n = 0.6, 20_000
    noise, series = rng.standard_normal((n, 3)), np.zeros((n, 3))
    for k in range(1, n):
        series[k] = phi * series[k - 1] + noise[k]
    found = statistical_inefficiency(torch.from_numpy(series), torch.full((n,), 300.0))
    assert found == pytest.approx((1 + phi) / (1 - phi), rel=0.1)
    mixed = torch.from_numpy(rng.permutation(series))
    assert statistical_inefficiency(mixed, torch.full((n,), 300.0)) == 1.0


def test_few_frames_lean_on_what_was_assumed():
    rng = np.random.default_rng(2)
    scores, assumed = torch.from_numpy(rng.standard_normal((5, 20)) * 0.4), torch.eye(20, dtype=torch.float64)
    total, share = shrunk(scores, assumed)
    assert share == pytest.approx(20 / 25)
    assert float(torch.linalg.eigvalsh(total)[0]) > 0  # though five frames span five directions only
    assert shrunk(torch.from_numpy(rng.standard_normal((4000, 20))), assumed)[1] < 0.01
