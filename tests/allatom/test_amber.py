"""AMBER's NetCDF and formatted files: no times, forces in another file."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.units import kcal, mol

from kernelfe.allatom import EnergyTable, Trajectory
from kernelfe.errors import DataError

pytest.importorskip("MDAnalysis")

_spec = importlib.util.spec_from_file_location("format_writers", Path(__file__).with_name("writers.py"))
writers = importlib.util.module_from_spec(_spec)  # importlib mode puts no folder of tests on the path
sys.modules[_spec.name] = writers
_spec.loader.exec_module(writers)
N, ATOMS, KCAL = writers.N, writers.ATOMS, kcal / mol


@pytest.fixture(scope="module")
def data():
    return writers.numbers()


def test_netcdf_without_times_states_none(data, tmp_path):
    """Times counted by a reader (0, 1, 2 …) would find the energies of other frames."""
    writers.write_netcdf(tmp_path / "x.nc", data, leave_out=("time",))
    assert Trajectory(tmp_path / "x.nc").read().times is None
    table = EnergyTable(np.arange(8.0), times=np.arange(8.0))
    with pytest.raises(DataError, match="neither steps nor times"):
        Trajectory(tmp_path / "x.nc", energies=table).read()


def write_mdfrc(path, values):
    """10F8.3 after a title."""
    rows = ["title"]
    for frame in values:
        flat = [f"{x:8.3f}" for x in frame.ravel()]
        rows += ["".join(flat[k : k + 10]) for k in range(0, len(flat), 10)]
    path.write_text("\n".join(rows) + "\n")


def test_amber_writes_forces_to_another_file(data, tmp_path):
    writers.write_netcdf(tmp_path / "x.nc", data, forces=False)
    writers.write_netcdf(tmp_path / "x.mdfrc", data, leave_out=("coordinates", "cell_lengths", "cell_angles"), stride=2)
    with pytest.raises(DataError, match=r"holds no forces: run AMBER with ntwf = -1"):
        Trajectory(tmp_path / "x.nc")
    trajectory = Trajectory({tmp_path / "x.nc": tmp_path / "x.mdfrc"})
    frames = trajectory.read()
    np.testing.assert_allclose(frames.forces, data["forces"][::2] * KCAL, rtol=1e-6)
    np.testing.assert_allclose(frames.positions, data["positions"][::2], rtol=1e-6)
    assert trajectory.skipped == 3 and frames.times.tolist() == [0, 4, 8]
    writers.write_netcdf(tmp_path / "y.mdfrc", data, leave_out=("coordinates", "time"), stride=2)
    with pytest.raises(DataError, match="fewer frames than"):
        Trajectory({tmp_path / "x.nc": tmp_path / "y.mdfrc"}).read()


def test_formatted_files_of_amber(data, tmp_path):
    rounded = {key: np.round(data[key], 3) for key in ("positions", "forces")}
    writers.write_lammps(tmp_path / "x.dump", data)
    (tmp_path / "x.pdb").write_text(
        "".join(
            f"ATOM  {k + 1:5d}  CA  ALA A{k + 1:4d}       0.000   0.000   0.000  1.00  0.00\n" for k in range(ATOMS)
        )
    )
    for name, key in (("x.mdcrd", "positions"), ("x.mdfrc", "forces")):
        write_mdfrc(tmp_path / name, rounded[key])
    both = {tmp_path / "x.mdcrd": tmp_path / "x.mdfrc"}
    frames = Trajectory(both, tmp_path / "x.pdb").read()
    np.testing.assert_array_equal(frames.positions, rounded["positions"])
    np.testing.assert_allclose(frames.forces, rounded["forces"] * KCAL)
    assert frames.times is None and frames.cell is None
    with pytest.raises(DataError, match="pass topology="):
        Trajectory(both)
    text = (tmp_path / "x.mdcrd").read_text()
    for cut in (1, 3, 9):
        (tmp_path / "x.mdcrd").write_text(text[: -1 - cut])
        with pytest.raises(DataError, match=r"is cut|fewer|more"):
            Trajectory(both, tmp_path / "x.pdb").read()
    box = text.splitlines()
    for row in range(3, len(box) + N, 3):
        box.insert(row, "  30.000  30.000  30.000")
    (tmp_path / "x.mdcrd").write_text("\n".join(box) + "\n")
    with pytest.raises(DataError, match="without its angles"):
        Trajectory(both, tmp_path / "x.pdb").read()
