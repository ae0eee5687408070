"""The command ``kernelfe export``."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner

import kernelfe
from kernelfe import FreeEnergyRegressor, RepulsiveCore, Term
from kernelfe.cli.main import main
from kernelfe.descriptors import PairSplines
from kernelfe.kernels import SecondOrder


def call(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("export")
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[3.0 * np.arange(3)] * 3, indexing="ij"), -1).reshape(-1, 3)
    x = grid + 0.3 * rng.standard_normal((4, 27, 3))
    frames = kernelfe.Frames.from_arrays(
        x,
        temperature=300.0,
        cell=np.broadcast_to([[9.0, 0, 0], [0, 9.0, 0], [2.0, 0, 9.0]], (4, 3, 3)),
        labels={"mean_force": 0.1 * rng.standard_normal(x.shape)},
        kinds=["O"] * 13 + ["N"] * 14,
        masses=[16.0] * 13 + [14.0] * 14,
    )
    frames.save(path / "frames.npz")
    terms = [("pairs", Term(PairSplines(4.2, start=1.6, spacing=0.3), thermal=SecondOrder(300.0, 0.05, 1e-4, 1e-4)))]
    options = {"baseline": RepulsiveCore(), "noise": {"mean_force": 0.1}, "optimizer": None, "progress": False}
    FreeEnergyRegressor(terms, **options).fit(frames).save(path / "model.kfe")
    return path


def test_lammps(folder):
    out = folder / "lammps"
    done = call("export", folder / "model.kfe", "--engine", "lammps", "-T", 300, "-o", out, "--style", "metal",
                "--points", 500, "--start", folder / "frames.npz")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "types: 1 = N, 2 = O" in done.output and "liquid.data" in done.output
    assert (out / "pairs.table").read_text().count("N 500 RSQ") == 3
    assert "units metal" in (out / "example.in").read_text() and "mass 2 16" in (out / "example.in").read_text()
    data = (out / "liquid.data").read_text()
    assert "27 atoms" in data and "xy xz yz" in data


def test_gromacs(folder):
    done = call("export", folder / "model.kfe", "--engine", "gromacs", "-T", 300, "-o", folder / "gromacs")
    assert done.exit_code == 0 and "2019" in done.output
    assert (folder / "gromacs" / "table_N_O.xvg").exists()
    wrong = call("export", folder / "model.kfe", "--engine", "gromacs", "-T", 300, "-o", folder / "g", "--points", 9)
    assert wrong.exit_code == 2 and "--points is for --engine lammps" in wrong.output


def test_errors_are_one_line(folder):
    done = call("export", folder / "model.kfe", "--engine", "lammps", "-T", 300, "-o", folder / "a" / "b")
    assert done.exit_code == 1 and "does not exist" in done.output
    done = call("export", folder / "model.kfe", "--engine", "lammps", "-T", 500, "-o", folder / "c", "--points", 1)
    assert done.exit_code == 1 and "points=1 must be" in done.output and "outside the training" in done.output
