"""Every array that enters the package is read whole or refused: units, masks, text, complex numbers, tensors.

The registry is checked against the annotations of all public functions: a new one that takes arrays needs a line there.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

import kernelfe
from kernelfe.arrays import kelvin, masked_rows, real_array
from kernelfe.errors import DataError, UnitsError

from .public_entries import ELSEWHERE, entries, needing_arrays


class Volts:
    """A quantity as other packages have it: numpy strips its unit without a word."""

    def __init__(self, magnitude, units="volt"):
        self.magnitude, self.units = magnitude, units

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.magnitude, dtype)

    def __len__(self):
        return len(self.magnitude)

    @property
    def shape(self):
        return np.shape(self.magnitude)

    @property
    def ndim(self):
        return np.ndim(self.magnitude)

    def to(self, unit):
        raise ValueError(f"cannot convert volt to {unit}")


def masked(array):
    out = np.ma.array(array, mask=np.zeros(np.shape(array), bool))
    out.data.reshape(-1)[-1] = 10**9
    out[(-1,) * out.ndim] = np.ma.masked
    return out


BAD = {
    "unit": Volts,
    "mask": lambda a: masked(a.copy()),
    "complex": lambda a: a + 0j,
    "text": lambda a: a.astype(str),
    "object": lambda a: np.where(np.arange(a.size).reshape(a.shape) == 0, None, a),
}
EVERY = entries()


def places(entry):
    """Names of the array arguments of an entry, and how to replace one."""
    for name, value in entry.arguments.items():
        if isinstance(value, dict):
            yield from ((name, key, array) for key, array in value.items())
        else:
            yield name, None, value


def called(entry, name, key, value):
    given = dict(entry.arguments)
    given[name] = value if key is None else {**given[name], key: value}
    return entry.call(**given)


def alike(a, b):
    if isinstance(a, dict):
        return all(alike(a[k], b[k]) for k in a)
    if isinstance(a, (tuple, list)) and len(a) and not np.isscalar(a[0]):
        return all(alike(p, q) for p, q in zip(a, b, strict=True))
    if isinstance(a, (float, np.ndarray)):
        return np.allclose(a, b, rtol=1e-9, equal_nan=True)
    return True


def test_the_registry_knows_every_public_function_that_takes_arrays():
    known = {entry.name.partition("(")[0] for entry in EVERY} | set(ELSEWHERE)
    unknown = sorted(needing_arrays() - known)
    assert not unknown, f"add these to tests/public_entries.py: {unknown}"


@pytest.mark.parametrize("entry", EVERY, ids=lambda entry: entry.name)
def test_every_array_is_read_whole_or_refused(entry):
    plain = entry.call(**entry.arguments)
    for name, key, array in places(entry):
        for kind, bad in BAD.items():
            if array.dtype.kind != "f" and kind not in ("unit", "mask"):
                continue  # groups may have any names
            if kind == "mask" and name in ("labels", "y") and array.ndim == 1:
                continue  # a missing label, tested below
            if (
                kind == "text"
                and key is None
                and entry.name in ("FreeEnergyRegressor.fit(table)", "FreeEnergyRegressor.score")
            ):
                continue  # scikit-learn reads numbers written as text, and has errors of its own
            with pytest.raises(ValueError if entry.name.startswith("FreeEnergyRegressor") else DataError):
                called(entry, name, key, bad(array))
                pytest.fail(f"{entry.name}: {key or name} as {kind} was taken")
        if entry.name.startswith("FreeEnergyRegressor.fit"):
            continue
        for same in (torch.from_numpy(array.copy()), np.ma.array(array), array.tolist()):
            assert alike(called(entry, name, key, same), plain), f"{entry.name}: {key or name} as {type(same)}"


def test_masked_labels_are_missing_and_other_masks_are_refused():
    x, f = np.random.default_rng(0).normal(size=(2, 5, 3, 3))
    rows = np.array([False, True, False, False, True])
    label = np.ma.array(f, mask=np.broadcast_to(rows[:, None, None], f.shape).copy())
    label.data[rows] = 1e20
    noise = np.ma.array(np.ones(5), mask=rows)
    frames = kernelfe.Frames.from_arrays(
        x,
        temperature=300.0,
        labels={"mean_force": label, "mean_energy": np.ma.array(np.ones(5), mask=~rows)},
        noise={"mean_force": noise},
        present={"mean_force": np.arange(5) > 0},
    )
    np.testing.assert_array_equal(frames.present["mean_force"], [False, False, True, True, False])
    np.testing.assert_array_equal(frames.present["mean_energy"], rows)
    assert np.isnan(frames.labels["mean_force"][rows]).all()
    label[0, 0, 0] = np.ma.masked
    with pytest.raises(DataError, match="masked in part"):
        kernelfe.Frames.from_arrays(x, temperature=300.0, labels={"mean_force": label})
    with pytest.raises(DataError, match="noise of 'mean_energy' is masked"):
        kernelfe.Frames.from_arrays(
            x, temperature=1.0, labels={"mean_energy": f[:, 0, 0]}, noise={"mean_energy": noise}
        )


def test_quantities_of_openmm_are_converted():
    unit = pytest.importorskip("openmm.unit")
    x, f = np.random.default_rng(0).normal(size=(2, 4, 3, 3))
    beads = {"masses": [12.0, 1.0, 1.0] * unit.dalton, "cell": 3.0 * np.eye(3) * unit.nanometer}
    frames = kernelfe.Frames.from_arrays(
        [row * unit.nanometer for row in x],
        temperature=300.0 * unit.kelvin,
        labels={
            "mean_force": f * unit.kilojoule_per_mole / unit.nanometer,
            "mean_energy": [1.0] * 4 * unit.kilojoule_per_mole,
        },
        noise={"mean_energy": 1.0 * unit.kilocalorie_per_mole},
        units="charmm",  # of the numbers without a unit: there are none
        **beads,
    )
    wanted = kernelfe.Frames.from_arrays(
        x,
        temperature=300.0,
        labels={"mean_force": f, "mean_energy": [1.0] * 4},
        noise={"mean_energy": 4.184},
        units="openmm",
        masses=[12.0, 1.0, 1.0],
        cell=3.0 * np.eye(3),
    )
    for a, b in ((frames.positions, wanted.positions), (frames.cell, wanted.cell), (frames.masses, wanted.masses)):
        np.testing.assert_allclose(a, b, rtol=1e-9)
    for key in wanted.labels:
        np.testing.assert_allclose(frames.labels[key], wanted.labels[key], rtol=1e-7)
    np.testing.assert_allclose(frames.noise["mean_energy"], wanted.noise["mean_energy"], rtol=1e-7)
    with pytest.raises(UnitsError, match="does not measure Å"):
        real_array(f * unit.kelvin, "positions", "Å")
    with pytest.raises(UnitsError, match="no unit is expected"):
        kernelfe.Frames.from_arrays(variables=x[:, 0] * unit.nanometer, temperature=300.0)


@pytest.mark.parametrize("kind", ["mask", "unit"])
def test_lists_and_nested_lists_are_searched(kind):
    row = BAD[kind](np.arange(3.0))
    for value in ([row, row], [[np.arange(3.0), row]], (np.arange(3.0), row)):
        with pytest.raises(DataError):
            real_array(value, "positions", "Å")


def test_one_temperature():
    unit = pytest.importorskip("openmm.unit")
    assert kelvin(300.0 * unit.kelvin) == kelvin(np.float32(300.0)) == 300.0
    for bad in (0.0, np.nan, [300.0], "300", None, 300.0 * unit.nanometer, Volts(300.0), np.ma.masked):
        with pytest.raises(DataError):
            kelvin(bad)
    surface = np.full((3, 3), 1.0 / 9.0)
    for temperature in (Volts(300.0), 300.0 * unit.nanometer):
        with pytest.raises(UnitsError):
            kernelfe.analysis.free_energy_surface(surface, temperature)


def test_rows_that_are_masked():
    value, missing = masked_rows(np.ma.array([1.0, 1e20], mask=[False, True]), "label")
    assert missing.tolist() == [False, True] and value.tolist() == [1.0, 0.0]
    assert masked_rows([1.0], "label") == ([1.0], None)


def test_half_precision_and_gradients_of_tensors():
    value = torch.ones(2, dtype=torch.bfloat16, requires_grad=True)
    np.testing.assert_array_equal(real_array(value, "x"), [1.0, 1.0])
    with pytest.raises(DataError, match="real numbers"):
        real_array(torch.ones(2, dtype=torch.complex64), "x")
    with pytest.raises(DataError):
        real_array(torch.eye(2).to_sparse(), "x")
