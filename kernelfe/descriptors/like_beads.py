"""Groups of permutations of like beads: written down, or found as the automorphisms of a molecule.

A permutation p is the tuple of indices that are read: (pR)_i = R_{p[i]}. Groups come as sorted tuples of tuples with
the identity first, ready to be the parameter of a :class:`~kernelfe.descriptors.Symmetrized`.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterable, Sequence

import networkx as nx
from networkx.algorithms.isomorphism import GraphMatcher

from ..errors import DataError
from ..geometry.topology import _check

#: Largest group that is written out: the cost of a fit rises with its square.
MAX_PERMUTATIONS = 720

Permutations = tuple[tuple[int, ...], ...]


def permutations(size: int, groups: Iterable[Iterable], limit: int = MAX_PERMUTATIONS) -> Permutations:
    """All permutations of like members within each of several groups.

    Parameters
    ----------
    size
        Number of beads (or of variables).
    groups
        Groups of interchangeable members. A member is a bead, or a tuple of beads that move together: ``[(1, 2, 3)]``
        are three like beads (6 permutations), ``[((0, 1), (2, 3))]`` two like dimers (2 permutations).
    limit
        Largest number of permutations.

    Raises
    ------
    DataError
        If a bead is named twice or is not there, members of a group differ in length, or permutations are too many.
    """
    blocks = [_members(group) for group in groups]
    named = [bead for group in blocks for member in group for bead in member]
    if len(set(named)) != len(named) or any(not 0 <= bead < size for bead in named):
        raise DataError(f"permutations(size={size}): groups {blocks} must name different beads from 0 to {size - 1}")
    _limit(math.prod(math.factorial(len(group)) for group in blocks), limit)
    out = []
    for orders in itertools.product(*(itertools.permutations(range(len(group))) for group in blocks)):
        one = list(range(size))
        for group, order in zip(blocks, orders, strict=True):
            for target, source in enumerate(order):
                for bead, read in zip(group[target], group[source], strict=True):
                    one[bead] = read
        out.append(tuple(one))
    return tuple(sorted(out))


def automorphisms(
    bonds: Iterable[tuple[int, int]], kinds: Sequence[str], limit: int = MAX_PERMUTATIONS
) -> Permutations:
    """Permutations of the beads of a molecule that keep its bonds and the kinds of its beads.

    Parameters
    ----------
    bonds
        Pairs of beads.
    kinds
        Kind of every bead.
    limit
        Largest number of permutations.

    Raises
    ------
    DataError
        If a bond names a bead without a kind, or permutations are more than ``limit``.
    """
    size, pairs = len(kinds), _check(bonds)
    if (largest := max(map(max, pairs), default=-1)) >= size:
        raise DataError(f"a bond names bead {largest}, kinds are given for {size} beads (from 0)")
    graph = nx.Graph(pairs)
    graph.add_nodes_from((bead, {"kind": kind}) for bead, kind in enumerate(kinds))
    found = []
    matcher = GraphMatcher(graph, graph, node_match=lambda one, other: one["kind"] == other["kind"])
    for image in matcher.isomorphisms_iter():
        found.append(tuple(image[bead] for bead in range(size)))
        _limit(len(found), limit)
    return tuple(sorted(found))


def is_group(given: Permutations) -> bool:
    """True if distinct permutations contain the identity and all their products (then also all inverses)."""
    members = set(given)
    if not given or len(members) != len(given) or tuple(range(len(given[0]))) not in members:
        return False
    return all(tuple(map(p.__getitem__, q)) in members for p in given for q in given)


def _members(group: Iterable) -> list[tuple[int, ...]]:
    try:
        members = [
            (operator.index(m),) if not isinstance(m, Iterable) else tuple(map(operator.index, m)) for m in group
        ]
    except TypeError:
        raise DataError(
            f"permutations: the group {group!r} must list beads, or tuples of beads that move together"
        ) from None
    if len({len(member) for member in members}) > 1:
        raise DataError(f"permutations: the members {members} of one group must have the same number of beads")
    return members


def _limit(count: int, limit: int) -> None:
    if count > limit:
        raise DataError(
            f"more than {limit} permutations of like beads: the cost of a fit rises with the square of their number. "
            "Symmetrize a smaller group (the beads that really exchange places), or use a descriptor that is "
            "symmetric by itself, such as PairDistances by kinds"
        )
