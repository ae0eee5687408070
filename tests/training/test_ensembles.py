"""Likelihood of the density of frames, its sides, and ensembles of samples, against exact values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kernelfe.training import RelativeEntropyPlan
from kernelfe.training.ensembles import Ensemble, Likelihood, Samples, SideData, gained, total_objective
from kernelfe.training.sides import SlowVariables, inefficiency, side_inefficiencies, slowest_torsion


def samples_of(features, side, data, origin, replicas=20):
    return Samples.of(features - data.mean, side, replicas, float(len(side)), origin, data.silent)


def test_a_side_with_frames_that_the_model_never_visits_is_no_convergence():
    f, side = torch.zeros(100, 1, dtype=torch.float64), np.zeros(100, dtype=int)
    means = [torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)]
    data, least = SideData(means, np.array([90, 10]), (1.0, 1.0, 1.0)), RelativeEntropyPlan().enough_samples
    parts = Likelihood.of(0.03, data, 100.0)
    zero, one = torch.zeros(1, dtype=torch.float64), torch.full((1,), 1e-3, dtype=torch.float64)
    lost = samples_of(f, side, data, zero)
    assert not lost.covers_frames(parts, least)
    side = np.where(np.arange(100) < 5, 1, 0)
    found = samples_of(f, side, data, one)
    assert found.covers_frames(parts, least)
    # a model that finds the side is better, one that loses it worse, whatever their samples say of the other
    assert gained(lost, found, parts, least)[0] == np.inf and gained(found, lost, parts, least)[0] == -np.inf


def test_parts_of_the_likelihood_add_up():
    """With one inefficiency it is the likelihood of the whole density; its curvature is its second derivative."""
    rng = np.random.default_rng(0)
    f, side = torch.from_numpy(rng.normal(size=(60, 4))), rng.integers(0, 2, 60)
    means = [torch.from_numpy(rng.normal(size=4)) for _ in range(2)]
    counts, origin, v = np.array([30, 10]), torch.zeros(4, dtype=torch.float64), torch.from_numpy(rng.normal(size=4))

    def ensemble(data, independent):
        return Ensemble.of(Likelihood.of(0.03, data, independent), [samples_of(f, side, data, origin)], [0.0])

    one = ensemble(SideData(means, counts, (2.0, 2.0, 2.0)), 1e12)
    mean = (30 * means[0] + 10 * means[1]) / 40

    def whole(v):
        return 20.0 * torch.logsumexp((f - mean) @ v / -0.03, 0)

    zero = torch.zeros(4, dtype=torch.float64)
    assert float(one.objective(v) - one.objective(zero)) == pytest.approx(float(whole(v) - whole(zero)), rel=1e-9)
    two = ensemble(SideData(means, counts, (1.5, 2.0, 9.0)), 500.0)
    v = 0.02 * v
    exact = torch.autograd.functional.hessian(two.objective, v)
    factor = two.curvature_factor(v)
    torch.testing.assert_close(factor.T @ factor, exact, rtol=1e-8, atol=1e-8)
    assert float(torch.linalg.eigvalsh(exact).min()) > 0.0
    data = SideData([means[0], None], np.array([30, 0]), (2.0, 2.0, 30.0), {1})
    silent = ensemble(data, 1e12)
    assert len(silent.features) == int((side == 0).sum())

    def inside(v):
        return 15.0 * torch.logsumexp((f[side == 0] - means[0]) @ v / -0.03, 0)

    assert float(silent.objective(v) - silent.objective(zero)) == pytest.approx(float(inside(v) - inside(zero)))


def test_joined_samples_and_the_gain_agree_with_the_exact_one():
    """Features are two coordinates in a harmonic well on either side: every ln Z is known."""
    rng, kt, free = np.random.default_rng(2), 0.03, []
    data = SideData(
        [torch.tensor([0.1, 0.2], dtype=torch.float64), torch.tensor([0.3, -0.1], dtype=torch.float64)],
        np.array([60, 40]),
        (1.0, 2.0, 3.0),
    )
    parts, rounds = Likelihood.of(kt, data, 1000.0), []
    models = [torch.tensor(v, dtype=torch.float64) for v in ([0.0, 0.0], [0.02, -0.02], [0.03, 0.03])]
    exact = [float(((v / kt) @ (v / kt)) / 2.0 + v @ data.mean / kt) for v in models]  # ln Z, centred features
    for v, log_z in zip(models, exact, strict=True):
        x = torch.from_numpy(rng.normal(size=(20_000, 2))) - v / kt
        rounds.append(samples_of(x, rng.integers(0, 2, 20_000), data, v, replicas=2000))
        free.append(-log_z)
    joined = Ensemble.of(parts, rounds, free)
    objective = [float(joined.objective(v)) for v in models]
    for k in (0, 2):
        gain, influence, difference, overlap = gained(rounds[1], rounds[k], parts, 5)
        step = models[k] - models[1]
        truth = sum(parts.within) * (exact[1] - exact[k]) - sum(
            w * float(step @ g) / kt for w, g in zip(parts.within, parts.gap, strict=True)
        )
        error = np.sqrt(sum(float(one @ one) for one in influence))
        assert abs(gain - truth) < 4.0 * error and 0.2 < overlap < 1.0
        assert abs(difference - exact[1] + exact[k]) < 0.1
        assert objective[1] - objective[k] == pytest.approx(truth, abs=6.0 * error)
    assert float(total_objective(models[2], [joined])) == pytest.approx(
        objective[2] + 0.5 * float(models[2] @ models[2])
    )


def test_inefficiencies_of_sides_and_crossings():
    rng = np.random.default_rng(0)
    side = np.repeat(rng.integers(0, 2, 40), 50)  # crosses every 50 frames or later
    fast = rng.normal(size=(2000, 1))
    series = SlowVariables(fast + 3.0 * side[:, None], np.column_stack([rng.uniform(-3, 3, 2000), 2.0 * side - 1.0]))
    assert slowest_torsion([series]) == 1
    low, high, crossing = side_inefficiencies(series, 1)
    assert low < 1.5 and high < 1.5 and 25.0 < crossing < 200.0
    assert inefficiency(np.ones((50, 3))) == 50.0 and inefficiency(np.ones((3, 1))) == 1.0
    stuck = SlowVariables(fast[:50], np.column_stack([rng.uniform(-3, 3, 50), np.ones(50)]))
    assert slowest_torsion([series, stuck]) == 1 and side_inefficiencies(stuck, 1)[2] == 50.0
    assert slowest_torsion([stuck]) in (0, None)
