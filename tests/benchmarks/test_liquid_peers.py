"""benchmarks/liquid_peers.py: its readers and writers, and kernelfe alone, at a tiny size."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(FOLDER))
    import liquid_peers

    return liquid_peers


@pytest.fixture(scope="module")
def data(script, tmp_path_factory):
    """Beads near a lattice whose forces are those of one pair function."""
    path, rng = tmp_path_factory.mktemp("water") / "water.npz", np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[3.2 * np.arange(3)] * 3, indexing="ij"), -1).reshape(-1, 3)
    x = (grid + 0.3 * rng.standard_normal((6, 27, 3))).astype(np.float32)
    cells = np.tile(9.6 * np.eye(3), (6, 1, 1))
    np.savez(path, positions=x, forces=np.zeros_like(x), cells=cells, temperature=300.0)
    found = script.Data(path, 4, 2)
    r = np.linspace(0.5, 5.0, 2000)
    for name in ("train", "test"):
        x, _, box = getattr(found, name)
        setattr(found, name, (x, script.table_forces(r, 0.1 * (4.5 - r) * (r < 4.5), x, box), box))
    return found


def test_forces_of_a_table_sum_to_zero_and_point_outwards(script, data):
    x, forces, box = data.test
    assert np.abs(forces.sum(1)).max() < 1e-12
    d = x[0][0] - x[0][1:]
    d -= box[0] * np.rint(d / box[0])
    r = np.linalg.norm(d, axis=1, keepdims=True)
    np.testing.assert_allclose(forces[0, 0], (0.1 * (4.5 - r) * (r < 4.5) * d / r).sum(0), atol=1e-6)
    assert script.force_error(forces, data)["force_rmse"] == 0.0


def test_dumps_have_forces_in_the_units_of_lammps(script, data, tmp_path):
    from ase.io import read

    script.write_dump(tmp_path / "x.dump", data.test)
    frames = read(tmp_path / "x.dump", format="lammps-dump-text", index=":", units="real")
    assert len(frames) == 2
    np.testing.assert_allclose(frames[1].get_forces(), data.test[1][1], rtol=1e-5, atol=1e-8)


def test_a_missing_peer_is_said(script, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(script.shutil, "which", lambda name: None)
    script.main(["water.npz", "--only", "votca", "gap", "--json", str(tmp_path / "x.json")])
    said = capsys.readouterr().out
    assert "VOTCA csg_fmatch, pairs: not installed" in said and "GAP" in said
