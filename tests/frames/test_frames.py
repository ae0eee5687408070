"""kernelfe.Frames: building, refusing, slicing, joining, saving."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from sklearn.model_selection import KFold, train_test_split
from sklearn.utils import _safe_indexing

from kernelfe import Frames
from kernelfe.errors import DataError, UnitsError

from .frame_cases import BEADS, N, arrays, assert_same


@pytest.fixture
def frames():
    return Frames.from_arrays(**arrays()).add_pair_labels([0, 2], [3, 5], [0.1, -0.2], 0.01)


# ---------------------------------------------------------------------- building


def test_from_arrays(frames):
    given = arrays()
    assert len(frames) == N and frames.shape == (N, BEADS, 3)
    np.testing.assert_array_equal(frames.positions, given["positions"])
    assert frames.coordinates is frames.positions and frames.variables is None
    assert frames.cell.shape == (N, 3, 3) and frames.parameters["pressure"].shape == (N,)
    assert np.isnan(frames.labels["mean_energy"][1::2]).all() and np.isfinite(frames.labels["mean_energy"][::2]).all()
    assert frames.present["mean_force"].all() and frames.noise["mean_energy"] == 0.2
    assert frames.label_shape("generalized_force") == (2,) and frames.label_shape("mean_force") == (BEADS, 3)
    assert "mean_energy (3 rows)" in repr(frames) and "2 pairs" in repr(frames) and "300 to 500 K" in repr(frames)
    summary = frames.summary()
    assert summary["mean_energy"]["rows"] == 3
    assert summary["mean_force"]["std"] == pytest.approx(given["labels"]["mean_force"].std())


def test_variables_broadcast_temperature_and_take_tensors():
    x = torch.arange(6.0, dtype=torch.float64).reshape(3, 2)
    frames = Frames.from_arrays(variables=x, temperature=300, labels={"mean_force": -x, "free_energy": [1, 2, 3]})
    assert frames.shape == (3, 2) and (frames.temperature == 300).all() and frames.positions is None
    np.testing.assert_array_equal(frames.labels["mean_force"], -frames.variables)
    assert "2 variables, 300 K" in repr(frames)


def test_arrays_are_copied_and_read_only():
    given = arrays()
    frames = Frames.from_arrays(**given)
    before = frames.positions.copy()
    given["positions"][:] = 0
    given["labels"]["mean_force"][:] = 0
    np.testing.assert_array_equal(frames.positions, before)
    assert np.abs(frames.labels["mean_force"]).min() > 0
    held = [frames.positions, frames.temperature, frames.displacements, frames.masses, frames.cell]
    held += [frames[1:3].positions, frames[[0, 1]].positions, frames.pairs.value]
    held += [*frames.labels.values(), *frames.present.values(), *frames.parameters.values()]
    held += [value for value in frames.noise.values() if not isinstance(value, float)]
    for array in held:
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    with pytest.raises(TypeError, match=r"\.positions"):
        np.asarray(frames)


def test_noise_forms():
    a = arrays()
    del a["noise"], a["present"]
    force = Frames.from_arrays(**a, noise={"mean_force": np.arange(1.0, N + 1)}).noise["mean_force"]
    assert force.shape == (N, BEADS, 3) and (force[2] == 3).all()
    per_bead = np.arange(1.0, BEADS + 1)[None, :, None]
    force = Frames.from_arrays(**a, noise={"mean_force": per_bead}).noise["mean_force"]
    assert force.shape == (N, BEADS, 3) and (force[:, 1] == 2).all()
    blocks = np.repeat(np.eye(12)[None], N, axis=0)
    assert Frames.from_arrays(**a, noise={"mean_force": blocks}).noise["mean_force"].shape == (N, 12, 12)
    assert Frames.from_arrays(**a, noise={"mean_energy": np.ones((N, 1, 1))}).noise["mean_energy"].shape == (N, 1, 1)
    assert Frames.from_arrays(**a, noise={"mean_energy": None}).noise == {}


def test_units():
    a = arrays()
    stated = {"energy": "kJ/mol", "length": "nm", "temperature": "K", "parameter_derivative": "kcal/mol"}
    frames = Frames.from_arrays(**a, units=stated)
    plain = Frames.from_arrays(**a)
    kj = 0.010364269574711572
    np.testing.assert_allclose(frames.positions, 10 * plain.positions)
    np.testing.assert_allclose(frames.cell, 10 * plain.cell)
    np.testing.assert_allclose(frames.displacements, 10 * plain.displacements)
    np.testing.assert_allclose(frames.temperature, plain.temperature)
    for key, factor in {
        "mean_force": kj / 10,
        "mean_energy": kj,
        "generalized_force": kj,
        "stress": kj / 1000,
        "parameter_derivative:charge": 4.184 * kj,
    }.items():
        np.testing.assert_allclose(frames.labels[key], factor * plain.labels[key], rtol=1e-12, err_msg=key)
    assert frames.noise["mean_energy"] == pytest.approx(0.2 * kj)
    np.testing.assert_allclose(frames.noise["mean_force"], kj / 10 * plain.noise["mean_force"])
    np.testing.assert_allclose(frames.noise["generalized_force"], kj**2 * plain.noise["generalized_force"])


def test_units_of_variables_and_fields():
    x = np.array([[30.0, 60.0]])
    frames = Frames.from_arrays(
        variables=x,
        temperature=300,
        labels={"mean_force": x, "mean_energy": [2.0]},
        units={"energy": "kJ/mol", "variables": "degrees"},
    )
    np.testing.assert_allclose(frames.variables, np.radians(x))
    np.testing.assert_allclose(frames.labels["mean_force"], 0.010364269574711572 * np.degrees(x))
    assert frames.labels["mean_energy"] == pytest.approx(2 * 0.010364269574711572)
    # −t·∇A is the same number whichever way the angle is counted in forces and fields
    a = arrays()
    a = {k: a[k] for k in ("positions", "temperature", "displacements")}
    base = {"energy": "eV", "length": "Å"}
    per_degree = Frames.from_arrays(
        **a,
        labels={"generalized_force": np.ones((N, 2))},
        units=base | {"generalized_force": "eV/degree", "displacements": "Å/degree"},
    )
    np.testing.assert_allclose(per_degree.labels["generalized_force"], 180 / np.pi)
    np.testing.assert_allclose(per_degree.displacements, a["displacements"] * 180 / np.pi)


# ---------------------------------------------------------------------- refusing


def _nan_at(array, row):
    array = np.array(array, dtype=float)
    array[row] = np.nan
    return array


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"positions": None}, "exactly one"),
        ({"variables": np.zeros((N, 2))}, "exactly one"),
        ({"positions": np.zeros((N, BEADS))}, r"positions has shape \(6, 4\)"),
        ({"positions": np.zeros((N, BEADS, 2))}, "positions has shape"),
        ({"positions": [np.zeros((4, 3)), np.zeros((5, 3))]}, "one Frames per kind of molecule"),
        ({"positions": _nan_at(np.zeros((N, BEADS, 3)), 4)}, "positions is not finite at row 4"),
        ({"positions": "text"}, "real numbers"),
        ({"positions": np.zeros((N, BEADS, 3), complex)}, "real numbers"),
        ({"temperature": None}, "temperature is missing"),
        ({"bonds": 5}, "bonds must be pairs"),
        ({"bonds": [(0, 1, 2)]}, "bonds must be pairs"),
        ({"bonds": [(0.7, 1.9)]}, "bonds must be pairs of bead numbers"),
        ({"bonds": np.array([[0.0, 1.0]])}, "bonds must be pairs of bead numbers"),
        ({"kinds": 5}, "kinds is 5"),
        ({"labels": [np.zeros(N)]}, "labels must be a dict.*not list"),
        ({"labels": np.zeros(N)}, "labels must be a dict.*not ndarray"),
        ({"noise": 0.1}, "noise must be a dict.*not float"),
        ({"parameters": [1, 2]}, "parameters must be a dict.*not list"),
        ({"present": np.ones(N, bool)}, "present must be a dict"),
        ({"units": 3}, "units must be the name of a system.*not 3"),
        ({"temperature": [300.0] * 5}, r"temperature has shape \(5,\)"),
        ({"temperature": [300, 300, 0, 300, 300, 300]}, "at row 2; it must be positive"),
        ({"temperature": -300.0}, "positive"),
        ({"temperature": np.inf}, "not finite"),
        ({"parameters": {}}, "parameter 'charge'"),
        ({"parameters": {"charge": [1.0, 2.0]}}, "parameter 'charge'"),
        ({"kinds": ["C"]}, "1 entries for 4 beads"),
        ({"masses": [1, 2, 3, -4]}, "bead 3"),
        ({"masses": [1, np.inf, 3, 4]}, "bead 1"),
        ({"masses": [1, 2]}, "masses has shape"),
        ({"bonds": [(0, 4)]}, r"bond \(0, 4\)"),
        ({"bonds": [(1, 1)]}, r"bond \(1, 1\)"),
        ({"cell": None}, "'stress' needs a cell"),
        ({"cell": np.zeros((3, 3))}, "no volume"),
        ({"cell": np.ones(3)}, "cell has shape"),
        ({"displacements": None}, "displacements="),
        ({"displacements": np.zeros((N, BEADS, 3))}, "displacements has shape"),
        ({"displacements": _nan_at(np.zeros((N, 2, BEADS, 3)), 3)}, "displacements is not finite at row 3"),
        ({"present": {"mean_energy": np.ones(N)}}, "boolean mask"),
        ({"present": {"mean_energy": np.ones(3, bool)}}, "boolean mask"),
        ({"present": {"entropy": np.ones(N, bool)}}, "present names 'entropy'"),
        ({"units": {"energy": "eV"}}, "length"),
        ({"units": {"energy": "eV", "length": "parsec"}}, "parsec"),
        ({"units": {"energy": "eV", "length": "Å", "mean_force": "eV"}}, "does not measure"),
    ],
)
def test_refusals(change, match):
    with pytest.raises(DataError, match=match):
        Frames.from_arrays(**(arrays() | change))


def test_bonds_are_whole_numbers_of_any_kind():
    for bonds in ([(0, 1), (1, 2)], np.array([[0, 1], [1, 2]], np.int32), torch.tensor([[0, 1], [1, 2]])):
        assert Frames.from_arrays(**(arrays() | {"bonds": bonds})).bonds == ((0, 1), (1, 2))


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        ({"forces": np.zeros((N, BEADS, 3))}, "unknown quantity 'forces'.*mean_force"),
        ({"mean_force:x": np.zeros((N, BEADS, 3))}, "unknown quantity"),
        ({"mean_force": np.zeros((N, 5, 3))}, r"'mean_force' has shape \(6, 5, 3\); expected \(6, 4, 3\)"),
        ({"mean_energy": np.zeros(5)}, "'mean_energy' has shape"),
        ({"mean_energy": np.zeros((N, 1))}, "'mean_energy' has shape"),
        ({"mean_force": _nan_at(np.zeros((N, BEADS, 3)), 2)}, "'mean_force' is not finite at row 2.*present"),
        ({"mean_energy": _nan_at(np.zeros(N), 4)}, "'mean_energy' is not finite at row 4"),
        ({"parameter_derivative": np.zeros(N)}, "exactly one parameter"),
        ({"parameter_derivative:mass": np.zeros(N)}, "'mass'"),
        ({"mean_energy": [None] * N}, "real numbers"),
    ],
)
def test_label_refusals(labels, match):
    with pytest.raises(DataError, match=match):
        Frames.from_arrays(**(arrays() | {"labels": labels, "noise": {}, "present": {}}))


@pytest.mark.parametrize(
    ("noise", "match"),
    [
        ({"mean_force": 0.0}, "'mean_force' is 0"),
        ({"mean_force": -1.0}, "positive"),
        ({"mean_force": np.nan}, "positive"),
        ({"mean_energy": [1, 1, 1, 1, 0, 1]}, "'mean_energy' is not finite and positive at row 4"),
        ({"entropy": 1.0}, "noise names 'entropy'"),
        ({"mean_force": np.ones((N, 2))}, "covariance"),
        ({"generalized_force": np.array([[1.0, 2.0], [2.0, 1.0]]) * np.ones((N, 1, 1))}, "row 0 is not positive"),
        ({"generalized_force": np.array([[1.0, 0.5], [0.0, 1.0]]) * np.ones((N, 1, 1))}, "row 0 is not symmetric"),
    ],
)
def test_noise_refusals(noise, match):
    with pytest.raises(DataError, match=match):
        Frames.from_arrays(**(arrays() | {"noise": noise}))


def test_values_in_rows_that_lack_the_label_do_not_matter():
    a = arrays()
    a["labels"]["mean_energy"][1] = np.nan
    a["noise"]["mean_energy"] = np.where(np.arange(N) % 2 == 0, 1.0, -1.0)
    frames = Frames.from_arrays(**a)
    assert np.isnan(frames.noise["mean_energy"][1::2]).all() and (frames.noise["mean_energy"][::2] == 1).all()


def test_variables_have_no_beads():
    for name, value in {"kinds": ["a", "b"], "masses": [1, 2], "bonds": [(0, 1)], "cell": np.eye(3)}.items():
        with pytest.raises(DataError, match=name):
            Frames.from_arrays(variables=np.zeros((3, 2)), temperature=300, **{name: value})


# ---------------------------------------------------------------------- indexing


def assert_rows(part, whole, rows):
    np.testing.assert_array_equal(part.positions, whole.positions[rows])
    np.testing.assert_array_equal(part.temperature, whole.temperature[rows])
    np.testing.assert_array_equal(part.displacements, whole.displacements[rows])
    np.testing.assert_array_equal(part.cell, whole.cell[rows])
    for name in ("labels", "present", "parameters"):
        for key, value in getattr(whole, name).items():
            np.testing.assert_array_equal(getattr(part, name)[key], value[rows])
    for key, value in whole.noise.items():
        np.testing.assert_array_equal(part.noise[key], value if isinstance(value, float) else value[rows])


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        (2, [2]),
        (-1, [5]),
        (np.int64(3), [3]),
        (slice(1, 4), [1, 2, 3]),
        (slice(None, None, -2), [5, 3, 1]),
        ([4, 0], [4, 0]),
        (np.array([-1, 1], dtype=np.int32), [5, 1]),
        (np.arange(6) > 3, [4, 5]),
        ([True, False, False, False, False, True], [0, 5]),
        (([1, 2], Ellipsis), [1, 2]),
        ([], []),
        (np.zeros(6, bool), []),
        (torch.tensor([3, 1]), [3, 1]),
    ],
)
def test_indexing(frames, index, rows):
    assert_rows(frames[index], frames, rows)
    assert len(frames[index]) == len(rows) and frames[index].kinds == frames.kinds
    assert repr(frames[index]).startswith(f"Frames({len(rows)} frames")


def test_boolean_expressions_of_the_quickstart(frames):
    train, test = frames[frames.temperature != 300], frames[frames.temperature == 300]
    assert len(train) == 5 and len(test) == 1
    assert [len(row) for row in frames] == [1] * N


@pytest.mark.parametrize(
    "index",
    [6, -7, [0, 6], np.ones(5, bool), 1.5, [0.5], "mean_force", (0, 1), (slice(None), 0), np.zeros((2, 2), int), None],
)
def test_bad_index(frames, index):
    with pytest.raises(IndexError):
        frames[index]


def test_frames_can_be_sent_to_other_processes(frames):
    assert_same(pickle.loads(pickle.dumps(frames)), frames)
    assert_same(copy.deepcopy(frames), frames)


def test_scikit_learn_indexing(frames):
    train, test = train_test_split(frames, test_size=2, random_state=0)
    assert isinstance(train, Frames) and (len(train), len(test)) == (4, 2)
    assert sorted([*train.temperature, *test.temperature]) == sorted(frames.temperature)
    seen = []
    for chosen, left in KFold(3).split(frames):
        assert_rows(_safe_indexing(frames, chosen), frames, chosen)
        assert_rows(_safe_indexing(frames, list(left)), frames, left)
        seen += list(left)
    assert sorted(seen) == list(range(N))
    assert_rows(_safe_indexing(frames, slice(0, 2)), frames, [0, 1])


# ---------------------------------------------------------------------- pairs


# ---------------------------------------------------------------------- labels


def test_with_and_drop_labels(frames):
    only = frames.with_labels("mean_force")
    assert list(only.labels) == list(only.present) == list(only.noise) == ["mean_force"] and len(only.pairs) == 0
    assert len(frames.with_labels(["mean_force", "pairs"]).pairs) == 2
    dropped = frames.drop_labels(["stress", "mean_force"])
    assert list(dropped.labels) == ["mean_energy", "generalized_force", "parameter_derivative:charge"]
    assert len(dropped.pairs) == 2 and frames.drop_labels().labels == {} and len(frames.labels) == 5
    with pytest.raises(DataError, match="'entropy'"):
        frames.with_labels(["entropy"])
    with pytest.raises(DataError, match="'entropy'"):
        frames.drop_labels("entropy")


def test_replace(frames):
    warm = frames.replace(temperature=350.0)
    assert (warm.temperature == 350).all() and len(warm.pairs) == 2
    np.testing.assert_equal(warm.labels, frames.labels)
    np.testing.assert_equal(warm.noise, frames.noise)
    new = frames.replace(labels=frames.labels | {"mean_energy": np.zeros(N)})
    assert new.present["mean_energy"].all() and "mean_energy" not in new.noise and "mean_force" in new.noise
    flat = frames.replace(
        variables=np.zeros((N, 2)), labels={}, kinds=None, masses=None, cell=None, bonds=None, displacements=None
    )
    assert flat.positions is None and flat.shape == (N, 2)
    with pytest.raises(DataError, match="temperature"):
        frames.replace(temperature=0.0)
    with pytest.raises(UnitsError):
        frames.replace(units="ase")
