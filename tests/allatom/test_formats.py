"""Trajectory files as programs write them: what they leave out, their suffixes, their ends, and cells."""

from __future__ import annotations

import bz2
import gzip
import importlib.util
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from ase.units import kcal, mol
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelfe.allatom import Trajectory
from kernelfe.errors import DataError, KernelfeError, UnitsError

pytest.importorskip("MDAnalysis")
h5py = pytest.importorskip("h5py")

_spec = importlib.util.spec_from_file_location("format_writers", Path(__file__).with_name("writers.py"))
writers = importlib.util.module_from_spec(_spec)  # importlib mode puts no folder of tests on the path
sys.modules[_spec.name] = writers
_spec.loader.exec_module(writers)
N, ATOMS, KCAL = writers.N, writers.ATOMS, kcal / mol


@pytest.fixture(scope="module")
def data():
    return writers.numbers()


@pytest.fixture(scope="module")
def dump(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("dump") / "x.dump"
    writers.write_lammps(path, data)
    return path.read_text()


def dumped(folder, text, name="x.dump", **options):
    (folder / name).write_text(text)
    return Trajectory(folder / name, **{"units": "charmm"} | options).read()


# ---------------------------------------------------------------------- names, packing, warnings


@pytest.mark.parametrize("name", ["dump.100", "x.dat", "X.LAMMPSTRJ", "out", "x.txt"])
def test_a_dump_of_any_name(name, dump, data, tmp_path):
    np.testing.assert_array_equal(dumped(tmp_path, dump, name).positions, data["positions"])


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress)])
def test_packed_dumps(suffix, pack, dump, data, tmp_path):
    path = tmp_path / f"x.lammpstrj{suffix}"
    path.write_bytes(pack(dump.encode()))
    np.testing.assert_array_equal(Trajectory(path, units="charmm").read().positions, data["positions"])
    path.write_bytes(pack(dump.encode())[:-20])
    with pytest.raises(DataError, match="not readable"):
        Trajectory(path, units="charmm").read()


def test_format_is_given_or_seen(data, dump, tmp_path):
    for name, write, form in (("run", writers.write_netcdf, "netcdf"), ("out", writers.write_trr, "trr")):
        write(tmp_path / name, data)
        for given_ in (None, form):
            assert len(Trajectory(tmp_path / name, format=given_).read()) == N
    writers.write_h5md(tmp_path / "x.hdf", data)
    assert len(Trajectory(tmp_path / "x.hdf").read()) == N
    (tmp_path / "x.unknown").write_text("nothing\n1\n")
    with pytest.raises(DataError, match=r"unknown format; .*format="):
        Trajectory(tmp_path / "x.unknown")
    with pytest.raises(DataError, match=r"unknown format='xdr'"):
        Trajectory(tmp_path / "x.unknown", format="xdr")
    with pytest.raises(DataError, match=r"not readable as LAMMPS|in place of frame 0"):
        Trajectory(tmp_path / "x.unknown", format="lammps", units="ase")
    (tmp_path / "x.trr.gz").write_bytes(gzip.compress((tmp_path / "out").read_bytes()))
    with pytest.raises(DataError, match="unpack it first"):
        Trajectory(tmp_path / "x.trr.gz")


