"""Sums over pairs and triplets: against brute force over images, both implementations, every kind of cell."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from kernelfe.compiled import (
    CloseBeads,
    Features,
    Grid,
    PairTables,
    Table,
    TripletColumns,
    add_pairs,
    add_triplets,
    kind_numbers,
    triplet_energy,
)
from kernelfe.errors import DataError
from kernelfe.geometry.skin import SkinList

from .conftest import CELLS, beads, reference_pairs, reference_triplets, strained

#: Fewer and wider splines than those of a model, two kinds of beads: everything happens with few beads.
PAIRS, TRIPLETS, TOP = Grid(1.2, 0.7, 3), Grid(0.55, 0.45, 4), 3
KINDS = [0, 1, 0, 0, 1]
PAIR_COLUMNS = np.array([[0, 3], [3, 6]], np.int32)


def triplet_columns(kinds: int, size: int, top: int, start: int) -> tuple[TripletColumns, int]:
    """Columns per centre kind and unordered kinds of neighbours; a ≤ b where these are equal; and their end."""
    base, width = np.zeros((kinds,) * 3, int), np.zeros((kinds,) * 3, int)
    local = np.zeros((kinds,) * 3 + (size, size), int)
    for i, j, k in itertools.product(range(kinds), repeat=3):
        if j > k:
            continue
        products = [(a, b) for a in range(size) for b in range(a if j == k else 0, size)]
        for count, (a, b) in enumerate(products):
            local[i, j, k, a, b] = local[i, k, j, b, a] = count * top
        base[i, j, k] = base[i, k, j] = start
        width[i, j, k] = width[i, k, j] = len(products) * top
        start += len(products) * top
    return TripletColumns(base, local, width), start


TRIPLET_COLUMNS, SIZE = triplet_columns(2, TRIPLETS.size, TOP, 9)


def features(x, cell, derivatives: bool = True) -> Features:
    out, kinds = Features(SIZE, len(x), derivatives), kind_numbers(KINDS[: len(x)])
    pairs = SkinList(PAIRS.stop, 0.5).pairs(x, cell)
    add_pairs(out, pairs, kinds, PAIRS, PAIR_COLUMNS)
    add_triplets(out, CloseBeads(len(x), 2).fill(pairs, TRIPLETS.stop), kinds, TRIPLETS, TRIPLET_COLUMNS, TOP)
    return out


def energy(x, cell, weights, tables=()):
    """Energy, forces and derivatives by strain of the same sums."""
    forces, strain, kinds = np.zeros((len(x), 3)), np.zeros(6), kind_numbers(KINDS[: len(x)])
    pairs = SkinList(PAIRS.stop, 0.5).pairs(x, cell)
    rows = PAIRS.polynomials(weights[:9].reshape(3, 3))
    table = Table(PAIRS.start, PAIRS.spacing, rows, PAIR_COLUMNS // 3)
    total = PairTables([table, *tables]).add(pairs, kinds, forces, strain)
    close = CloseBeads(len(x)).fill(pairs, TRIPLETS.stop)
    coefficients = TRIPLET_COLUMNS.coefficients(weights, TOP)
    return total + triplet_energy(close, kinds, TRIPLETS, coefficients, forces, strain), forces, strain


@pytest.fixture(scope="module")
def brute():
    """z, Jacobian and derivative by strain of every cell, by automatic differentiation of the brute force."""
    out = {}
    for number, (name, cell) in enumerate(CELLS.items()):
        x, box = torch.from_numpy(beads(number, cell)), torch.from_numpy(cell)

        def z(x, e, box=box):
            x, box = strained(x, box, e)
            pairs = reference_pairs(x, box, KINDS, PAIRS, PAIR_COLUMNS, SIZE)
            return pairs + reference_triplets(x, box, KINDS, TRIPLETS, TRIPLET_COLUMNS, TOP, SIZE)

        inputs = x.requires_grad_(), torch.zeros(6, dtype=x.dtype, requires_grad=True)
        value = z(*inputs)
        each = torch.eye(SIZE, dtype=x.dtype)
        jacobian, strain = torch.autograd.grad(value, inputs, each, is_grads_batched=True)
        jacobian = jacobian.reshape(SIZE, -1)
        out[name] = x.detach().numpy(), value.detach().numpy(), jacobian.numpy(), strain.numpy()
    return out


@pytest.mark.parametrize("name", CELLS)
def test_features_are_those_of_brute_force(loops, brute, name):
    x, z, jacobian, strain = brute[name]
    found = features(x, CELLS[name])
    assert (np.abs(z) > 1e-3).mean() > 0.6  # the test sees most columns
    for one, other in ((found.z, z), (found.jacobian, jacobian), (found.strain.T, strain)):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10)
    np.testing.assert_array_equal(features(x, CELLS[name], derivatives=False).z, found.z)


@pytest.mark.parametrize("name", CELLS)
def test_energies_are_products_of_weights_and_features(loops, brute, name):
    x, z, jacobian, strain = brute[name]
    weights = np.random.default_rng(0).normal(size=SIZE)
    value, forces, by_strain = energy(x, CELLS[name], weights)
    np.testing.assert_allclose(value, weights @ z, rtol=1e-10)
    np.testing.assert_allclose(forces.ravel(), -weights @ jacobian, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(by_strain, weights @ strain, rtol=1e-10, atol=1e-10)


def test_further_tables_add(loops):
    """A core on a finer grid, as a line below its start and nothing beyond its end."""
    cell, x = CELLS["cubic"], np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.7], [2.5, 2.5, 2.5]])
    r = 1.0 + 0.01 * np.arange(151)
    core, slope = 3.0 * np.exp(-4.0 * r), -12.0 * np.exp(-4.0 * r)
    table = Table.hermite(1.0, 0.01, core[None], slope[None], np.array([[-1, 0], [0, -1]]))
    value, forces, strain = energy(x, cell, np.zeros(SIZE), [table])
    assert value == pytest.approx(core[0] - 0.3 * slope[0], rel=1e-12)  # beads 0 and 1 only; 2 is 4.3 Å away
    np.testing.assert_allclose(forces, [[0, 0, slope[0]], [0, 0, -slope[0]], [0, 0, 0]], atol=1e-12)
    np.testing.assert_allclose(strain, [0, 0, 0.7 * slope[0], 0, 0, 0], atol=1e-12)
    x[1, 2] = 1.7345
    assert energy(x, cell, np.zeros(SIZE), [table])[0] == pytest.approx(3.0 * np.exp(-4.0 * 1.7345), rel=1e-8)


def test_symmetries(loops):
    """Order of the beads, rotations of everything, translations, lattice vectors: the energy is the same."""
    rng, cell = np.random.default_rng(1), CELLS["triclinic"]
    x, weights = beads(3, cell), rng.normal(size=SIZE)
    value, forces, _ = energy(x, cell, weights)
    order = np.array([2, 4, 3, 0, 1])  # exchanges beads of a kind
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    for changed in (
        energy(x[order], cell, weights),
        energy(x @ turn, cell @ turn, weights),
        energy(x + rng.normal(size=3), cell, weights),
        energy(x + rng.integers(-3, 4, (5, 3)) @ cell, cell, weights),
        energy(x, np.array([[1, 2, 0], [0, 1, 0], [-1, 0, 1]]) @ cell, weights),
    ):
        assert changed[0] == pytest.approx(value, rel=1e-10)
    np.testing.assert_allclose(energy(x[order], cell, weights)[1], forces[order], atol=1e-9)
    np.testing.assert_allclose(energy(x @ turn, cell @ turn, weights)[1], forces @ turn, atol=1e-9)
    np.testing.assert_allclose(forces.sum(0), 0.0, atol=1e-10)


def test_overlapping_beads_give_finite_numbers(loops):
    x = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
    value, forces, _ = energy(x, CELLS["cubic"], np.ones(SIZE))
    assert np.isfinite(value) and np.isfinite(forces).all()


def test_grids_and_tables_say_what_is_wrong():
    for make in (
        lambda: Grid(2.0, 0.1, 0),
        lambda: Grid(2.0, -0.1, 9),
        lambda: Table(0.0, 0.1, np.zeros((1, 4, 3)), np.zeros((1, 1))),
        lambda: Table(0.0, 0.1, np.full((1, 4, 4), np.nan), np.zeros((1, 1))),
        lambda: Table(0.0, 0.1, np.zeros((1, 4, 4)), np.array([[0, 0], [-1, 0]])),
        lambda: Table(0.0, 0.1, np.zeros((1, 4, 4)), np.ones((1, 1))),
        lambda: TripletColumns(np.zeros((1, 1, 1)), np.arange(4).reshape(1, 1, 1, 2, 2), np.zeros((1, 1, 1))),
    ):
        with pytest.raises(DataError):
            make()
