"""Joint predictions against the conditioning formula written out, and draws against their covariance."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import kernelfe
from kernelfe import FreeEnergyRegressor, functionals
from kernelfe.errors import DataError
from kernelfe.gp import Query

from ..systems import beads, molecule, one_term, two_terms


@pytest.fixture(scope="module", params=["dense", "sparse"])
def model(request):
    solver = "dense" if request.param == "dense" else kernelfe.Sparse(inducing=20)
    return FreeEnergyRegressor(terms=two_terms(), solver=solver, optimizer=None, baseline=False).fit(molecule(10))


@pytest.fixture(scope="module")
def places():
    return beads(4, np.random.default_rng(5))


def naive(model, a, b):
    """Posterior covariance of two row blocks by a plain solve with the whole label covariance (dense model)."""
    posterior = model.posterior_
    prior, noise = posterior.prior, 0.01**2  # what molecule() states for both labels
    blocks = [label.rows(prior) for label in posterior.labels]
    with torch.no_grad():
        gram = torch.cat([torch.cat([prior.gram(x, y) for y in blocks], 1) for x in blocks])
        left, right = (torch.cat([prior.gram(x, y) for y in blocks], 1) for x in (a, b))
        gram = gram + noise * torch.eye(len(gram), dtype=torch.float64)
        return (prior.gram(a, b) - left @ torch.linalg.solve(gram, right.T)).numpy()


def test_quantities_places_and_temperatures_mix(model, places):
    """Two quantities at two temperatures and two sets of places, against the formula and against single calls."""
    first, second = Query(places, "mean_force", 320.0), Query(places[:2], "entropy", 480.0)
    found = model.joint(first, second)
    assert found.sizes == (48, 2) and found.mean.shape == (50,)
    np.testing.assert_array_equal(found.covariance, found.covariance.T)
    cross = model.covariance(places, "mean_force", "entropy", temperature=320.0, X2=places[:2], temperature2=480.0)
    np.testing.assert_allclose(found.block(0, 1), cross, rtol=1e-8, atol=1e-12)
    std = model.predict(places, "mean_force", temperature=320.0, return_std=True)[1].ravel()
    np.testing.assert_allclose(found.std[:48], std, rtol=1e-6)
    np.testing.assert_allclose(found.mean[48:], model.predict(places[:2], "entropy", temperature=480.0))
    if model.posterior_.labels is not None:
        a = model.model_.rows(places, "mean_force", 320.0)[0]
        b = model.model_.rows(places[:2], "entropy", 480.0)[0]
        np.testing.assert_allclose(cross, naive(model, a, b), rtol=1e-6, atol=1e-12)


def test_combinations_are_taken_of_the_whole_covariance(model, places):
    force, energy = Query(places, "mean_force", 320.0), Query(places, "mean_energy", 400.0)
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(3, 48)), rng.normal(size=(3, 4))
    combined = model.joint(left @ force - 2.0 * (right @ energy), energy)
    whole = model.joint(force, energy)
    matrix = np.block([[left, -2.0 * right], [np.zeros((4, 48)), np.eye(4)]])
    expected = whole.combined(matrix)
    np.testing.assert_allclose(combined.mean, expected.mean, rtol=1e-10)
    np.testing.assert_allclose(combined.covariance, expected.covariance, rtol=1e-6, atol=1e-12)
    twice = model.joint(np.ones(3) @ (left @ force))
    np.testing.assert_allclose(twice.mean, whole.combined(np.concatenate([left.sum(0), np.zeros(4)])).mean, rtol=1e-9)


def test_composed_functionals_and_frames_at_other_temperatures(model, places):
    """A = U − T S holds for means and for covariances: the functional that is zero has no variance."""
    frames = kernelfe.Frames.from_arrays(places, temperature=300.0, kinds=("A", "B", "B", "A"))
    a, u, s = (Query(frames, key, 450.0) for key in ("free_energy", "mean_energy", "entropy"))
    nothing = model.joint(a - u + 450.0 * s)
    assert np.abs(nothing.mean).max() < 1e-10 and nothing.std.max() < 1e-7
    composed = functionals.MeanEnergy() - functionals.Entropy().times_temperature(1, "eV")
    covariance = model.covariance(frames, composed, temperature=450.0)
    np.testing.assert_allclose(covariance, model.covariance(frames, temperature=450.0), rtol=1e-5, atol=1e-12)
    at_300 = model.covariance(frames)
    assert not np.allclose(at_300, covariance, rtol=1e-3)


def test_differences_agree_with_predict_difference(model, places):
    value, covariance = model.predict_difference(places[:2], places[2:], 300.0, 500.0, return_cov=True)
    found = model.joint(Query(places[2:], temperature=500.0) - Query(places[:2], temperature=300.0))
    np.testing.assert_allclose(found.mean, value, rtol=1e-9)
    np.testing.assert_allclose(found.covariance, covariance, rtol=1e-6, atol=1e-12)


def test_draws_have_the_joint_mean_and_covariance(model, places):
    draws = model.sample(places, ["free_energy", "mean_force"], 4000, seed=2, temperature=400.0)
    assert draws["free_energy"].shape == (4000, 4) and draws["mean_force"].shape == (4000, 4, 4, 3)
    flat = np.column_stack([draws["free_energy"], draws["mean_force"].reshape(4000, -1)])
    exact = model.joint(*(Query(places, q, 400.0) for q in ("free_energy", "mean_force")))
    root = exact.std / np.sqrt(4000)
    assert np.all(np.abs(flat.mean(0) - exact.mean) < 4.5 * root + 1e-12)
    scale = np.maximum(exact.std, 1e-12)
    correlation = np.cov(flat.T) / np.outer(scale, scale) - exact.covariance / np.outer(scale, scale)
    assert np.abs(correlation).max() < 0.1  # 4000 draws: 0.02
    again = model.sample(places, ["free_energy", "mean_force"], 4000, seed=2, temperature=400.0)
    np.testing.assert_array_equal(draws["mean_force"], again["mean_force"])


def test_what_does_not_fit_is_refused(model, places):
    force, energy = Query(places, "mean_force"), Query(places, "mean_energy")
    with pytest.raises(DataError, match="cannot be added"):
        model.joint(force + energy)
    with pytest.raises(DataError, match="cannot combine the 4 rows"):
        model.joint(np.ones((1, 5)) @ energy)
    with pytest.raises(DataError, match="cannot combine a query of 1 rows"):
        np.ones((1, 3)) @ (np.ones((1, 4)) @ energy)
    with pytest.raises(DataError, match="finite matrix"):
        np.full((1, 4), np.nan) @ energy
    with pytest.raises(DataError, match="one or several"):
        model.joint("entropy")
    with pytest.raises(TypeError):
        energy + 1.0


@pytest.mark.parametrize("beads_at_one_place", [(0, 1, 2, 3), (1, 2)])
def test_forces_of_coincident_beads_are_unknown(places, beads_at_one_place):
    """Distances have no direction where beads coincide: their forces read as zero, and were said to be certain."""
    model = FreeEnergyRegressor(terms=one_term(), optimizer=None, baseline=False).fit(molecule(10))
    x = places.copy()
    x[1, list(beads_at_one_place)] = x[1, beads_at_one_place[0]]
    std = model.predict(x, "mean_force", return_std=True)[1]
    unknown = np.zeros((4, 4), dtype=bool)
    unknown[1, list(beads_at_one_place)] = True
    assert np.array_equal(np.isinf(std).all(2), unknown) and np.isfinite(std[~unknown]).all()
    assert (std[~unknown] > 0).all()
    for quantity in ("free_energy", "mean_energy"):  # which exist there
        value = model.predict(x, quantity, return_std=True)[1]
        assert np.isfinite(value).all() and (value > 0).all()
