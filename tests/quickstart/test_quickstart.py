"""A real comparison on the bundled data, made tiny, and the bookkeeping around it."""

from __future__ import annotations

import json
import logging
import pickle
import re
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import kernelfe
from kernelfe.datasets import Reference
from kernelfe.errors import DataError, KernelfeError
from kernelfe.quickstart import DENSITY, LABEL_SETS, TARGET, Case, Plan, Sampler, run, run_cases, training_rows
from kernelfe.quickstart.cases import SAMPLING, effective_samples, run_case
from kernelfe.quickstart.collect import all_is_best, floors, frame_ratios, group
from kernelfe.quickstart.run import filled_when_complete, threads
from kernelfe.training import minimize_relative_entropy

TINY = Sampler(replicas=40, effective=200, longest=90, protocol=SAMPLING.with_options(burn_in=20, steps=60))


PLAN = Plan(sizes=(4, 8), subsets=1, sampler=TINY, single=8, single_subsets=1, small=True)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """One run for all that is asked of it, in one thread instead of a process, with short runs for the density."""
    folder, logger = tmp_path_factory.mktemp("quickstart") / "made" / "here", logging.getLogger("kernelfe")
    short = partial(minimize_relative_entropy, rounds=2, replicas=40, steps=60, longest=60, burn_in=20)
    level = logger.level
    with pytest.MonkeyPatch.context() as patch, threads(1):
        patch.setattr(sys.modules["kernelfe.quickstart.cases"], "minimize_relative_entropy", short)
        patch.setattr(
            sys.modules["kernelfe.quickstart.plan"],
            "ProcessPoolExecutor",
            lambda count, mp_context, initializer: ThreadPoolExecutor(count, initializer=initializer),
        )
        try:
            return folder, run(folder, PLAN, workers=1, progress=False)
        finally:
            logger.setLevel(level)


def test_files_are_complete_and_nothing_is_left_aside(outcome):
    folder, numbers = outcome
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        ["metrics.json", "report.html", "model.kfe", "samples.npz", "summary.png"]
    )
    assert (folder / "summary.png").read_bytes().startswith(b"\x89PNG")
    stored = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert stored["divergences"] == json.loads(json.dumps(numbers["divergences"]))
    model = kernelfe.load(folder / "model.kfe")
    assert model.temperatures_ == [300.0, 400.0, 500.0, 600.0]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), DataError("a case failed")])
def test_an_interrupted_run_changes_nothing(tmp_path, monkeypatch, error):
    def begin(cases, *args):
        (keep,) = (Path(case.keep) for case in cases if case.keep)
        assert keep.is_dir() and keep != tmp_path / "old"
        (keep / "model.kfe").write_text("half of the new")
        raise error

    monkeypatch.setattr(sys.modules["kernelfe.quickstart.run"], "run_cases", begin)
    (tmp_path / "old").mkdir()
    for name in ("model.kfe", "report.html", "mine.txt"):
        (tmp_path / "old" / name).write_text("old")
    for name in ("old", "new", "deep/er"):
        with pytest.raises(type(error)):
            run(tmp_path / name, Plan.reduced(), progress=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep", "old"]
    assert list((tmp_path / "deep").iterdir()) == []
    assert {p.name: p.read_text() for p in (tmp_path / "old").iterdir()} == dict.fromkeys(
        ("model.kfe", "report.html", "mine.txt"), "old"
    )


def test_files_move_together_and_replace_what_was_there(tmp_path, monkeypatch):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "a").write_text("old")
    for beside in (True, False):
        if not beside:  # as if only the folder itself were writable

            def refuse(*args, dir, make=tempfile.mkdtemp, **options):
                if dir == tmp_path:
                    raise PermissionError
                return make(*args, dir=dir, **options)

            monkeypatch.setattr(tempfile, "mkdtemp", refuse)
        with filled_when_complete(folder) as aside:
            assert aside.parent == (tmp_path if beside else folder)
            (aside / "a").write_text(f"new {beside}")
            assert (folder / "a").read_text() != f"new {beside}"
        assert (folder / "a").read_text() == f"new {beside}"
        assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "out"]
    with pytest.raises(DataError, match="choose another"), filled_when_complete(folder / "a"):
        pass


