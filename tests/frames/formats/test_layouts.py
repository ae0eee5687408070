"""npz layouts of other programs: names, units, orientation of the cell, and refusals."""

from __future__ import annotations

import io
import pickle
import zipfile

import numpy as np
import pytest
from ase.units import Bohr, Hartree, kcal, kJ, mol

from kernelfe import Frames
from kernelfe.errors import DataError, ModelFileError, UnitsError
from kernelfe.files.npz import load_npy, load_npz, save_npz

N, BEADS = 5, 3
KCAL, KJ = kcal / mol, kJ / mol


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return {"R": rng.normal(size=(N, BEADS, 3)), "F": rng.normal(size=(N, BEADS, 3)), "E": rng.normal(size=(N, 1))}


def sgdml(data, **changes):
    """The data set as sGDML's own scripts write it: text in 0-d arrays."""
    fields = {"type": "d", "name": "x", "theory": "none", "r_unit": "Ang", "e_unit": "kcal/mol", "z": [6, 1, 8]}
    fields |= data | changes
    return {key: np.asarray(value) for key, value in fields.items() if value is not None}


def test_sgdml(data, tmp_path):
    path = tmp_path / "d.npz"
    np.savez_compressed(path, **sgdml(data, z=np.array([6, 1, 8], np.uint8)))
    frames = Frames.read_npz(path, "sgdml", temperature=300.0)
    np.testing.assert_allclose(frames.positions, data["R"])
    np.testing.assert_allclose(frames.labels["mean_force"], data["F"] * KCAL)
    assert frames.kinds == ("C", "H", "O") and list(frames.labels) == ["mean_force"]  # energies only when asked for
    both = Frames.read(path, {"mean_force": "F", "free_energy": "E"}, layout="sgdml", temperature=300.0)
    np.testing.assert_allclose(both.labels["free_energy"], data["E"][:, 0] * KCAL)
    assert Frames.read_npz(path, "sgdml", temperature=300.0, units="charmm").kinds == frames.kinds
    with pytest.raises(UnitsError, match="differs from units="):
        Frames.read_npz(path, "sgdml", temperature=300.0, units="ase")
    with pytest.raises(DataError, match="temperature"):
        Frames.read_npz(path, "sgdml")


def test_sgdml_units(data, tmp_path):
    path = tmp_path / "d.npz"
    np.savez(path, **sgdml(data, r_unit=b"au", e_unit=b"Ha", type=b"d"))  # bytes, as Python 2 left them
    frames = Frames.read_npz(path, "sgdml", temperature=300.0)
    np.testing.assert_allclose(frames.positions, data["R"] * Bohr)
    np.testing.assert_allclose(frames.labels["mean_force"], data["F"] * Hartree / Bohr)
    np.savez(path, **sgdml(data, r_unit=None, e_unit=None))
    with pytest.raises(UnitsError, match="pass units="):
        Frames.read_npz(path, "sgdml", temperature=300.0)
    frames = Frames.read_npz(path, "sgdml", temperature=300.0, units="charmm")
    np.testing.assert_allclose(frames.labels["mean_force"], data["F"] * KCAL)


def test_lattice_vectors_are_columns(data, tmp_path):
    lattice = np.array([[9.0, 1, 2], [0, 8, 3], [0, 0, 7]])
    np.savez(tmp_path / "d.npz", **sgdml(data, lattice=lattice))
    frames = Frames.read_npz(tmp_path / "d.npz", "sgdml", temperature=300.0)
    np.testing.assert_array_equal(frames.cell[3], lattice.T)
    frames.write_npz(tmp_path / "e.npz", "sgdml", units="charmm")
    np.testing.assert_allclose(load_npz(tmp_path / "e.npz")["lattice"], lattice)