@pytest.mark.parametrize("name", ["x.trr", "x.nc", "x.h5md", "x.dump"])
def test_reading_gives_no_warning_of_a_reader(name, data, tmp_path):
    write = {".trr": writers.write_trr, ".nc": writers.write_netcdf, ".h5md": writers.write_h5md}
    write.get(name[1:], writers.write_lammps)(tmp_path / name, data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Trajectory(tmp_path / name, units="charmm" if name == "x.dump" else None).read()


# ---------------------------------------------------------------------- ends of files


def dump_with_element(text):
    """With a column of text at the end."""
    rows = [row.replace("fx fy fz", "fx fy fz element") for row in text.splitlines()]
    return "\n".join(f"{row} Ca" if len(row.split()) == 8 and not row.startswith("ITEM") else row for row in rows)


def test_a_dump_without_a_final_line_end(data, tmp_path):
    """Numbers of one format show that the last one is whole; LAMMPS itself ends lines with a space."""
    rounded = {key: np.round(values, 3) for key, values in data.items()}
    writers.write_lammps(tmp_path / "x.dump", rounded, shuffle=False)
    text = (tmp_path / "x.dump").read_text()
    lines = [
        " ".join(f"{float(w):.3f}" for w in row.split()[2:]) if row[0].isdigit() and row.count(" ") == 7 else None
        for row in text.splitlines()
    ]
    fixed = "\n".join(
        row if line is None else " ".join([*row.split()[:2], line])
        for row, line in zip(text.splitlines(), lines, strict=True)
    )
    whole = dumped(tmp_path, fixed + "\n")
    assert len(whole) == N
    for ended in (fixed, fixed[:-1] + fixed[-1] + " "):
        np.testing.assert_array_equal(dumped(tmp_path, ended).forces, whole.forces)
    for cut in range(1, 4):
        with pytest.warns(UserWarning, match="may be cut and is left out"):
            assert len(dumped(tmp_path, fixed[:-cut])) == N - 1
        with pytest.raises(DataError, match="middle of a line"):
            dumped(tmp_path, fixed[: fixed.index("ITEM: TIMESTEP", 5) - 1 - cut])  # the only frame
    last = dump_with_element(fixed)
    assert len(dumped(tmp_path, last)) == N  # the column is not read


@given(cut=st.integers(1, 400))
@settings(max_examples=25, deadline=None)
def test_a_dump_cut_anywhere_gives_whole_frames_or_an_error(cut, dump, data, tmp_path_factory):
    """No frame that is returned may differ from the uncut file's."""
    folder = tmp_path_factory.mktemp("cut")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            frames = dumped(folder, dump[:-cut])
        except KernelfeError:
            return
    np.testing.assert_array_equal(frames.positions, data["positions"][: len(frames)])
    np.testing.assert_array_equal(frames.forces, data["forces"][: len(frames)] * KCAL)


def test_an_incomplete_last_frame_is_left_out_with_a_warning(dump, data, tmp_path):
    lines = dump.splitlines(keepends=True)
    for cut in (1, 4, 7):
        with pytest.warns(UserWarning, match="ends within frame 5"):
            assert len(dumped(tmp_path, "".join(lines[:-cut]))) == N - 1
    writers.write_trr(tmp_path / "x.trr", data)
    content = (tmp_path / "x.trr").read_bytes()
    (tmp_path / "x.trr").write_bytes(content[:-20])
    with pytest.warns(UserWarning, match="ends within a frame"):
        assert len(Trajectory(tmp_path / "x.trr").read()) == N - 1


def test_joined_and_empty_dumps(dump, data, tmp_path):
    other = writers.numbers(seed=3)
    writers.write_lammps(tmp_path / "y.dump", other)
    frames = dumped(tmp_path, dump + "\n" + (tmp_path / "y.dump").read_text() + "\n\n")
    np.testing.assert_array_equal(frames.positions, np.concatenate([data["positions"], other["positions"]]))
    with pytest.raises(DataError, match="no complete frame"):
        dumped(tmp_path, "", "x.dump")
    empty = dump.replace(f"ATOMS\n{ATOMS}\n", "ATOMS\n0\n")
    with pytest.raises(DataError, match="holds no atoms in frame 0: the group"):
        dumped(tmp_path, empty)


# ---------------------------------------------------------------------- what dumps state


def test_items_of_units_and_time(dump, data, tmp_path):
    stated = "ITEM: UNITS\nreal\n" + dump.replace("ITEM: TIMESTEP", "ITEM: TIME\n2500\nITEM: TIMESTEP")
    frames = dumped(tmp_path, stated, units=None)
    np.testing.assert_allclose(frames.forces, data["forces"] * KCAL)
    assert frames.times.tolist() == [2.5] * N  # fs to ps
    with pytest.raises(UnitsError, match="states its units"):
        dumped(tmp_path, stated)
    with pytest.raises(UnitsError, match="state no units"):
        dumped(tmp_path, stated.replace("real", "lj"), units=None)
    assert dumped(tmp_path, stated.replace("real", "lj"), units="ase").times is None


def test_mass_column(data, tmp_path):
    writers.write_lammps(
        tmp_path / "x.dump", data, columns="id mass x y z fx fy fz", masses=[12.0, 1.0, 12.0, 16.0, 18.0]
    )
    assert Trajectory(tmp_path / "x.dump", units="charmm").masses.tolist() == [12, 1, 12, 16, 18]


def test_coordinates_in_every_convention(data, tmp_path):
    """Fractions of the cell, and images, give the positions that the unwrapped columns state."""
    frames = {}
    for columns in ("xu yu zu", "xsu ysu zsu", "x y z ix iy iz", "xs ys zs ix iy iz"):
        writers.write_lammps(tmp_path / "x.dump", data, columns=f"id {columns} fx fy fz")
        frames[columns] = Trajectory(tmp_path / "x.dump", units="charmm").read().positions
    for columns, positions in frames.items():
        np.testing.assert_allclose(positions, data["positions"], atol=1e-8, err_msg=columns)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (("BOUNDS xy xz yz pp pp pp", "BOUNDS abc origin pp pp pp"), "general triclinic"),
        (("BOUNDS xy xz yz pp pp pp", "BOUNDS xy xz yz pp pp ff"), "some directions only"),
        (("BOUNDS xy xz yz pp pp pp", "BOUNDS xy xz yz"), "does not state its boundaries"),
        (("NUMBER OF ATOMS", "NUMBER OF ENTRIES"), "not a dump of atoms"),
        (("xu yu zu", "a b c"), "no columns of coordinates"),
    ],
)
def test_refused_dumps(change, match, dump, tmp_path):
    with pytest.raises(DataError, match=match):
        dumped(tmp_path, dump.replace(*change))