def test_every_label_set_is_compared_at_every_size(outcome):
    _, numbers = outcome
    found = {(r["labels"], r["frames_per_temperature"], len(r["temperatures"])): r for r in numbers["divergences"]}
    assert set(found) == {(name, n, 4) for name in (*LABEL_SETS, DENSITY) for n in (4, 8)} | {
        (name, 8, 1) for name in ("forces", "forces + torques")
    }
    for row in found.values():
        assert all(0.0 < d < np.log(2.0) for d in row["divergences"])
        assert row["mean"] == pytest.approx(np.mean(row["divergences"]))
        assert 0 < row["effective_samples"] <= row["samples"]
        assert sum(row["populations"].values()) == pytest.approx(1.0)


def test_what_a_chemist_asks_for_is_in_the_metrics(outcome):
    _, numbers = outcome
    assert numbers["small"] is True and numbers["logarithm"] == "natural" and numbers["bins"] == 36
    assert 0.0 < numbers["floors"]["reference"] < numbers["floors"]["perfect_model"]
    assert numbers["reference"]["effective_samples"] > 500
    for kind in ("mean_force", "mean_energy", "generalized_force"):
        found = numbers["parity"][kind]
        assert found["frames"] == 2500 and found["noise_floor"] > 0.0 and np.isfinite(found["log_density"])
    heat = numbers["heat_capacity_J_mol_K"]
    assert heat["model"] == pytest.approx(heat["held_out_frames"], rel=0.5)
    assert numbers["versions"]["torch"] and numbers["seconds"] > 0.0
    assert 2**27 < numbers["peak_memory_bytes"] < 2**32
    for case in numbers["cases"]:
        assert case["held_out"]["mean_force"]["frames"] == 500


def test_report_is_one_file_that_loads_nothing(outcome):
    folder, numbers = outcome
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == page.count("data:image/png;base64,") == 5
    assert not re.search(r"<script|<link|https?://|src=\"(?!data:)", page)
    assert "Small version" in page and "What to keep in mind" in page
    assert "all labels + density" in page and "plain forces" in page and "forces + fragment torques" in page
    row = next(r for r in numbers["divergences"] if r["labels"] == DENSITY and r["frames_per_temperature"] == 8)
    assert f"{row['mean']:.3f}"[:4] in page


@pytest.mark.slow
def test_results_do_not_depend_on_the_number_of_processes(outcome):
    """Two of the cases again, each in a process of its own; before, they ran after eight others in one."""
    cases = [case for case in PLAN.cases() if case.labels == "forces" and not case.single]
    two = run_cases(cases, TINY, "kernelfe_data", 2, progress=False)
    one = {(r["labels"], r["size"], len(r["temperatures"])): r for r in outcome[1]["cases"]}
    assert [r["size"] for r in two] == [8, 4] and two[0]["divergence"] != two[1]["divergence"]
    for result in two:
        before = one[result["labels"], result["size"], len(result["temperatures"])]
        for key in ("divergence", "log_evidence", "noise", "held_out", "effective_samples"):
            assert result[key] == before[key], key


MANY, TOO_MANY = Case("forces", 4000, 0, 2), "2 disjoint subsets of 4000 frames need 8000"


@pytest.mark.slow  # a process takes seconds to start; quick: what it would send
def test_an_error_in_a_worker_comes_back_typed():
    with pytest.raises(DataError, match=TOO_MANY):
        run_cases([MANY], TINY, "kernelfe_data", 1, progress=False)


@pytest.mark.parametrize(
    ("case", "package", "message"),
    [(MANY, "kernelfe_data", TOO_MANY), (Case("forces", 8, 0, 1), "no_such_package", "not installed")],
)
def test_errors_of_a_case_survive_the_way_between_processes(case, package, message):
    with pytest.raises(KernelfeError, match=message) as caught:
        run_case(case, TINY, package)
    sent = pickle.loads(pickle.dumps(caught.value))  # what a pool does with it
    assert type(sent) is type(caught.value) and str(sent) == str(caught.value)


