"""kernelfe.datasets: loading by name from a data package."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from kernelfe import Frames
from kernelfe.datasets import load, load_reference, names
from kernelfe.errors import DataError, MissingDependencyError, ModelFileError
from kernelfe.files.npz import save_npz


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A data package with one complete data set and one folder without data."""
    folder = tmp_path / "kernelfe_data_for_tests" / "two_beads"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("")
    (folder.parent / "notes").mkdir()
    rng = np.random.default_rng(0)
    frames = Frames.from_arrays(
        rng.normal(size=(4, 2, 3)),
        temperature=300.0,
        labels={
            "mean_force": rng.normal(size=(4, 2, 3)),
            "mean_energy": rng.normal(size=4),
            "generalized_force": rng.normal(size=(4, 2)),
        },
        displacements=rng.normal(size=(4, 2, 2, 3)),
    )
    frames.save(folder / "frames.npz", dtype="float32")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder, frames
    sys.modules.pop("kernelfe_data_for_tests", None)


def test_load(package):
    _, frames = package
    assert names("kernelfe_data_for_tests") == ["two-beads"]
    loaded = load("two-beads", "kernelfe_data_for_tests")
    np.testing.assert_allclose(loaded.positions, frames.positions, rtol=1e-6)
    np.testing.assert_allclose(loaded.labels["generalized_force"], frames.labels["generalized_force"], rtol=1e-6)
    np.testing.assert_array_equal(loaded.labels["mean_energy"], frames.labels["mean_energy"])
    assert loaded.displacements.shape == (4, 2, 2, 3)


def test_reference(package):
    folder, _ = package
    with pytest.raises(DataError, match=r"no reference\.npz"):
        load_reference("two-beads", "kernelfe_data_for_tests")
    arrays = {
        "temperatures": np.array([350.0, 450.0]),
        "edges": np.linspace(-np.pi, np.pi, 37),
        "probability": np.full((2, 36, 36), 36.0**-2),
        "probability_std": np.full((2, 36, 36), 1e-5),
        "halves": np.full((2, 2, 36, 36), 36.0**-2),
        "effective_sample_size": np.array([1e4, 2e4]),
    }
    save_npz(folder / "reference.npz", arrays)
    reference = load_reference("two-beads", "kernelfe_data_for_tests")
    for name, array in arrays.items():
        np.testing.assert_array_equal(getattr(reference, name), array)
    del arrays["halves"]
    save_npz(folder / "reference.npz", arrays)
    with pytest.raises(DataError, match="halves"):
        load_reference("two-beads", "kernelfe_data_for_tests")


def test_what_cannot_be_loaded(package):
    folder, _ = package
    with pytest.raises(DataError, match="two-beads"):
        load("three-beads", "kernelfe_data_for_tests")
    with pytest.raises(DataError, match="unknown data set"):
        load("../two-beads", "kernelfe_data_for_tests")
    with pytest.raises(MissingDependencyError, match="not installed"):
        names("no_such_package_anywhere")
    (folder / "frames.npz").write_bytes(b"damaged")
    with pytest.raises(ModelFileError):
        load("two-beads", "kernelfe_data_for_tests")
