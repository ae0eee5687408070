"""The command ``label``."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import kernelfe
from kernelfe.allatom.labelling import find_run
from kernelfe.cli.main import main
from kernelfe.errors import DataError

pytest.importorskip("MDAnalysis")


_spec = importlib.util.spec_from_file_location(
    "allatom_chain", Path(__file__).parents[1] / "allatom" / "chain.py"
)  # importlib mode puts no folder of tests on the path
chain = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(chain)


def call(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two folders of a chain of three atoms in harmonic springs, each with a constrained hydrogen at its ends."""
    folder = tmp_path_factory.mktemp("runs")
    return [chain.write_chain_run(folder / f"run-{t}", t) for t in (300, 400)]


def test_label_writes_frames_and_a_page(runs, tmp_path):
    out = tmp_path / "frames.npz"
    ran = call("label", *runs, "-T", "300,400", "--beads", "name C0 N1 C2", "-o", out)
    assert ran.exit_code == 0, ran.output
    frames = kernelfe.Frames.load(out)
    assert set(frames.labels) == {"mean_force", "mean_energy"} and sorted(set(frames.temperature)) == [300.0, 400.0]
    page = (tmp_path / "frames.html").read_text(encoding="utf-8")
    for heading in ("Noise of single labels", "Independent frames", "Overlap between temperatures"):
        assert heading in page
    assert "noise" in ran.output and "wrote" in ran.output
    assert np.isfinite(frames.labels["mean_force"]).all()


def test_label_refuses_what_does_not_fit(runs, tmp_path):
    out = tmp_path / "frames.npz"
    ran = call("label", *runs, "-T", "300,400,500", "--beads", "ca", "-o", out)
    assert ran.exit_code == 1 and "3 temperatures for 2 runs" in ran.output
    ran = call("label", *runs, "-T", "300", "--beads", "ca", "-o", out)
    assert ran.exit_code == 1 and "names of atoms and residues of a protein" in ran.output
    ran = call("label", *runs, "-T", "300", "--beads", "ca", "-o", tmp_path / "frames.xyz")
    assert ran.exit_code == 1 and ".npz" in ran.output
    for beads in ("name C0", "molecules"):
        ran = call("label", *runs, "-T", "300", "--beads", beads, "-o", out)
        assert ran.exit_code == 1 and f"beads='{beads}' makes one bead" in ran.output
    assert not out.exists()


def test_warnings_are_lines_of_their_own(runs, tmp_path):
    """A table that fits some frames: one line, without the source that warns."""
    rows = ['#"Step","Potential Energy (kJ/mole)"', *(f"{100 * k},{k / 7}" for k in range(25))]
    (tmp_path / "u.csv").write_text("\n".join(rows) + "\n")
    out = tmp_path / "frames.npz"
    ran = call("label", runs[0], "-T", 300, "--beads", "heavy", "--energies", tmp_path / "u.csv", "--plain", "-o", out)
    assert ran.exit_code == 0, ran.output
    assert "Warning: 15 of 40 frames have no row in u.csv" in ran.output
    assert "UserWarning" not in ran.output and ".py" not in ran.output
    assert kernelfe.Frames.load(out).present["mean_energy"].sum() == 25


def test_files_of_one_run_are_found_by_name(tmp_path):
    for name in ("md.trr", "md.tpr", "md.gro", "md.edr", "md.log", "other.xvg", "md.mdfrc"):
        (tmp_path / name).write_bytes(b"")
    run = find_run(tmp_path / "md.trr", 300.0)
    assert [Path(p).name for p in (run.topology, run.energies, run.forces)] == ["md.tpr", "md.edr", "md.mdfrc"]
    run = find_run(tmp_path, 300.0, energies=tmp_path / "other.xvg")
    assert run.paths == (str(tmp_path / "md.trr"),) and Path(run.energies).name == "other.xvg" and not run.found
    (tmp_path / "b.tpr").write_bytes(b"")
    with pytest.raises(DataError, match=r"several files could be meant: .*b\.tpr"):
        find_run(tmp_path, 300.0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no trajectory by its suffix"):
        find_run(tmp_path / "empty", 300.0)
