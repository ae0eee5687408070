"""The benchmark scripts run, and their peers agree, at a tiny size."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "benchmarks"
sys.path.insert(0, str(FOLDER))  # as when a script there is run: its neighbours are importable


def load(name):
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def script():
    return load("value_gradient")


def test_gradient_of_the_test_function(script):
    x, step = np.random.default_rng(0).random((5, 4)), 1e-6
    for d in range(4):
        shift = step * np.eye(4)[d]
        slope = (script.smooth(x + shift)[0] - script.smooth(x - shift)[0]) / (2 * step)
        np.testing.assert_allclose(script.smooth(x)[1][:, d], slope, atol=1e-8)


def test_peers_have_the_same_means(script):
    """kernelfe's broad constant is gpytorch's at its posterior mean; gpytorch's default is Cholesky up to 800 rows."""
    data = script.problem(30, 3, seed=1)
    constant = script.gpytorch_constant(data)
    reference = script.gpytorch_means(data, True, constant)
    assert np.abs(script.kernelfe_means(data) - reference).max() < 1e-6
    np.testing.assert_allclose(script.gpytorch_means(data, False, constant), reference, atol=1e-10)
    # the constant matters: the agreement is not for want of sensitivity
    assert np.abs(script.gpytorch_means(data, True, 0.0) - reference).max() > 1e-5


def test_agreement_with_an_independent_dense_solve(script):
    """The reference itself, against the conditioning formula with the covariance written out entry by entry."""
    data = script.problem(12, 2, seed=2)

    def covariance(a, b):
        out = np.zeros((len(a), 3, len(b), 3))
        for i, x in enumerate(a):
            for j, z in enumerate(b):
                delta = (x - z) / data.lengthscale**2
                k = np.exp(-0.5 * (x - z) @ (x - z) / data.lengthscale**2)
                out[i, 0, j, 0] = k
                out[i, 1:, j, 0], out[i, 0, j, 1:] = -k * delta, k * delta
                out[i, 1:, j, 1:] = k * (np.eye(2) / data.lengthscale**2 - np.outer(delta, delta))
        return out.reshape(3 * len(a), 3 * len(b))

    e = np.tile([1.0, 0.0, 0.0], len(data.x))
    width = script.CONSTANT_WIDTH * data.y.std()
    y = np.column_stack([data.y - data.y.mean(), data.g]).ravel()
    gram = covariance(data.x, data.x) + script.NOISE_VARIANCE * np.eye(len(y)) + width**2 * np.outer(e, e)
    cross = covariance(data.new, data.x) + width**2 * np.outer(np.tile([1.0, 0.0, 0.0], len(data.new)), e)
    expected = (cross @ np.linalg.solve(gram, y)).reshape(-1, 3)
    expected[:, 0] += data.y.mean()
    assert np.abs(script.gpytorch_means(data, True, script.gpytorch_constant(data)) - expected).max() < 1e-6
    assert np.abs(script.kernelfe_means(data) - expected).max() < 1e-6


def test_a_measured_process_writes_what_the_table_needs(script, tmp_path):
    out = tmp_path / "out.npz"
    spec = {"n": 20, "new": 15, "dimension": 3, "seed": 0, "lengthscale": 0.3}
    assert script.main(["--child", "dense-std", "--spec", json.dumps(spec), "--out", str(out)]) is None
    with np.load(out, allow_pickle=False) as file:
        assert file["means"].shape == (15, 4) and np.isfinite(file["means"]).all()
        report = json.loads(str(file["report"]))
    assert report["status"] == "ok" and report["seconds"] > 0 and 0 <= report["peak_mb"] < 500
    assert report["versions"]["kernelfe"]


@pytest.mark.slow
def test_the_whole_script(script, tmp_path, capsys):
    path = tmp_path / "figures.json"
    small = ["--n", "20", "--dimension", "3", "--repeats", "1", "--threads", "1"]
    result = script.main([*small, "--lengthscale", "0.7", "--json", str(path)])
    assert json.loads(path.read_text()) == result
    found = result["lengthscales"]["0.7"]
    assert {"dense", "gpytorch-cg", "gpytorch-cholesky"} <= set(found["peers"])
    assert {"gpytorch-cg / dense", "gpytorch-cholesky / dense"} <= set(found["ratios"])
    assert found["peers"]["dense"]["value_error"] < 1e-6
    assert found["peers"]["gpytorch-cholesky"]["value_error"] < 1e-12
    assert "| peer | time" in capsys.readouterr().out


def test_the_simulated_truth_obeys_thermodynamics():
    """Labels of the calibration study are derivatives of one A(x; T), by differences."""
    script, rng = load("calibration"), np.random.default_rng(0)
    truth, x, t = script.Truth.draw(rng), rng.uniform(-2, 2, (3, 2)), np.array([300.0, 390.0, 500.0])
    values, h = truth(x, t), 1e-4
    a = {k: truth(x, t + k)["free_energy"] for k in (-1.0, 0.0, 1.0)}
    slope = (a[1.0] - a[-1.0]) / 2.0
    np.testing.assert_allclose(values["entropy"], -slope, atol=1e-8)
    np.testing.assert_allclose(values["mean_energy"], a[0.0] - t * slope, atol=3e-6)
    np.testing.assert_allclose(values["heat_capacity"], -t * (a[1.0] - 2 * a[0.0] + a[-1.0]), rtol=1e-4)
    for d in range(2):
        step = h * np.eye(2)[d]
        difference = {k: (truth(x + step, t)[k] - truth(x - step, t)[k]) / (2 * h) for k in ("free_energy", "entropy")}
        np.testing.assert_allclose(values["mean_force"][:, d], -difference["free_energy"], atol=1e-8)
        np.testing.assert_allclose(values["thermal_response_force"][:, d], difference["entropy"], atol=1e-10)


