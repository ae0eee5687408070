"""Sums of splines over pairs and triplets: definition, derivatives, invariances, continuity at the cutoff."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline
from scipy.special import eval_legendre

from kernelfe.descriptors import PairSplines, TripletSplines
from kernelfe.descriptors.manybody import UniformSplines
from kernelfe.errors import DataError
from kernelfe.kernels import SplineWeights
from kernelfe.testing import check_descriptor, check_kernel

CELL = torch.tensor([[7.0, 0.0, 0.0], [1.5, 6.5, 0.0], [-1.0, 0.8, 7.5]], dtype=torch.float64)
KINDS = ("A", "B", "A", "B", "B", "A", "A")
PAIRS = PairSplines(3.2, start=0.5, spacing=0.45)
TRIPLETS = TripletSplines(cutoff=2.9, start=1.5, spacing=0.7, degree=2)
MIXED = [
    PairSplines(3.2, ("A", "B"), KINDS, start=0.5, spacing=0.45),
    TripletSplines(2.9, 1.5, 0.7, 2, ("A", "B", "B"), KINDS),
    TripletSplines(2.9, 1.5, 0.7, 2, ("B", "A", "B"), KINDS),
]


def box(seed: int = 0, frames: int = 2, beads: int = 7) -> torch.Tensor:
    scaled = torch.rand(frames, beads, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (3.0 * scaled - 1.0) @ CELL


def basis(splines: UniformSplines, r: float) -> np.ndarray:
    knots = splines.first + splines.step * np.arange(splines.count + 4)
    return np.array([BSpline.basis_element(knots[a : a + 5], extrapolate=False)(r) for a in range(splines.count)])


def by_definition(descriptor, x: np.ndarray, cell: np.ndarray, kinds) -> np.ndarray:
    """z of one frame by loops over beads and images."""
    images = np.array(list(itertools.product((-2, -1, 0, 1, 2), repeat=3))) @ cell
    x = x @ np.linalg.inv(cell)
    x = (x - np.floor(x)) @ cell
    splines, wanted = descriptor.splines, descriptor.kinds
    near = [
        [
            (kinds[j], v)
            for j in range(len(x))
            for v in x[j] + images - x[i]
            if 1e-9 < np.linalg.norm(v) < descriptor.cutoff
        ]
        for i in range(len(x))
    ]
    if isinstance(descriptor, PairSplines):
        z = np.zeros(splines.count)
        for i, around in enumerate(near):
            for kind, v in around:
                if wanted is None or {kinds[i], kind} == set(wanted):
                    z += 0.5 * np.nan_to_num(basis(splines, np.linalg.norm(v)))
        return z
    z = np.zeros((len(descriptor.products), descriptor.degree + 1))
    for i, around in enumerate(near):
        for (p, v), (q, u) in itertools.permutations(around, 2):
            if wanted is not None and (kinds[i], p, q) != wanted:
                continue
            f, g = (np.nan_to_num(basis(splines, np.linalg.norm(w))) for w in (v, u))
            angle = v @ u / np.linalg.norm(v) / np.linalg.norm(u)
            for k, (a, b) in enumerate(descriptor.products):
                # over both orders: each product once where a = b
                share = 0.5 if a == b and descriptor.symmetric else 1.0
                z[k] += share * f[a] * g[b] * eval_legendre(np.arange(descriptor.degree + 1), angle)
    return z.ravel()


@pytest.mark.parametrize("descriptor", [PAIRS, TRIPLETS, *MIXED], ids=repr)
def test_sums_are_those_of_the_definition(descriptor):
    x = box(frames=1)
    z = descriptor.environments(x, CELL).z[0].numpy()
    wanted = by_definition(descriptor, x[0].numpy(), CELL.numpy(), KINDS)
    assert np.abs(wanted).max() > 0.1
    np.testing.assert_allclose(z, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("descriptor", [PAIRS, TRIPLETS, *MIXED], ids=repr)
@pytest.mark.parametrize("cell", [CELL, None], ids=["periodic", "free"])
def test_contract(descriptor, cell):
    check_descriptor(descriptor, box() if cell is not None else 0.4 * box(), cell)


@pytest.mark.parametrize("descriptor", [PAIRS, TRIPLETS], ids=repr)
def test_invariances(descriptor):
    x = box(1)
    z = descriptor.environments(x, CELL).z
    lattice = torch.tensor([[1.0, -2.0, 3.0]], dtype=torch.float64) @ CELL
    moved = x.clone()
    moved[:, 2] += lattice
    turn = torch.linalg.qr(box(3)[0, :3])[0]
    reduced = torch.tensor([[1, 0, 0], [2, 1, 0], [-1, 1, -1]], dtype=torch.float64) @ CELL  # unreduced, left-handed
    order = torch.randperm(7, generator=torch.Generator().manual_seed(2))
    for other in (
        descriptor.environments(moved + 0.3, CELL),
        descriptor.environments(x @ turn, CELL @ turn),
        descriptor.environments(x[:, order], CELL),
        descriptor.environments(x, reduced),
    ):
        torch.testing.assert_close(other.z, z, rtol=0, atol=1e-10)


@pytest.mark.parametrize("descriptor", [PAIRS, TRIPLETS], ids=repr)
def test_two_continuous_derivatives_at_the_cutoff(descriptor):
    x = torch.zeros(1, 3, 3, dtype=torch.float64)
    x[0, 1, 0], x[0, 2, 1] = 2.0, -2.0

    def at(distance: float) -> tuple[torch.Tensor, torch.Tensor]:
        x[0, 1, 0] = distance
        found = descriptor.environments(x)
        return found.z, found.jacobian

    inside, outside = at(descriptor.cutoff - 1e-5), at(descriptor.cutoff + 1e-5)
    assert float((inside[0] - outside[0]).abs().max()) < 1e-12
    assert float((inside[1] - outside[1]).abs().max()) < 1e-8  # a square of the distance from the cutoff


def test_numbers_that_make_no_basis_are_refused():
    with pytest.raises(DataError, match="fewer than four intervals"):
        PairSplines(3.0, start=2.6, spacing=0.2)
    with pytest.raises(DataError, match="beyond cutoff"):
        TripletSplines(cutoff=3.0, start=3.5)
    with pytest.raises(DataError, match="no bead is of kind"):
        TripletSplines(kinds=("A", "C", "C")).bind(KINDS).environments(box(), CELL)
    with pytest.raises(DataError, match="knows no bead kinds"):
        TripletSplines(kinds=("A", "A", "A")).environments(box(), CELL)


def test_kernel():
    nodes = TRIPLETS.weight_nodes
    kernel = SplineWeights(nodes.nodes, nodes.groups, nodes.symmetric, lengthscale=1.0)
    check_kernel(kernel, len(nodes.nodes))
    covariance = kernel.ready(len(nodes.nodes)).covariance()
    torch.testing.assert_close(covariance.diagonal(), torch.full((len(covariance),), 1.0001, dtype=torch.float64))
    assert float(covariance[0, 1]) == 0.0  # another polynomial
    with pytest.raises(DataError, match="has 9 nodes, its descriptor 5 columns"):
        kernel.check(5)