def test_the_threads_of_the_caller_are_as_before():
    """A quickstart takes two threads for its last part; whoever called it gets back what was set."""
    before = torch.get_num_threads()
    with pytest.raises(DataError), threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise DataError("something")
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("size", [75, 300, 1250])
def test_subsets_are_disjoint_equal_and_spread_over_the_runs(size):
    temperature = np.repeat([300.0, 350.0, 400.0, 500.0, 600.0], [5000, 2500, 5000, 5000, 5000])
    rows = [training_rows(temperature, Case("all", size, s, 3)) for s in range(3)]
    assert all(len(r) == 4 * size for r in rows)
    assert len(np.unique(np.concatenate(rows))) == 12 * size
    assert not (temperature[np.concatenate(rows)] == TARGET).any()
    first = rows[0][temperature[rows[0]] == 300.0]
    assert first.max() - first.min() > 0.95 * 5000


def test_the_plan_keeps_one_model_and_starts_with_the_longest():
    cases = Plan().cases("somewhere")
    # two label sets at the smallest size, all four at the others, two subsets each; two at a single temperature
    assert len(cases) == (2 + 4 + 4) * 2 + 2
    kept = [c for c in cases if c.keep]
    assert [(c.labels, c.size, c.subset) for c in kept] == [("all", 1250, 0)]
    assert cases[0].size == 1250 and cases[-1].size == 75
    assert len({c.seed for c in cases}) == len(cases)
    assert {c.seed for c in cases}.isdisjoint({c.seed for c in Plan(seed=1).cases()})
    with pytest.raises(DataError, match="subsets=0"):
        Plan(subsets=0)
    with pytest.raises(DataError, match="seed=-1"):
        Plan(seed=-1)
    assert all(0 <= c.seed < 2**63 for c in Plan(seed=2**63 - 1).cases())


def result(labels, size, subset, divergence, temperatures=(300.0, 400.0)):
    return {
        "labels": labels,
        "size": size,
        "subset": subset,
        "temperatures": temperatures,
        "divergence": divergence,
        "rmsd": 0.01,
        "populations": {"beta": 1.0},
        "samples": 10,
        "effective_samples": 5.0,
        "fit_seconds": 1.0,
        "sample_seconds": 1.0,
        "held_out": {},
        "half_against_half": 0.004,
    }


def test_frames_for_equal_divergence_are_bounds_where_the_curve_ends():
    results = [result("forces", n, s, 40.0 / n) for n in (100, 1600) for s in range(2)]
    results += [result("all", 100, s, 0.05) for s in range(2)] + [result("all", 1600, s, 0.005) for s in range(2)]
    rows = group(results)
    ratios = {r["frames_per_temperature"]: r for r in frame_ratios(rows)}
    assert ratios[100]["forces_need"] == pytest.approx(800.0) and not ratios[100]["is_lower_bound"]
    assert ratios[1600]["ratio"] == 1.0 and ratios[1600]["is_lower_bound"]
    assert all(r["not_worse"] for r in all_is_best(rows))
    with_density = all_is_best(group([*results, result(DENSITY, 1600, 0, 0.004), result(DENSITY, 1600, 1, 0.008)]))
    assert with_density[-1]["best_smaller_set"] == "all" and not with_density[-1]["not_worse"]
    worse = all_is_best(group([*results[:4], *[result("all", 1600, s, 0.03 + s) for s in range(2)]]))
    assert not worse[0]["not_worse"] and worse[0]["best_smaller_set"] == "forces"


def test_floors_are_quarters_of_halves():
    p = np.full((36, 36), 1.0)
    half = p.copy()
    half[:18] += 0.1
    reference = Reference(
        np.array([TARGET]),
        np.linspace(-np.pi, np.pi, 37),
        p[None] / p.sum(),
        p[None],
        np.array([p[None], half[None]]),
        np.array([100.0]),
    )
    found = floors(reference, [result("all", 8, 0, 0.1)], 1e4, 0)
    expected = kernelfe.analysis.jensen_shannon_divergence(p, half)
    assert found["reference"] == pytest.approx(expected / 4)
    assert found["perfect_model"] == pytest.approx((expected + 0.004) / 4)


def test_effective_samples_see_a_basin_that_is_never_left():
    rng = np.random.default_rng(0)
    angles = rng.uniform(-3.0, -1.0, (50, 100, 2))
    assert effective_samples(angles) > 3500
    angles[:, :50, 0] += 3.5  # half of the replicas stay at φ > 0
    assert effective_samples(angles) < 150