def test_atoms_that_change_between_frames(dump, tmp_path):
    head, _, tail = dump.rpartition("\n5 ")
    with pytest.raises(DataError, match=r"other atoms at step 5000|same id twice"):
        dumped(tmp_path, head + "\n9 " + tail)


# ---------------------------------------------------------------------- H5MD


def edit(path, data, change, **options):
    writers.write_h5md(path, data, **options)
    with h5py.File(path, "a") as file:
        change(file)
    return path


def test_h5md_of_lammps(data, tmp_path):
    """As `dump h5md` writes it: no units, forces less often than positions."""

    def thin(file):
        force = file["particles/all/force"]
        for name in ("step", "time", "value"):
            values = force[name][::2]
            del force[name]
            force[name] = values

    path = edit(tmp_path / "x.h5md", data, thin, length="", force="")
    with pytest.raises(UnitsError, match="states no units"):
        Trajectory(path)
    trajectory = Trajectory(path, units="charmm")
    frames = trajectory.read()
    np.testing.assert_array_equal(frames.positions, data["positions"][::2])
    np.testing.assert_allclose(frames.forces, data["forces"][::2] * KCAL)
    assert trajectory.skipped == N // 2 and frames.steps.tolist() == data["steps"][::2].tolist()
    half = edit(tmp_path / "y.h5md", data, lambda file: None, force="", length="Angstrom")
    np.testing.assert_allclose(Trajectory(half, units="charmm").read().forces, data["forces"] * KCAL)
    with pytest.raises(UnitsError, match="differs from units="):
        Trajectory(half, units="gromacs")


