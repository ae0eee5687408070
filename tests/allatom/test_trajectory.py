"""Trajectories with forces: every format's units by raw files, chunks, selections, maps to beads, hostile files."""

from __future__ import annotations

import importlib.util
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.units import kcal, kJ, mol
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kernelfe.allatom import AtomFrames, BeadMap, EnergyTable, Trajectory, make_whole
from kernelfe.errors import DataError, KernelfeError, ModelFileError, UnitsError

pytest.importorskip("MDAnalysis")
h5py = pytest.importorskip("h5py")

_spec = importlib.util.spec_from_file_location("allatom_writers", Path(__file__).with_name("writers.py"))
writers = importlib.util.module_from_spec(_spec)  # importlib mode puts no folder of tests on the path
sys.modules[_spec.name] = writers
_spec.loader.exec_module(writers)
N, ATOMS = writers.N, writers.ATOMS

KCAL, KJ = kcal / mol, kJ / mol
SINGLE = {"rtol": 3e-6, "atol": 1e-5}  # MDAnalysis holds single precision


@pytest.fixture(scope="module")
def data():
    return writers.numbers()


#: format → (suffix, writer, length in Å, force in eV/Å, options of Trajectory)
FORMATS = {
    "TRR": (".trr", writers.write_trr, 10.0, KJ / 10.0, {}),
    "NetCDF": (".nc", writers.write_netcdf, 1.0, KCAL, {}),
    "H5MD, nm and kJ": (".h5md", writers.write_h5md, 10.0, KJ / 10.0, {}),
    "H5MD, Å and kcal": (
        ".h5md",
        lambda p, d: writers.write_h5md(p, d, "Angstrom", "kcal mol-1 Angstrom-1"),
        1.0,
        KCAL,
        {},
    ),
    "LAMMPS real": (".lammpstrj", writers.write_lammps, 1.0, KCAL, {"units": "charmm"}),
    "LAMMPS metal": (".dump", writers.write_lammps, 1.0, 1.0, {"units": "ase"}),
}


@pytest.mark.parametrize("name", FORMATS)
def test_units_of_every_format(name, data, tmp_path):
    suffix, write, length, force, options = FORMATS[name]
    write(tmp_path / f"x{suffix}", data)
    frames = Trajectory(tmp_path / f"x{suffix}", **options).read()
    np.testing.assert_allclose(frames.positions, data["positions"] * length, **SINGLE)
    np.testing.assert_allclose(frames.forces, data["forces"] * force, **SINGLE)
    np.testing.assert_allclose(frames.cell, data["cell"] * length, rtol=2e-6, atol=2e-5)
    if name.startswith("LAMMPS"):
        assert frames.times is None
    else:
        np.testing.assert_allclose(frames.times, data["times"])
    if name == "NetCDF":
        assert frames.steps is None
    else:
        np.testing.assert_array_equal(frames.steps, data["steps"])
    assert frames.energies is None and frames.positions.dtype == np.float64


def test_units_are_explicit(data, tmp_path):
    writers.write_lammps(tmp_path / "x.dump", data)
    writers.write_trr(tmp_path / "x.trr", data)
    with pytest.raises(UnitsError, match="state no units"):
        Trajectory(tmp_path / "x.dump")
    with pytest.raises(UnitsError, match="states its units"):
        Trajectory(tmp_path / "x.trr", units="gromacs")
    writers.write_h5md(tmp_path / "x.h5md", data, force="")
    with pytest.raises(DataError, match="units"):
        Trajectory(tmp_path / "x.h5md").read()


@pytest.mark.parametrize("suffix", ["dcd", "xtc", "pdb"])
def test_formats_without_forces(suffix, tmp_path):
    (tmp_path / f"x.{suffix}").write_bytes(b"x")
    with pytest.raises(DataError, match="hold no forces"):
        Trajectory(tmp_path / f"x.{suffix}")


