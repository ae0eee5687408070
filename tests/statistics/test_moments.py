"""Conditional moments against the exact answers of an analytic all-atom model, and their error bars."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, skew

from kernelfe.datasets import EliminatedMode
from kernelfe.errors import DataError
from kernelfe.statistics import conditional_labels, conditional_moments
from kernelfe.units import BOLTZMANN

MODEL = EliminatedMode(dimension=2)
POINT = np.array([[0.4, -0.7]])
T = 400.0
KEYS = (
    "mean_force",
    "mean_energy",
    "heat_capacity",
    "energy_variance",
    "thermal_response_force",
    "second_thermal_response_force",
    "parameter_derivative:l",
    "parameter_response_force:l",
)


#: Copies of the model at the same R in one "molecule": cumulants add, and U is then as skewed as that of a molecule.
COPIES = 12


def truth(point=POINT, t=T):
    exact = MODEL.statistics(torch.from_numpy(point), t)
    return {key: COPIES * exact[key.partition(":")[0]][0].numpy() for key in KEYS}


def all_atom(x, point=POINT):
    """Force, energy, ∂U/∂λ and ∂f/∂λ of frames with eliminated coordinates x, (frames, COPIES)."""
    frames, x = len(x), np.ravel(x)
    r = torch.from_numpy(np.repeat(point, len(x), 0)).requires_grad_()
    lam = torch.ones(len(x), dtype=torch.float64, requires_grad=True)
    u = MODEL.energy(r, torch.from_numpy(x), lam)
    g, h = torch.autograd.grad(u.sum(), (r, lam), create_graph=True)
    (mixed,) = torch.autograd.grad(h.sum(), r)
    each = -g.detach().numpy(), u.detach().numpy(), h.detach().numpy(), -mixed.numpy()
    return [q.reshape(frames, COPIES, *q.shape[1:]).sum(1) for q in each]


def draw(n, rng, point=POINT):
    """n independent frames at one R."""
    x = MODEL.sample(np.repeat(point, n * COPIES, 0), T, 1.0, rng)["x"]
    return all_atom(x.reshape(n, COPIES), point)


def metropolis(n, chains, rng, step=0.5):
    """Correlated series of frames at POINT, (n, chains, COPIES), exactly stationary: started from exact draws."""
    size = chains * COPIES
    x = MODEL.sample(np.repeat(POINT, size, 0), T, 1.0, rng)["x"]
    stiffness, shift, kt = float(MODEL.stiffness_at(torch.from_numpy(POINT))), None, BOLTZMANN * T
    shift = MODEL.shift * np.cos(POINT[0, 0] - 0.5 * POINT[0, 1])

    def energy(y):
        return 0.5 * stiffness * y**2 - shift * y + 0.25 * MODEL.quartic * y**4

    u, out = energy(x), np.empty((n, chains, COPIES))
    for k in range(n):
        trial = x + step * rng.standard_normal(size)
        new = energy(trial)
        take = rng.random(size) < np.exp(np.minimum((u - new) / kt, 0.0))
        x, u = np.where(take, trial, x), np.where(take, new, u)
        out[k] = x.reshape(chains, COPIES)
    return out


def moments(data, block=None):
    f, u, h, df = data
    return conditional_moments(f, u, T, block=block, parameter_derivatives={"l": h}, force_derivatives={"l": df})


SECOND = "second_thermal_response_force"


def check_calibrated(results, keys):
    """Σ z² over repeats against χ² of their number, both sides; the mean of the estimates against the truth."""
    exact = truth()
    for key in keys:
        values, errors = (np.array([np.ravel(found[key][k]) for found in results]) for k in (0, 1))
        gaps = values - np.ravel(exact[key])
        n = len(gaps)
        assert n >= 200
        p = chi2.cdf(((gaps / errors) ** 2).sum(0), n)
        assert ((1e-3 < p) & (p < 1 - 1e-3)).all(), f"{key}: mean z² {((gaps / errors) ** 2).mean(0)}"
        bias = gaps.mean(0) / gaps.std(0) * np.sqrt(n)
        assert (np.abs(bias) < 3.3).all(), f"{key}: bias {bias} standard errors"


def test_error_bars_of_independent_frames_are_calibrated():
    rng = np.random.default_rng(1)
    results = [moments(draw(800, rng), block=1) for _ in range(220)]
    check_calibrated(results, [key for key in KEYS if key != SECOND])


@pytest.mark.slow
def test_error_bars_of_third_cumulants_are_calibrated():
    """Third cumulants need more frames: with few, small values come with small errors."""
    rng = np.random.default_rng(9)
    check_calibrated([moments(draw(6000, rng), block=1) for _ in range(220)], [SECOND])


@pytest.mark.slow
def test_error_bars_with_estimated_correlation_are_calibrated():
    rng = np.random.default_rng(2)
    frames = [all_atom(series) for series in np.moveaxis(metropolis(6000, 220, rng), 1, 0)]
    check_calibrated([moments(data) for data in frames], [key for key in KEYS if key != SECOND])
    naive = [moments(data, block=1)["mean_energy"] for data in frames]
    z = [(value - truth()["mean_energy"]) / error for value, error in naive]
    assert np.mean(np.square(z)) > 2.0  # correlation left out: errors too small


def test_estimates_follow_the_truth_across_configurations():
    """Slope of the estimates against the truth over 60 R is 1 ± 0.05, of third cumulants 1 within its error."""
    rng = np.random.default_rng(3)
    points = rng.uniform([-1.5, -1.5], [1.0, 1.5], (60, 2))
    found, exact, errors = {}, {}, {}
    for point in points[:, None]:
        m = moments(draw(2500, rng, point), 1)
        for key, value in truth(point).items():
            found.setdefault(key, []).append(m[key][0])
            errors.setdefault(key, []).append(m[key][1])
            exact.setdefault(key, []).append(value)
    for key in KEYS:
        y, x, w = (np.ravel(q[key]) for q in (found, exact, errors))
        x0 = np.average(x, weights=w**-2)
        slope = np.sum((x - x0) * y / w**2) / np.sum((x - x0) ** 2 / w**2)
        error = 1.0 / np.sqrt(np.sum((x - x0) ** 2 / w**2))
        tolerance = 3.3 * error if key == SECOND else 0.05  # third cumulants: noise of the test itself
        assert abs(slope - 1.0) < tolerance and error < 0.05, (key, slope, error)


def test_bias_of_few_frames_is_removed():
    """Eight frames: Cov(f, U) and Var(U) of the jackknife are those of the n − 1 formula, exactly."""
    rng = np.random.default_rng(4)
    f, u, _, _ = draw(8, rng)
    found = conditional_moments(f, u, T, 1)
    assert found["energy_variance"][0] == pytest.approx(u.var(ddof=1), rel=1e-10)
    expected = [np.cov(column, u)[0, 1] / (BOLTZMANN * T**2) for column in f.T]
    np.testing.assert_allclose(found["thermal_response_force"][0], expected, rtol=1e-10)
    skewed = np.sqrt(1.0 + 2.0 * skew(u, bias=False) ** 2 / 8)
    assert found["mean_energy"][1] == pytest.approx(u.std(ddof=1) / np.sqrt(8) * np.sqrt(7 / 5) * skewed, rel=1e-10)


@pytest.mark.parametrize(("frames", "largest"), [(500, 1.3), (1000, 1.2)])
def test_error_bars_of_short_correlated_series(frames, largest):
    """A hundred or more independent frames: blocks of a few inefficiencies, and skewed products, are reckoned with.

    x of six independent Ornstein-Uhlenbeck processes, U = ½ kT x², forces along x, x² and products of two x. Over many
    repeats the mean z² of products is 1.10 and 1.02 (1.45 and 1.31 without these corrections), ± 0.08 over 300.
    """
    rng, a, repeats, kt = np.random.default_rng(0), np.exp(-1.0 / 3.0), 300, BOLTZMANN * T
    x = np.empty((frames, repeats, 6))
    x[0] = rng.standard_normal((repeats, 6))
    for k in range(1, frames):
        x[k] = a * x[k - 1] + np.sqrt(1.0 - a * a) * rng.standard_normal((repeats, 6))
    f = np.stack([x[..., 0] + 0.5 * x[..., 0] ** 2, x[..., 1] * x[..., 2] + 0.3 * x[..., 0] ** 2], -1)
    u = 0.5 * kt * (x**2).sum(-1)
    exact = {
        "mean_force": [0.5, 0.3],
        "mean_energy": [3.0 * kt],
        "heat_capacity": [3.0 * BOLTZMANN],
        "thermal_response_force": [0.5 / T, 0.3 / T],
    }
    found = [conditional_moments(f[:, r], u[:, r], T) for r in range(repeats)]
    square = {
        key: np.mean([((m[key][0] - true) / m[key][1]) ** 2 for m in found], axis=0) for key, true in exact.items()
    }
    products = np.mean([*square["thermal_response_force"], *np.ravel(square["heat_capacity"])])
    means = np.mean([*square["mean_force"], *np.ravel(square["mean_energy"])])
    assert 0.85 < products < largest, square
    assert 0.75 < means < 1.15, square


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.floats(-1e4, 1e4), st.floats(-3.0, 3.0))
def test_constants_in_energy_and_force(seed, e0, f0):
    """A constant energy or force shifts the means alone, also where it is large."""
    rng = np.random.default_rng(seed)
    f, u = rng.standard_normal((40, 2, 3)), 0.1 * rng.standard_normal(40)
    plain, moved = conditional_moments(f, u, T, 1), conditional_moments(f + f0, u + e0, T, 1)
    for key, (value, error) in moved.items():
        shift = {"mean_force": f0, "mean_energy": e0}.get(key, 0.0)
        size = np.abs(plain[key][0]).max()
        np.testing.assert_allclose(value, plain[key][0] + shift, rtol=1e-9, atol=1e-9 * size)
        np.testing.assert_allclose(error, plain[key][1], rtol=1e-6)


def test_divergences_enter_both_responses():
    """q = f + kT d: responses by finite differences of ⟨q⟩ in T, states of a discrete system weighted exactly."""
    rng = np.random.default_rng(5)
    u, f, d = 0.05 * rng.standard_normal(12), 0.2 * rng.standard_normal(12), 5.0 + 50.0 * rng.standard_normal(12)

    def mean_q(t):
        p = np.exp(-u / (BOLTZMANN * t))
        return np.sum(p * (f + BOLTZMANN * t * d)) / p.sum()

    counts = np.round(4e5 * np.exp(-u / (BOLTZMANN * T)) / np.exp(-u / (BOLTZMANN * T)).sum()).astype(int)
    rows = np.random.default_rng(0).permutation(np.repeat(np.arange(12), counts))
    found = conditional_moments((f + BOLTZMANN * T * d)[rows], u[rows], T, 100, divergences=d[rows])
    step = 1.0
    first = (mean_q(T + step) - mean_q(T - step)) / (2 * step)
    second = (mean_q(T + step) - 2 * mean_q(T) + mean_q(T - step)) / step**2
    assert found["thermal_response_force"][0] == pytest.approx(first, rel=1e-3)
    assert found["second_thermal_response_force"][0] == pytest.approx(second, rel=1e-3)
    without = conditional_moments((f + BOLTZMANN * T * d)[rows], u[rows], T, 100)
    assert abs(without["thermal_response_force"][0] - first) > 0.05 * abs(first)


def test_restraint_energies_enter_force_responses_alone():
    rng = np.random.default_rng(6)
    f, u, r = rng.standard_normal((50, 3)), rng.standard_normal(50), rng.random(50)
    plain, both = conditional_moments(f, u, T, 1), conditional_moments(f, u, T, 1, restraint_energies=r)
    summed = conditional_moments(f, u + r, T, 1)
    for key in ("mean_energy", "heat_capacity", "energy_variance", "mean_force"):
        np.testing.assert_array_equal(both[key][0], plain[key][0])
    for key in ("thermal_response_force", "second_thermal_response_force"):
        np.testing.assert_allclose(both[key][0], summed[key][0], rtol=1e-12)


def test_labels_of_many_configurations():
    rng = np.random.default_rng(7)
    full, bare = moments(draw(60, rng), 1), conditional_moments(*draw(60, rng)[:2], T, 1)
    frames = conditional_labels([full, bare], variables=[POINT[0], POINT[0]], temperature=T, parameters={"l": 1.0})
    assert "energy_variance" not in frames.labels and set(frames.labels) == set(KEYS) - {"energy_variance"}
    np.testing.assert_array_equal(frames.present["parameter_derivative:l"], [True, False])
    np.testing.assert_array_equal(frames.labels["mean_force"][1], bare["mean_force"][0])
    np.testing.assert_array_equal(frames.noise["heat_capacity"], [full["heat_capacity"][1], bare["heat_capacity"][1]])
    only = conditional_labels([full], variables=POINT, temperature=T, keys=["energy_variance"])
    assert list(only.labels) == ["energy_variance"]
    with pytest.raises(DataError, match="no row has the label 'entropy'"):
        conditional_labels([full], variables=POINT, temperature=T, keys=["entropy"])
    with pytest.raises(DataError, match="different shapes"):
        other = conditional_moments(np.ones((9, 3)) * np.arange(9)[:, None], np.arange(9.0), T, 1)
        conditional_labels([bare, other], variables=np.zeros((2, 2)), temperature=T)


def test_what_cannot_be_used_is_refused():
    rng = np.random.default_rng(8)
    f, u = rng.standard_normal((100, 2)), rng.standard_normal(100)
    with pytest.raises(DataError, match="energies has shape"):
        conditional_moments(f, u[:-1], T)
    with pytest.raises(DataError, match="temperature"):
        conditional_moments(f, u, np.full(100, T))
    with pytest.raises(DataError, match="block="):
        conditional_moments(f, u, T, block=0)
    with pytest.raises(DataError, match="fewer than 8 independent"):
        conditional_moments(f, u, T, block=30)
    with pytest.raises(DataError, match="fewer than 8 independent"):
        conditional_moments(np.cumsum(f, 0), u, T)
    with pytest.raises(DataError, match="parameter_derivatives lacks"):
        conditional_moments(f, u, T, force_derivatives={"l": f})
    u[3] = np.nan
    with pytest.raises(DataError, match="energies of frame 3"):
        conditional_moments(f, u, T)
