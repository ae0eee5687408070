"""Checkpoints: what was written comes back, and a file that is not whole, or not ours, is never accepted."""

from __future__ import annotations

import hashlib
import json
import logging
import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernelfe.errors import DataError, ModelFileError
from kernelfe.files import tensors as container
from kernelfe.runtime.checkpoint import Checkpoint

PROBLEM, OTHER = "ab" * 32, "cd" * 32


def tensors():
    gram = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return {"gram": gram, "numbers": torch.tensor([1e300, -0.0, 5e-324]).double(), "none": torch.zeros(0, 2).double()}


def same(a, b):
    return list(a) == list(b) and all(
        torch.equal(a[k].view(torch.int64), b[k].view(torch.int64)) and a[k].shape == b[k].shape for k in a
    )


def test_what_was_written_comes_back(tmp_path):
    own = Checkpoint(tmp_path / "new" / "folder", PROBLEM)
    digest = own.write("sum-0-1", tensors())
    found, again = own.read("sum-0-1")
    assert same(found, tensors()) and again == digest and own.names() == ["sum-0-1"]
    more = {"gram": tensors()["gram"].T}  # not contiguous
    own.write("sum-0-1", more)
    assert same(own.read("sum-0-1")[0], more)
    own.write("start", {})
    assert own.names() == ["start", "sum-0-1"] and own.names("sum-") == ["sum-0-1"]
    own.remove("start")
    own.remove("start")
    with pytest.raises(ModelFileError, match="start"):
        own.read("start")
    own.clear()
    assert not own.folder.exists()


def test_only_own_files_are_removed(tmp_path):
    own, other = Checkpoint(tmp_path, PROBLEM), Checkpoint(tmp_path, OTHER)
    own.write("x", tensors())
    other.write("x", tensors())
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / f".kernelfe-{PROBLEM[:16]}-x-0.part").write_bytes(b"half")
    (tmp_path / f".kernelfe-{PROBLEM[:16]}-x-1.part").mkdir()
    (tmp_path / f".kernelfe-{PROBLEM[:16]}-x-1.part" / ".tmpAbCdEf").write_bytes(b"half")
    assert own.names() == ["x"]
    assert not list(tmp_path.glob(".*"))  # what a killed process left
    own.clear()
    assert {p.name for p in tmp_path.iterdir()} == {other.path("x").name, "notes.txt"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    own = Checkpoint(tmp_path_factory.mktemp("checkpoint"), PROBLEM, "hyperparameters")
    own.write("x", tensors())
    return own, own.path("x").read_bytes()


def refused(own: Checkpoint, data: bytes, caplog=None) -> bool:
    own.path("x").write_bytes(data)
    with pytest.raises(ModelFileError, match="is not used"):
        own.read("x")
    return own.names() == []


@given(st.data())
def test_a_truncated_file_is_refused(whole, data):
    own, complete = whole
    assert refused(own, complete[: data.draw(st.integers(0, len(complete) - 1))])


@given(st.data())
def test_a_changed_bit_is_found(whole, data):
    own, complete = whole
    at, bit = data.draw(st.integers(0, len(complete) - 1)), data.draw(st.integers(0, 7))
    changed = bytearray(complete)
    changed[at] ^= 1 << bit
    assert refused(own, bytes(changed))


@given(st.binary(max_size=200))
def test_what_is_no_checkpoint_is_refused(whole, junk):
    own, complete = whole
    assert refused(own, junk) and refused(own, complete[:16] + junk) and refused(own, complete + junk + b"x")


def test_sizes_are_checked_before_memory_is_taken(whole):
    own, complete = whole
    huge = complete.replace(b'"shape":[4,3]', b'"shape":[999]')  # as long, so that only the size gives it away
    assert len(huge) == len(complete) and huge != complete
    own.path("x").write_bytes(huge)
    with pytest.raises(ModelFileError, match="truncated or damaged"):
        own.read("x")
    shape, size = [1_000_000_000_000] * 2, 8 * 10**24
    header = json.dumps({"a": {"dtype": "F64", "shape": shape, "data_offsets": [0, size]}}).encode()
    assert refused(own, len(header).to_bytes(8, "little") + header)
    assert refused(own, (1 << 62).to_bytes(8, "little") + complete[8:])


def test_files_of_earlier_releases_are_refused(whole):
    """Of release 0.2: a container of its own, with a magic number, a JSON header and a digest at the end."""
    own, _ = whole
    header = json.dumps({"version": 1, "problem": PROBLEM, "belongs": own.belongs, "name": "x", "tensors": []}).encode()
    start = b"kfe-ckpt" + len(header).to_bytes(8, "little") + header
    old = start + hashlib.blake2b(start, digest_size=32).digest()
    assert refused(own, old)
    own.path("x").write_bytes(old)
    with pytest.raises(ModelFileError, match="is not a kernelfe checkpoint of this release"):
        own.read("x")


def test_a_model_is_not_a_checkpoint(whole, tmp_path):
    own, complete = whole
    container.write(own.path("x"), {"problem": PROBLEM}, tensors())
    with pytest.raises(ModelFileError, match="'kernelfe-model' version 1"):
        own.read("x")
    own.path("x").write_bytes(complete)
    with pytest.raises(ModelFileError, match="'kernelfe-checkpoint' version 2"):
        container.read(own.path("x"))


def test_files_have_the_usual_permissions(tmp_path):
    (tmp_path / "usual").touch()
    own = Checkpoint(tmp_path, PROBLEM)
    own.write("x", tensors())
    assert own.path("x").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_views_are_stored_alone(tmp_path):
    own, whole = Checkpoint(tmp_path, PROBLEM), torch.arange(6.0).double()
    parts = {"first": whole[:2], "rest": whole[2:], "number": whole[0].expand(1, 1)}
    own.write("x", parts)
    assert same(own.read("x")[0], {key: value.contiguous() for key, value in parts.items()})


def test_files_of_others_are_refused_and_named(tmp_path, caplog):
    own, other = Checkpoint(tmp_path, PROBLEM), Checkpoint(tmp_path, OTHER)
    own.write("x", tensors())
    os.replace(own.path("x"), other.path("x"))
    with caplog.at_level(logging.WARNING):
        assert other.names() == []
    assert str(other.path("x")) in caplog.text and "another fit" in caplog.text
    own.write("x", tensors())
    assert own.belonging("later hyperparameters").names() == []
    os.replace(own.path("x"), own.path("y"))
    with pytest.raises(ModelFileError, match="written as 'x'"):
        own.read("y")


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    own = Checkpoint(tmp_path, PROBLEM)
    own.write("x", tensors())

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        own.write("x", {"gram": torch.zeros(1).double()})
    assert same(own.read("x")[0], tensors()) and len(list(tmp_path.iterdir())) == 1


def test_wrong_arguments_are_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="choose another"):
        Checkpoint(tmp_path / "file", PROBLEM)
    with pytest.raises(DataError, match="float64"):
        Checkpoint(tmp_path, PROBLEM).write("x", {"a": torch.zeros(2)})
