"""Groups of permutations of like beads: written down, or found as the automorphisms of a molecule.

A permutation p is the tuple of indices that are read: (pR)_i = R_{p[i]}. Groups come as sorted tuples of tuples with
the identity first, ready to be the parameter of a :class:`~kernelfe.descriptors.Symmetrized`.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterable, Sequence

from ..errors import DataError
from ..geometry.topology import _neighbours

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

    Depth-first search over partial maps, beads in the order of a walk along the bonds, candidates limited to beads of
    the same kind whose surroundings look alike (colour refinement: kind and the colours of the neighbours, repeated).

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
    size, near = len(kinds), {bead: set(others) for bead, others in _neighbours(bonds).items()}
    if max(near, default=-1) >= size:
        raise DataError(f"a bond names bead {max(near)}, kinds are given for {size} beads (from 0)")
    around = [near.get(bead, set()) for bead in range(size)]
    colour = _colours(list(kinds), around)
    order = _walk(around)
    found: list[tuple[int, ...]] = []
    image = [-1] * size
    used = [False] * size

    def extend(depth: int) -> None:
        if depth == size:
            found.append(tuple(image))
            _limit(len(found), limit)
            return
        bead = order[depth]
        known = order[:depth]
        for candidate in range(size):
            if used[candidate] or colour[candidate] != colour[bead]:
                continue
            if all((other in around[bead]) == (image[other] in around[candidate]) for other in known):
                image[bead], used[candidate] = candidate, True
                extend(depth + 1)
                image[bead], used[candidate] = -1, False

    extend(0)
    return tuple(sorted(found))


def is_group(given: Permutations) -> bool:
    """Whether distinct permutations contain the identity and all their products (then also all inverses)."""
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


def _colours(kinds: list, around: list[set[int]]) -> list[int]:
    """Colour refinement: beads of different final colours cannot be exchanged."""
    names = {kind: k for k, kind in enumerate(sorted(set(kinds)))}
    colour = [names[kind] for kind in kinds]
    while True:
        view = [(colour[bead], tuple(sorted(colour[other] for other in around[bead]))) for bead in range(len(kinds))]
        names = {key: k for k, key in enumerate(sorted(set(view)))}
        finer = [names[key] for key in view]
        if len(set(finer)) == len(set(colour)):
            return finer
        colour = finer


def _walk(around: list[set[int]]) -> list[int]:
    """Beads in an order in which each has a neighbour before it, where the molecule is connected."""
    order: list[int] = []
    for start in range(len(around)):
        waiting = [start] if start not in order else []
        while waiting:
            bead = waiting.pop(0)
            if bead not in order:
                order.append(bead)
                waiting += sorted(around[bead])
    return order
