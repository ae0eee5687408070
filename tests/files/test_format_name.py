"""The format of a file is read from its header alone, without trust in anything else."""

from __future__ import annotations

import torch

from kernelfe.files import tensors


def test_format_name(tmp_path):
    path = tmp_path / "a.kfe"
    tensors.write(path, {"x": 1}, {"t": torch.zeros(2)}, tensors.Content("some-format", 3, "file", "write it again"))
    assert tensors.format_name(path) == "some-format"
    content = path.read_bytes()
    for bad in (b"", content[:6], content[:30], b"\xff" * 64):
        path.write_bytes(bad)
        assert tensors.format_name(path) is None
    assert tensors.format_name(tmp_path) is None and tensors.format_name(tmp_path / "none") is None
