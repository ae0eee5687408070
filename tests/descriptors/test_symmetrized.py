"""Permutations of like beads: groups, automorphisms, and the descriptor that visits all copies."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelfe.descriptors import (
    Distances,
    InternalCoordinates,
    InverseDistances,
    PairDistances,
    Symmetrized,
    Variables,
    automorphisms,
    permutations,
)
from kernelfe.descriptors.like_beads import is_group
from kernelfe.errors import DataError
from kernelfe.testing import check_descriptor

STAR = automorphisms([(0, 1), (0, 2), (0, 3)], "ABBB")


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.data())
def test_automorphisms_are_those_found_among_all_permutations(size, data):
    possible = list(itertools.combinations(range(size), 2))
    bonds = data.draw(st.lists(st.sampled_from(possible), unique=True)) if possible else []
    kinds = data.draw(st.lists(st.sampled_from("AB"), min_size=size, max_size=size))
    edges = {frozenset(pair) for pair in bonds}

    def keeps(p):
        same = all(kinds[p[i]] == kinds[i] for i in range(size))
        return same and {frozenset((p[i], p[j])) for i, j in bonds} == edges

    wanted = [p for p in itertools.permutations(range(size)) if keeps(p)]  # in order
    found = automorphisms(bonds, kinds)
    assert list(found) == wanted and is_group(found)


def test_permutations_of_groups():
    assert permutations(4, [(1, 2, 3)]) == STAR
    assert permutations(6, [((0, 1, 2), (3, 4, 5))]) == ((0, 1, 2, 3, 4, 5), (3, 4, 5, 0, 1, 2))
    assert permutations(2, []) == ((0, 1),)
    both = permutations(5, [(0, 1), (2, 3, 4)])
    assert len(both) == 12 and is_group(both)


@pytest.mark.parametrize(
    "inner",
    [
        Distances(),
        InverseDistances(((0, 1), (1, 2))),
        InternalCoordinates(bonds=((0, 1),), angles=((1, 0, 2),), dihedrals=((0, 1, 2, 3),)),
    ],
    ids=lambda d: type(d).__name__,
)
def test_contract_of_descriptors(inner):
    x = 2.0 * np.random.default_rng(0).normal(size=(4, 4, 3))
    check_descriptor(Symmetrized(inner, STAR), x, classes=(type(inner),))
    check_descriptor(Symmetrized(inner, STAR), x, cell=20.0 * np.eye(3), classes=(type(inner),))


def test_contract_with_variables():
    x = np.random.default_rng(1).normal(size=(4, 3))
    swap = permutations(3, [(1, 2)])
    for inner in (Variables(), Variables(periodic=(None, 2.0, 2.0)), Variables(columns=(2,))):
        check_descriptor(Symmetrized(inner, swap), x, classes=(Variables,))


def test_environments_are_those_of_permuted_frames_in_order():
    x = torch.randn(3, 4, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = Symmetrized(Distances(), STAR).environments(x)
    for k, p in enumerate(STAR):
        assert torch.equal(found.z[k :: len(STAR)], Distances().environments(x[:, list(p)]).z)
    assert torch.equal(found.frame, torch.arange(3).repeat_interleave(6))
    assert Symmetrized(Distances(), STAR).weight == 1 / 6 and Symmetrized(Distances(), STAR).copies == 6
    nested = Symmetrized(Distances(), STAR).bind(("A", "B", "B", "B"))
    assert nested == Symmetrized(Distances(), [list(p) for p in STAR])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: permutations(8, [range(8)]), "more than 720 permutations"),
        (lambda: automorphisms([(0, k) for k in range(1, 9)], "A" + 8 * "B"), "more than 720 permutations"),
        (lambda: automorphisms([(0, 4)], "AB"), "names bead 4"),
        (lambda: permutations(3, [(0, 3)]), "different beads"),
        (lambda: permutations(3, [(0, 1), (1, 2)]), "different beads"),
        (lambda: permutations(4, [((0, 1), (2,))]), "same number"),
        (lambda: permutations(4, [("a", "b")]), "list beads"),
        (lambda: permutations(4, [1]), "list beads"),
        (lambda: Symmetrized(Distances(), ((0, 1, 2), (1, 2, 0))), "not a group"),
        (lambda: Symmetrized(Distances(), ((1, 0),)), "not a group"),
        (lambda: Symmetrized(Distances(), ()), "not a group"),
        (lambda: Symmetrized(Distances(), ((0, 0),)), "each bead once"),
        (lambda: Symmetrized(Distances(), ((0, 1), (0, 1, 2))), "each bead once"),
        (lambda: Symmetrized(Distances(), 3), "permutations=3 must be a tuple"),
        (lambda: Symmetrized(Distances(), STAR).environments(torch.zeros(2, 5, 3)), "4 beads .* have 5"),
        (lambda: Symmetrized(Distances(), STAR).bind(("A", "B", "B", "C")), "bead 2 .B. and bead 3 .C."),
        (lambda: Symmetrized(PairDistances(3.0), STAR).environments(torch.rand(2, 4, 3)), "PairDistances has"),
        (lambda: Symmetrized(PairDistances(3.0), STAR).values_and_pullback(torch.rand(2, 4, 3)), "PairDistances has"),
    ],
)
def test_errors_name_the_culprit(call, words):
    with pytest.raises(DataError, match=words):
        call()
