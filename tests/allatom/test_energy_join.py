"""Energies and frames of one run find each other, or the reader says why not."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelfe.allatom import BeadMap, EnergyTable, Trajectory
from kernelfe.errors import DataError

from . import writers
from .writers import ATOMS, N

mda = pytest.importorskip("MDAnalysis")


@st.composite
def runs(draw):
    """Steps and true energies of a run with restarts, as its table and as its trajectory keep them."""
    rows, frames, start, value = [], [], 0, 0.0
    same = draw(st.booleans())  # restarts that reproduce the run, or not
    for part in range(draw(st.integers(1, 3))):
        stop = start + draw(st.integers(1, 6))
        for step in range(start, stop):
            value += 1.0
            energy = float(step) if same else value
            rows.append((step, energy))
            frames.append((step, energy, part))
        start = draw(st.integers(0, stop))
    if draw(st.booleans()):  # a trajectory that the restart truncated
        kept = []
        for frame in frames:
            kept = [k for k in kept if k[0] < frame[0]] + [frame]
        frames = kept
    every = draw(st.integers(1, 3))
    return rows[:: draw(st.integers(1, 2))], frames[::every]


@settings(max_examples=60, deadline=None)
@given(runs())
def test_no_frame_gets_the_energy_of_another(run):
    """The energy of a frame is its own, absent, or one that a warning or an error speaks of."""
    rows, frames = run
    table = EnergyTable(np.array([e for _, e in rows]), steps=np.array([s for s, _ in rows]))
    steps = np.array([step for step, *_ in frames])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            found = table.at(steps, None)
        except DataError:
            return
    truth = np.array([energy for _, energy, _ in frames])
    wrong = ~np.isnan(found) & (found != truth)
    repeated = np.array([list(steps).count(step) > 1 for step in steps])  # such frames are the caller's to tell apart
    assert said or not (wrong & ~repeated & ~_lost(rows, frames)).any()


def _lost(rows, frames):
    """Frames whose own row the table lacks while it has another one of the same step."""
    return np.array([(step, energy) not in rows for step, energy, _ in frames])


def test_a_trajectory_that_was_restarted_with_its_table():
    """Both went back at the same step: each part takes its own energies."""
    table = EnergyTable(np.arange(7.0), steps=np.array([0, 1, 2, 3, 2, 3, 4]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert table.at(np.array([0, 1, 2, 3, 2, 3, 4]), None).tolist() == list(range(7))
    with pytest.warns(UserWarning, match="two energies for 2 of the 4 frames"):
        assert table.at(np.array([1, 2, 3, 4]), None).tolist() == [1, 4, 5, 6]
    with pytest.raises(DataError, match="2 runs, and the frames of 3"):
        table.at(np.array([0, 2, 1, 2, 1]), None)


@pytest.fixture(scope="module")
def data():
    return writers.numbers()


def read(path, table, **options):
    return Trajectory(path, energies=table, **options).read().energies


def test_a_table_of_another_run_is_refused(data, tmp_path):
    writers.write_trr(tmp_path / "x.trr", data)
    table = EnergyTable(np.zeros(3), times=np.array([100.0, 102.0, 104.0]), name="other.xvg")
    with pytest.raises(DataError, match=r"none of the 6 frames.*times 0 to 10 ps.*other\.xvg times 100 to 104 ps"):
        read(tmp_path / "x.trr", table)
    table = EnergyTable(np.zeros(N), steps=data["steps"], times=data["times"] / 2, name="other.csv")
    with pytest.raises(DataError, match=r"step 1000 of the frames is at 2 ps, and in other\.csv at 1 ps"):
        read(tmp_path / "x.trr", table)
    with pytest.warns(UserWarning, match=r"4 of 6 frames have no row in .*first at step 2000"):
        found = read(tmp_path / "x.trr", EnergyTable(np.ones(2), steps=np.array([0, 1000])))
    assert np.isnan(found).tolist() == [False, False, True, True, True, True]


def test_neighbours_in_time_do_not_share_an_energy():
    """Frames closer than the tolerance of times: only the frame of the row gets its energy."""
    table = EnergyTable(np.array([1.0, 2.0]), times=np.array([0.0, 0.01]))
    found = table.at(None, np.arange(0.0, 0.0125, 0.001).astype("f4").astype(float))
    assert np.flatnonzero(~np.isnan(found)).tolist() == [0, 10]


def test_frames_without_times_get_none(data, tmp_path):
    """A NetCDF file without times: MDAnalysis counts 0, 1, 2 …, which is not a time."""
    from scipy.io import netcdf_file

    writers.write_netcdf(tmp_path / "x.nc", data)
    with netcdf_file(tmp_path / "x.nc", "r", mmap=False) as old, netcdf_file(tmp_path / "y.nc", "w", version=2) as new:
        for name in ("Conventions", "ConventionVersion", "program", "programVersion"):
            setattr(new, name, getattr(old, name))
        for name, size in old.dimensions.items():
            new.createDimension(name, size)
        for name, variable in old.variables.items():
            if name != "time":
                made = new.createVariable(name, "f4", variable.dimensions)
                made.units, made[:] = variable.units, variable[:]
    table = EnergyTable(np.arange(4.0), times=np.arange(4.0))
    assert Trajectory(tmp_path / "y.nc").read().times is None
    with pytest.raises(DataError, match="neither steps nor times in common"):
        read(tmp_path / "y.nc", table)


def test_frames_that_a_restart_repeats_count_once(data, tmp_path):
    rows = [0, 1, 2, 3, 2, 3, 4, 5]
    again = {name: values[rows] for name, values in data.items()}
    again["cell"] = np.repeat(data["cell"][:1], len(rows), 0)
    writers.write_h5md(tmp_path / "x.h5md", again, energies=np.array(rows, float))
    trajectory = Trajectory(tmp_path / "x.h5md")
    with pytest.warns(UserWarning, match="2 of 8 frames repeat"):
        frames = trajectory.read()
    assert trajectory.repeated == 2 and frames.steps.tolist() == [0, 1000, 2000, 3000, 4000, 5000]
    with pytest.warns(UserWarning, match="2 of 8"):  # one number per frame of the file
        assert read(tmp_path / "x.h5md", np.array(rows, float)).tolist() == [0, 1, 2, 3, 4, 5]


def test_different_frames_of_one_step_do_not_share_an_energy(data, tmp_path):
    data = dict(data, steps=np.array([0, 100, 0, 100, 200, 300]), times=None)
    writers.write_lammps(tmp_path / "x.dump", data)
    table = EnergyTable(np.arange(4.0), steps=np.array([0, 100, 200, 300]), name="log")
    for size in (1, 6):
        with pytest.raises(DataError, match="two different frames have the step 0, for which log has one energy"):
            list(Trajectory(tmp_path / "x.dump", energies=table, units="ase").chunks(size))
    table = EnergyTable(np.arange(6.0), steps=data["steps"])
    frames = Trajectory(tmp_path / "x.dump", energies=table, units="ase")
    mapping = BeadMap(np.eye(ATOMS), np.eye(ATOMS))
    assert frames.to_frames(mapping, 300.0, chunk=1).labels["mean_energy"].tolist() == list(range(6))


@pytest.mark.parametrize(
    "arrays",
    [{"energies": [1.0, np.nan]}, {"energies": [1.0, 2.0], "steps": [1]}, {"energies": [1.0], "steps": [0.5]}],
)
def test_tables_that_cannot_be(arrays):
    with pytest.raises(DataError, match="EnergyTable"):
        EnergyTable(**{name: np.array(values) for name, values in arrays.items()})
