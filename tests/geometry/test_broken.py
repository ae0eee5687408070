"""Frames that were not unwrapped are found, and thermal motion is not taken for damage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelfe.datasets import ChainFamily, load
from kernelfe.geometry import broken_frames, infer_bonds


def chain(kinds, n, rng):
    return ChainFamily().configurations(kinds, np.full(n, 400.0), rng)


@settings(max_examples=20)
@given(st.text("ABC", min_size=2, max_size=7), st.booleans(), st.booleans(), st.data())
def test_torn_frames_are_found_and_no_others(kinds, stated, shrunk, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    n, beads = 60, len(kinds)
    x = chain(kinds, n, rng)
    bonds = [(i, i + 1) for i in range(beads - 1)]
    torn = rng.choice(n, data.draw(st.integers(0, 5)), replace=False)
    cut = data.draw(st.integers(1, beads - 1))
    if shrunk:  # all beads at one place, as in frames that were never written
        x[torn] = x[torn, :1] + 1e-3 * rng.normal(size=(len(torn), beads, 3))
    else:  # a part of the molecule on the other side of a box of 30 Å
        x[torn, cut:] += 30.0 * np.eye(3)[rng.integers(3)]
    found = np.flatnonzero(broken_frames(x, bonds if stated else None))
    assert found.tolist() == sorted(torn.tolist())
    if not shrunk and stated:
        assert not broken_frames(x, bonds, 30.0 * np.eye(3)).any()  # nearest images are whole


@pytest.mark.parametrize("stated", [True, False])
def test_real_frames_are_whole(stated):
    frames = load("alanine-dipeptide")
    assert not broken_frames(frames.positions, frames.bonds if stated else None).any()


def test_beads_that_are_not_bonded_may_part():
    """Two beads that meet and separate, and a gas of beads."""
    rng = np.random.default_rng(0)
    x = np.zeros((200, 2, 3))
    x[:, 1, 0] = np.where(rng.random(200) < 0.7, 3.0 + 0.05 * rng.normal(size=200), rng.uniform(3.0, 40.0, 200))
    assert not broken_frames(x).any()
    assert not broken_frames(rng.uniform(0.0, 30.0, (200, 6, 3))).any()


def test_bonds_are_inferred_from_whole_frames():
    x = chain("ABCAB", 300, np.random.default_rng(1))
    whole = infer_bonds(x)
    x[::100, 2:] += [25.0, 0.0, 0.0]
    assert infer_bonds(x) == whole == ((0, 1), (1, 2), (2, 3), (3, 4))
