"""Cross-fitted control variates: less noise, the same mean."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2

from kernelfe.datasets import load, load_atoms
from kernelfe.errors import DataError
from kernelfe.statistics import Variates, distance_features, fragment_motions, local_frames, reduce_noise
from kernelfe.units import factor

KJ = factor("kJ/mol")


def problem(seed, n=400, p=30):
    """y = m(R) + β·v + ε with v of zero mean at every R, heteroscedastic in R."""
    rng = np.random.default_rng(seed)
    r = rng.uniform(-1.0, 1.0, n)
    v = rng.standard_normal((n, p)) * (1.0 + 0.5 * r[:, None])
    beta = rng.standard_normal(p) / np.sqrt(p)
    mean = np.stack([np.sin(3.0 * r), r**2], 1)
    y = mean + np.stack([v @ beta, 2.0 * (v @ beta)], 1) + 0.2 * rng.standard_normal((n, 2))
    return r, v, y, mean


def test_noise_falls_to_what_variates_do_not_explain():
    r, v, y, mean = problem(0)
    features = np.stack([r**k for k in range(1, 7)], 1)
    found = reduce_noise(y, v, features=features)
    assert (found.std_before > [0.8, 1.6]).all() and (found.std_after < 0.25).all()
    np.testing.assert_allclose((found.values - mean).std(0), 0.2, atol=0.04)
    exact = reduce_noise(y, v, mean=mean)
    np.testing.assert_allclose((exact.values - mean).std(0), 0.2, atol=0.04)
    crude = reduce_noise(y, v)  # ⟨y⟩_R taken for noise: less is gained, nothing is lost
    assert 0.2 < (crude.values - mean)[:, 0].std() < 0.5


def test_labels_keep_their_mean_over_repeats():
    """Mean of (reduced − true mean), weighted by any function of R, over repeats: χ² against its own scatter."""
    z = []
    for seed in range(200):
        r, v, y, mean = problem([1, seed], n=60, p=30)
        gap = (reduce_noise(y, v, folds=3).values - mean)[:, 0]
        z.append([gap.mean(), (gap * r).mean(), (gap * np.sin(3.0 * r)).mean()])
    z = np.array(z)
    statistic = len(z) * z.mean(0) ** 2 / z.var(0, ddof=1)
    assert (statistic < chi2.ppf(1 - 1e-3, 1)).all()


def test_fitting_in_sample_would_be_biased():
    """The reason for the folds: coefficients fitted to a frame's own noise shrink it towards the average of ⟨y⟩."""
    slopes = []
    for seed in range(100):
        r, v, y, _ = problem([2, seed], n=60, p=40)
        inside = y[:, 0] - v @ np.linalg.lstsq(v, y[:, 0] - y[:, 0].mean(), rcond=None)[0]
        outside = reduce_noise(y[:, 0], v, folds=5).values
        slopes.append([np.polyfit(np.sin(3.0 * r), values, 1)[0] for values in (inside, outside)])
    inside, outside = np.mean(slopes, 0)
    assert inside < 0.6  # truth 1
    assert abs(outside - 1.0) < 4.0 * np.std(slopes, 0)[1] / 10.0


def test_groups_have_their_own_averages():
    r, v, y, _ = problem(3)
    group = np.repeat([0, 1], len(r) // 2)
    shifted = y + 100.0 * group[:, None]
    one = reduce_noise(shifted, v, groups=group)
    np.testing.assert_allclose(one.values - 100.0 * group[:, None], reduce_noise(y, v, groups=group).values, atol=1e-9)
    assert (one.std_after < 2.0).all() and (reduce_noise(shifted, v).std_before > 20.0).all()


def test_shapes_are_kept_and_constants_harmless():
    _, v, y, _ = problem(4)
    assert reduce_noise(y[:, 0], v).values.shape == y[:, 0].shape
    assert reduce_noise(y[:, 0], v).std_after.shape == ()
    deep = reduce_noise(y.reshape(-1, 1, 2), v)
    np.testing.assert_array_equal(deep.values[:, 0], reduce_noise(y, v).values)
    zero = np.zeros((len(v), 1))
    np.testing.assert_allclose(reduce_noise(y, zero).values, y)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variates": np.zeros((3, 2))}, "variates must be"),
        ({"features": np.zeros(400)}, "features must be"),
        ({"groups": np.zeros(3)}, "groups has shape"),
        ({"mean": np.zeros(400)}, "mean has shape"),
        ({"folds": 500}, "cannot cut"),
        ({"folds": 5.0}, "folds=5.0"),
        ({"groups": np.full(400, np.nan)}, "groups hold"),
        ({"variates": np.zeros((400, 0))}, "at least one column"),
        ({"labels": np.full((400, 2), np.nan)}, "labels of frame 0"),
    ],
)
def test_errors_name_the_culprit(change, message):
    _, v, y, _ = problem(5)
    with pytest.raises(DataError, match=message):
        reduce_noise(**({"labels": y, "variates": v} | change))


def test_local_frames_turn_with_the_molecule():
    rng = np.random.default_rng(0)
    r = np.arange(5)[:, None] * [1.0, 0.3, 0.0] + rng.normal(scale=0.3, size=(4, 5, 3))
    frames = local_frames(r)
    np.testing.assert_allclose(frames @ frames.swapaxes(2, 3), np.broadcast_to(np.eye(3), frames.shape), atol=1e-12)
    assert (np.linalg.det(frames) > 0.0).all()
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    np.testing.assert_allclose(local_frames(r @ turn.T + 1.0), frames @ turn.T, atol=1e-10)
    with pytest.raises(DataError, match="three beads"):
        local_frames(r[:, :2])
    with pytest.raises(DataError, match="on a line"):
        local_frames(np.arange(3)[None, :, None] * np.ones((2, 1, 3)))


@pytest.mark.slow
def test_noise_of_real_labels():
    """Alanine dipeptide at 300 K: U from 10.6 to below 5.3 kJ/mol, forces on the outer beads fourfold less noisy."""
    atoms, frames = load_atoms("alanine-dipeptide"), load("alanine-dipeptide")
    rows = np.flatnonzero(np.isin(atoms.temperature, (300.0, 400.0)))
    motions = fragment_motions(atoms.bonds, atoms.bead_atoms, atoms.constraints, atoms.masses)
    x, t = atoms.positions[rows], atoms.temperature[rows]
    v = Variates.of(motions, x).evaluate(x, atoms.forces[rows], t)
    r = x[:, atoms.bead_atoms]
    labels = frames[atoms.frame[rows]].labels
    features = distance_features(r)
    energy = reduce_noise(labels["mean_energy"], v, features=features, groups=t)
    cold = t == 300.0
    gone = labels["mean_energy"] - energy.values
    assert abs(gone[cold].mean()) < 4.0 * gone[cold].std() / np.sqrt(cold.sum())
    assert energy.std_before / KJ > 12.0 and energy.std_after / KJ < 6.0
    force = np.einsum("nbij,nbj->nbi", local_frames(r), labels["mean_force"])
    reduced = reduce_noise(force, v, features=features, groups=t)
    before, after = (np.sqrt((s**2).mean(1)) / KJ for s in (reduced.std_before, reduced.std_after))
    assert (after[[0, 3, 5]] < 0.45 * before[[0, 3, 5]]).all() and (after < 0.75 * before).all()
    torque = reduce_noise(labels["generalized_force"], v, features=features, groups=t)
    assert (torque.std_after <= torque.std_before * 1.01).all() and (torque.std_after / KJ < 11.0).all()