@pytest.mark.parametrize("form", ["npz", "npy"])
def test_cgnet_and_mlcg(data, tmp_path, form):
    for layout, names in {
        "cgnet": ("coords", "forces", "embeddings"),
        "mlcg": ("cg_coords", "cg_forces", "cg_embeds"),
    }.items():
        arrays = dict(zip(names, (data["R"].astype("f4"), data["F"].astype("f4"), np.array([4, 7, 4])), strict=True))
        path = tmp_path / f"{layout}.npz"
        np.savez(path, **arrays)
        if form == "npy":
            path = {}
            for name, array in arrays.items():
                np.save(tmp_path / f"{name}.npy", array)
                path[name] = tmp_path / f"{name}.npy"
        with pytest.raises(UnitsError, match="units="):
            Frames.read_npz(path, layout, temperature=300.0)
        frames = Frames.read_npz(path, layout, units="charmm", temperature=300.0, masses=[12, 13, 14])
        np.testing.assert_allclose(frames.labels["mean_force"], data["F"] * KCAL, rtol=1e-6)
        assert frames.kinds == ("4", "7", "4") and frames.masses.tolist() == [12, 13, 14]


def test_mlcg_hdf5(data, tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "d.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("OPEP/opep_0000")
        group.attrs["cg_embeds"], group.attrs["N_frames"] = [1, 2, 1], N
        group["cg_coords"], group["cg_forces"] = data["R"], data["F"]
        delta = file.create_group("OPEP/delta")
        delta["cg_coords"], delta["cg_delta_forces"] = data["R"], data["F"]
        file["OPEP/outside"] = h5py.ExternalLink("/etc/other.h5", "/x")
        external = file.create_group("OPEP/external")
        external["cg_coords"] = data["R"]
        (tmp_path / "raw").write_bytes(data["F"].tobytes())
        external.create_dataset("cg_forces", (N, BEADS, 3), "f8", external=[(str(tmp_path / "raw"), 0, 360)])
        huge = file.create_group("OPEP/huge")
        huge["cg_coords"] = data["R"]
        huge.create_dataset("cg_forces", (10**9, BEADS, 3), "f8", chunks=(10, BEADS, 3), compression="gzip")
        text = file.create_group("OPEP/text")
        text["cg_coords"], text["cg_forces"] = data["R"], "not numbers"
    options = {"units": "charmm", "temperature": 300.0}
    frames = Frames.read_npz(path, "mlcg", molecule="OPEP/opep_0000", **options)
    np.testing.assert_allclose(frames.labels["mean_force"], data["F"] * KCAL)
    assert frames.kinds == ("1", "2", "1")
    for molecule, match in {
        "delta": "prior has been subtracted",
        "outside": "is a link",
        "external": "stored in other files",
        "huge": "more than the limit",
        "text": "only numbers",
        "missing": "there is: ",
    }.items():
        with pytest.raises((DataError, ModelFileError), match=match):
            Frames.read_npz(path, "mlcg", molecule=f"OPEP/{molecule}", **options)
    with pytest.raises(DataError, match="molecule="):
        Frames.read_npz(path, "mlcg", **options)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ModelFileError, match="damaged"):
        Frames.read_npz(path, "mlcg", molecule="OPEP/opep_0000", **options)


@pytest.mark.parametrize("fractional", [False, True])
def test_chemtrain(data, tmp_path, fractional):
    box = np.array([[2.0, 0.1, 0.2], [0, 3, 0.3], [0, 0, 4]])  # nm, vectors in columns
    positions = np.einsum("ij,nbj->nbi", np.linalg.inv(box), data["R"]) if fractional else data["R"]
    arrays = {"R": positions, "F": data["F"], "U": data["E"][:, 0], "box": np.broadcast_to(box, (N, 3, 3))}
    np.savez(tmp_path / "d.npz", **arrays, species=np.tile([0, 1, 1], (N, 1)))
    frames = Frames.read_npz(
        tmp_path / "d.npz",
        "chemtrain",
        {"mean_force": "F", "mean_energy": "U"},
        units="gromacs",
        temperature=300.0,
        fractional=fractional,
    )
    np.testing.assert_allclose(frames.positions, data["R"] * 10)
    np.testing.assert_allclose(frames.labels["mean_force"], data["F"] * KJ / 10)
    np.testing.assert_allclose(frames.labels["mean_energy"], data["E"][:, 0] * KJ)
    np.testing.assert_allclose(frames.cell[0], box.T * 10)
    assert frames.kinds == ("0", "1", "1")


