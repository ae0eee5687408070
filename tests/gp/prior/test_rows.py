"""Rows of frames with many environments: against sums written out, and with memory that blocks bound."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kernelfe import Frames, FreeEnergyRegressor, Sparse, Term
from kernelfe.descriptors import Distances, PairDistances
from kernelfe.functionals import get
from kernelfe.gp.prior import rows as rows_module
from kernelfe.gp.prior.prior import Prior
from kernelfe.gp.prior.term import TermModule
from kernelfe.gp.states import States
from kernelfe.kernels import RBF, SecondOrder

ELL, SCALE, T = 0.7, 0.3, 300.0
BEADS, CUTOFF = 60, 4.6


def liquid(frames: int, beads: int = BEADS, seed: int = 0) -> np.ndarray:
    """Beads on a jittered lattice, 2.2 Å apart: those inside have about thirty neighbours within the cutoff."""
    rng = np.random.default_rng(seed)
    side = math.ceil(beads ** (1 / 3))
    lattice = 2.2 * np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3)[:beads]
    return lattice + 0.2 * rng.normal(size=(frames, beads, 3))


def make_prior() -> Prior:
    spec = Term(PairDistances(cutoff=CUTOFF), RBF(lengthscale=ELL), SecondOrder(T, SCALE, 1e-4, 1e-4), ())
    return Prior([TermModule(spec, 1)], None)


def block(prior: Prior, key: str, positions: np.ndarray):
    frames = Frames.from_arrays(positions, temperature=T)
    return prior.rows(get(key), States.from_frames(frames))


def naive_variances(positions: np.ndarray, key: str) -> np.ndarray:
    """Prior variances of the labels of one frame by loops over pairs of pairs."""
    environments = PairDistances(cutoff=CUTOFF).environments(torch.from_numpy(positions[None]))
    z = environments.z[:, 0].numpy()
    delta = (z[:, None] - z) / ELL
    kappa = np.exp(-0.5 * delta**2)
    scale = SCALE**2  # at T0, where entropy and heat capacity add nothing
    if key == "free_energy":
        return np.array([scale * kappa.sum()])
    jacobian = np.zeros((len(z), positions.size))
    for e in range(len(z)):
        jacobian[e, environments.columns[e].numpy()] += environments.jacobian[e, 0].numpy()
    slopes = kappa * (1.0 - delta**2) / ELL**2
    return scale * np.einsum("eq,ef,fq->q", jacobian, slopes, jacobian)


@pytest.mark.parametrize("key", ["free_energy", "mean_force"])
def test_variances_of_frames_with_many_pairs(key):
    """60 beads have several hundred pairs; all at once would take the square of six times their number."""
    positions, prior = liquid(2), make_prior()
    with torch.no_grad():
        rows = block(prior, key, positions)
        assert len(rows.terms[0][0].jets) > 2 * 8 * BEADS
        found = prior.diagonal(rows).reshape(2, -1).numpy()
    for frame in range(2):
        np.testing.assert_allclose(found[frame], naive_variances(positions[frame], key), rtol=1e-9)


def test_variances_of_a_thousand_beads_fit_into_memory():
    """Forces on 1000 beads: all pairs of rows of pairs would be tens of gigabytes."""
    prior = make_prior()
    with torch.no_grad():
        rows = block(prior, "mean_force", liquid(1, 1000))
        found = prior.diagonal(rows)
    assert found.shape == (3000,) and bool((found > 0).all())


@pytest.mark.parametrize("keys", [("free_energy", "mean_force"), ("mean_force", "mean_force")])
def test_covariances_by_blocks_of_environments(keys, monkeypatch):
    prior, a, b = make_prior(), liquid(2, 12), liquid(3, 12, seed=1)
    with torch.no_grad():
        left, right = block(prior, keys[0], a), block(prior, keys[1], b)
        whole = prior.gram(left, right)
        diagonal = prior.diagonal(left)
        for numbers in (600, 20000):
            monkeypatch.setattr(rows_module, "ENVIRONMENT_NUMBERS", numbers)
            torch.testing.assert_close(prior.gram(left, right), whole, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(prior.gram(left, left).diagonal(), diagonal, rtol=1e-11, atol=1e-13)


def test_variances_are_differentiable():
    prior = make_prior()
    rows = block(prior, "mean_force", liquid(1, 8))
    found = torch.autograd.grad(prior.diagonal(rows).sum(), list(prior.parameters()))
    rows = block(prior, "mean_force", liquid(1, 8))
    expected = torch.autograd.grad(prior.gram(rows, rows).diagonal().sum(), list(prior.parameters()))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_selections_and_differences_of_rows():
    prior = make_prior()
    with torch.no_grad():
        rows = block(prior, "mean_force", liquid(4, 8))
        gram = prior.gram(rows, rows)
        chosen, m = torch.tensor([3, 0, 3]), rows.components
        at = (chosen[:, None] * m + torch.arange(m)).flatten()
        torch.testing.assert_close(prior.gram(rows.take(chosen), rows), gram[at], rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(prior.gram(rows.slice(1, 3), rows), gram[m : 3 * m], rtol=1e-12, atol=1e-14)
        pair = rows.slice(0, 2) - rows.slice(2, 4)
        expected = gram[: 2 * m, : 2 * m] + gram[2 * m :, 2 * m :] - gram[: 2 * m, 2 * m :] - gram[2 * m :, : 2 * m]
        torch.testing.assert_close(prior.gram(pair, pair), expected, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(prior.diagonal(pair), expected.diagonal(), rtol=1e-10, atol=1e-12)


def test_a_sparse_fit_by_blocks_of_environments(monkeypatch):
    """Blocks of a few environments give the predictions of all at once."""
    rng = np.random.default_rng(1)
    positions = liquid(6, 8)
    frames = Frames.from_arrays(positions, temperature=T, labels={"mean_force": 0.1 * rng.normal(size=positions.shape)})
    terms = [
        ("pairs", Term(PairDistances(cutoff=CUTOFF), RBF(lengthscale=ELL), SecondOrder(T, SCALE, 1e-4, 1e-4), ())),
        ("shape", Term(Distances(), RBF(lengthscale=9.0), SecondOrder(T, SCALE, 1e-4, 1e-4), ())),
    ]

    def found():
        model = FreeEnergyRegressor(terms=terms, solver=Sparse(6), optimizer=None).fit(frames)
        return np.concatenate(
            [v.ravel() for v in model.predict(positions[:2] + 0.05, "mean_force", return_std=True, temperature=T)]
        )

    whole = found()
    monkeypatch.setattr(rows_module, "ENVIRONMENT_NUMBERS", 500)
    np.testing.assert_allclose(found(), whole, rtol=1e-7, atol=1e-9)
