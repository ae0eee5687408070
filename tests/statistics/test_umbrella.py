"""MBAR differences between bins against a free energy known exactly."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2

import kernelfe
from kernelfe.errors import DataError
from kernelfe.statistics import bin_free_energies, pair_label_frames
from kernelfe.units import BOLTZMANN

pytest.importorskip("pymbar")
T, GRID = 300.0, np.linspace(-1.7, 1.7, 3401)
EDGES = np.linspace(-1.3, 1.3, 14)
CENTRES, STIFF = np.linspace(-1.2, 1.2, 9), 0.8


def free_energy(r):
    """A double well of 0.2 eV, that plain sampling at 300 K does not cross."""
    return 0.2 * (r**2 - 1) ** 2 + 0.02 * r


def draw(energy, kt, n, rng):
    p = np.exp(-(energy - energy.min()) / kt)
    return np.interp(rng.random(n), np.cumsum(p) / p.sum(), GRID + 0.5 * (GRID[1] - GRID[0]))


def windows(n, rng):
    """Samples of nine windows, their states, and the bias of every window at every sample."""
    bias = 0.5 * STIFF * (GRID - CENTRES[:, None]) ** 2
    r = np.concatenate([draw(free_energy(GRID) + w, BOLTZMANN * T, n, rng) for w in bias])
    return r, np.repeat(np.arange(len(CENTRES)), n), 0.5 * STIFF * (r - CENTRES[:, None]) ** 2


def exact(t=T):
    """−kT ln of the probability of each bin, relative to the first."""
    cell = np.searchsorted(EDGES, GRID, side="right") - 1
    weight = np.exp(-free_energy(GRID) / (BOLTZMANN * t))
    a = -BOLTZMANN * t * np.log([weight[cell == k].sum() for k in range(len(EDGES) - 1)])
    return a - a[0]


def test_windows_cross_the_barrier_and_errors_are_those_stated():
    """25 repeats here, 200 in the slow test."""
    check(25, 120)


@pytest.mark.slow
def test_errors_of_differences_are_calibrated():
    check(200, 200)


def check(repeats, n):
    rng, truth, z, far = np.random.default_rng(repeats), exact(), [], []
    for _ in range(repeats):
        r, state, bias = windows(n, rng)
        found = bin_free_energies(r[:, None], [EDGES], state, T, biases=bias)
        np.testing.assert_allclose(found.centres[:, 0], 0.5 * (EDGES[1:] + EDGES[:-1]))
        i, j, value, std = found.pairs()
        assert len(i) == len(truth) - 1
        z.append((value - (truth[j] - truth[i])) / std)
        far.append((found.free_energy[-1] - truth[-1]) / found.std[0, -1])
    z, far = np.array(z), np.array(far)
    p = chi2.cdf((z**2).sum(0), repeats)
    assert ((1e-3 < p) & (p < 1 - 1e-3)).all(), (z**2).mean(0)
    assert 1e-3 < chi2.cdf((far**2).sum(), repeats) < 1 - 1e-3, (far**2).mean()
    correlation = np.corrcoef(z.T) - np.eye(z.shape[1])
    assert np.abs(correlation).mean() < 0.35  # the labels enter a fit as independent: they nearly are


def test_other_temperatures_without_bias():
    """Three temperatures that cross, reweighted to a fourth that does not."""
    rng = np.random.default_rng(1)
    ladder = np.array([400.0, 600.0, 900.0])
    r = np.concatenate([draw(free_energy(GRID), BOLTZMANN * t, 4000, rng) for t in ladder])
    state = np.repeat(np.arange(3), 4000)
    found = bin_free_energies(r[:, None], [EDGES], state, ladder, energies=free_energy(r), target=350.0)
    z = (found.free_energy - exact(350.0))[1:] / found.std[0, 1:]
    assert np.sqrt((z**2).mean()) < 2.0
    frames = pair_label_frames([found])
    assert len(frames.pairs) == len(frames) - 1 and (frames.temperature == 350.0).all()


def test_a_model_learns_the_differences():
    r, state, bias = windows(200, np.random.default_rng(2))
    frames = pair_label_frames([bin_free_energies(r[:, None], [EDGES], state, T, biases=bias)])
    term = kernelfe.Term(kernelfe.descriptors.Variables(), kernelfe.kernels.RBF(lengthscale=0.5))
    model = kernelfe.FreeEnergyRegressor(terms=term, temperature=T).fit(frames)
    a = model.predict(frames, "free_energy", reference=0)
    assert np.abs(a - exact()).max() < 0.02


def test_correlated_samples_widen_the_errors():
    r, state, bias = windows(100, np.random.default_rng(3))
    one, four = (bin_free_energies(r[:, None], [EDGES], state, T, biases=bias, inefficiency=g) for g in (1.0, 4.0))
    np.testing.assert_allclose(four.std, 2.0 * one.std)


def test_what_cannot_be_used_is_refused():
    r, state, bias = windows(30, np.random.default_rng(4))
    x = r[:, None]
    for arguments, options, message in (
        ((x, [EDGES, EDGES], state, T), {}, "variables must be"),
        ((x, [EDGES**3], state, T), {}, "evenly spaced"),
        ((x, [EDGES], state[:5], T), {}, "state must be"),
        ((x, [EDGES], state, T), {"biases": bias[:, :4]}, "biases must be"),
        ((x, [EDGES], state * 0, T), {"biases": bias}, "has no samples"),
        ((x, [EDGES], state, np.linspace(300, 400, 9)), {"biases": bias}, "target="),
        ((x, [EDGES], state, T), {"biases": bias, "target": 400.0}, "energies="),
        ((x, [EDGES], state, T), {"biases": bias, "inefficiency": 0.5}, "at least 1"),
        ((x, [EDGES], state, T), {"biases": bias, "fewest": 1000}, "0 bins hold"),
    ):
        with pytest.raises(DataError, match=message):
            bin_free_energies(*arguments, **options)
    with pytest.raises(DataError, match="no bin free energies"):
        pair_label_frames([])


def test_energies_of_a_large_box_fluctuate_by_more_than_a_thousand_kt():
    """An energy of distant solvent, added to every sample, does not change differences between bins."""
    rng = np.random.default_rng(11)
    r = draw(free_energy(GRID), BOLTZMANN * 900.0, 400, rng)[:, None]
    edges, state = [np.linspace(-1.5, 1.5, 4)], np.zeros(400, int)
    plain = bin_free_energies(r, edges, state, 900.0)
    solvent = bin_free_energies(r, edges, state, 900.0, energies=rng.normal(0.0, 60.0, 400))
    np.testing.assert_allclose(solvent.free_energy, plain.free_energy, atol=1e-6)
    np.testing.assert_allclose(solvent.std, plain.std, atol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"temperatures": [300.0, 310.0]}, "temperatures of the states"),
        ({"temperatures": "warm"}, "real numbers"),
        ({"biases": 3.0}, "biases must be"),
        ({"target": -3.0, "energies": np.zeros(40)}, "positive"),
        ({"target": np.nan, "energies": np.zeros(40)}, "positive"),
        ({"inefficiency": [1.0, 2.0]}, "inefficiency"),
        ({"state": np.full(40, 10**12)}, "state must be"),
        ({"edges": [[1.0, 0.0, -1.0]]}, "increasing"),
    ],
)
def test_other_wrong_arguments(wrong, message):
    x = np.linspace(-1.0, 1.0, 40)[:, None]
    sound = {"variables": x, "edges": [[-1.0, 0.0, 1.0]], "state": np.zeros(40, int), "temperatures": T}
    with pytest.raises(DataError, match=message):
        bin_free_energies(**(sound | wrong))
