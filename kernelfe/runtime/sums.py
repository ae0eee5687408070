"""Sums over chunks of work, shared by processes and kept in checkpoints: the same bits however it was done.

There are several sums; sum t has a fixed number of chunks, added in the order of its own
:class:`~kernelfe.runtime.sums.TreeSum`. What a chunk contributes is a set of named tensors. All chunks in a row
are divided among the processes; each sums what it can by itself, and the nodes it is left with go to all others, one
after the other in the order of the chunks, so that every process ends with all sums. Files of a checkpoint are nodes,
named by sum, level and index: never by process.
"""

from __future__ import annotations

import json
import logging
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable
from itertools import accumulate, pairwise
from typing import Generic, TypeVar

import torch
from torch import Tensor

from ..errors import DataError, require
from .checkpoint import Checkpoint
from .processes import Processes
from .threads import side_by_side

logger = logging.getLogger(__name__)

#: What a chunk contributes, and sums of it.
Named = dict[str, Tensor]


def add(left: Named, right: Named) -> Named:
    """left + right, in the memory of the left one."""
    for name, tensor in right.items():
        left[name].add_(tensor)
    return left


def weighted_share(weights: list[float], processes: Processes) -> range:
    """The contiguous part of some pieces of work that one process does, by what each of them costs."""
    reached = list(accumulate(weights, initial=0.0))
    middle = [0.5 * (a + b) for a, b in pairwise(reached)]
    bounds = [bisect_left(middle, reached[-1] * r / processes.size) for r in range(processes.size)] + [len(weights)]
    return range(bounds[processes.rank], bounds[processes.rank + 1])


def sum_chunks(
    counts: list[int],
    work: Callable[[int, int], Named],
    weights: Callable[[int, int], float],
    *,
    processes: Processes | None = None,
    checkpoint: Checkpoint | None = None,
    resumed: Callable[[float], None] | None = None,
    device: torch.device | None = None,
    workers: int | None = None,
) -> list[Named]:
    """Sum what ``work`` returns over all chunks of all sums.

    Parameters
    ----------
    counts
        Number of chunks of each sum.
    work
        (sum, chunk) → named tensors, float64, which this function may change.
    weights
        (sum, chunk) → what the chunk costs, in any unit.
    processes
        Who works on it; None: those of the default group.
    checkpoint
        Where nodes are kept; every process sees the folder.
    resumed
        Told what this process' part of the chunks in the checkpoint costs.
    device
        Where tensors from files and from other processes go.
    workers
        Most threads of this process (:mod:`kernelfe.runtime.threads`); each holds the sums of a chunk.

    Returns
    -------
    list of dict
        One per sum, the same on every process.

    Raises
    ------
    ProcessError
        If another process failed.
    ModelFileError
        If a file of the checkpoint vanished or changed meanwhile.
    """
    processes = Processes.current() if processes is None else processes
    kept = _present(counts, processes, checkpoint)
    missing = [(t, c) for t, count in enumerate(counts) for c in kept[t][1]]
    if resumed is not None and any(nodes for nodes, _ in kept):
        known = sum(weights(t, c) for t, n in enumerate(counts) for c in range(n)) - sum(weights(*m) for m in missing)
        resumed(known / processes.size)
    trees = [TreeSum(count, add, _keeper(checkpoint, t)) for t, count in enumerate(counts)]
    own, done, lock = weighted_share([weights(*m) for m in missing], processes), 0, threading.Lock()

    def chunk(which: tuple[int, int]) -> None:
        nonlocal done
        t, c = which
        value = work(t, c)
        with lock:  # in any order: the tree has its own
            if checkpoint is not None:
                checkpoint.write(_name(t, (0, c)), value)
            trees[t].push((0, c), value)
            done += 1

    try:
        with processes.section("its share of the sums over the labels"):
            side_by_side(chunk, missing[own.start : own.stop], workers)
    except KeyboardInterrupt:
        if checkpoint is not None:
            logger.warning(
                "interrupted: this process completed %d of its %d chunks; they are kept in %s, and the same call "
                "resumes from there, with any number of processes",
                done,
                len(own),
                checkpoint.folder,
            )
        raise
    if processes.size == 1 and not any(nodes for nodes, _ in kept):
        return [tree.result() for tree in trees]
    return _exchanged(counts, trees, [nodes for nodes, _ in kept], processes, checkpoint, device)


