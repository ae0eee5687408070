"""Configurations far from the training data are flagged, held-out ones are not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import kernelfe
from kernelfe import Frames, FreeEnergyRegressor, Sparse
from kernelfe.descriptors import PairDistances
from kernelfe.errors import DataError
from kernelfe.geometry.topology import separation
from kernelfe.gp import condition
from kernelfe.gp.fitted import domain
from kernelfe.gp.fitted.domain import Domain
from kernelfe.kernels import RBF, SecondOrder

#: Share of held-out frames that may be flagged.
FALSE_ALARMS = 0.01


@pytest.fixture(scope="module")
def data():
    return kernelfe.datasets.load("alanine-dipeptide")


def first(frames, each):
    """The first frames at every temperature: the rest of the run is also held out in time."""
    at = [np.flatnonzero(frames.temperature == t)[:each] for t in np.unique(frames.temperature)]
    return frames[np.concatenate(at)]


@pytest.fixture(scope="module")
def model(data):
    return FreeEnergyRegressor(solver=Sparse(inducing=100), optimizer=None).fit(
        first(data[data.temperature != 350], 300)
    )


def distorted(data, seed=0):
    """50 starts: half with two beads on top of each other, half with a stretched bond."""
    rng = np.random.default_rng(seed)
    x = np.array(data.positions[rng.integers(len(data), size=50)])
    bonds, beads = data.bonds, x.shape[1]
    far = np.argwhere(np.triu(separation(bonds, beads) >= 3, 1))
    for k in range(50):
        direction = rng.normal(size=3)
        direction /= np.linalg.norm(direction)
        if k % 2:
            i, j = far[rng.integers(len(far))]
            x[k, j] = x[k, i] + rng.uniform(0.0, 1.5) * direction  # overlapping beads that are not bonded
        else:
            i, j = bonds[rng.integers(len(bonds))]
            length = x[k, j] - x[k, i]
            length *= 1.0 + rng.uniform(0.4, 1.5) / np.linalg.norm(length)
            rest = [b for b in range(beads) if separation(bonds, beads)[i, b] > separation(bonds, beads)[j, b]]
            x[k, rest] += length - (x[k, j] - x[k, i])  # all beads beyond the bond move along
    return x


def test_every_distorted_start_is_flagged(model, data):
    score = model.domain_score(distorted(data))
    assert (score > 1.0).all(), f"starts {np.flatnonzero(score <= 1.0)} were not flagged"


@pytest.mark.parametrize("each", [75, 300, 1250])
def test_few_held_out_frames_are_flagged(model, data, each):
    # the domain asks the kernel only: the hyperparameters of one fit serve all sizes
    domain = Domain.of([term for _, term in model.terms_], first(data[data.temperature != 350], each))
    for t in np.unique(data.temperature):
        held_out = data.positions[data.temperature == t][0 if t == 350 else each :]
        flagged = (domain.score(torch.from_numpy(np.array(held_out))) > 1.0).double().mean()
        assert flagged <= FALSE_ALARMS, f"{float(flagged):.2%} of {len(held_out)} frames at {t:g} K"


def test_the_culprit_is_named(model, data):
    x = np.array(data.positions[0])
    x[1] += 0.8 * (x[1] - x[0]) / np.linalg.norm(x[1] - x[0])
    said = model.domain_.culprit(torch.from_numpy(x))
    assert "beads" in said
    assert "in training" in said
    assert "not finite" in model.domain_.culprit(torch.from_numpy(x * np.nan))


@given(st.integers(0, 2**31))
def test_the_score_is_invariant_and_finite_numbers_only_are_inside(model, data, seed):
    rng = np.random.default_rng(seed)
    x = np.array(data.positions[rng.integers(len(data), size=3)])
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    moved = x @ turn.T + rng.normal(size=3)
    np.testing.assert_allclose(model.domain_score(moved), model.domain_score(x), rtol=1e-6, atol=1e-6)
    x[1, 0, 0] = rng.choice([np.nan, np.inf, -np.inf])
    score = model.domain_.score(torch.from_numpy(x))
    assert torch.isfinite(score[[0, 2]]).all()
    assert score[1] == torch.inf


def test_beads_at_one_point_are_outside(model, data):
    x = np.zeros((1, *data.positions.shape[1:]))
    assert model.domain_score(x)[0] == np.inf


def test_variables_inside_and_outside():
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1, size=(200, 2))
    model = FreeEnergyRegressor().fit(x, x[:, 0] ** 2 + 0.01 * rng.normal(size=200))
    assert (model.domain_score(rng.uniform(0.02, 0.98, size=(500, 2))) > 1.0).mean() <= 0.02
    assert (model.domain_score(np.array([[0.5, 3.0], [-2.0, 0.5], [9.0, 9.0]])) > 1.0).all()


def test_a_hole_in_the_data_is_novel():
    """A ring of data: its centre is within the extremes of every column, and was never seen."""
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 2 * np.pi, 400)
    ring = np.stack([np.cos(angle), np.sin(angle)], 1) + 0.02 * rng.normal(size=(400, 2))
    term = kernelfe.Term(kernel=kernelfe.kernels.RBF(lengthscale=0.3))
    model = FreeEnergyRegressor(term, optimizer=None).fit(ring, ring[:, 0])
    assert model.domain_score(np.zeros((1, 2)))[0] > 1.0
    assert (model.domain_score(ring) <= 1.0).mean() > 0.99


def test_saved_with_the_model(model, data, tmp_path):
    model.save(tmp_path / "model.kfe")
    again = kernelfe.load(tmp_path / "model.kfe")
    np.testing.assert_array_equal(again.domain_score(data[:20]), model.domain_score(data[:20]))


def test_models_of_the_first_release_have_none():
    from ..file.test_first_release import FILES

    model = kernelfe.load(FILES / "dense.kfe")
    with pytest.raises(DataError, match="fit it again"):
        model.domain_score(np.zeros((1, *model.coordinate_shape_)))


def test_periodic_frames_ask_the_environments():
    rng = np.random.default_rng(0)
    lattice = 4.0 * np.stack(np.meshgrid(*[np.arange(3)] * 3), -1).reshape(-1, 3)
    x = lattice + 0.2 * rng.normal(size=(60, 27, 3))
    frames = Frames.from_arrays(
        x, temperature=300.0, labels={"mean_force": rng.normal(size=x.shape)}, kinds=["A"] * 27, cell=12.0 * np.eye(3)
    )
    term = kernelfe.Term(kernelfe.descriptors.PairDistances(cutoff=5.5))
    model = FreeEnergyRegressor(term, solver=Sparse(inducing=20), optimizer=None).fit(frames[:40])
    assert (model.domain_score(frames[40:]) <= 1.0).mean() >= 0.9
    overlapping = np.array(x[40])
    overlapping[1] = overlapping[0] + 0.3
    assert model.domain_score(frames[40:41].drop_labels().replace(positions=overlapping[None]))[0] > 1.0


def test_many_beads_are_looked_at_a_few_frames_at_a_time(monkeypatch):
    """Memory is set by the block, not by frames times pairs of beads; the answer is that of all at once."""
    x = np.random.default_rng(0).normal(size=(1500, 60, 3))
    frames, taken = kernelfe.Frames.from_arrays(x, temperature=300.0), []
    settings = domain.DomainSettings()
    pairs = domain._pairs(x, settings.pairs)
    whole = domain._distances(torch.from_numpy(x), pairs)[0][0]
    distances = domain._distances
    monkeypatch.setattr(domain, "_distances", lambda x, p: taken.append(3 * len(x) * len(p)) or distances(x, p))
    low, _, high = domain._extremes([], frames, pairs, settings.rigid)
    assert len(taken) > 1 and max(taken) <= domain._ENTRIES
    np.testing.assert_array_equal(low, whole.amin(0))
    np.testing.assert_array_equal(high, whole.amax(0))


def test_frames_without_environments_teach_nothing():
    """Beads beyond the cutoff of a pair term: an update by such frames alone leaves the domain as it was."""
    rng, apart = np.random.default_rng(0), np.resize([1.4, 1.6, 1.5, 9.0], 16)
    x = np.stack([np.zeros((16, 3)), apart[:, None] * [1.0, 0.0, 0.0]], 1) + 0.05 * rng.normal(size=(16, 2, 3))
    frames = Frames.from_arrays(
        x,
        temperature=300.0,
        labels={"mean_force": 0.1 * rng.normal(size=x.shape)},
        noise={"mean_force": 0.1},
        cell=np.tile(20.0 * np.eye(3), (16, 1, 1)),
    )
    term = kernelfe.Term(PairDistances(3.0), RBF(lengthscale=1.0), SecondOrder(300.0, 0.1, 1e-4, 1e-4))
    model = FreeEnergyRegressor(term, solver="dense", optimizer=None, baseline=False).fit(frames)
    later = condition(model, frames[apart > 3.0])
    np.testing.assert_allclose(later.domain_score(frames), model.domain_score(frames), atol=1e-9)
    assert model.domain_score(frames)[:3].max() <= 1.0
