"""ASE .traj files: exact, explicit units, constraints without effect, and files that declare what they do not hold."""

from __future__ import annotations

import json
import struct
import subprocess
import sys

import ase
import ase.io
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from kernelfe import Frames
from kernelfe.errors import DataError, UnitsError


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    result = []
    for row in range(4):
        atoms = ase.Atoms("CNO", positions=rng.normal(size=(3, 3)), constraint=FixAtoms([1]))
        atoms.calc = SinglePointCalculator(atoms, energy=-3.0 + row, forces=rng.normal(size=(3, 3)))
        atoms.info["temperature"] = 300.0
        result.append(atoms)
    return result


def test_calculator_results_without_the_effect_of_constraints(images, tmp_path):
    ase.io.write(tmp_path / "a.traj", images)
    assert (ase.io.read(tmp_path / "a.traj").get_forces()[1] == 0.0).all()  # the trap
    labels = {"mean_force": "forces", "mean_energy": "energy"}
    with pytest.raises(UnitsError, match="does not state"):
        Frames.read(tmp_path / "a.traj", labels)
    frames = Frames.read(tmp_path / "a.traj", labels, units="ase")
    np.testing.assert_array_equal(frames.labels["mean_force"], [a.calc.results["forces"] for a in images])
    np.testing.assert_array_equal(frames.labels["mean_energy"], [-3, -2, -1, 0])
    np.testing.assert_array_equal(frames.positions, [a.positions for a in images])
    assert frames.kinds == ("C", "N", "O") and frames.masses is None


def test_periodic_frames_with_masses(images, tmp_path):
    for atoms in images:
        atoms.set_cell([9, 8, 7])
        atoms.pbc = True
        atoms.set_masses([15, 16, 17.5])
        atoms.calc = SinglePointCalculator(atoms, forces=np.ones((3, 3)))
    ase.io.write(tmp_path / "a.traj", images)
    frames = Frames.read(tmp_path / "a.traj", {"mean_force": "forces"}, units="ase")
    np.testing.assert_array_equal(frames.masses, [15, 16, 17.5])
    np.testing.assert_array_equal(frames.cell[2], np.diag([9.0, 8, 7]))


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        Frames.read(tmp_path / "no.traj", units="ase")
    (tmp_path / "a.traj").write_bytes(b"")
    with pytest.raises(DataError, match=r"not a \.traj file"):
        Frames.read(tmp_path / "a.traj", units="ase")


# ---------------------------------------------------------------------- hostile files


def with_text(path, images, change):
    """A .traj file whose first frame has a changed JSON text: appended, and the offset pointed to it."""
    ase.io.write(path, images)
    data = bytearray(path.read_bytes())
    (start,) = struct.unpack_from("<q", data, 40)
    (offset,) = struct.unpack_from("<q", data, start)
    (length,) = struct.unpack_from("<q", data, offset)
    content = json.loads(data[offset + 8 : offset + 8 + length])
    text = (change(content) or json.dumps(content)).encode()
    struct.pack_into("<q", data, start, len(data))
    path.write_bytes(bytes(data) + struct.pack("<q", len(text)) + text)


def _huge_binary(content):
    content["positions."]["ndarray"][0] = [10**12, 3]


def _huge_inline(content):
    content["info"] = {"big": {"__ndarray__": [[10**12], "float64", 0]}}


def _negative(content):
    content["positions."]["ndarray"][0] = [-1, -3]


def _beyond_the_end(content):
    content["positions."]["ndarray"][2] = 10**9


def _objects(content):
    content["positions."]["ndarray"][1] = "object"


def _an_object_of_ase(content):
    content["info"] = {"x": {"__ase_objtype__": "bandpath", "labelseq": "G"}}


def _nested(content):
    return "[" * 200_000


def _not_finite(content):
    content["info"]["temperature"] = float("nan")


def _all_refer_to_one(content):
    content |= {f"x{k}.": content["positions."] for k in range(1000)}


@pytest.mark.parametrize(
    "change",
    [
        _huge_binary,
        _huge_inline,
        _negative,
        _beyond_the_end,
        _objects,
        _an_object_of_ase,
        _nested,
        _not_finite,
        _all_refer_to_one,
    ],
)
def test_hostile_contents(change, images, tmp_path):
    with_text(tmp_path / "a.traj", images, lambda content: None)
    assert len(Frames.read(tmp_path / "a.traj", {"mean_force": "forces"}, units="ase")) == 4  # the tool works
    with_text(tmp_path / "a.traj", images, change)
    with pytest.raises(DataError):
        Frames.read(tmp_path / "a.traj", {"mean_force": "forces"}, units="ase")


@pytest.mark.parametrize("field", [32, 40])
@pytest.mark.parametrize("value", [-1, 2**40, 2**62])
def test_huge_headers(field, value, images, tmp_path):
    ase.io.write(tmp_path / "a.traj", images)
    data = bytearray((tmp_path / "a.traj").read_bytes())
    struct.pack_into("<q", data, field, value)
    (tmp_path / "a.traj").write_bytes(data)
    with pytest.raises(DataError):
        Frames.read(tmp_path / "a.traj", {"mean_force": "forces"}, units="ase")


def test_truncated_anywhere(images, tmp_path):
    ase.io.write(tmp_path / "a.traj", images)
    data = (tmp_path / "a.traj").read_bytes()
    for end in np.linspace(0, len(data) - 1, 40).astype(int):
        (tmp_path / "b.traj").write_bytes(data[:end])
        try:
            assert len(Frames.read(tmp_path / "b.traj", {"mean_force": "forces"}, units="ase")) == 4
        except DataError:
            continue


XYZ = {
    "beads": "999999999999\nProperties=species:S:1:pos:R:3\nC 0 0 0\n",
    "columns": "1\nProperties=species:S:1:pos:R:3:x:R:2000000000\nC 0 0 0 1\n",
    "negative": "-5\nProperties=species:S:1:pos:R:3\nC 0 0 0\n",
    "digits": "9" * 5000 + "\n\n",
    "not finite": "1\nProperties=species:S:1:pos:R:3:REF_mean_force:R:3\nC 0 0 nan 1 2 3\n",
    "binary": "\x80\x04\x95 pickle\n",
}


@pytest.mark.parametrize("text", XYZ.values(), ids=XYZ)
def test_hostile_extended_xyz(text, tmp_path):
    (tmp_path / "a.extxyz").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError):
        Frames.read(tmp_path / "a.extxyz", units="ase", temperature=300)


def test_memory_stays_bounded(images, tmp_path):
    """A gigabyte of address space above what the imports take is enough to refuse files that declare terabytes."""
    pytest.importorskip("resource")
    with_text(tmp_path / "a.traj", images, _huge_inline)
    with_text(tmp_path / "b.traj", images, _huge_binary)
    (tmp_path / "c.extxyz").write_text(XYZ["columns"])
    code = (
        "import resource, sys, kernelfe, ase.io.ulm\n"
        "from kernelfe.errors import DataError\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n"
        "        kernelfe.Frames.read(name, units='ase', temperature=300)\n"
        "    except DataError as error:\n"
        "        print('refused', error)\n"
    )
    if sys.platform != "linux":
        pytest.skip("reads /proc")
    files = [str(tmp_path / name) for name in ("a.traj", "b.traj", "c.extxyz")]
    run = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True)
    assert run.stdout.count("refused") == 3 and "declares" in run.stdout, run.stderr