def test_files_without_forces(data, tmp_path):
    writers.write_netcdf(tmp_path / "x.nc", data, forces=False)
    with pytest.raises(DataError, match="holds no forces"):
        Trajectory(tmp_path / "x.nc")
    writers.write_h5md(tmp_path / "x.h5md", data, forces=False)
    with pytest.raises(DataError, match="both position and force"):
        Trajectory(tmp_path / "x.h5md")
    writers.write_trr(tmp_path / "x.trr", data, without_forces=range(N))
    with pytest.raises(DataError, match="nstfout"):
        Trajectory(tmp_path / "x.trr").read()
    writers.write_lammps(tmp_path / "x.dump", data, columns="id type x y z")
    with pytest.raises(DataError, match="no column fx, fy, fz"):
        Trajectory(tmp_path / "x.dump", units="charmm")
    writers.write_lammps(tmp_path / "x.dump", data, columns="type x y z fx fy fz")
    with pytest.raises(DataError, match="no column id"):
        Trajectory(tmp_path / "x.dump", units="charmm")


def test_frames_of_a_trr_without_forces_are_left_out(data, tmp_path):
    writers.write_trr(tmp_path / "x.trr", data, without_forces=(1, 3, 5))
    trajectory = Trajectory(tmp_path / "x.trr")
    frames = trajectory.read()
    assert trajectory.skipped == 3 and frames.steps.tolist() == [0, 2000, 4000]
    np.testing.assert_allclose(frames.forces, data["forces"][::2] * KJ / 10, **SINGLE)


def test_chunks_strides_and_several_files(data, tmp_path):
    writers.write_trr(tmp_path / "a.trr", data)
    other = writers.numbers(seed=3)
    writers.write_trr(tmp_path / "b.trr", other)
    both = [tmp_path / "a.trr", tmp_path / "b.trr"]
    chunks = list(Trajectory(both).chunks(5))
    assert [len(c) for c in chunks] == [5, 5, 2]
    whole = AtomFrames.concatenate(chunks)
    np.testing.assert_allclose(whole.positions[N:], other["positions"] * 10, **SINGLE)
    np.testing.assert_array_equal(Trajectory(both).read().forces, whole.forces)
    np.testing.assert_array_equal(Trajectory(both, stride=5).read().positions, whole.positions[::5])


def test_a_forged_offsets_file_beside_a_trr_is_not_read(data, tmp_path):
    writers.write_trr(tmp_path / "x.trr", data)
    (tmp_path / ".x.trr_offsets.npz").write_bytes(b"\x80\x04 no offsets")
    assert len(Trajectory(tmp_path / "x.trr").read()) == N


PDB = """\
CRYST1   90.000   80.000   70.000  90.00  90.00  90.00 P 1           1
ATOM      1  CA  ALA A   1       1.000   2.000   3.000  1.00  0.00           C
ATOM      2  HA  ALA A   1       1.000   2.000   4.000  1.00  0.00           H
ATOM      3  C   ALA A   1       2.000   2.000   3.000  1.00  0.00           C
ATOM      4  O   ALA A   1       2.000   3.000   3.000  1.00  0.00           O
ATOM      5  OW  HOH B   2       5.000   5.000   5.000  1.00  0.00           O
CONECT    1    2    3
CONECT    3    4
END
"""


@pytest.fixture
def pdb(tmp_path):
    (tmp_path / "x.pdb").write_text(PDB)
    return tmp_path / "x.pdb"


def test_selections_and_topology(data, tmp_path, pdb):
    writers.write_trr(tmp_path / "x.trr", data)
    trajectory = Trajectory(tmp_path / "x.trr", pdb, selection="not name HA")
    assert trajectory.names == ["ALA:CA", "ALA:C", "ALA:O", "HOH:OW"] and trajectory.n_atoms == 4
    assert trajectory.masses is None  # a PDB states none, and none are guessed
    assert trajectory.bonds == [(0, 1), (1, 2)] and trajectory.constraints is None
    assert trajectory.select("name C O") == [1, 2]
    np.testing.assert_allclose(trajectory.read().positions, data["positions"][:, [0, 2, 3, 4]] * 10, **SINGLE)
    for text, match in {"name HA": "not among", "name ZZ": "takes no atom", "nam C(": "cannot be read"}.items():
        with pytest.raises(DataError, match=match):
            trajectory.select(text)
    (tmp_path / "y.pdb").write_text("\n".join(PDB.splitlines()[:4]) + "\nEND\n")
    with pytest.raises(DataError, match="3 atoms and the trajectory 5"):
        Trajectory(tmp_path / "x.trr", tmp_path / "y.pdb")
    (tmp_path / "z.psf").write_bytes(b"\x80\x04 nothing")
    with pytest.raises(DataError, match="not readable as a topology"):
        Trajectory(tmp_path / "x.trr", tmp_path / "z.psf")


