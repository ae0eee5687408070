"""Functionals of users: what may be registered, and that files notice another definition."""

from __future__ import annotations

import numpy as np
import pytest

import kernelfe
from kernelfe import Frames, FreeEnergyRegressor
from kernelfe.errors import DataError, ModelFileError
from kernelfe.functionals import OBSERVABLES, Functional, Read, Spatial, register


@pytest.fixture(autouse=True)
def registered():
    before = dict(OBSERVABLES)
    yield
    OBSERVABLES.clear()
    OBSERVABLES.update(before)


def observable(key, thermal=((-1.0, 0, 2),)):
    class Own(Functional):
        def __init__(self):
            super().__init__(key, "eV/K²", (Read(Spatial.VALUE, thermal),))

    return Own


def test_it_is_a_label_and_a_prediction(tmp_path):
    register(observable("curvature"))
    t = np.linspace(300.0, 400.0, 12)
    frames = Frames.from_arrays(
        variables=t[:, None] / 100.0, temperature=t, labels={"curvature": 1e-6 * t}, noise={"curvature": 1e-5}
    )
    model = FreeEnergyRegressor(optimizer=None).fit(frames)
    model.save(tmp_path / "a.kfe")
    expected = model.predict(frames, "curvature")
    assert np.isfinite(expected).all()
    np.testing.assert_array_equal(kernelfe.load(tmp_path / "a.kfe").predict(frames, "curvature"), expected)
    del OBSERVABLES["curvature"]
    with pytest.raises(ModelFileError, match="register"):
        kernelfe.load(tmp_path / "a.kfe")
    register(observable("curvature", ((5.0, 0, 1),)))
    with pytest.raises(ModelFileError, match="'curvature' is defined in another way"):
        kernelfe.load(tmp_path / "a.kfe")


@pytest.mark.parametrize("key", ["a b", "a=b", "noise", "positions", "Upper", "1st", ""])
def test_keys_that_files_cannot_hold_are_refused(key):
    with pytest.raises(DataError, match="must be a name"):
        register(observable(key))


def test_a_key_belongs_to_one_class_but_a_class_may_be_defined_again():
    register(observable("again"))
    register(observable("again"))
    with pytest.raises(DataError, match="belongs to"):
        register(observable("mean_energy"))
    for wrong in (int, observable("x")(), 3):
        with pytest.raises(DataError, match="subclass of Functional"):
            register(wrong)


@pytest.mark.parametrize("arguments", [("gradient",), (Spatial.VALUE, (1.0, 0, 0)), (Spatial.VALUE, [(1.0, 0, 0)])])
def test_reads_are_checked(arguments):
    with pytest.raises(DataError, match="Read:"):
        Read(*arguments)
