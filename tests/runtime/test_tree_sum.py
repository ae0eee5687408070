"""Sums in a fixed tree: the same bits for any division of the chunks and any nodes that are known already."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernelfe.errors import DataError
from kernelfe.runtime.processes import Processes
from kernelfe.runtime.sums import TreeSum, cover, leaves, weighted_share


def chunk(c: int) -> torch.Tensor:
    """Numbers whose sum depends on the order in which it is taken."""
    values = torch.randn(5, generator=torch.Generator().manual_seed(c), dtype=torch.float64)
    return values * 10.0 ** (3 * (c % 7) - 9)


def by_definition(level: int, index: int, count: int) -> torch.Tensor:
    """Node (level, index), straight from its recursive definition."""
    if level == 0:
        return chunk(index)
    left = by_definition(level - 1, 2 * index, count)
    if (2 * index + 1) << (level - 1) >= count:
        return left
    return left + by_definition(level - 1, 2 * index + 1, count)


def root(count: int) -> torch.Tensor:
    level = 0
    while 1 << level < count:
        level += 1
    return by_definition(level, 0, count)


def tree(count: int, merged=None) -> TreeSum[torch.Tensor]:
    return TreeSum(count, lambda a, b: a + b, merged)


@given(st.integers(1, 70), st.integers(1, 5), st.data())
def test_any_division_and_any_known_nodes_give_the_same_bits(count, size, data):
    some = st.tuples(st.integers(0, 7), st.integers(0, 70))
    known = [n for n in data.draw(st.lists(some, max_size=8)) if len(leaves(n, count))]
    kept, missing = cover(known, count)
    final = tree(count)
    parts = [(node, by_definition(*node, count)) for node in kept]
    for rank in range(size):
        own = tree(count)
        for i in Processes(rank, size).share(len(missing)):
            own.push((0, missing[i]), chunk(missing[i]))
        assert len(own.nodes) <= 2 * count.bit_length() + len(kept)
        parts += [(node, own.pop(node)) for node in own.nodes]
    for at in data.draw(st.permutations(range(len(parts)))):  # the order of arrival does not matter either
        final.push(*parts[at])
    assert final.complete and torch.equal(final.result(), root(count))


@given(st.integers(1, 70), st.lists(st.tuples(st.integers(0, 7), st.integers(0, 70)), max_size=12))
def test_a_cover_has_every_chunk_once(count, nodes):
    kept, missing = cover(nodes, count)
    assert set(kept) <= set(nodes)
    assert sorted([c for node in kept for c in leaves(node, count)] + missing) == list(range(count))
    for node in nodes:  # nothing that is known is computed again
        assert not set(leaves(node, count)) & set(missing)


def test_the_order_matters_to_the_last_bit():
    """Else the test above could not fail."""
    total = chunk(0)
    for c in range(1, 40):
        total = total + chunk(c)
    assert not torch.equal(total, root(40)) and torch.allclose(total, root(40))


def test_one_process_holds_few_nodes_and_says_what_it_merged():
    merges, own = [], None

    def merged(parent, children, value):
        merges.append((parent, children))
        assert torch.equal(value, by_definition(*parent, 37))

    own = tree(37, merged)
    for c in range(37):
        own.push((0, c), chunk(c))
        assert len(own.nodes) <= 6
    assert len(merges) == 36 and merges[0] == ((1, 0), ((0, 0), (0, 1)))
    # chunk 36 has no sibling: it is its own parent, and keeps its name; so is the sum of chunks 32 … 36
    assert merges[-2] == ((3, 4), ((2, 8), (0, 36)))
    assert merges[-1] == ((6, 0), ((5, 0), (3, 4)))


def test_wrong_nodes_are_refused():
    own = tree(5)
    own.push((1, 0), chunk(0))
    for node in ((0, 1), (1, 0), (2, 0), (3, 0)):
        with pytest.raises(DataError, match="holds chunks that"):
            own.push(node, chunk(1))
    for node in ((0, 5), (0, -1), (2, 2)):
        with pytest.raises(DataError, match="no chunks"):
            own.push(node, chunk(1))
    with pytest.raises(DataError, match="not complete"):
        own.result()
    with pytest.raises(DataError, match="at least one"):
        tree(0)


@given(st.lists(st.floats(0.5, 100.0), max_size=40), st.integers(1, 6))
def test_weighted_shares_cover_everything_and_are_even(weights, size):
    shares = [weighted_share(weights, Processes(rank, size)) for rank in range(size)]
    assert [i for share in shares for i in share] == list(range(len(weights)))
    if weights:
        for share in shares:
            assert sum(weights[i] for i in share) <= sum(weights) / size + max(weights) + 1e-9
