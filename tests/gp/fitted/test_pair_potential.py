"""The pair potential of a term: what predictions are sums of, with calibrated error bars."""

from __future__ import annotations

import numpy as np
import pytest

from kernelfe import Frames, FreeEnergyRegressor, Sparse, Term
from kernelfe.descriptors import PairDistances
from kernelfe.errors import DataError
from kernelfe.kernels import RBF, SecondOrder

CUTOFF, LENGTH = 4.0, 9.0
THERMAL = SecondOrder(300.0, 0.05, 1e-4, 1e-5)
TERM = Term(PairDistances(CUTOFF), RBF(lengthscale=0.5), THERMAL, fixed=True)


def truth(r):
    """A smooth pair potential, eV."""
    return 0.06 * np.exp(-2.0 * (r - 2.8) ** 2)


def pairs(x):
    """Distances of all nearest images within the cutoff, and their directions, by brute force."""
    d = x[:, None] - x[None]
    d -= LENGTH * np.rint(d / LENGTH)
    r = np.linalg.norm(d, axis=-1)
    return r, d, (r < CUTOFF) & (r > 0)


def fluid(n, beads, seed=0):
    rng = np.random.default_rng(seed)
    sites = np.stack([rng.permutation(27)[:beads] for _ in range(n)])
    x = np.stack([sites // 9, sites // 3 % 3, sites % 3], 2) * (LENGTH / 3) + 0.3 * rng.normal(size=(n, beads, 3))
    forces = np.zeros_like(x)
    for frame, at in enumerate(x):
        r, d, near = pairs(at)
        r = np.where(near, r, 1.0)
        slope = -4.0 * (r - 2.8) * truth(r)
        forces[frame] = -(np.where(near, slope / r, 0.0)[..., None] * d).sum(1)
    forces += 0.002 * rng.normal(size=x.shape)
    cell = np.tile(LENGTH * np.eye(3), (n, 1, 1))
    labels = {"labels": {"mean_force": forces}, "noise": {"mean_force": 0.002}}
    return Frames.from_arrays(x, temperature=300.0, cell=cell, kinds=["A"] * beads, **labels)


def fit(terms, solver, frames):
    return FreeEnergyRegressor(terms, solver, baseline=False, optimizer=None).fit(frames)


@pytest.fixture(scope="module", params=["dense", Sparse(inducing=30)], ids=["dense", "sparse"])
def model(request):
    return fit(TERM, request.param, fluid(6, 8))


def test_predictions_are_sums_over_pairs(model):
    test = fluid(5, 8, seed=1)
    total = []
    for x in test.positions:
        r, _, near = pairs(x)
        total.append(model.pair_potential(np.append(r[np.triu(near, 1)], 3.0), reference=None)[:-1].sum())
    expected = model.predict(test, "free_energy", reference=None)
    np.testing.assert_allclose(expected, total, atol=1e-9 * np.abs(expected).max())


def test_error_bars_are_those_of_one_pair(model):
    x = np.full((1, 8, 3), 0.0)
    x[0] = 4.4 * np.array([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)])
    x[0, 1, 2] = 3.1  # beads 0 and 1; all others are farther apart than the cutoff
    assert np.triu(pairs(x[0])[2], 1).sum() == 1
    for quantity in ("free_energy", "entropy", "mean_energy"):
        mean, std = model.predict(x, quantity, cell=LENGTH * np.eye(3), return_std=True, reference=None)
        options = {"quantity": quantity, "return_std": True, "reference": None}
        found = model.pair_potential([3.1], **options)
        np.testing.assert_allclose(np.array(found)[:, 0], [mean[0], std[0]], rtol=1e-6)


def test_the_potential_and_its_force(model):
    """z-scores against the truth, and −du/dr against finite differences."""
    r = np.linspace(2.6, 3.9, 14)
    u, std = model.pair_potential(r, temperature=300.0, return_std=True)
    z = (u - truth(r) + truth(CUTOFF)) / std
    assert np.abs(z).max() < 4.0 and std.max() < 0.01
    force = model.pair_potential(r, quantity="mean_force")
    step = 1e-4
    numeric = -(model.pair_potential(r + step) - model.pair_potential(r - step)) / (2 * step)
    np.testing.assert_allclose(force, numeric, atol=1e-5)
    at, nothing = model.pair_potential([3.0, 3.5], reference=3.5, return_std=True)
    assert abs(at[1]) < 1e-9 and nothing[1] < 1e-6


def test_which_term(model):
    frames = fluid(3, 6)
    two = fit(
        [("near", TERM), ("far", TERM), ("other", Term(PairDistances(3.0, ("A", "A")), RBF(0.5), THERMAL))],
        "dense",
        frames,
    )
    assert two.pair_potential([2.9], "other").shape == (1,)
    for bad, match in (
        ({"term": None}, "'near', 'far', 'other'"),
        ({"term": "none"}, "name one of"),
        ({"r": [5.0]}, "below the cutoff"),
        ({"r": [-1.0]}, "positive"),
        ({"quantity": "stress"}, "a pair has no stress"),
        ({"parameters": {"x": 1.0}}, "depends on the parameters"),
        ({"temperature": -1.0}, "temperature"),
    ):
        with pytest.raises(DataError, match=match):
            two.pair_potential(**({"r": [3.0], "term": "near"} | bad))
    variables = Frames.from_arrays(
        variables=np.arange(6.0)[:, None], temperature=300.0, labels={"free_energy": np.arange(6.0)}
    )
    with pytest.raises(DataError, match="no term on PairDistances"):
        FreeEnergyRegressor(optimizer=None).fit(variables).pair_potential([1.0])
