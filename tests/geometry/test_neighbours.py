"""Neighbour search: the pairs of ASE's search in any cell, canonical order, derivatives, and runs that blow up."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.neighborlist import primitive_neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelfe.errors import DataError
from kernelfe.geometry.neighbours import all_pairs, cell_lists, neighbours

#: Pairs this close to the cutoff may be in or out by rounding.
EDGE = 1e-9


def rows(found) -> np.ndarray:
    """Beads i, j and v of each pair, (E, 5), sorted."""
    return in_order(np.column_stack([found.i.numpy(), found.j.numpy(), found.v.detach().numpy()]))


def in_order(out: np.ndarray) -> np.ndarray:
    return out[np.lexsort(np.round(out.T[::-1], 7))]


def of_ase(x: np.ndarray, box: np.ndarray | None, cutoff: float) -> np.ndarray:
    i, j, image = primitive_neighbor_list("ijS", (box is not None,) * 3, np.eye(3) if box is None else box, x, cutoff)
    keep = [a < b or (a == b and tuple(s) > (0, 0, 0)) for a, b, s in zip(i, j, image, strict=True)]
    i, j, image = i[keep], j[keep], image[keep]
    return in_order(np.column_stack([i, j, x[j] - x[i] + (0 if box is None else image @ box)]))


@st.composite
def systems(draw):
    """Positions (1, beads, 3), not wrapped, a cell (3, 3), cubic to strongly skewed, or None, and a cutoff."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size, skew = draw(st.floats(2.0, 20.0)), draw(st.sampled_from([0.0, 0.3, 1.2]))
    box = size * (np.diag(rng.uniform(0.5, 2.0, 3)) + skew * np.tril(rng.uniform(-1.0, 1.0, (3, 3)), -1))
    box = box @ np.linalg.qr(rng.normal(size=(3, 3)))[0]  # any orientation, any handedness
    beads, spread = draw(st.integers(1, 40)), draw(st.sampled_from([1.0, 3.0]))
    x = spread * (rng.uniform(size=(beads, 3)) - draw(st.sampled_from([0.0, 0.5, 2.0]))) @ box
    return x, None if draw(st.booleans()) and draw(st.booleans()) else box, draw(st.floats(0.1, 1.2)) * size


@settings(max_examples=150, deadline=None)
@given(systems())
def test_the_pairs_are_those_of_ase(system):
    x, box, cutoff = system
    wanted = of_ase(x, box, cutoff)
    length = np.linalg.norm(wanted[:, 2:], axis=1)
    if (np.abs(length - cutoff) < EDGE).any():
        return
    tensor, cell = torch.from_numpy(x)[None], None if box is None else torch.from_numpy(box)
    for search in (cell_lists, neighbours):
        found = search(tensor, cell, cutoff)
        np.testing.assert_allclose(rows(found), wanted, rtol=0.0, atol=1e-9)
        assert (found.i <= found.j).all()
        pair = found.i * len(x) + found.j
        assert (pair.diff() >= 0).all()


@given(systems(), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_the_order_does_not_depend_on_images(system, seed):
    """Beads moved by lattice vectors are the same configuration: same pairs in the same order of i and j."""
    x, box, cutoff = system
    if box is None:
        return
    moved = x + np.random.default_rng(seed).integers(-3, 4, x.shape) @ box
    one, two = (cell_lists(torch.from_numpy(p)[None], torch.from_numpy(box), cutoff) for p in (x, moved))
    if len(one.i) == len(two.i):  # else a pair is at the cutoff
        assert torch.equal(one.i, two.i) and torch.equal(one.j, two.j)
        np.testing.assert_allclose(rows(one), rows(two), rtol=0.0, atol=1e-8)
    else:
        assert min(abs(v.norm(dim=1) - cutoff).min() for v in (one.v, two.v)) < EDGE


def test_frames_masks_and_cells_of_their_own():
    generator = torch.Generator().manual_seed(0)
    x = 10.0 * torch.rand(4, 30, 3, generator=generator, dtype=torch.float64)
    cells = torch.diag_embed(10.0 + torch.rand(4, 3, generator=generator, dtype=torch.float64))
    mask = np.zeros((30, 30), bool)
    mask[:10, 10:] = True
    mask |= mask.T
    for search in (all_pairs, cell_lists):
        found = search(x, cells, 4.0, mask)
        assert (found.frame.diff() >= 0).all() and (found.i < 10).all() and (found.j >= 10).all()
        for k in range(4):
            np.testing.assert_array_equal(rows(search(x[k : k + 1], cells[k], 4.0, mask)), rows(_of(found, k)))
    assert len(cell_lists(x[:0], cells[:0], 4.0).i) == 0 and len(all_pairs(x[:0], cells[:0], 4.0).i) == 0


def _of(found, k):
    return type(found)(*(part[found.frame == k] for part in found))


def test_one_bead():
    x = torch.zeros(1, 1, 3, dtype=torch.float64)
    assert len(cell_lists(x, None, 5.0).i) == 0
    found = neighbours(x, 3.0 * torch.eye(3, dtype=torch.float64), 3.1)
    assert found.v.tolist() == [[0.0, 0.0, 3.0], [0.0, 3.0, 0.0], [3.0, 0.0, 0.0]]


def test_vectors_can_be_differentiated_twice():
    x = torch.rand(1, 12, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64).mul(6.0).requires_grad_()
    cell = (6.0 * torch.eye(3, dtype=torch.float64)).requires_grad_()

    def energy(x, cell):
        return torch.exp(-cell_lists(x, cell, 7.0).v.norm(dim=1)).sum()

    assert torch.autograd.gradgradcheck(energy, (x, cell))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300, 1e12, 1e6])
@pytest.mark.parametrize("cell", [None, 7.0 * torch.eye(3, dtype=torch.float64)], ids=["free", "cubic"])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_a_bead_that_was_lost_disturbs_no_other(value, cell, axes):
    """Runs that blow up are found by their guard: a search must not end the process."""
    x = 7.0 * torch.rand(1, 20, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    there = x.clone()
    there[0, 3, :axes] = value
    with_it, without = cell_lists(there, cell, 3.0), cell_lists(x, cell, 3.0)
    rest = [found.v[(found.i != 3) & (found.j != 3)] for found in (with_it, without)]
    assert len(rest[0]) > 10 and torch.equal(*rest)


def test_flat_and_long_systems():
    """Grids of many cells with one thin direction, in which vesin's own limit on cells ends in a division by zero."""
    rng = np.random.default_rng(3)
    for size in ((1500.0, 1500.0, 1.0), (1.0, 1500.0, 1500.0), (4e5, 1.0, 1.0), (1500.0, 1.0, 1500.0)):
        x = torch.from_numpy(rng.uniform(size=(1, 400, 3)) * size)
        x[0, 1] = x[0, 0] + 0.5
        wide = torch.diag(torch.tensor(size, dtype=torch.float64) + 9.0)
        for cell in (None, wide):
            np.testing.assert_allclose(
                rows(cell_lists(x, cell, 3.0)), rows(all_pairs(x, cell, 3.0)), rtol=0.0, atol=1e-9
            )


def test_cells_that_cannot_be_searched():
    x = torch.zeros(1, 2, 3, dtype=torch.float64)
    with pytest.raises(DataError, match="no volume"):
        neighbours(x, torch.zeros(3, 3, dtype=torch.float64), 1.0)
    with pytest.raises(DataError, match="too flat or long"):
        cell_lists(x, torch.diag(torch.tensor([1e9, 1.0, 1.0], dtype=torch.float64)), 1.0)
