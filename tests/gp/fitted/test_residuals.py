"""Structure in residual forces is found where there is some, and not in noise."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from kernelfe import Frames, FreeEnergyRegressor, Term
from kernelfe.descriptors import Distances
from kernelfe.gp.fitted.residuals import structure, warn_of_structure
from kernelfe.kernels import RBF

CHANCE = 1e-3


def pair_forces(x, cell=None, size=0.3):
    """Forces of the energy −size·sin(3r)/3 of every pair."""
    v = x[:, :, None] - x[:, None]
    if cell is not None:
        v -= cell * np.round(v / cell)
    r = np.linalg.norm(v, axis=-1)[..., None] + np.eye(x.shape[1])[..., None]
    return (size * np.cos(3.0 * r) * v / r).sum(2)


def frames_of(x, forces, **options):
    return Frames.from_arrays(x, temperature=300.0, labels={"mean_force": forces}, **options)


def boxes(n, beads, rng, size):
    return rng.uniform(0.0, size, (n, beads, 3))


@pytest.mark.parametrize("seed", range(8))
def test_noise_of_any_kind_has_no_structure(seed):
    """Independent, anticorrelated within a frame, with heavy tails, of a width that depends on the configuration."""
    rng = np.random.default_rng(seed)
    x = boxes(150, 5, rng, 5.0)
    noise = [rng.normal(size=x.shape), rng.standard_t(3, size=x.shape)][seed % 2]
    if seed % 4 > 1:
        noise[:, 1] = -noise[:, 0]
        noise *= np.linalg.norm(x[:, :1] - x[:, 1:2], axis=-1)[..., None]
    assert structure(frames_of(x, 3.0 * noise), noise).chance > CHANCE


def test_a_missing_pair_force_is_found_and_located():
    rng = np.random.default_rng(0)
    x, noise = boxes(200, 4, rng, 4.0), rng.normal(size=(200, 4, 3))
    edge = x[:, 1] - x[:, 3]
    r = np.linalg.norm(edge, axis=1, keepdims=True)
    missing = np.where(r < 2.5, 1.5, -0.5) * edge / r
    residuals = 0.5 * noise
    residuals[:, 1] += missing
    residuals[:, 3] -= missing
    worst = structure(frames_of(x, residuals), residuals)
    assert worst.chance < CHANCE and worst.pair == "beads 1 and 3"
    assert worst.force == pytest.approx(1.5 if worst.distances[1] < 2.5 else -0.5, abs=0.4)


def test_pairs_of_a_liquid_are_joined_by_kinds():
    """20 beads in a cell, all positions wrapped at random: only nearest images show the force."""
    rng, cell = np.random.default_rng(1), 8.0
    x = boxes(60, 20, rng, cell)
    forces, noise = pair_forces(x, cell), rng.normal(size=x.shape)
    shifted = x + cell * rng.integers(-2, 3, x.shape)
    frames = frames_of(shifted, forces + noise, cell=cell * np.eye(3), kinds=["A"] * 12 + ["B"] * 8)
    assert structure(frames, noise).chance > CHANCE
    worst = structure(frames, noise + forces)
    assert worst.chance < CHANCE and worst.pair in ("beads A and A", "beads A and B", "beads B and B")


def test_residuals_that_are_small_beside_the_forces_do_not_matter():
    x = boxes(300, 4, np.random.default_rng(2), 5.0)
    forces = pair_forces(x)
    assert structure(frames_of(x, forces), 0.01 * forces) is None
    assert structure(frames_of(x, forces), 0.2 * forces).chance < CHANCE


class Fixed:
    """A model that predicts these forces."""

    def __init__(self, forces):
        self.forces = forces

    def predict(self, frames, quantity):
        assert quantity == "mean_force"
        return self.forces(frames.positions)


def springs(x):
    """Forces of springs between all pairs."""
    v = x[:, :, None] - x[:, None]
    r = np.linalg.norm(v, axis=-1)[..., None] + np.eye(x.shape[1])[..., None]
    return -((r - 2.5) * v / r).sum(2)


@pytest.fixture(scope="module")
def sprung():
    rng = np.random.default_rng(3)
    x = np.cumsum(0.7 * rng.normal(size=(70, 3, 3)) + [1.5, 0.0, 0.0], 1)
    return frames_of(x, springs(x) + 0.2 * rng.normal(size=x.shape), bonds=())


def test_the_warning_names_the_beads(sprung):
    with pytest.warns(UserWarning, match="residuals of the forces show structure.*between beads 0 and 2 at"):
        warn_of_structure(Fixed(np.zeros_like), sprung)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_structure(Fixed(springs), sprung)
        warn_of_structure(Fixed(np.zeros_like), sprung[:40])  # too few to judge
        warn_of_structure(Fixed(np.zeros_like), sprung.drop_labels("mean_force"))


@pytest.mark.slow
def test_a_fit_warns_of_terms_that_see_too_little(sprung):
    options = {"baseline": False, "solver": "dense"}
    blind = FreeEnergyRegressor(Term(Distances(pairs=[(0, 1)]), RBF(0.5)), **options)
    with pytest.warns(UserWarning, match="residuals of the forces show structure.*between beads . and 2 at"):
        blind.fit(sprung)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FreeEnergyRegressor(Term(Distances(), RBF(0.5)), **options).fit(sprung)
