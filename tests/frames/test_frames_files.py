"""kernelfe.Frames in files: saving, and loading what cannot be trusted."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kernelfe import Frames
from kernelfe.errors import DataError, ModelFileError, UnitsError
from kernelfe.files.npz import load_npz, save_npz

from .frame_cases import N, arrays, assert_same


@pytest.fixture
def frames():
    return Frames.from_arrays(**arrays()).add_pair_labels([0, 2], [3, 5], [0.1, -0.2], 0.01)


def test_save_and_load(frames, tmp_path):
    frames.save(tmp_path / "f.npz")
    assert_same(Frames.load(tmp_path / "f.npz"), frames)
    assert_same(Frames.read(tmp_path / "f.npz"), frames)
    frames[:0].save(tmp_path / "empty.npz")
    assert len(Frames.load(tmp_path / "empty.npz")) == 0
    with pytest.raises(UnitsError):
        Frames.read(tmp_path / "f.npz", units="ase")


def test_single_precision_keeps_scalar_labels(frames, tmp_path):
    frames = frames.replace(labels=frames.labels | {"mean_energy": 1e5 + np.arange(N) * 1e-4})
    frames.save(tmp_path / "f.npz", dtype="float32")
    loaded = Frames.load(tmp_path / "f.npz")
    np.testing.assert_array_equal(loaded.labels["mean_energy"], frames.labels["mean_energy"])
    assert load_npz(tmp_path / "f.npz")["positions"].dtype == np.float32 and loaded.positions.dtype == np.float64
    np.testing.assert_allclose(loaded.positions, frames.positions, rtol=1e-6)
    with pytest.raises(DataError, match="dtype"):
        frames.save(tmp_path / "g.npz", dtype="float16")


def test_load_refuses_what_it_cannot_trust(frames, tmp_path):
    path = tmp_path / "f.npz"
    frames.save(path)
    good = load_npz(path)
    header = json.loads(str(good["header"]))
    broken = {
        "version": good | {"header": np.array(json.dumps(header | {"version": 99}))},
        "header": {k: v for k, v in good.items() if k != "header"},
        "inconsistent": good | {"temperature": good["temperature"][:2]},
        "not finite": good | {"labels/mean_force": good["labels/mean_force"] * np.nan},
        "labels/stress": {k: v for k, v in good.items() if k != "labels/stress"},
        "unknown quantity": good
        | {"header": np.array(json.dumps(header | {"labels": ["gold"]})), "labels/gold": np.zeros(N)},
        "pairs/std": {k: v for k, v in good.items() if k != "pairs/std"},
    }
    for match, content in broken.items():
        save_npz(path, content)
        with pytest.raises(ModelFileError, match=match):
            Frames.load(path)
    with pytest.raises(ModelFileError, match="limit"):
        frames.save(path)
        Frames.load(path, max_bytes=100)


def test_load_of_flipped_bits(frames, tmp_path):
    """Files that Frames.save compressed: a flipped bit is refused with a typed error, or changes nothing."""
    path, rng = tmp_path / "f.npz", np.random.default_rng(0)
    frames.save(path)
    data, refused = path.read_bytes(), 0
    for bit in rng.integers(8 * len(data), size=500):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << (bit % 8)
        path.unlink(missing_ok=True)  # some file systems wait for the disk when an old file is cut and written anew
        path.write_bytes(flipped)
        try:
            assert_same(Frames.load(path), frames)
        except ModelFileError:
            refused += 1
    assert refused > 300


HEADERS = {
    "infinite version": '{"format": "kernelfe-frames", "version": Infinity}',
    "huge version": '{"format": "kernelfe-frames", "version": 1e999}',
    "version of text": '{"format": "kernelfe-frames", "version": "1"}',
    "version before the first": '{"format": "kernelfe-frames", "version": 0}',
    "a list": "[1]",
    "a number": "1",
    "nested": "[" * 200_000,
    "no JSON": "{",
}


@pytest.mark.parametrize("text", HEADERS.values(), ids=HEADERS)
def test_headers_of_another_kind(text, frames, tmp_path):
    path = tmp_path / "f.npz"
    frames.save(path)
    save_npz(path, load_npz(path) | {"header": np.array(text)})
    with pytest.raises(ModelFileError, match=r"f\.npz has no header"):
        Frames.load(path)


@pytest.mark.parametrize(
    "change",
    [
        {"noise": [1]},
        {"noise": 3},
        {"noise": None},
        {"labels": None},
        {"labels": [["mean_force"]]},
        {"parameters": 1},
        {"kinds": 5},
        {"bonds": [[0, 1e999]]},
        {"bonds": [[0, 1, 2]]},
        {"bonds": 1},
    ],
    ids=str,
)
def test_header_fields_of_another_kind(change, frames, tmp_path):
    path = tmp_path / "f.npz"
    frames.save(path)
    good = load_npz(path)
    save_npz(path, good | {"header": np.array(json.dumps(json.loads(str(good["header"])) | change))})
    with pytest.raises(ModelFileError, match=r"f\.npz holds inconsistent frames"):
        Frames.load(path)


@pytest.mark.parametrize("name", ["x.txt", "x", "x.xyz", "x.npz.gz"])
def test_archives_end_in_npz(name, frames, tmp_path):
    for write in (frames.save, lambda path: frames.write_npz(path, "cgnet", units="ase")):
        with pytest.raises(DataError, match=r"end the name in \.npz"):
            write(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_folders_are_no_files(frames, tmp_path):
    with pytest.raises(DataError, match="is a folder"):
        frames.save(tmp_path)
    with pytest.raises(ModelFileError, match=f"{tmp_path} is a folder"):
        Frames.load(tmp_path)