def _name(t: int, node: Node) -> str:
    return f"sum-{t}-{node[0]}-{node[1]}"


def _keeper(checkpoint: Checkpoint | None, t: int):
    if checkpoint is None:
        return None

    def keep(parent: Node, children: tuple[Node, Node], value: Named) -> None:
        checkpoint.write(_name(t, parent), value)
        for child in children:  # only now
            checkpoint.remove(_name(t, child))

    return keep


def _present(counts: list[int], processes: Processes, checkpoint: Checkpoint | None) -> list:
    """Per sum, the nodes in the checkpoint and the chunks that are in none, as process 0 sees them."""
    if checkpoint is None:
        return [([], list(range(count))) for count in counts]
    names: list[list[int]] = []
    if processes.first:
        for name in checkpoint.names("sum-"):
            _, *numbers = name.split("-")
            if len(numbers) == 3 and all(n.isdecimal() for n in numbers):
                names.append([int(n) for n in numbers])
    names = json.loads(processes.gather_bytes(json.dumps(names).encode())[0])
    kept = [cover([(level, i) for own, level, i in names if own == t], count) for t, count in enumerate(counts)]
    found = sum(len(nodes) for nodes, _ in kept)
    if found and processes.first:
        total, left = sum(counts), sum(len(rest) for _, rest in kept)
        logger.warning("resuming from %s: %d of %d chunks are there", checkpoint.folder, total - left, total)
        for t, level, i in names:  # inside of a larger node: its process was killed before it could remove them
            if t < len(counts) and (level, i) not in kept[t][0]:
                checkpoint.remove(_name(t, (level, i)))
    return kept


def _exchanged(
    counts: list[int],
    trees: list[TreeSum[Named]],
    kept: list[list[Node]],
    processes: Processes,
    checkpoint: Checkpoint | None,
    device: torch.device | None,
) -> list[Named]:
    """All sums, from the nodes that the processes hold and those in files, one after the other in their order."""
    mine = [[t, *node, _shapes(tree[node])] for t, tree in enumerate(trees) for node in tree.nodes]
    every = [json.loads(part) for part in processes.gather_bytes(json.dumps(mine).encode())]
    shapes = {(t, (level, i)): found for part in every for t, level, i, found in part}
    holders = [(t, (level, i), rank) for rank, part in enumerate(every) for t, level, i, _ in part]
    holders += [(t, node, -1) for t, nodes in enumerate(kept) for node in nodes]
    holders.sort(key=lambda entry: (entry[0], leaves(entry[1], counts[entry[0]])[0]))
    out = [TreeSum(count, add) for count in counts]
    for t, node, rank in holders:
        if rank < 0:
            assert checkpoint is not None
            value = _from_file(checkpoint, _name(t, node), processes, device)
        else:
            value = trees[t].pop(node) if rank == processes.rank else _blank(shapes[t, node], device)
            processes.broadcast(value.values(), rank)
        out[t].push(node, value)
    return [tree.result() for tree in out]


def _from_file(checkpoint: Checkpoint, name: str, processes: Processes, device: torch.device | None) -> Named:
    """A node from a file, which process 0 reads."""
    value: Named = {}
    with processes.section("reading the checkpoint"):
        if processes.first:
            value = {key: tensor.to(device) for key, tensor in checkpoint.read(name)[0].items()}
    return processes.give(value, device)


def _shapes(value: Named) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in value.items()}


def _blank(shapes: dict[str, list[int]], device) -> Named:
    return {name: torch.empty(shape, dtype=torch.float64, device=device) for name, shape in shapes.items()}


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
        require(count >= 1, f"a tree of {count} chunks: there must be at least one")
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
                raise DataError(f"node {node} holds chunks that node {held} also holds")
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
        """True if all chunks are summed."""
        return self._root in self._held

    def result(self) -> T:
        """The sum over all chunks.

        Raises
        ------
        DataError
            If some are missing.
        """
        require(self.complete, f"the sum is not complete: of {self.count} chunks only the nodes {self.nodes} are known")
        return self._held[self._root][0]