@pytest.mark.parametrize("box", [np.array([2.0, 3, 4]), np.diag([2.0, 3, 4])])
def test_boxes_of_three_lengths(data, tmp_path, box):
    np.savez(tmp_path / "d.npz", R=data["R"], F=data["F"], box=box)
    frames = Frames.read_npz(tmp_path / "d.npz", "chemtrain", units="gromacs", temperature=300.0)
    np.testing.assert_allclose(frames.cell[N - 1], np.diag([20, 30, 40]))


@pytest.mark.parametrize("layout", ["sgdml", "cgnet", "mlcg", "chemtrain"])
@pytest.mark.parametrize("units", ["charmm", {"energy": "Ha", "length": "bohr"}])
def test_written_files_are_read_back(data, tmp_path, layout, units):
    frames = Frames.from_arrays(
        data["R"], temperature=300.0, labels={"mean_force": data["F"]}, kinds=["C", "O", "C"], units="mdanalysis"
    )
    frames.write_npz(tmp_path / "d.npz", layout, units=units)
    given = {} if layout == "sgdml" else {"units": units}
    back = Frames.read_npz(tmp_path / "d.npz", layout, temperature=300.0, **given)
    np.testing.assert_allclose(back.positions, frames.positions, rtol=1e-12)
    np.testing.assert_allclose(back.labels["mean_force"], frames.labels["mean_force"], rtol=1e-12)
    assert back.kinds == (("C", "O", "C") if layout == "sgdml" else ("0", "1", "0"))


def test_sgdml_fields_that_its_programs_look_for(data, tmp_path):
    frames = Frames.from_arrays(
        data["R"],
        temperature=300.0,
        labels={"mean_force": data["F"], "free_energy": data["E"][:, 0]},
        kinds=["C", "O", "C"],
    )
    frames.write_npz(tmp_path / "d.npz", "sgdml", {"mean_force": "F", "free_energy": "E"}, units="ase", name="ala")
    stored = np.load(tmp_path / "d.npz", allow_pickle=False)
    assert str(stored["type"]) == "d" and str(stored["name"]) == "ala" and str(stored["e_unit"]) == "eV"
    assert len(str(stored["md5"])) == 32 and stored["z"].tolist() == [6, 8, 6]
    assert float(stored["F_max"]) == data["F"].max() and float(stored["E_var"]) == data["E"].var()


def test_what_a_layout_cannot_hold(data, tmp_path):
    make = {"temperature": 300.0, "labels": {"mean_force": data["F"]}}
    path = tmp_path / "d.npz"
    with pytest.raises(DataError, match="by element"):
        Frames.from_arrays(data["R"], kinds=["CA", "N", "C"], **make).write_npz(path, "sgdml", units="ase")
    with pytest.raises(DataError, match="by element"):
        Frames.from_arrays(data["R"], **make).write_npz(path, "sgdml", units="ase")
    with pytest.raises(DataError, match="no place for a cell"):
        Frames.from_arrays(data["R"], cell=np.eye(3), **make).write_npz(path, "cgnet", units="ase")
    with pytest.raises(DataError, match="1 rows lack"):
        Frames.from_arrays(data["R"], **make, present={"mean_force": np.arange(N) > 0}).write_npz(
            path, "cgnet", units="ase"
        )
    with pytest.raises(DataError, match="no label 'entropy'"):
        Frames.from_arrays(data["R"], **make).write_npz(path, "cgnet", {"entropy": "S"}, units="ase")
    both = Frames.from_arrays(
        data["R"], temperature=300.0, labels={"mean_force": data["F"], "free_energy": data["E"][:, 0]}, kinds="CHO"
    )
    taken = {
        "sgdml": ("R", "z", "md5", "F_mean"),
        "cgnet": ("coords", "embeds"),
        "mlcg": ("masses",),
        "chemtrain": ("box",),
    }
    for layout, names in taken.items():
        for name in (*names, "F"):
            with pytest.raises(DataError, match="needs another name"):
                both.write_npz(path, layout, {"mean_force": "F", "free_energy": name}, units="ase")
        for name in ("", 3, ["F"]):
            with pytest.raises(DataError, match="not the name of an array"):
                both.write_npz(path, layout, {"free_energy": name}, units="ase")
    with pytest.raises(DataError, match="unknown layout"):
        Frames.from_arrays(data["R"], **make).write_npz(path, "xyz", units="ase")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"type": "m"}, "its type is 'm'"),
        ({"type": None}, "its type is 'missing'"),
        ({"R": np.zeros((N, 9))}, "expected"),
        ({"F": None}, "no array 'F'"),
        ({"F": np.zeros((N, 2, 3))}, "mean_force"),
        ({"F": np.full((N, BEADS, 3), "x")}, "instead of numbers"),
        ({"F": np.full((N, BEADS, 3), np.inf)}, "not finite"),
        ({"z": [6, 1]}, "kinds"),
        ({"z": [6, 1, 4000]}, "not an atomic number"),
        ({"lattice": np.eye(2)}, "cell"),
    ],
)
def test_refusals(data, tmp_path, changes, match):
    np.savez(tmp_path / "d.npz", **sgdml(data, **changes))
    with pytest.raises(DataError, match=match):
        Frames.read_npz(tmp_path / "d.npz", "sgdml", temperature=300.0)


