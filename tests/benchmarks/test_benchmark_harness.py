"""The benchmark harness: measured processes, limits reported instead of crashes, medians, tables, plots."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def harness():
    spec = importlib.util.spec_from_file_location("_harness", FOLDER / "_harness.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


#: A script with peers of every fate; it imports the harness and nothing heavy.
SCRIPT = """
import argparse, json, os, sys, time
sys.path.insert(0, {folder!r})
import numpy as np
import _harness

def work(peer, size):
    def run():
        if peer == "fails":
            raise ValueError("no such thing")
        if peer == "short":
            raise MemoryError("Unable to allocate 1 TiB")
        if peer == "dies":
            os._exit(3)
        if peer == "slow":
            time.sleep(60)
        block = np.ones(int(size * 1e6 / 8))  # size in MB
        if peer == "grows":
            kept = [block]
            while True:
                kept.append(np.ones(int(2e6)))
        return block[:3]
    result, figures = _harness.measured(run)
    return {{**figures, "answer": float(result.sum())}}, {{"block": result}}

parser = argparse.ArgumentParser()
_harness.arguments(parser)
args = parser.parse_args()
spec = json.loads(args.spec)
_harness.child(args.out, lambda: work(args.child, spec["size"]), ["numpy", "no-such-package"])
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("peers") / "script.py"
    path.write_text(SCRIPT.format(folder=str(FOLDER)))
    return path


def test_a_child_reports_time_memory_and_versions(harness, script):
    report, arrays = harness.run_child(script, harness.Peer("fine", ""), {"size": 60}, harness.Limits(60, 4, 1))
    assert report["status"] == "ok" and report["answer"] == 3.0 and report["seconds"] > 0
    # 60 MB are made in the measured part; the interpreter and numpy do not count
    assert 55 < report["peak_mb"] < 75
    assert set(report["versions"]) == {"python", "numpy"}
    np.testing.assert_array_equal(arrays["block"], np.ones(3))


@pytest.mark.parametrize(
    ("peer", "limits", "status"),
    [
        ("fails", (60, 4), "failed: ValueError: no such thing"),
        ("short", (60, 4), "out of memory"),
        ("dies", (60, 4), "failed: exit 3"),
        ("slow", (1.0, 4), "time limit"),
        ("grows", (60, 0.3), "memory limit"),
    ],
)
def test_what_goes_wrong_is_reported(harness, script, peer, limits, status):
    report, arrays = harness.run_child(script, harness.Peer(peer, ""), {"size": 1}, harness.Limits(*limits, 1))
    assert report["status"].startswith(status) and not arrays


def test_growth_leaves_out_peers_that_failed(harness, script, tmp_path):
    peers = [harness.Peer("fine", "fine"), harness.Peer("fails", "failing")]
    sizes, labels = [20, 80], {"fine": "fine", "fails": "failing"}
    found = harness.growth(script, peers, [{"size": n} for n in sizes], harness.Limits(60, 4, 1))
    assert set(found[0]) == {"fine", "fails"} and set(found[1]) == {"fine"}
    _, _, memory = harness.series("fine", sizes, found)
    assert 0.8 < harness.exponent(sizes, memory) < 1.2
    text = harness.growth_table(labels, sizes, found)
    assert "failed: ValueError" in text and text.count("\n") == 4
    harness.growth_plot(tmp_path / "growth.png", labels, sizes, found, "size")
    assert (tmp_path / "growth.png").stat().st_size > 5000
    assert json.loads(json.dumps(found)) == found


def test_figures_go_to_a_file_or_to_standard_output(harness, tmp_path, capsys):
    result = {"seconds": 1.5, "rows": [{"n": 3}]}
    harness.write(result, None)
    assert capsys.readouterr().out == ""
    harness.write(result, Path("-"))
    assert json.loads(capsys.readouterr().out) == result
    harness.write(result, tmp_path / "figures.json")
    assert json.loads((tmp_path / "figures.json").read_text()) == result and capsys.readouterr().out == ""


def test_medians_and_exponents(harness):
    runs = [{"status": "ok", "seconds": s, "peak_mb": 1.0, "versions": {}} for s in (3.0, 1.0, 2.0)]
    out = harness.summary(runs)
    assert out["seconds"] == 2.0 and out["seconds_range"] == [1.0, 3.0] and out["repeats"] == 3
    assert harness.summary([runs[0], {"status": "time limit"}]) == {"status": "time limit"}
    sizes = np.array([10, 50, 100, 500, 1000])
    # quadratic over the last decade, another law before it
    values = np.where(sizes < 100, 1.0, 1e-4 * sizes**2.0)
    assert harness.exponent(sizes, values) == pytest.approx(2.0)
    assert np.isnan(harness.exponent([10], [1.0]))
    labels = {"a": "A", "b": "B"}
    rows = {"a": {**out, "error": 1e-3}, "b": {"status": "out of memory"}}
    assert harness.table(labels, rows, {"error": "error"}).splitlines()[2:] == [
        "| A | 2 (1–3) | 1 | 0.001 |",
        "| B | out of memory | | |",
    ]
