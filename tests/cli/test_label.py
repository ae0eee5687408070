"""The command ``label``."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner

import kernelfe
from kernelfe.cli.main import main

pytest.importorskip("MDAnalysis")


def call(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two folders of a chain of three atoms in harmonic springs, each with a constrained hydrogen at its ends."""
    from tests.allatom.chain import write_chain_run

    folder = tmp_path_factory.mktemp("runs")
    return [write_chain_run(folder / f"run-{t}", t) for t in (300, 400)]


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
    assert not out.exists()
