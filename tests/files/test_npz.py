"""kernelfe.files.npz: archives that can be trusted, files that are whole or absent."""

from __future__ import annotations

import io
import json
import struct
import zipfile

import numpy as np
import pytest

from kernelfe.errors import DataError, ModelFileError
from kernelfe.files.atomic import atomic_write
from kernelfe.files.npz import load_npz, save_npz


def _archive(path, name, payload):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, payload)


def _npy(array, **kwargs):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, **kwargs)
    return buffer.getvalue()


@pytest.mark.parametrize("compress", [True, False])
def test_round_trip(tmp_path, compress):
    arrays = {
        "labels/parameter_derivative:charge": np.arange(6.0).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        "strided": np.arange(20)[::3],
        "scalar": np.float32(2.5),
        "text": np.array("Å and λ"),
        "mask": np.array([True, False]),
        "empty": np.zeros((0, 3)),
    }
    save_npz(tmp_path / "a.npz", arrays, compress)
    back = load_npz(tmp_path / "a.npz")
    assert list(back) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)
        assert back[name].dtype == np.asarray(array).dtype
    with np.load(tmp_path / "a.npz") as numpys:
        np.testing.assert_array_equal(numpys["fortran"], arrays["fortran"])
    with open(tmp_path / "a.npz", "rb") as handle:
        np.testing.assert_array_equal(load_npz(handle)["strided"], arrays["strided"])


def test_fortran_order_of_numpys_own_files(tmp_path):
    array = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    np.savez(tmp_path / "a.npz", a=array)
    np.testing.assert_array_equal(load_npz(tmp_path / "a.npz")["a"], array)


def test_same_arrays_give_the_same_bytes(tmp_path):
    for name in ("a.npz", "b.npz"):
        save_npz(tmp_path / name, {"x": np.arange(5.0)})
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_bomb_is_refused_before_reading(tmp_path):
    save_npz(tmp_path / "bomb.npz", {"x": np.zeros(1_000_000)})
    assert (tmp_path / "bomb.npz").stat().st_size < 100_000
    with pytest.raises(ModelFileError, match="more than the limit"):
        load_npz(tmp_path / "bomb.npz", max_bytes=1_000_000)


def test_header_that_declares_more_than_the_entry_holds(tmp_path):
    payload = _npy(np.zeros(4)).replace(b"(4,)", b"(4000000000000,)")
    _archive(tmp_path / "a.npz", "x.npy", payload)
    with pytest.raises(ModelFileError, match="'x'"):
        load_npz(tmp_path / "a.npz")


def test_pickled_objects_are_refused(tmp_path):
    _archive(tmp_path / "a.npz", "x.npy", _npy(np.array([{}], dtype=object), allow_pickle=True))
    with pytest.raises(ModelFileError, match="pickled"):
        load_npz(tmp_path / "a.npz")
    with pytest.raises(DataError, match="'x'"):
        save_npz(tmp_path / "b.npz", {"x": np.array([{}], dtype=object)})


def test_structured_dtype_is_refused(tmp_path):
    _archive(tmp_path / "a.npz", "x.npy", _npy(np.zeros(2, dtype=[("a", float)])))
    with pytest.raises(ModelFileError, match="dtype"):
        load_npz(tmp_path / "a.npz")


@pytest.mark.parametrize("damage", ["missing", "garbage", "truncated", "foreign", "flipped"])
def test_damaged_files(tmp_path, damage):
    path = tmp_path / "a.npz"
    save_npz(path, {"x": np.arange(100.0)}, compress=False)
    data = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "garbage":
        path.write_bytes(b"no archive")
    elif damage == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "foreign":
        _archive(path, "readme.txt", b"hello")
    else:
        data[300] ^= 0xFF  # inside the array: the archive's checksum must notice
        path.write_bytes(data)
    with pytest.raises(ModelFileError, match=r"a\.npz"):
        load_npz(path)


def test_atomic_write_replaces_or_leaves_alone(tmp_path):
    path = tmp_path / "model.kfe"
    with atomic_write(path) as aside:
        assert aside.suffix == ".kfe" and aside.parent == tmp_path
        aside.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as aside:
        aside.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    with pytest.raises(DataError, match="nothing was written"), atomic_write(path):
        pass
    with pytest.raises(DataError, match="does not exist"), atomic_write(tmp_path / "no" / "x"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["model.kfe"]


def test_flipped_bits_of_compressed_archives(tmp_path):
    """A flipped bit gives the same arrays (in a date, say) or a typed error: never an error of a parser."""
    path, rng = tmp_path / "a.npz", np.random.default_rng(0)
    arrays = {
        "x": rng.normal(size=20),
        "text": np.array(json.dumps({"labels": ["mean_force"]})),
        "mask": rng.random(9) < 0.5,
    }
    save_npz(path, arrays)
    data, refused = path.read_bytes(), 0
    for bit in rng.permutation(8 * len(data))[:3000]:
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << (bit % 8)
        path.unlink(missing_ok=True)  # some file systems wait for the disk when an old file is cut and written anew
        path.write_bytes(flipped)
        try:
            loaded = load_npz(path)
        except ModelFileError as error:
            assert str(path) in str(error)
            refused += 1
        else:
            assert list(loaded) == list(arrays)
            for name, array in arrays.items():
                np.testing.assert_array_equal(loaded[name], array)
    assert refused > 2000


def _damaged_header(header):
    """A stored array whose header is replaced; the archive's own checksum is right."""
    text = header.encode("latin1")
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(text)) + text + bytes(8)


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f8', 'fortran_order': False, 'shape': (1,), ",  # tokenize.TokenError
        "(" * 5000,
        "[" * 200_000,
        "{'descr': '<f8', 'fortran_order': False, 'shape': (0, 10**30)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (0, " + "9" * 30 + ")}",
        "{'descr': '<U0', 'fortran_order': False, 'shape': (10000000000000,)}",
        "{'descr': [('a',)], 'fortran_order': False, 'shape': (1,)}",
        "",
    ],
)
def test_damaged_array_headers(tmp_path, header):
    _archive(tmp_path / "a.npz", "x.npy", _damaged_header(header))
    with pytest.raises(ModelFileError, match=r"a\.npz"):
        load_npz(tmp_path / "a.npz")


def test_paths_that_are_no_files(tmp_path):
    (tmp_path / "file").write_text("text")
    for path, message in (
        (tmp_path, "is a folder"),
        (tmp_path / "nowhere.npz", "does not exist"),
        (tmp_path / "file" / "a.npz", "cannot be read"),
    ):
        with pytest.raises(ModelFileError, match=f"^{path} {message}"):
            load_npz(path)
    with pytest.raises(DataError, match=f"{tmp_path}: it is a folder"):
        save_npz(tmp_path, {"x": np.zeros(3)})
    with pytest.raises(DataError, match="does not exist"):
        save_npz(tmp_path / "file" / "a.npz", {"x": np.zeros(3)})
    with pytest.raises(DataError, match="choose another folder or file name"):
        save_npz(tmp_path / ("a" * 250), {"x": np.zeros(3)})
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_errors_of_the_callers_own_files_pass(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "a"):
        (tmp_path / "nowhere").read_text()