def test_the_calibration_study_continues_where_it_stopped(tmp_path):
    script, path = load("calibration"), tmp_path / "rows.jsonl"
    script.simulated(path, ["small"], 1, seed=3)
    with path.open("a") as file:
        file.write('{"regime": "small", "num')  # cut off
    assert len(script.rows_of(path)) == 1
    path.write_text(path.read_text().split("\n")[0] + "\n")
    script.simulated(path, ["small"], 2, seed=3)
    rows = script.rows_of(path)
    assert [row["number"] for row in rows] == [0, 1]
    found = script.gathered(rows, "small", "propagated")
    assert set(found) == set(script.QUANTITIES) and len(script.pooled(found)) == 2 * 4 * 5


@pytest.mark.slow
def test_error_bars_of_simulated_data_sets(tmp_path):
    """Forty data sets: coverage within binomial bounds about 95 ± 2 %, hyperparameters fitted and averaged."""
    script, path = load("calibration"), tmp_path / "rows.jsonl"
    script.simulated(path, ["comfortable"], 40, seed=1)
    found = script.gathered(script.rows_of(path), "comfortable", "propagated")
    for name, one in found.items():
        # points of a data set err together: at worst 40 independent ones, and four standard errors
        assert one.coverage() > 0.93 - 4.0 * (0.93 * 0.07 / 40) ** 0.5, name
        assert 0.4 < one.mean_squared_z < 1.1 + 4.0 * (2.0 / 40) ** 0.5, name
        assert one.uniformity() > 1e-3, name


def test_scaling_measures_fits_and_exponents(tmp_path, capsys):
    script = load("sparse_scaling")
    n = [5, 10, 40]
    assert script.exponent(n, [3.0 * k**1.1 for k in n]) == pytest.approx(1.1)
    frames = script.all_frames(None, 100)[::500].with_labels(script.LABELS)
    frames.save(tmp_path / "50.npz")
    assert (
        script.main(["--child", str(tmp_path / "50.npz"), "--inducing", "8", "--out", str(tmp_path / "o.npz")]) is None
    )
    with np.load(tmp_path / "o.npz", allow_pickle=False) as file:
        assert 0 < float(file["one_pass"]) and 0 < float(file["seconds"]) and 0 <= float(file["peak"]) < 500
        assert 50 * 40 * 8e-6 < float(file["frames"]) < 50 * 80 * 8e-6  # 18 coordinates, 36 of fields, 19 labels, T
    assert script.spread([90.0, 110.0, 100.0]) == pytest.approx(0.1)
    with pytest.raises(SystemExit, match="--cache"):
        script.all_frames(None, 50_000)


@pytest.mark.slow
def test_the_whole_scaling_script(tmp_path, capsys):
    pytest.importorskip("openmm")
    script = load("sparse_scaling")
    script.MORE, script.SPACING, script.EQUILIBRATION = {600: 20}, 0.03, 0.03
    arguments = ["--cache", str(tmp_path / "more"), "--sizes", "100", "25010", "--inducing", "8", "--repeats", "1"]
    result = script.main([*arguments, "--plot", str(tmp_path / "p.png"), "--json", str(tmp_path / "r.json")])
    assert result["frames_in_all"] == 25_020 and json.loads((tmp_path / "r.json").read_text()) == result
    assert (tmp_path / "p.png").stat().st_size > 1000
    assert capsys.readouterr().out.startswith("| frames | label rows")


def test_selections_are_compared(capsys):
    rows = load("inducing_selection").main(["--frames", "60", "--inducing", "10"])
    assert [row["selection"] for row in rows] == ["pivots", "farthest", "leverage", "kmeans"]
    assert all(np.isfinite([row["bound"], *row["density"]]).all() for row in rows)


@pytest.mark.slow
def test_solvers_are_equal(tmp_path):
    """Cholesky, conjugate gradients and those of two processes under torchrun, at 500 environments."""
    script = load("equal_solvers")
    options = ["--sizes", "500", "--lengthscale", "0.1", "--tolerance", "1e-7", "--points", "10"]
    result = script.main([*options, "--json", str(tmp_path / "out.json")])
    assert json.loads((tmp_path / "out.json").read_text()) == result
    assert [row["solver"] for row in result["rows"]] == list(script.SOLVERS)
    assert all(row["passed"] for row in result["rows"])
    assert 0.0 < max(result["rows"][1]["means"]) < script.MEANS  # it is another computation
    assert result["rows"][1]["iterations"] > 1
    assert result["rows"][2]["processes"] == 2 and result["rows"][2]["same bits as one"]
