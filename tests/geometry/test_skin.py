"""The half list with a skin: complete in every cell, whatever happened before."""

from __future__ import annotations

import numpy as np
import pytest
from ase.neighborlist import primitive_neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelfe.compiled import loading, plain
from kernelfe.errors import DataError
from kernelfe.geometry.skin import SkinList

EDGE = 1e-9


def lengths(x, cell, cutoff):
    """Beads and distance of every pair from ASE's search, sorted; each pair once."""
    i, j, d = primitive_neighbor_list("ijd", (True,) * 3, cell, x, cutoff)
    both = np.column_stack([np.minimum(i, j), np.maximum(i, j), d])
    return both[np.lexsort(both.T[::-1].round(7))][::2]


def of(found):
    i, j, v = found
    out = np.column_stack([np.minimum(i, j), np.maximum(i, j), np.linalg.norm(v, axis=1)])
    return out[np.lexsort(out.T[::-1].round(7))]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.3, 1.2]), st.floats(0.2, 1.3), st.booleans())
def test_the_pairs_are_those_of_ase_after_any_history(seed, skew, relative, slow):
    rng = np.random.default_rng(seed)
    cell = 6.0 * (np.diag(rng.uniform(0.6, 1.6, 3)) + skew * np.tril(rng.uniform(-1.0, 1.0, (3, 3)), -1))
    cell = cell @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
    x, cutoff = rng.uniform(-2.0, 3.0, (int(rng.integers(1, 25)), 3)) @ cell, 6.0 * relative
    kept = SkinList(cutoff, 0.4)
    if slow:
        loops, loading.loops = loading.loops, lambda: plain
    try:
        for _ in range(4):
            wanted = lengths(x, cell, cutoff)
            if (np.abs(lengths(x, cell, cutoff + 0.01)[:, 2] - cutoff) > EDGE).all():
                found = kept.pairs(x, cell)
                np.testing.assert_allclose(of(found), wanted, atol=1e-9)
                np.testing.assert_allclose(of(SkinList(cutoff, 0.7).pairs(x, cell)), wanted, atol=1e-9)
            x = x + rng.normal(scale=0.05, size=x.shape)
            strain = np.eye(3) + rng.normal(scale=0.01, size=(3, 3))
            x, cell = x @ strain, cell @ strain
    finally:
        if slow:
            loading.loops = loops


def test_many_beads_and_few_builds():
    rng, cell = np.random.default_rng(0), np.diag([22.0, 25.0, 24.0])
    x = rng.uniform(size=(500, 3)) @ cell
    kept = SkinList(5.0, 1.0)
    for step in range(12):
        np.testing.assert_allclose(of(kept.pairs(x, cell)), lengths(x, cell, 5.0), atol=1e-9)
        x = x + rng.uniform(-0.04, 0.04, x.shape)
        if step == 5:
            x, cell = x * 1.01, cell * 1.01
    assert kept.builds < 6


def test_pairs_that_are_not_wanted():
    x, cell = np.zeros((3, 3)) + np.arange(3)[:, None], np.eye(3) * 9.0
    wanted = ~np.array([[0, 1, 0], [1, 0, 0], [0, 0, 0]], bool)
    i, j, _ = SkinList(3.8, 0.5, wanted).pairs(x, cell)
    assert {frozenset(pair) for pair in zip(i.tolist(), j.tolist(), strict=True)} == {
        frozenset({0, 2}),
        frozenset({1, 2}),
    }


def test_bad_input_is_refused():
    x, cell = np.zeros((2, 3)), np.eye(3) * 5.0
    for make in (
        lambda: SkinList(0.0),
        lambda: SkinList(4.0, 0.0),
        lambda: SkinList(4.0).pairs(x, np.diag([5.0, 5.0, 0.0])),
        lambda: SkinList(4.0).pairs(np.array([[0.0, 0.0, np.nan]]), cell),
        lambda: SkinList(4.0).pairs(x, np.diag([5.0, 5.0, 1e-3])),
    ):
        with pytest.raises(DataError):
            make()
