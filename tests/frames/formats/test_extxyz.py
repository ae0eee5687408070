"""Extended XYZ as it comes: joined, cut, compressed, under any name; arrays of other programs that need a layout."""

from __future__ import annotations

import bz2
import gzip
import logging
import lzma
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelfe import Frames
from kernelfe.errors import DataError, KernelfeError, ModelFileError
from kernelfe.files.text import may_be_cut

N = 4


@pytest.fixture(scope="module")
def frames():
    rng = np.random.default_rng(0)
    return Frames.from_arrays(
        rng.normal(size=(N, 3, 3)),
        temperature=300.0,
        labels={"mean_force": rng.normal(size=(N, 3, 3))},
        noise={"mean_force": 0.1},
    )


@pytest.fixture(scope="module")
def text(frames, tmp_path_factory):
    path = tmp_path_factory.mktemp("xyz") / "x.xyz"
    frames.write(path)
    return path.read_text()


@pytest.mark.parametrize("between", ["\n", "\n\n", "  \n", ""])
def test_joined_files(between, text, frames, tmp_path):
    (tmp_path / "x.xyz").write_text(text + between + text + between)
    both = Frames.read(tmp_path / "x.xyz")
    np.testing.assert_array_equal(both.positions, np.concatenate([frames.positions, frames.positions]))


@given(cut=st.integers(1, 500))
@settings(max_examples=25, deadline=None)
def test_a_file_cut_anywhere_gives_whole_frames_or_an_error(cut, text, frames, tmp_path_factory):
    path = tmp_path_factory.mktemp("cut") / "x.xyz"
    path.write_text(text[:-cut])
    try:
        found = Frames.read(path)
    except KernelfeError:
        return
    np.testing.assert_array_equal(found.positions, frames.positions[: len(found)])
    np.testing.assert_array_equal(found.labels["mean_force"], frames.labels["mean_force"][: len(found)])


def test_a_plain_file_without_a_final_line_end(tmp_path):
    plain = "4\nH2O2\nO 0.000 0.734 -0.052\nO 0.000 -0.734 -0.052\nH 0.839 0.880 0.420\nH -0.839 -0.880 0.470"
    (tmp_path / "x.xyz").write_text(plain)
    assert Frames.read(tmp_path / "x.xyz", units="ase", temperature=300.0).positions[0, 3, 2] == 0.47
    for cut in (1, 2):
        (tmp_path / "x.xyz").write_text(plain[:-cut])
        with pytest.raises(DataError, match="middle of a line"):
            Frames.read(tmp_path / "x.xyz", units="ase", temperature=300.0)


@given(
    st.lists(st.floats(-1e3, 1e3).filter(lambda x: x == 0.0 or abs(x) > 1e-90), min_size=4, max_size=8),
    st.integers(1, 4),
    st.sampled_from(["{:.6f}", "{:.8e}", "{:g}", "{!r}"]),
)
@settings(max_examples=40)
def test_cut_numbers_are_seen(values, cut, style):
    """A cut number is never taken for a whole one; of %e, no whole number for a cut one."""
    rows = [f"C {style.format(value)}\n" for value in values]
    assert may_be_cut(rows[-1][: -1 - cut], rows[:-1])
    assert style != "{:.8e}" or not may_be_cut(rows[-1][:-1], rows[:-1])


@pytest.mark.parametrize("style", ["{:.3f}", "{:.8f}", "{:.5e}", "{:g}"])
def test_whole_numbers_of_usual_formats_are_taken(style):
    column = [f"C {style.format(value)}" for value in (0.1234567, -12.765432, 3.5, 0.087654321, -2.3456789)]
    assert not may_be_cut(column[-1], column[:-1])


def test_integers_and_text_may_be_cut():
    assert may_be_cut("1 12", ["1 123\n", "1 7\n"]) and may_be_cut("1 CA", ["1 CAX\n"]) and may_be_cut("1 2.5", [])
    assert not may_be_cut("1 12 ", ["1 123\n"]) and not may_be_cut("1 12\n", [])


@pytest.mark.parametrize(
    ("name", "pack"),
    [("x.XYZ", bytes), ("x.xyz.gz", gzip.compress), ("X.EXTXYZ.BZ2", bz2.compress), ("x.xyz.xz", lzma.compress)],
)
def test_names_and_packing(name, pack, text, frames, tmp_path):
    (tmp_path / name).write_bytes(pack(text.encode()))
    np.testing.assert_array_equal(Frames.read(tmp_path / name).positions, frames.positions)