def test_beads_with_forces_and_energies(data, tmp_path, pdb):
    writers.write_trr(tmp_path / "x.trr", data)
    energies = np.linspace(-3.0, -2.0, N)
    table = EnergyTable(energies, times=data["times"])
    trajectory = Trajectory(tmp_path / "x.trr", pdb, energies=table)
    beads = trajectory.select("name CA C O")
    mapping = BeadMap.of_atoms(
        trajectory.n_atoms,
        beads,
        constraints=[(0, 1)],
        kinds=["CA", "C", "O"],
        masses=[13.0, 12.0, 16.0],
        bonds=[(0, 1), (1, 2)],
    )
    frames = trajectory.to_frames(mapping, 300.0, chunk=4)
    forces = data["forces"] * KJ / 10
    np.testing.assert_allclose(frames.labels["mean_force"][:, 0], forces[:, 0] + forces[:, 1], **SINGLE)
    np.testing.assert_allclose(frames.labels["mean_force"][:, 1:], forces[:, 2:4], **SINGLE)
    np.testing.assert_allclose(frames.labels["mean_energy"], energies)
    np.testing.assert_allclose(frames.positions, data["positions"][:, [0, 2, 3]] * 10, **SINGLE)
    assert frames.kinds == ("CA", "C", "O") and frames.masses.tolist() == [13, 12, 16] and len(frames.cell) == N
    with pytest.raises(DataError, match="constrained pair"):
        BeadMap.of_atoms(5, beads, [[0], [2], [3]], constraints=[(0, 1)])


def test_energies_as_an_array_and_in_part(data, tmp_path):
    writers.write_trr(tmp_path / "x.trr", data, without_forces=(0,))
    energies = np.arange(5.0)
    read = Trajectory(tmp_path / "x.trr", energies=energies).read()
    np.testing.assert_array_equal(read.energies, energies)
    for wrong in (4, 6):
        with pytest.raises(DataError, match="energies="):
            Trajectory(tmp_path / "x.trr", energies=np.arange(float(wrong))).read()
    table = EnergyTable(np.array([5.0, 6.0]), steps=np.array([2000, 4000]))
    part = Trajectory(tmp_path / "x.trr", energies=table)
    frames = part.to_frames(BeadMap(np.eye(ATOMS), np.eye(ATOMS)), 300.0)
    assert frames.present["mean_energy"].tolist() == [False, True, False, True, False]
    assert frames.labels["mean_energy"][[1, 3]].tolist() == [5, 6]


def test_energies_of_h5md(data, tmp_path):
    energies = np.linspace(-100.0, -90.0, N)
    for unit, scale in {"kJ mol-1": KJ, "kcal mol-1": KCAL, "eV": 1.0}.items():
        writers.write_h5md(tmp_path / "x.h5md", data, energies=energies, energy=unit)
        np.testing.assert_allclose(Trajectory(tmp_path / "x.h5md").read().energies, energies * scale)
    writers.write_h5md(tmp_path / "x.h5md", data, energies=energies, energy="")
    with pytest.raises(DataError, match="no unit"):
        Trajectory(tmp_path / "x.h5md").read()
    assert Trajectory(tmp_path / "x.h5md", energies=np.zeros(N)).read().energies.tolist() == [0.0] * N


# ---------------------------------------------------------------------- periodic boundaries


