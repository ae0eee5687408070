"""Coordinates by the kinds of beads: fragments of bonded beads, and pairs some bonds apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kernelfe.descriptors import Bonded, InternalCoordinates, PairDistances
from kernelfe.descriptors.absent import Absent
from kernelfe.descriptors.bonded import fragments
from kernelfe.errors import DataError
from kernelfe.geometry.topology import separation
from kernelfe.testing import check_descriptor

KINDS = ("A", "B", "A", "B", "B", "C")
BONDS = ((0, 1), (1, 2), (2, 3), (3, 4), (3, 5))
BACKBONE = InternalCoordinates(angles=((0, 1, 2),), dihedrals=((0, 1, 2, 3), (1, 2, 3, 4)))


def molecules(n=4):
    chain = np.array([[0, 0, 0], [1.4, 0.2, 0], [2.0, 1.5, 0.3], [3.3, 1.6, 1.0], [3.9, 2.9, 0.8], [3.8, 0.9, 2.1]])
    return chain + 0.1 * np.random.default_rng(0).normal(size=(n, 6, 3))


@pytest.mark.parametrize(
    ("kinds", "wanted"),
    [
        (("A", "B"), [(0, 1), (2, 1), (2, 3)]),
        (("B", "B"), [(3, 4)]),
        (("A", "B", "A"), [(0, 1, 2)]),
        (("C", "B", "A"), [(5, 3, 2)]),
        (("B", "A", "B"), [(1, 2, 3)]),
        (("A", "B", "A", "B"), [(0, 1, 2, 3)]),
        (("B", "A", "B", "B"), [(1, 2, 3, 4)]),
        (("C", "C"), []),
    ],
)
def test_fragments(kinds, wanted):
    assert sorted(fragments(kinds, KINDS, BONDS)) == sorted(wanted)
    backwards = {chain[::-1] for chain in fragments(kinds[::-1], KINDS, BONDS)}
    assert {min(c, c[::-1]) for c in backwards} == {min(c, c[::-1]) for c in wanted}


def test_fragments_in_both_directions_and_rings():
    assert sorted(fragments(("A", "B", "A"), KINDS, BONDS, both=True)) == [(0, 1, 2), (2, 1, 0)]
    ring = ((0, 1), (1, 2), (0, 2))
    assert fragments(("A", "A", "A", "A"), ("A",) * 3, ring) == ()
    assert len(fragments(("A", "A", "A"), ("A",) * 3, ring)) == 3


@pytest.mark.parametrize(
    "descriptor",
    [Bonded(("A", "B")), Bonded(("A", "B", "A")), Bonded(("B", "A", "B", "B")), Bonded(tuple("ABABB"), BACKBONE)],
    ids=lambda d: "-".join(d.kinds),
)
def test_contract(descriptor):
    bound = descriptor.for_molecule(KINDS, BONDS)
    check_descriptor(bound, molecules(), classes=(InternalCoordinates,))
    check_descriptor(bound, molecules(), cell=20.0 * np.eye(3), classes=(InternalCoordinates,))


def test_values_are_those_of_internal_coordinates():
    x = torch.from_numpy(molecules())
    bonds = Bonded(("A", "B")).for_molecule(KINDS, BONDS).environments(x)
    wanted = InternalCoordinates(bonds=((0, 1), (1, 2), (2, 3))).environments(x).z
    torch.testing.assert_close(bonds.z.reshape(4, 3), wanted, rtol=0.0, atol=1e-12)
    dihedral = Bonded(("A", "B", "A", "B")).for_molecule(KINDS, BONDS).environments(x).z
    wanted = InternalCoordinates(dihedrals=((0, 1, 2, 3),)).environments(x).z
    torch.testing.assert_close(dihedral, wanted, rtol=0.0, atol=1e-12)


def test_sums_do_not_depend_on_the_numbering_of_beads():
    """Also with a descriptor that is not the same read backwards: like ends are read both ways."""
    x, order = torch.from_numpy(molecules()), [3, 0, 5, 1, 4, 2]
    place = {old: new for new, old in enumerate(order)}
    kinds = tuple(KINDS[i] for i in order)
    bonds = tuple((place[i], place[j]) for i, j in BONDS)
    for descriptor in (
        Bonded(("A", "B", "A"), InternalCoordinates(bonds=((0, 1),), angles=((0, 1, 2),))),
        Bonded(("B", "A", "B")),
    ):
        one = descriptor.for_molecule(KINDS, BONDS).environments(x)
        two = descriptor.for_molecule(kinds, bonds).environments(x[:, order])
        sums = [(z.sin() ** 3).prod(1).reshape(4, -1).sum(1) for z in (one.z, two.z)]
        torch.testing.assert_close(*sums, rtol=0.0, atol=1e-10)


def test_pairs_some_bonds_apart():
    x = torch.from_numpy(molecules())
    far = PairDistances(100.0, apart=3).for_molecule(KINDS, BONDS)
    i, j = np.nonzero(np.triu(separation(BONDS, 6) >= 3, 1))
    torch.testing.assert_close(
        far.environments(x).z.reshape(4, -1), (x[:, i] - x[:, j]).norm(dim=-1), rtol=0.0, atol=1e-12
    )
    of_kinds = PairDistances(100.0, ("A", "B"), apart=3).for_molecule(KINDS, BONDS)
    wanted = [(a, b) for a, b in zip(i, j, strict=True) if {KINDS[a], KINDS[b]} == {"A", "B"}]
    assert len(of_kinds.environments(x[:1]).z) == len(wanted) > 0
    check_descriptor(of_kinds, molecules())
    near = PairDistances(6.0, ("A", "B"), apart=3).for_molecule(KINDS, BONDS)
    check_descriptor(near, molecules(2), cell=14.0 * np.eye(3))
    assert PairDistances(3.0).for_molecule(KINDS, BONDS).bonds is None
    assert not PairDistances(3.0, ("A", "D")).occurs_in(KINDS) and PairDistances(3.0).occurs_in(KINDS)


def test_absent():
    check_descriptor(Absent(2), molecules())
    check_descriptor(Absent(2), molecules(), cell=20.0 * np.eye(3))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: Bonded("AB"), "2 or more"),
        (lambda x: Bonded(("A",)), "2 or more"),
        (lambda x: Bonded(("A",) * 5), "give descriptor="),
        (lambda x: Bonded(("A", "B")).environments(x), "lacks the kinds"),
        (lambda x: Bonded(("A", "B")).bind(KINDS).environments(x), "lacks the bonds"),
        (lambda x: Bonded(("A", "B")).for_molecule(KINDS[:3], BONDS).environments(x), "kinds of 6 beads"),
        (lambda x: PairDistances(3.0, apart=3).environments(x), "knows no bonds"),
        (lambda x: PairDistances(3.0, apart=-1), "apart=-1 must be a whole number of at least 0"),
    ],
)
def test_errors_name_the_culprit(call, words):
    with pytest.raises(DataError, match=words):
        call(torch.from_numpy(molecules()))


def test_impropers_of_centres():
    bonds, kinds = ((0, 1), (0, 2), (0, 3), (3, 4)), ("A", "B", "C", "D", "B")
    x = torch.randn(5, 5, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    descriptor = Bonded(("A", "C", "B", "D"), centre=True).for_molecule(kinds, bonds)
    check_descriptor(descriptor, x)
    wanted = InternalCoordinates(impropers=((0, 2, 1, 3),)).environments(x).z
    torch.testing.assert_close(descriptor.environments(x).z, wanted, rtol=0, atol=0)
    like = Bonded(("A", "B", "B", "D"), centre=True).for_molecule(("A", "B", "B", "D", "B"), bonds)
    z = like.environments(x).z.reshape(5, 2, 2)  # both orders of the like neighbours: χ and −χ
    torch.testing.assert_close(z[:, 0, 1], z[:, 1, 1])
    torch.testing.assert_close(z[:, 0, 0], -z[:, 1, 0])
    assert len(Bonded(("D", "A", "B", "B"), centre=True).for_molecule(kinds, bonds).environments(x).z) == 0
    with pytest.raises(DataError, match="of a centre"):
        Bonded(("A", "B", "C"), centre=True)