def test_format_is_given_or_seen(text, frames, tmp_path):
    (tmp_path / "frames.dat").write_text(text)
    assert len(Frames.read(tmp_path / "frames.dat", format="extxyz")) == N
    with pytest.raises(DataError, match=r"pass format= \(npz, extxyz, traj\)"):
        Frames.read(tmp_path / "frames.dat")
    with pytest.raises(DataError, match="unknown format='xyz'"):
        Frames.read(tmp_path / "frames.dat", format="xyz")
    frames.write(tmp_path / "f.traj")
    (tmp_path / "f.traj").rename(tmp_path / "f.out")
    frames.save(tmp_path / "f.npz")
    (tmp_path / "f.npz").rename(tmp_path / "f.bin")
    assert len(Frames.read(tmp_path / "f.out")) == len(Frames.read(tmp_path / "f.bin", format="npz")) == N
    frames.write(tmp_path / "F.XYZ")
    assert len(Frames.read(tmp_path / "F.XYZ")) == N


def test_warnings_of_a_reader_are_logged(text, tmp_path, monkeypatch, caplog):
    import ase.io.extxyz

    real = ase.io.extxyz.read_xyz

    def noisy(*args, **kwargs):
        warnings.warn("a remark", stacklevel=1)
        yield from real(*args, **kwargs)

    monkeypatch.setattr(ase.io.extxyz, "read_xyz", noisy)
    (tmp_path / "x.xyz").write_text(text)
    with warnings.catch_warnings(), caplog.at_level(logging.INFO, "kernelfe"):
        warnings.simplefilter("error")
        assert len(Frames.read(tmp_path / "x.xyz")) == N
    assert [record.getMessage() for record in caplog.records] == ["x.xyz: a remark"]  # once for all frames


# ---------------------------------------------------------------------- arrays of other programs


def test_arrays_of_another_program_are_recognised(tmp_path):
    x = np.zeros((2, 3, 3))
    np.savez(tmp_path / "d.npz", R=x, F=x, z=[1, 1, 1], type="d")
    with pytest.raises(ModelFileError, match="layout='sgdml'"):
        Frames.read(tmp_path / "d.npz")
    np.savez(tmp_path / "d.npz", coords=x, forces=x)
    with pytest.raises(ModelFileError, match="layout='cgnet' or 'mlcg'"):
        Frames.read(tmp_path / "d.npz")
    np.savez(tmp_path / "d.npz", a=x)
    with pytest.raises(ModelFileError, match="read_npz"):
        Frames.read(tmp_path / "d.npz")


def test_pairs_of_arrays(frames, tmp_path):
    files = [tmp_path / "coords.npy", tmp_path / "forces.npy"]
    for file, array in zip(files, (frames.positions, frames.labels["mean_force"]), strict=True):
        np.save(file, array)
    options = {"layout": "cgnet", "units": "ase", "temperature": 300.0}
    for given_ in (files, tuple(files), dict(zip(("coords", "forces"), files, strict=True))):
        found = Frames.read(given_, **options)
        np.testing.assert_array_equal(found.labels["mean_force"], frames.labels["mean_force"])
    for given_ in (files, files[0]):
        with pytest.raises(DataError, match="layout='cgnet'"):
            Frames.read(given_)
    with pytest.raises(DataError, match="name two"):
        Frames.read(files[:1], **options)


def test_positions_that_look_like_fractions(tmp_path, caplog):
    rng = np.random.default_rng(1)
    fractions, box = rng.uniform(size=(3, 50, 3)), 3.0 * np.eye(3)
    options = {"layout": "chemtrain", "units": "gromacs", "temperature": 300.0}
    np.savez(tmp_path / "d.npz", R=fractions, F=0.0 * fractions, box=box)
    with pytest.raises(DataError, match="fractional=True"):
        Frames.read(tmp_path / "d.npz", **options)
    lengths = Frames.read(tmp_path / "d.npz", fractional=False, **options)
    np.testing.assert_allclose(lengths.positions, fractions * 10.0)
    np.testing.assert_allclose(Frames.read(tmp_path / "d.npz", fractional=True, **options).positions, fractions * 30.0)
    with caplog.at_level(logging.WARNING, "kernelfe"):
        Frames.from_arrays(fractions, temperature=300.0, cell=box, units="ase")
    assert "positions @ cell" in caplog.text
    np.savez(tmp_path / "d.npz", R=fractions * 3.0, F=0.0 * fractions, box=box)
    np.testing.assert_allclose(Frames.read(tmp_path / "d.npz", **options).positions, fractions * 30.0)