def test_molecules_across_the_boundary(data, tmp_path, pdb):
    rng = np.random.default_rng(5)
    whole = data["positions"] * 0.2 + rng.uniform(0.0, 9.0, (N, 1, 3))  # nm: smaller than half the cell
    cut = dict(data)
    inverse = np.linalg.inv(data["cell"])
    cut["positions"] = np.einsum("nai,nij->naj", np.einsum("nai,nij->naj", whole, inverse) % 1.0, data["cell"])
    writers.write_trr(tmp_path / "x.trr", cut)
    centre = np.zeros((1, ATOMS))
    centre[0, :4] = 0.25
    total = np.zeros((1, ATOMS))
    total[0, :4] = 1.0
    with pytest.raises(DataError, match="cuts bead 0"):
        Trajectory(tmp_path / "x.trr", pdb).to_frames(BeadMap(centre, total), 300.0)
    frames = Trajectory(tmp_path / "x.trr", pdb, whole=True).to_frames(BeadMap(centre, total), 300.0)
    shift = np.einsum("ni,nij->nj", frames.positions[:, 0] / 10 - whole[:, :4].mean(1), inverse)
    np.testing.assert_allclose(shift, np.round(shift), atol=1e-5)  # the same up to whole cell vectors
    with pytest.raises(DataError, match="needs a topology with bonds"):
        Trajectory(tmp_path / "x.trr", whole=True)


def test_make_whole_moves_by_cell_vectors_only(data):
    bonds = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 0)]
    inverse = np.linalg.inv(data["cell"])
    out = make_whole(data["positions"], data["cell"], bonds)
    moved = np.einsum("nai,nij->naj", out - data["positions"], inverse)
    np.testing.assert_allclose(moved, np.round(moved), atol=1e-12)
    apart = np.einsum("nai,nij->naj", out[:, 1:] - out[:, :-1], inverse)[:, :1]
    assert np.abs(apart).max() <= 0.5 + 1e-12


@given(shifts=hnp.arrays(np.int64, (2, ATOMS, 3), elements=st.integers(-3, 3)), seed=st.integers(0, 99))
def test_make_whole_undoes_any_shifts_by_cell_vectors(shifts, seed):
    rng = np.random.default_rng(seed)
    cell = 10.0 * np.eye(3) + np.tril(rng.uniform(-1.0, 1.0, (3, 3)), -1)
    cell = np.repeat(cell[None], 2, 0)
    chain = np.cumsum(rng.uniform(-2.0, 2.0, (2, ATOMS, 3)), axis=1)  # neighbours closer than half the cell
    out = make_whole(chain + np.einsum("nai,nij->naj", shifts, cell), cell, [(k, k + 1) for k in range(ATOMS - 1)])
    np.testing.assert_allclose(out - out[:, :1], chain - chain[:, :1], atol=1e-10)


def test_boundaries_of_lammps(data, tmp_path):
    writers.write_lammps(tmp_path / "x.dump", data, flags="ff ff ff")
    assert Trajectory(tmp_path / "x.dump", units="charmm").read().cell is None
    writers.write_lammps(tmp_path / "x.dump", data, flags="pp pp ff")
    with pytest.raises(DataError, match="some directions only"):
        Trajectory(tmp_path / "x.dump", units="charmm")


def test_a_turned_cell_of_h5md(data, tmp_path):
    """A cell in any orientation, with which the positions are turned as well: lengths and angles would not do."""
    turned = dict(data) | {name: data[name][:, :, [1, 2, 0]] for name in ("positions", "forces", "cell")}
    writers.write_h5md(tmp_path / "x.h5md", turned)
    frames = Trajectory(tmp_path / "x.h5md").read()
    np.testing.assert_allclose(frames.cell, turned["cell"] * 10.0, rtol=1e-12)
    np.testing.assert_allclose(frames.positions, turned["positions"] * 10.0, rtol=1e-12)


# ---------------------------------------------------------------------- hostile files


def _many_atoms_trr(path):
    content = bytearray(path.read_bytes())
    struct.pack_into(">i", content, 64, 2**31 - 1)
    path.write_bytes(content)


def _half(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2 + 7])


def _head(path):
    path.write_bytes(path.read_bytes()[:50])