def test_unknown_options(data, tmp_path):
    np.savez(tmp_path / "d.npz", **sgdml(data))
    with pytest.raises(DataError, match="unknown options"):
        Frames.read_npz(tmp_path / "d.npz", "sgdml", temperature=300.0, thermostat=1)
    with pytest.raises(DataError, match="fractional"):
        Frames.read_npz(tmp_path / "d.npz", "sgdml", temperature=300.0, fractional=True)


# ---------------------------------------------------------------------- hostile files


class Payload:
    """The function that a pickle in an archive would run."""

    def __reduce__(self):
        return (pytest.fail, ("code of a file was run",))


def test_pickled_objects_are_refused(data, tmp_path):
    fields = sgdml(data)
    fields["theory"] = np.array([Payload()], object)
    np.savez(tmp_path / "d.npz", **fields)
    with pytest.raises(ModelFileError, match=r"'theory'.*object"):
        Frames.read_npz(tmp_path / "d.npz", "sgdml", temperature=300.0)
    np.save(tmp_path / "x.npy", fields["theory"])
    with pytest.raises(ModelFileError, match="object"):
        Frames.read_npz({"coords": tmp_path / "x.npy"}, "cgnet", units="ase", temperature=300.0)
    (tmp_path / "x.npy").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(ModelFileError, match="header"):
        load_npy(tmp_path / "x.npy")


def test_bombs_are_refused(data, tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**12, 3)})
    (tmp_path / "x.npy").write_bytes(header.getvalue() + b"\0" * 24)
    with pytest.raises(ModelFileError, match="does not match"):
        load_npy(tmp_path / "x.npy")
    save_npz(tmp_path / "d.npz", sgdml(data) | {"R": np.zeros((10**5, 9, 3))})  # 20 MB of zeros in 20 kB
    with pytest.raises(ModelFileError, match="more than the limit"):
        Frames.read_npz(tmp_path / "d.npz", "sgdml", temperature=300.0, max_bytes=10**6)
    with zipfile.ZipFile(tmp_path / "e.npz", "w") as archive:
        archive.writestr("R.npy", header.getvalue())
    with pytest.raises(ModelFileError, match="does not match"):
        Frames.read_npz(tmp_path / "e.npz", "sgdml", temperature=300.0)


def test_damaged_npy(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(100.0))
    whole = (tmp_path / "x.npy").read_bytes()
    np.testing.assert_array_equal(load_npy(tmp_path / "x.npy"), np.arange(100.0))
    for content in (b"", whole[:50], whole[:-8], whole + b"x", b"\x93NUMPY\x01\x00\xff\xff" + b"[" * 70000):
        (tmp_path / "x.npy").write_bytes(content)
        with pytest.raises(ModelFileError):
            load_npy(tmp_path / "x.npy")
    with pytest.raises(ModelFileError, match="does not exist"):
        load_npy(tmp_path / "y.npy")
    with pytest.raises(ModelFileError, match="limit"):
        load_npy(tmp_path / "x.npy", max_bytes=10)
