"""kernelfe.Frames: labels of pairs of frames, and several Frames as one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelfe import Frames
from kernelfe.errors import DataError, UnitsError

from .frame_cases import BEADS, N, arrays, assert_same


@pytest.fixture
def frames():
    return Frames.from_arrays(**arrays()).add_pair_labels([0, 2], [3, 5], [0.1, -0.2], 0.01)


# ---------------------------------------------------------------------- pairs


def test_pairs_follow_their_rows(frames):
    kept = frames[[5, 3, 0, 2]].pairs
    np.testing.assert_array_equal([kept.i, kept.j], [[2, 3], [1, 0]])
    np.testing.assert_array_equal(kept.value, [0.1, -0.2])
    assert len(frames[:3].pairs) == 0 and len(frames[frames.temperature < 450].pairs) == 1
    assert frames[[0, 3, 0]].pairs.i.tolist() == [0]


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(st.integers(0, N - 1), unique=True, max_size=N))
def test_pairs_join_the_same_frames_after_any_slicing(rows):
    frames = Frames.from_arrays(**arrays()).add_pair_labels([0, 1, 2, 4], [3, 5, 1, 0], np.arange(4.0), 0.1)
    part = frames[rows]
    ends = {
        (frames.temperature[i], frames.temperature[j], v)
        for i, j, v in zip(frames.pairs.i, frames.pairs.j, frames.pairs.value, strict=True)
        if i in rows and j in rows
    }
    assert ends == {
        (part.temperature[i], part.temperature[j], v)
        for i, j, v in zip(part.pairs.i, part.pairs.j, part.pairs.value, strict=True)
    }


def test_add_pair_labels(frames):
    assert frames.add_pair_labels(-1, 0, 1.0, 2.0, unit="kJ/mol") is frames
    assert len(frames.pairs) == 3 and frames.pairs.i[-1] == 5
    assert frames.pairs.value[-1] == pytest.approx(0.010364269574711572)
    for bad in [
        (0, 6, 1.0, 1.0),
        (0, 0, 1.0, 1.0),
        (0, 1, np.nan, 1.0),
        (0, 1, 1.0, 0.0),
        (0.5, 1, 1.0, 1.0),
        ([0, 1], [1, 2, 3], 1.0, 1.0),
        (np.nan, 1, 1.0, 1.0),
    ]:
        with pytest.raises(DataError, match="pair label"):
            frames.add_pair_labels(*bad)
    with pytest.raises(UnitsError):
        frames.add_pair_labels(0, 1, 1.0, 1.0, unit="nm")
    assert len(frames.pairs) == 3


def test_slices_do_not_share_pairs(frames):
    part = frames[:]
    part.add_pair_labels(0, 1, 0.0, 1.0)
    assert (len(part.pairs), len(frames.pairs)) == (3, 2)


# ---------------------------------------------------------------------- joining


def test_concatenate_undoes_slicing(frames):
    joined = Frames.concatenate([frames[:2], frames[2:]])
    split_pairs = joined.pairs
    assert split_pairs.i.tolist() == [2] and split_pairs.j.tolist() == [5]  # the pair across the cut is lost
    assert_same(joined.drop_labels("pairs"), frames.drop_labels("pairs"))


def test_concatenate_of_different_labels(frames):
    forces, energies = frames[:3].with_labels("mean_force"), frames[3:].with_labels("mean_energy")
    joined = Frames.concatenate([forces, energies.replace(displacements=None)])
    assert joined.present["mean_force"].tolist() == [True] * 3 + [False] * 3
    assert joined.present["mean_energy"].tolist() == [False] * 4 + [True, False]
    assert np.isnan(joined.labels["mean_force"][3:]).all() and joined.noise["mean_energy"] == 0.2
    assert joined.noise["mean_force"].shape == (N, BEADS, 3) and np.isnan(joined.noise["mean_force"][3:]).all()
    assert np.isnan(joined.displacements[3:]).all() and np.isfinite(joined.displacements[:3]).all()
    assert_same(joined.replace(), joined)  # the result passes the checks of from_arrays


def test_concatenate_brings_noise_to_one_form():
    a = arrays()
    del a["noise"], a["present"]
    numbers = Frames.from_arrays(**a, noise={"generalized_force": 3.0, "mean_energy": 1.0})
    blocks = Frames.from_arrays(**a, noise={"generalized_force": np.eye(2) * np.ones((N, 1, 1)), "mean_energy": 2.0})
    joined = Frames.concatenate([numbers, blocks])
    np.testing.assert_array_equal(joined.noise["generalized_force"][0], 9 * np.eye(2))
    np.testing.assert_array_equal(joined.noise["generalized_force"][-1], np.eye(2))
    np.testing.assert_array_equal(joined.noise["mean_energy"], [1.0] * N + [2.0] * N)
    per_bead = Frames.from_arrays(**a, noise={"mean_force": np.repeat(np.eye(12)[None], N, 0)})
    stds = Frames.from_arrays(**a, noise={"mean_force": 2.0})
    assert Frames.concatenate([stds, per_bead]).noise["mean_force"].shape == (2 * N, 12, 12)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"kinds": ["C", "C", "N", "O"]}, "kinds"),
        ({"masses": None}, "masses"),
        ({"bonds": None}, "bonds"),
        ({"parameters": {"charge": 1.0}}, "parameters"),
        ({"noise": {}}, "noise"),
    ],
)
def test_concatenate_refuses_what_differs(frames, change, match):
    with pytest.raises(DataError, match=match):
        Frames.concatenate([frames, frames.replace(**change)])


def test_concatenate_refuses_other_molecules(frames):
    with pytest.raises(DataError, match="same molecule"):
        Frames.concatenate([frames, Frames.from_arrays(np.zeros((1, 5, 3)), temperature=300)])
    with pytest.raises(DataError, match="same molecule"):
        Frames.concatenate([frames, Frames.from_arrays(variables=np.zeros((1, 12)), temperature=300)])
    with pytest.raises(DataError, match="nothing"):
        Frames.concatenate([])