def _pickle(path):
    path.write_bytes(b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93.")


def _empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("spoil", [_half, _head, _pickle, _empty])
@pytest.mark.parametrize("name", ["TRR", "NetCDF", "H5MD, nm and kJ", "LAMMPS real"])
def test_damaged_files(name, spoil, data, tmp_path):
    suffix, write, _, _, options = FORMATS[name]
    write(tmp_path / f"x{suffix}", data)
    spoil(tmp_path / f"x{suffix}")
    try:
        frames = Trajectory(tmp_path / f"x{suffix}", **options).read()
    except KernelfeError:
        return
    assert name == "TRR" and spoil is _half and 0 < len(frames) < N  # whole frames before the cut are good


def test_declared_atoms(data, tmp_path):
    writers.write_trr(tmp_path / "x.trr", data)
    _many_atoms_trr(tmp_path / "x.trr")
    with pytest.raises(DataError, match="declares 2147483647 atoms"):
        Trajectory(tmp_path / "x.trr")
    writers.write_lammps(tmp_path / "x.dump", data)
    text = (tmp_path / "x.dump").read_text().replace("ATOMS\n5\n", "ATOMS\n99999999999\n")
    (tmp_path / "x.dump").write_text(text)
    with pytest.raises(DataError, match="declares 99999999999 atoms"):
        Trajectory(tmp_path / "x.dump", units="charmm")
    writers.write_netcdf(tmp_path / "x.nc", data)
    content = (tmp_path / "x.nc").read_bytes()
    at = content.index(b"atom") + 4
    (tmp_path / "x.nc").write_bytes(content[:at] + struct.pack(">i", 2**31 - 1) + content[at + 4 :])
    with pytest.raises(DataError):
        Trajectory(tmp_path / "x.nc")
    with h5py.File(tmp_path / "x.h5md", "w") as file:
        group = file.create_group("particles/a")
        group.create_group("box").attrs["dimension"] = 3
        for name in ("position", "force"):
            group.create_dataset(f"{name}/value", (10, 10**12, 3), "f4", chunks=(1, 10, 3), compression="gzip")
            group[f"{name}/step"] = group[f"{name}/time"] = np.arange(10)
    with pytest.raises(ModelFileError, match="more than the limit"):
        Trajectory(tmp_path / "x.h5md")


@pytest.mark.parametrize("frame", [0, 3])
@pytest.mark.parametrize("field", range(11))
@pytest.mark.parametrize("value", [-4, 3, 2**30])
def test_every_header_of_a_trr_is_checked(frame, field, value, data, tmp_path):
    """On such headers the C code of the reader has been seen to end the process."""
    writers.write_trr(tmp_path / "x.trr", data)
    content = bytearray((tmp_path / "x.trr").read_bytes())
    struct.pack_into(">i", content, frame * (len(content) // N) + 24 + 4 * field, value)
    (tmp_path / "x.trr").write_bytes(content)
    with pytest.raises(DataError):
        Trajectory(tmp_path / "x.trr")


def test_links_out_of_an_h5md_file(data, tmp_path):
    writers.write_h5md(tmp_path / "x.h5md", data)
    with h5py.File(tmp_path / "x.h5md", "a") as file:
        file["observables/secret"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/x")
    with pytest.raises(ModelFileError, match="is a link"):
        Trajectory(tmp_path / "x.h5md")


def test_not_finite(data, tmp_path):
    spoilt = dict(data) | {"forces": data["forces"].copy()}
    spoilt["forces"][4, 2, 1] = np.nan
    for name in ("TRR", "LAMMPS real"):
        suffix, write, _, _, options = FORMATS[name]
        write(tmp_path / f"x{suffix}", spoilt)
        with pytest.raises(DataError, match="forces of frame 4 are not finite"):
            Trajectory(tmp_path / f"x{suffix}", **options).read()


@pytest.mark.parametrize("method", ["read", "to_frames", "chunks"])
def test_methods_called_on_the_class_say_what_to_do(method):
    extra = (None, 300.0) if method == "to_frames" else ()
    with pytest.raises(DataError, match="open the files first"):
        list(getattr(Trajectory, method)("run-300", *extra))


def test_a_stride_is_a_whole_number(tmp_path, data):
    writers.write_h5md(tmp_path / "x.h5md", data)
    with pytest.raises(DataError, match="whole number"):
        Trajectory(tmp_path / "x.h5md", stride=1.5)
