"""Arrays that a fit does not copy, and arrays that it reads in place and does not change."""

from __future__ import annotations

import warnings
from dataclasses import fields

import numpy as np
import pytest
import torch

from kernelfe import Frames, FreeEnergyRegressor, Sparse
from kernelfe.gp.observations import assemble, labels
from kernelfe.gp.observations.molecules import MoleculeSet
from kernelfe.gp.shared_baseline import fit_baseline
from kernelfe.gp.states import States, without_copy

from ..systems import molecule

BONDS = [(0, 1), (1, 2), (2, 3)]


def storages(value) -> dict[int, int]:
    """Address and bytes of the memory of all tensors in a dataclass, dict or list."""
    if isinstance(value, torch.Tensor):
        return {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes()}
    if isinstance(value, (list, tuple)):
        parts = value
    elif isinstance(value, dict):
        parts = value.values()
    else:
        parts = [getattr(value, f.name) for f in fields(value)] if hasattr(value, "__dataclass_fields__") else []
    return {at: size for part in parts for at, size in storages(part).items()}


def addresses(frames: Frames) -> set[int]:
    arrays = [frames.positions, frames.temperature, *frames.labels.values()]
    return {array.ctypes.data for array in arrays}


@pytest.mark.parametrize("baseline", [None, False])
def test_labels_take_the_memory_of_their_values_alone(baseline):
    frames = molecule(4000, noise=False, bonds=BONDS)
    fitted = fit_baseline(baseline, MoleculeSet([frames]))
    found = storages(assemble.label_sets(frames, None, None, fitted, (1.0,)))
    own = sum(size for at, size in found.items() if at not in addresses(frames))
    values = 4000 * 13 * 8 if baseline is None else 0  # minus the baseline; without one, they are the labels
    assert own == values + 4000 * 8 * 2  # which frame, and how many of each kind are in it


def test_one_number_for_the_noise_stays_one():
    frames = molecule(500)
    forces, _ = assemble.label_sets(frames, None, {"mean_force": 0.02}, None, (1.0,))
    std = forces.noise.std
    assert std.shape == (500, 12) and std.untyped_storage().nbytes() == 8
    assert bool((std == 0.02).all())


def test_parts_of_arrays_and_other_numbers_are_copied():
    whole = np.arange(12.0).reshape(6, 2)
    whole.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shared = without_copy(whole)
    assert shared.data_ptr() == whole.ctypes.data
    for other in (whole[:4], whole.T, whole.astype(np.float32), whole.astype(">f8"), np.broadcast_to(1.0, (3,))):
        copy = without_copy(other)
        assert copy.dtype == torch.float64 and copy.is_contiguous()
        assert copy.data_ptr() != other.ctypes.data and np.array_equal(copy, other)
    given = np.full(6, 300.0)
    states = States.from_frames(Frames.from_arrays(variables=whole, temperature=1.0), given)
    given[:] = 1.0  # an array of the caller's may change later
    assert bool((states.temperature == 300.0).all())


@pytest.mark.parametrize("solver", ["dense", "iterative", Sparse(inducing=20)])
def test_a_fit_and_its_predictions_leave_the_frames_as_they_were(solver):
    frames = molecule(15, bonds=BONDS)
    before = [a.copy() for a in (frames.positions, frames.temperature, *frames.labels.values())]
    model = FreeEnergyRegressor(solver=solver, optimizer=None).fit(frames)
    for quantity in ("free_energy", "mean_force", "heat_capacity"):
        model.predict(frames, quantity, return_std=solver != "iterative")
    model.predict_difference(frames[:5], frames[5:10])
    for old, new in zip(before, (frames.positions, frames.temperature, *frames.labels.values()), strict=True):
        np.testing.assert_array_equal(old, new)


def test_baseline_is_taken_off_in_an_array_of_its_own(monkeypatch):
    frames = molecule(30, bonds=BONDS)
    baseline = fit_baseline(None, MoleculeSet([frames]))
    states = States.from_frames(frames)
    monkeypatch.setattr(labels, "FRAMES_AT_ONCE", 7)
    y = without_copy(frames.labels["mean_force"]).reshape(30, -1)
    functional = assemble.functionals.get("mean_force")
    found = labels.less_baseline(y, baseline, functional, states)
    _, gradient = baseline.energy_and_gradient(states.coordinates)
    np.testing.assert_allclose(found, y + gradient.reshape(30, -1), rtol=1e-13, atol=1e-15)
    assert found.data_ptr() != y.data_ptr()