def test_h5md_with_forces_of_fewer_atoms(data, tmp_path):
    def fewer(file):
        force = file["particles/all/force"]
        values, unit = force["value"][:, :-1], force["value"].attrs["unit"]
        del force["value"]
        force["value"] = values
        force["value"].attrs["unit"] = unit

    with pytest.raises(DataError, match=r"holds forces of shape \(4, 3\) and positions of \(5, 3\)"):
        Trajectory(edit(tmp_path / "x.h5md", data, fewer)).read()


def _boundary(*words):
    def change(file):
        file["particles/all/box"].attrs["boundary"] = np.array([word.encode() for word in words])

    return change


def test_boundaries_of_h5md(data, tmp_path):
    path = tmp_path / "x.h5md"
    assert Trajectory(edit(path, data, _boundary("none", "none", "none"))).read().cell is None
    with pytest.raises(DataError, match="some directions only"):
        Trajectory(edit(path, data, _boundary("periodic", "periodic", "none")))
    with pytest.raises(DataError, match="states no boundary"):
        Trajectory(edit(path, data, lambda file: file["particles/all/box"].attrs.pop("boundary")))

    def without(file):
        del file["particles/all/box/edges"]

    with pytest.raises(DataError, match="no edges"):
        Trajectory(edit(path, data, without))


@pytest.mark.parametrize("edges", [np.array([9.0, 8.0, 7.0]), np.diag([9.0, 8.0, 7.0])])
def test_edges_that_are_fixed_in_time(edges, data, tmp_path):
    def fix(file):
        del file["particles/all/box/edges"]
        file["particles/all/box/edges"] = edges

    frames = Trajectory(edit(tmp_path / "x.h5md", data, fix)).read()
    np.testing.assert_allclose(frames.cell, np.repeat(10.0 * np.diag([9.0, 8.0, 7.0])[None], N, 0))


def test_h5md_of_znh5md(data, tmp_path):
    def rename(file):
        file.move("particles/all/force", "particles/all/forces")
        file["h5md"].create_group("creator").attrs["name"] = "ZnH5MD"
        file.move("observables/potential_energy", "observables/all/energy")
        box = file["particles/all/box"]
        box["pbc/value"] = np.zeros((N, 3), bool)

    path = edit(
        tmp_path / "x.h5", data, rename, length="Angstrom", force="eV/Angstrom", energies=np.arange(N), energy="eV"
    )
    frames = Trajectory(path).read()
    np.testing.assert_array_equal(frames.forces, data["forces"])
    assert frames.cell is None and frames.energies.tolist() == list(range(N))


def test_energies_of_h5md_are_matched_by_step(data, tmp_path):
    def thin(file):
        node = file["observables/potential_energy"]
        for name in ("step", "time", "value"):
            values, attributes = node[name][1::2], dict(node[name].attrs)
            del node[name]
            node[name] = values
            node[name].attrs.update(attributes)

    path = edit(tmp_path / "x.h5md", data, thin, energies=np.arange(N), energy="eV")
    assert Trajectory(path).read().energies[1::2].tolist() == [1, 3, 5]
    assert np.isnan(Trajectory(path).read().energies[::2]).all()


def test_h5md_without_steps_and_times(data, tmp_path):
    def strip(file):
        for name in ("position", "force", "box/edges"):
            del file[f"particles/all/{name}/step"], file[f"particles/all/{name}/time"]

    frames = Trajectory(edit(tmp_path / "x.h5md", data, strip)).read()
    assert frames.steps is None and frames.times is None and len(frames) == N
    constant = Trajectory(edit(tmp_path / "y.h5md", data, _increments)).read()
    assert constant.steps.tolist() == data["steps"].tolist() and constant.times.tolist() == data["times"].tolist()


def _increments(file):
    for name in ("position", "force", "box/edges"):
        node = file[f"particles/all/{name}"]
        del node["step"], node["time"]
        node["step"], node["time"] = 1000, 2.0
        node["time"].attrs["unit"] = "ps"
