"""Sums in one fixed order: a binary tree over chunks, the same for any division of the work.

Floating-point addition is commutative but not associative, so a sum over processes depends on who did what. Here the
chunks 0 … C−1 are the leaves of one binary tree: node (l, i) is the sum of the chunks i·2ˡ … (i+1)·2ˡ − 1 as far as
they exist, and is always computed as left child + right child. A node that is known, whoever computed it and when, has
the same bits; a process that works through contiguous chunks holds O(log C) nodes (a binary counter).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from ..errors import DataError

T = TypeVar("T")

#: (level, index): the sum of the chunks index·2^level … (index + 1)·2^level − 1.
Node = tuple[int, int]


def leaves(node: Node, count: int) -> range:
    """The chunks that a node sums, of ``count``."""
    level, index = node
    return range(min(index << level, count), min((index + 1) << level, count))


def cover(nodes: Iterable[Node], count: int) -> tuple[list[Node], list[int]]:
    """The largest of some nodes, none inside another, in the order of their chunks; and the chunks in none of them.

    Parameters
    ----------
    nodes
        Known nodes, in any order.
    count
        Number of chunks.
    """
    kept: list[Node] = []
    taken: set[int] = set()
    for node in sorted(nodes, reverse=True):
        own = leaves(node, count)
        if min(node) >= 0 and own and own[0] not in taken:
            kept.append(node)
            taken.update(own)
    return sorted(kept, key=lambda node: leaves(node, count)[0]), [c for c in range(count) if c not in taken]


class TreeSum(Generic[T]):
    """The nodes of one tree that are known so far, merged as soon as both children are there.

    Parameters
    ----------
    count
        Number of chunks.
    merge
        left, right → their sum; may reuse the memory of the left one.
    merged
        Called after each merge with the parent, the nodes its children were given or merged as, and the sum.
    """

    def __init__(
        self,
        count: int,
        merge: Callable[[T, T], T],
        merged: Callable[[Node, tuple[Node, Node], T], None] | None = None,
    ):
        if count < 1:
            raise DataError(f"a tree of {count} chunks: there must be at least one")
        self.count, self._merge, self._merged = count, merge, merged
        self._root = ((count - 1).bit_length(), 0)
        self._held: dict[Node, tuple[T, Node]] = {}  # value, and the node it was given or merged as

    def push(self, node: Node, value: T) -> None:
        """Add a node that is known; none of its chunks may be known already."""
        own = leaves(node, self.count)
        if min(node) < 0 or not own:
            raise DataError(f"node {node} has no chunks in a tree of {self.count}")
        for held in self._held:
            other = leaves(held, self.count)
            if own[0] < other.stop and other[0] < own.stop:
                raise DataError(f"node {node} holds chunks that node {held} holds, too")
        name = node
        while node != self._root:
            level, index = node
            parent, sibling = (level + 1, index >> 1), (level, index ^ 1)
            if not leaves(sibling, self.count):  # an only child is its parent
                node = parent
                continue
            if sibling not in self._held:
                break
            other_value, other_name = self._held.pop(sibling)
            if index % 2:
                value, children = self._merge(other_value, value), (other_name, name)
            else:
                value, children = self._merge(value, other_value), (name, other_name)
            node = name = parent
            if self._merged is not None:
                self._merged(node, children, value)
        self._held[node] = (value, name)

    @property
    def nodes(self) -> list[Node]:
        """The nodes that are held, in the order of their chunks."""
        return sorted(self._held, key=lambda node: leaves(node, self.count)[0])

    def __getitem__(self, node: Node) -> T:
        """The value of a node that is held."""
        return self._held[node][0]

    def pop(self, node: Node) -> T:
        """Take a node out."""
        return self._held.pop(node)[0]

    @property
    def complete(self) -> bool:
        """Whether all chunks are summed."""
        return self._root in self._held

    def result(self) -> T:
        """The sum over all chunks.

        Raises
        ------
        DataError
            If some are missing.
        """
        if not self.complete:
            raise DataError(f"the sum is not complete: of {self.count} chunks only the nodes {self.nodes} are known")
        return self._held[self._root][0]
