"""Files that declare or unpack to more than they hold are refused before memory is taken."""

from __future__ import annotations

import gzip

import pytest

from kernelfe import Frames
from kernelfe.allatom import Trajectory
from kernelfe.errors import DataError, KernelfeError
from kernelfe.files import text

h5py = pytest.importorskip("h5py")


@pytest.mark.parametrize("frames", [10**9, 10**15])
@pytest.mark.parametrize("where", ["position", "force"])
def test_frames_of_hdf5_that_were_never_written(tmp_path, frames, where):
    """A file of some kilobytes, whose number of frames would become arrays of steps of that length."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name in ("position", "force"):
            shape = (frames if name == where else 3, 2, 3)
            values = file.create_dataset(f"particles/all/{name}/value", shape, "f4", chunks=(1, 2, 3))
            values.attrs["unit"] = "nm" if name == "position" else "kJ mol-1 nm-1"
            values[:3] = 1.0
            file[f"particles/all/{name}/step"] = 10
        file["particles/all"].create_group("box").attrs["boundary"] = ["none"] * 3
    with pytest.raises(KernelfeError, match=f"a.h5 declares {frames} frames in 72 stored bytes"):
        Trajectory(tmp_path / "a.h5").read()


@pytest.mark.parametrize("pack", [False, True])
def test_frames_of_text_that_unpack_to_any_length(tmp_path, monkeypatch, pack):
    monkeypatch.setattr(text, "MAX_BYTES", 1000)
    padding = " " * 300
    frame = "4\nProperties=species:S:1:pos:R:3 Temperature=300\n" + f"C 0.0 0.0 0.0{padding}\n" * 4
    path = tmp_path / ("a.xyz.gz" if pack else "a.xyz")
    with gzip.open(path, "wt") if pack else open(path, "w") as handle:
        handle.write(frame)
    with pytest.raises(DataError, match="a frame holds more than 1000 characters"):
        Frames.read(path, temperature=300.0)
    items = "ITEM: TIMESTEP\n0\nITEM: NUMBER OF ATOMS\n4\nITEM: BOX BOUNDS pp pp pp\n0 9\n0 9\n0 9\n"
    path = tmp_path / ("a.dump.gz" if pack else "a.dump")
    with gzip.open(path, "wt") if pack else open(path, "w") as handle:
        handle.write(items + "ITEM: ATOMS id xu yu zu fx fy fz\n" + f"1 0.0 0.0 0.0 0.0 0.0 0.0{padding}\n" * 4)
    with pytest.raises(DataError, match="a frame holds more than 1000 characters"):
        Trajectory(path, units="ase")


def test_vectors_of_a_cell_without_end(tmp_path):
    path = tmp_path / "a.xyz"
    path.write_text("1\nenergy\nC 0.0 0.0 0.0\n" + "VEC1 9.0 0.0 0.0\n" * 4)
    with pytest.raises(DataError, match="not readable as extended XYZ"):
        Frames.read(path, temperature=300.0)
