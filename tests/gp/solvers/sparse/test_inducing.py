"""Choices of inducing environments: spread, ridge leverage, and a fit with each."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kernelfe import FreeEnergyRegressor, Sparse
from kernelfe.errors import DataError
from kernelfe.gp.solvers.sparse.inducing import SELECTIONS, choose, farthest_points, leverage_scores
from kernelfe.kernels import RBF

from ...systems import molecule, one_term
from ...test_symmetrized import star
from ...test_symmetrized import term as symmetric


def pool(n=60, copies=1, seed=0):
    return torch.randn(n, copies, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def images(n=20, copies=3, seed=0):
    """Orbits under cyclic permutations of three columns."""
    z = pool(n, seed=seed)[:, 0]
    return torch.stack([z.roll(k, 1) for k in range(copies)], 1)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_choices_differ_from_each_other_and_repeat(selection):
    z = pool()
    chosen = choose(z, RBF(), 12, selection, seed=3)
    assert 10 <= len(chosen) <= 12 and len(set(chosen.tolist())) == len(chosen)
    assert torch.equal(chosen, choose(z, RBF(), 12, selection, seed=3))
    assert len(choose(z[:0], RBF(), 3, selection)) == 0
    assert sorted(choose(pool(4), RBF(), 10, selection).tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("selection", SELECTIONS)
def test_repeated_candidates_are_taken_once(selection):
    z = torch.cat([pool(6)] * 3)
    chosen = choose(z, RBF(), 6, selection)
    if selection != "leverage":  # which draws, and may draw an image of what it has
        assert len(torch.unique(z[chosen, 0], dim=0)) == len(chosen) == 6


def test_farthest_points_cover_within_twice_the_best_radius():
    z = torch.cat([c + 0.01 * pool(10, seed=k) for k, c in enumerate(10.0 * pool(5, seed=9))])
    chosen = farthest_points(z, 5)
    assert sorted((chosen // 10).tolist()) == [0, 1, 2, 3, 4]  # one of each cluster: no other choice covers so well
    orbits = images(15)
    chosen = farthest_points(orbits, 15)
    turned = torch.cat([orbits, orbits.roll(1, 1)])  # every orbit once more, its members in another order
    assert sorted(farthest_points(turned, 30).tolist()) != list(range(30)) and len(farthest_points(turned, 30)) == 15


@pytest.mark.parametrize("copies", [1, 3])
def test_leverage_scores_are_those_of_the_whole_matrix(copies):
    """With every candidate a landmark they are exact."""
    z = pool(40) if copies == 1 else images(40, copies)
    flat = z.flatten(0, 1)
    gram = RBF().value(flat, flat).reshape(40, copies, 40, copies).sum((1, 3))
    found = leverage_scores(z, RBF(), 20, seed=0)
    assert float(found.sum()) == pytest.approx(20.0, rel=1e-6)

    def exact(ridge):
        return torch.linalg.solve(gram + ridge * torch.eye(40, dtype=torch.float64), gram).diagonal()

    low, high = -12.0, 4.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if float(exact(10.0**middle).sum()) > 20 else (low, middle)
    assert torch.allclose(found, exact(10.0**low), atol=1e-5)


def test_leverage_finds_the_lonely():
    crowd = torch.cat([0.05 * pool(80), pool(4, seed=2) + 20.0 * torch.arange(1.0, 5.0)[:, None, None]])
    scores = leverage_scores(crowd, RBF(), 8, seed=1)
    assert float(scores[80:].min()) > 5.0 * float(scores[:80].max())
    found = [(choose(crowd, RBF(), 8, "leverage", seed=k) >= 80).sum() / 4 for k in range(20)]
    assert float(torch.stack(found).mean()) > 0.6  # drawn evenly: 8 of 84


@pytest.mark.parametrize("selection", SELECTIONS)
def test_a_fit_with_each(selection):
    frames, solver = molecule(40), Sparse(inducing=15, selection=selection)
    model, again = (
        FreeEnergyRegressor(one_term(), solver=solver, baseline=False, optimizer=None).fit(frames) for _ in range(2)
    )
    assert len(model.posterior_.basis.inducing[0]) >= 12
    np.testing.assert_array_equal(model.predict(frames, "mean_force"), again.predict(frames, "mean_force"))
    assert model.score(frames) > 0.6


@pytest.mark.parametrize("selection", SELECTIONS)
def test_orbits_are_chosen_whole_or_refused(selection):
    frames, solver = star(24), Sparse(inducing=6, selection=selection)
    model = FreeEnergyRegressor(symmetric(), solver=solver, baseline=False, optimizer=None)
    if selection == "kmeans":
        with pytest.raises(DataError, match="permutations of like beads"):
            model.fit(frames)
        return
    model.fit(frames)
    basis = model.posterior_.basis
    assert len(basis.inducing[0]) == 6 * 6 and basis.ranks[0] == 6  # six permutations of three arms
    turned, plain = (
        model.predict(frames.positions[:5][:, order], temperature=300.0) for order in ([0, 2, 3, 1], [0, 1, 2, 3])
    )
    np.testing.assert_allclose(turned, plain, atol=1e-9)


def test_unknown_selection_is_refused():
    for bad in (lambda: Sparse(selection="random"), lambda: choose(pool(), RBF(), 3, "random")):
        with pytest.raises(DataError, match="'random' must be 'pivots'"):
            bad()
