"""The picture of the layers in the documentation shows the imports of the source."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "docs" / "_ext" / "layers.py"


@pytest.fixture(scope="module")
def layers():
    """The script that draws the picture, as a module."""
    spec = importlib.util.spec_from_file_location("layers", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_committed_picture_is_up_to_date(layers):
    drawn = layers.listed(layers.PICTURE.read_text(encoding="utf-8"))
    assert drawn == layers.arrows(), "run: python docs/_ext/layers.py"


def test_imports_of_every_kind_are_read(layers, tmp_path):
    package = tmp_path / "kernelfe"
    for name, text in {
        "a/__init__.py": "from ..b import x\n",
        "a/deep/m.py": "def f():\n    from ...c.n import y\n",
        "b/__init__.py": "import kernelfe.d.m\nfrom . import c\n",
        "c/n.py": "from typing import TYPE_CHECKING as T\nif T:\n    from kernelfe.d import z\n    from .. import e\n",
        "d/m.py": "import numpy\nfrom ..d import m\n",
        "e.py": "from . import d\n",
    }.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert layers.arrows(package) == [("a", "b"), ("a", "c"), ("b", "d"), ("c", "d"), ("c", "e"), ("e", "d")]


def test_the_picture_lists_its_arrows(layers):
    pairs = [("a", "b"), ("a", "c"), ("b", "c")]
    assert layers.listed(layers.picture(pairs)) == pairs
    assert layers.reduced({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == {"a": {"b"}, "b": {"c"}, "c": set()}
