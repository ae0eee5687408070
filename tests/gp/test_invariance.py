"""Symmetries of the model: conservative forces, rotations, translations, like beads."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kernelfe import Frames, FreeEnergyRegressor, Sparse, Term
from kernelfe.descriptors import InternalCoordinates, PairDistances
from kernelfe.kernels import RBF, Matern52

from .systems import THERMAL, beads, molecule, one_term, two_terms

X = beads(4, np.random.default_rng(7))
INTERNAL = Term(
    InternalCoordinates(bonds=((0, 1), (1, 2)), angles=((0, 1, 2),), dihedrals=((0, 1, 2, 3),)), RBF(1.5), THERMAL
)


def fit(terms, solver="dense", frames=None, baseline=None):
    frames = molecule() if frames is None else frames
    return FreeEnergyRegressor(terms=terms, solver=solver, optimizer=None, baseline=baseline).fit(frames)


@pytest.fixture(scope="module", params=["dense", "sparse", "baseline", "internal"])
def model(request):
    if request.param == "sparse":
        return fit(two_terms(), Sparse(inducing=8, gradients=True), baseline=False)
    return fit(
        INTERNAL if request.param == "internal" else two_terms(),
        baseline=None if request.param == "baseline" else False,
    )


def rotation(seed):
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


def test_forces_are_minus_the_gradient_of_the_free_energy(model):
    """Fourth-order central differences of predicted free energies, at two temperatures."""
    for t in (310.0, 520.0):
        force = model.predict(X, "mean_force", temperature=t)
        for bead, axis in ((0, 0), (1, 2), (3, 1)):
            step = np.zeros_like(X)
            step[:, bead, axis] = 2e-3
            a = [model.predict(X + k * step, "free_energy", temperature=t, reference=None) for k in (-2, -1, 1, 2)]
            slope = (8 * (a[2] - a[1]) - (a[3] - a[0])) / (12 * 2e-3)
            np.testing.assert_allclose(force[:, bead, axis], -slope, rtol=0, atol=1e-7)


@pytest.mark.parametrize("solver", ["dense", Sparse(inducing=8, gradients=True)])
@pytest.mark.parametrize("terms", [one_term(), INTERNAL])
def test_work_around_a_closed_loop_vanishes(terms, solver):
    """The trapezoidal rule converges exponentially for the analytic kernel."""
    model = fit(terms, solver, baseline=False)
    angle = np.linspace(0, 2 * np.pi, 65)[:-1]
    rng = np.random.default_rng(3)
    first, second = 0.2 * rng.normal(size=(2, 4, 3))
    path = X[0] + np.cos(angle)[:, None, None] * first + np.sin(angle)[:, None, None] * second
    tangent = -np.sin(angle)[:, None, None] * first + np.cos(angle)[:, None, None] * second
    work = (model.predict(path, "mean_force", temperature=400.0) * tangent).sum((1, 2)) * (2 * np.pi / 64)
    assert abs(work.sum()) < 1e-7 and np.abs(work).max() > 1e-4


def test_rotations_and_translations(model):
    for seed in range(3):
        turn, shift = rotation(seed), 5.0 * np.random.default_rng(seed).normal(size=3)
        moved = X @ turn.T + shift
        for quantity in ("free_energy", "mean_energy", "entropy"):
            mean, std = model.predict(X, quantity, return_std=True, reference=None)
            mean2, std2 = model.predict(moved, quantity, return_std=True, reference=None)
            np.testing.assert_allclose(mean2, mean, rtol=0, atol=1e-8 * np.abs(mean).max())
            np.testing.assert_allclose(std2, std, rtol=0, atol=1e-6 * np.abs(std).max())
        force = model.predict(X, "mean_force")
        np.testing.assert_allclose(
            model.predict(moved, "mean_force"), force @ turn.T, rtol=0, atol=1e-8 * np.abs(force).max()
        )
        np.testing.assert_allclose(force.sum(1), 0.0, atol=1e-9)  # no net force, no net torque
        np.testing.assert_allclose(np.cross(X, force).sum(1), 0.0, atol=1e-9)


ORDER = [3, 2, 1, 0]  # exchanges like beads: kinds are A, B, B, A


@pytest.mark.parametrize("kinds", [None, ("A", "B"), ("B", "B")])
def test_pair_terms_do_not_tell_like_beads_apart(kinds):
    model = fit(Term(PairDistances(cutoff=6.0, kinds=kinds), Matern52(lengthscale=1.2), THERMAL), baseline=False)
    a, a2 = (model.predict(x, "free_energy", reference=None) for x in (X, X[:, ORDER]))
    np.testing.assert_allclose(a2, a, rtol=0, atol=1e-8 * np.abs(a).max())
    force, force2 = (model.predict(x, "mean_force") for x in (X, X[:, ORDER]))
    np.testing.assert_allclose(force2, force[:, ORDER], rtol=0, atol=1e-8 * np.abs(force).max())
    unlike = X[:, [1, 0, 2, 3]]
    assert kinds is None or np.abs(model.predict(unlike, "free_energy", reference=None) - a).max() > 1e-4


def test_relabelled_molecules_give_relabelled_predictions():
    """Distances of a molecule depend on the numbers of the beads: relabel training and test data alike."""
    frames = molecule()
    labels = {k: v[:, ORDER] if v.ndim == 3 else v for k, v in frames.labels.items()}
    relabelled = Frames.from_arrays(
        frames.positions[:, ORDER], temperature=frames.temperature, labels=labels, noise=dict(frames.noise)
    )
    model, other = fit(one_term(), frames=frames), fit(one_term(), frames=relabelled)
    force, force2 = model.predict(X, "mean_force"), other.predict(X[:, ORDER], "mean_force")
    np.testing.assert_allclose(force2, force[:, ORDER], rtol=0, atol=1e-8 * np.abs(force).max())
    assert np.abs(model.predict(X[:, ORDER], "mean_force") - force[:, ORDER]).max() > 1e-3


def test_kinds_of_the_frames_reach_the_descriptors():
    model = fit(Term(PairDistances(cutoff=6.0, kinds=("A", "B")), RBF(1.0), THERMAL), baseline=False)
    assert model.terms_[0][1].spec.descriptor.bead_kinds == ("A", "B", "B", "A")
    assert torch.is_tensor(model.posterior_.weights)
