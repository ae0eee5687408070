"""Nearest images: the shortest of all images in any cell, by whatever basis the lattice is written."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelfe.allatom import make_whole
from kernelfe.descriptors import Distances
from kernelfe.errors import DataError
from kernelfe.geometry.cell import image_shifts, minimum_image

ALL = np.array(list(itertools.product(range(-3, 4), repeat=3)), float)


def lattices(rng, skew):
    """A cell (3, 3) of any orientation, sheared by whole vectors up to ``skew`` times: the same lattice."""
    cell = np.diag(rng.uniform(2.0, 6.0, 3)) + np.tril(rng.uniform(-2.5, 2.5, (3, 3)), -1)
    cell = cell @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
    change = np.eye(3)
    for _ in range(skew):
        i, j = rng.choice(3, 2, replace=False)
        change[i] += rng.choice([-1.0, 1.0]) * change[j]
    return cell, change @ cell


def shortest(v, cell):
    """By trial of all images about the rounded one, in a reduced basis."""
    from ase.geometry import minkowski_reduce

    basis = minkowski_reduce(cell)[0]
    v = v - np.round(v @ np.linalg.inv(basis)) @ basis
    return np.linalg.norm(v[:, None] - ALL @ basis, axis=-1).min(1)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 5))
def test_images_are_the_shortest(seed, skew):
    rng = np.random.default_rng(seed)
    pairs = [lattices(rng, skew) for _ in range(3)]
    v = rng.uniform(-9.0, 9.0, (3, 50, 3))
    cells = torch.from_numpy(np.array([cell for _, cell in pairs]))
    found = minimum_image(torch.from_numpy(v), cells).numpy()
    one = minimum_image(torch.from_numpy(v), cells[0]).numpy()
    for k, (plain, cell) in enumerate(pairs):
        np.testing.assert_allclose(np.linalg.norm(found[k], axis=-1), shortest(v[k], plain), atol=1e-9)
        shift = (v[k] - found[k]) @ np.linalg.inv(cell)
        np.testing.assert_allclose(shift, np.round(shift), atol=1e-8)
    np.testing.assert_array_equal(one[0], found[0])


@pytest.mark.parametrize("turn", [0.0, 3.0])
def test_distances_in_a_skewed_cell(turn):
    """60°, also with a basis that is far from reduced: the rounded image is .794 away, the nearest .505."""
    cell = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.75**0.5, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    x = torch.tensor([[[0.0, 0.0, 0.0], [0.4583, 0.4583, 0.0]]], dtype=torch.float64) @ cell
    cell = torch.tensor([[1.0, 0.0, 0.0], [turn, 1.0, 0.0], [0.0, 2.0 * turn, 1.0]], dtype=torch.float64) @ cell
    assert abs(float((x[0, 1] - x[0, 0]).norm()) - 0.794) < 1e-3
    assert abs(float(Distances().environments(x, cell).z) - 0.505) < 1e-3


def test_gradients_pass_the_shift():
    rng = np.random.default_rng(0)
    cell = torch.from_numpy(lattices(rng, 3)[1]).requires_grad_()
    v = torch.from_numpy(rng.uniform(-9.0, 9.0, (1, 2, 3))).requires_grad_()
    assert torch.autograd.gradcheck(lambda v, cell: minimum_image(v, cell).norm(dim=-1).sum(), (v, cell))


def test_a_lattice_is_prepared_once_per_cell(monkeypatch):
    """Repeated calls with one cell reduce and invert nothing; a cell that changed in place is another one."""
    rng = np.random.default_rng(5)
    v = torch.tensor(rng.normal(scale=20.0, size=(1, 40, 3)))
    cell = torch.tensor([[10.0, 0.0, 0.0], [15.0, 8.66, 0.0], [25.0, 2.887, 8.165]], dtype=torch.float64)
    first = minimum_image(v, cell)
    with monkeypatch.context() as patch:
        patch.setattr("kernelfe.geometry.cell.inverse_cell", None)
        assert torch.equal(minimum_image(v, cell), first)
        torch.testing.assert_close(minimum_image(v, cell[None]), first)
    cell *= 1.1
    torch.testing.assert_close(minimum_image(1.1 * v, cell), 1.1 * first)
    several = minimum_image(v.repeat(2, 1, 1), cell.repeat(2, 1, 1))
    torch.testing.assert_close(several[1:], minimum_image(v, cell))


def test_orthorhombic_cells_round():
    v = torch.tensor([[[4.0, 0.0, -11.0]]], dtype=torch.float64)
    cell = torch.diag(torch.tensor([5.0, 6.0, 7.0], dtype=torch.float64))
    assert image_shifts(v, cell).tolist() == [[[1.0, 0.0, -2.0]]]
    with pytest.raises(DataError, match="no volume"):
        minimum_image(v, torch.zeros(3, 3, dtype=torch.float64))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_molecules_are_made_whole_in_any_cell(seed):
    """Bonds below half the shortest lattice vector, which rounding in a skewed basis would not find."""
    rng = np.random.default_rng(seed)
    plain, cell = lattices(rng, 4)
    from ase.geometry import minkowski_reduce

    bond = 0.49 * np.linalg.norm(minkowski_reduce(plain)[0], axis=1).min()
    steps = rng.normal(size=(1, 5, 3))
    chain = np.cumsum(bond * steps / np.linalg.norm(steps, axis=-1, keepdims=True), axis=1)
    cut = chain + rng.integers(-2, 3, chain.shape) @ cell
    out = make_whole(cut, cell[None], [(k, k + 1) for k in range(4)])
    np.testing.assert_allclose(out - out[:, :1], chain - chain[:, :1], atol=1e-8)
