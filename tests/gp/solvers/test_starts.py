"""The evidence often has several maxima: searches start with several length scales, and the best end counts."""

from __future__ import annotations

import numpy as np
import pytest

import kernelfe
from kernelfe import Frames, FreeEnergyRegressor, Sparse, Term
from kernelfe.descriptors import PairDistances


def ripples(n=40):
    """Forces of a function that varies within a tenth of the range of the data, with noise of a third."""
    rng = np.random.default_rng(3)
    x = rng.uniform(-3, 3, (n, 1))
    f = 0.3 * np.cos(6.0 * x) + 0.03 * rng.normal(size=(n, 1))
    return Frames.from_arrays(variables=x, temperature=300.0, labels={"mean_force": f})


def cluster(frames=8, beads=6, sigma=3.4, depth=0.01):
    """Lennard-Jones clusters, exact forces."""
    rng = np.random.default_rng(0)
    corner = 3.9 * np.stack(np.meshgrid([0, 1, 2], [0, 1], [0], indexing="ij"), -1).reshape(-1, 3)[:beads]
    x = corner + 0.3 * rng.normal(size=(frames, beads, 3))
    d = x[:, :, None] - x[:, None]
    r = np.linalg.norm(d, axis=-1) + 1e9 * np.eye(beads)
    pull = 24 * depth * (2 * (sigma / r) ** 12 - (sigma / r) ** 6) / r**2
    return Frames.from_arrays(x, temperature=120.0, labels={"mean_force": (pull[..., None] * d).sum(2)})


@pytest.mark.parametrize("solver", ["dense", Sparse(inducing=40)], ids=["dense", "sparse"])
def test_ripples_are_not_taken_for_noise(solver):
    model = FreeEnergyRegressor(solver=solver).fit(ripples())
    assert 0.1 < model.fitted_terms()[0][1].kernel.lengthscale < 0.5
    assert model.noise_["mean_force"][0] == pytest.approx(0.03, rel=0.4)


def test_a_pair_potential_from_the_spread_of_the_distances():
    """The length scale started ten times too long and stayed there: 0.6 % of the points were within 1 %."""
    frames = cluster()
    model = FreeEnergyRegressor(terms=Term(PairDistances(15.0)), solver=Sparse(inducing=40), baseline=False).fit(frames)
    error = model.predict(frames, "mean_force") - frames.labels["mean_force"]
    assert np.sqrt(np.mean(error**2)) < 0.01 * frames.labels["mean_force"].std()


def test_smooth_data_keep_their_start():
    system = kernelfe.datasets.EliminatedMode(dimension=1)
    rng = np.random.default_rng(0)
    frames = system.frames(rng.uniform(-1.2, 1.2, (40, 1)), 300.0, ["mean_force"], rng=rng).replace(
        parameters={}, noise={}
    )
    model = FreeEnergyRegressor(solver="dense").fit(frames)
    assert model.fitted_terms()[0][1].kernel.lengthscale > 0.5
