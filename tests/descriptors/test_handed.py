"""Distances with signed volumes: odd under reflection, smooth where torsions are not, right under permutations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelfe.descriptors import Distances, HandedDistances, InternalCoordinates, Symmetrized, permutations
from kernelfe.errors import DataError
from kernelfe.testing import check_descriptor

QUADS = ((0, 1, 2, 3), (1, 3, 4, 0))
SKEWED = torch.tensor([[9.0, 0.0, 0.0], [3.0, 8.0, 0.0], [1.0, 2.0, 10.0]], dtype=torch.float64)


def beads(seed, n=3, size=5):
    return 1.5 * torch.randn(n, size, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    "descriptor",
    [
        HandedDistances(quadruples=QUADS),
        HandedDistances(((0, 4), (1, 2)), QUADS, (2.0, 0.5)),
        Symmetrized(HandedDistances(quadruples=QUADS), permutations(5, [(1, 2)])),
    ],
)
@pytest.mark.parametrize("cell", [None, SKEWED])
def test_contract(descriptor, cell):
    check_descriptor(descriptor, beads(0), cell, classes=[HandedDistances])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**20))
def test_columns_are_distances_and_heights_that_a_reflection_turns_round(seed):
    x, descriptor = beads(seed), HandedDistances(quadruples=QUADS, areas=(2.0, 3.0))
    z = descriptor.environments(x).z
    torch.testing.assert_close(z[:, :10], Distances().environments(x).z, rtol=0, atol=0)
    odd = torch.tensor([1.0] * 10 + [-1.0] * 2)
    normal = torch.nn.functional.normalize(beads(seed + 1, 1, 1)[0, 0], dim=0)
    mirrored = x - 2.0 * (x @ normal)[..., None] * normal
    torch.testing.assert_close(descriptor.environments(mirrored).z, z * odd)
    q, _ = np.linalg.qr(beads(seed + 2, 1, 3)[0].numpy())
    turned = x @ torch.from_numpy(q * np.sign(np.linalg.det(q))) + 1.0
    torch.testing.assert_close(descriptor.environments(turned).z, z)


def test_height_has_the_sign_of_the_dihedral():
    x = beads(3, 50)
    sine = InternalCoordinates(dihedrals=QUADS[:1]).environments(x).z[:, 0]
    assert torch.equal(HandedDistances(quadruples=QUADS).environments(x).z[:, 10].sign(), sine.sign())


def test_a_permutation_that_reverses_handedness_leaves_the_symmetric_sum_even():
    # a star with three like neighbours: an exchange of two of them turns the sign round
    descriptor = HandedDistances(quadruples=((0, 1, 2, 3),))
    x = beads(5, 4, 4)
    swapped = descriptor.environments(x[:, [0, 2, 1, 3]]).z[:, -1]
    torch.testing.assert_close(swapped, -descriptor.environments(x).z[:, -1])
    z = Symmetrized(descriptor, permutations(4, [(1, 2, 3)])).environments(x).z.reshape(4, 6, -1)[:, :, -1]
    torch.testing.assert_close(z.sum(1), torch.zeros(4, dtype=torch.float64))
    torch.testing.assert_close(z.abs(), z[:, :1].abs().expand(-1, 6))


def test_slopes_are_finite_and_right_at_a_straight_chain():
    x = torch.tensor([[[0.0, 0, 0], [1.5, 0, 0], [3.0, 0, 0], [4.5, 0, 0]]], dtype=torch.float64)
    bent = torch.cat((x, x + 0.1 * beads(7, 1, 4)))
    check_descriptor(HandedDistances(quadruples=((0, 1, 2, 3),)), bent)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"quadruples": ((0, 1, 2, 2),)},
        {"quadruples": QUADS, "areas": (1.0,)},
        {"quadruples": QUADS, "areas": (1.0, 0.0)},
    ],
)
def test_wrong_arguments_are_refused(arguments):
    with pytest.raises(DataError):
        HandedDistances(**arguments)


def test_a_bead_that_frames_lack_is_named():
    with pytest.raises(DataError, match="bead 4"):
        HandedDistances(quadruples=QUADS).environments(beads(0, 2, 4))
