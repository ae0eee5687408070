"""Fits of several processes, and fits that were interrupted: the same model, to the last bit."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys

import pytest

import kernelfe
from kernelfe import FreeEnergyRegressor, Sparse
from kernelfe.errors import DataError
from kernelfe.gp.solvers.sparse import fit as sparse_fit
from kernelfe.gp.solvers.sparse import streaming as sparse

from ...runtime.workers import ROOT, run
from ..systems import molecule
from .small_fit import SOLVER, digest, fit, frames


@pytest.fixture(scope="module")
def undisturbed():
    return digest(fit())


@pytest.fixture(scope="module")
def fixed():
    return digest(fit(optimizer=None))


def interrupt(monkeypatch, after: int):
    """Ctrl-C after some blocks of the pass over all labels."""
    add, left = sparse._add_block, [10**9]
    accumulate = sparse_fit.accumulate

    def counted(*args):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        add(*args)

    def last(*args, **kwargs):
        left[0] = after
        return accumulate(*args, **kwargs)

    monkeypatch.setattr(sparse, "_add_block", counted)
    monkeypatch.setattr(sparse_fit, "accumulate", last)


@pytest.mark.parametrize("after", [0, 8])
def test_an_interrupted_fit_goes_on(tmp_path, monkeypatch, caplog, undisturbed, after):
    folder = tmp_path / "checkpoint"
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        interrupt(patch, after)
        with pytest.raises(KeyboardInterrupt):
            fit(checkpoint=folder)
    assert str(folder) in caplog.text and "the same call goes on" in caplog.text
    caplog.clear()
    calls = []
    fit_sparse = sparse_fit.fit_sparse
    monkeypatch.setattr(sparse_fit, "fit_sparse", lambda *a, **k: calls.append(fit_sparse(*a, **k)))
    with caplog.at_level(logging.WARNING):
        assert digest(fit(checkpoint=folder)) == undisturbed
    assert not calls and "hyperparameters and inducing environments are there" in caplog.text
    assert not folder.exists()  # a complete fit leaves nothing


def test_another_fit_does_not_take_the_checkpoint(tmp_path, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        interrupt(patch, 6)
        with pytest.raises(KeyboardInterrupt):
            fit(optimizer=None, checkpoint=tmp_path)
    left = set(os.listdir(tmp_path))
    values = frames().labels["mean_force"].copy()
    values[3, 0] += 1e-12
    changed = frames().replace(labels=frames().labels | {"mean_force": values})
    for data, options in ((changed, {}), (None, {"seed": 1}), (None, {"inducing": 11}), (None, {"block_rows": 25})):
        caplog.clear()
        fit(data, optimizer=None, checkpoint=tmp_path, **options)
        assert "going on" not in caplog.text
        assert set(os.listdir(tmp_path)) == left  # nor removes it


def test_damaged_files_are_named_and_their_part_is_done_again(tmp_path, monkeypatch, caplog, fixed):
    for damaged in ("start", "sum"):
        with monkeypatch.context() as patch:
            interrupt(patch, 6)
            with pytest.raises(KeyboardInterrupt):
                fit(optimizer=None, checkpoint=tmp_path)
        path = next(p for p in sorted(tmp_path.iterdir()) if f"-{damaged}" in p.name)
        os.truncate(path, path.stat().st_size - 1)
        with caplog.at_level(logging.WARNING):
            assert digest(fit(optimizer=None, checkpoint=tmp_path)) == fixed
        assert path.name in caplog.text and "not used" in caplog.text


def test_a_kernel_that_changed_is_noticed(tmp_path, monkeypatch, caplog):
    """The code of a kernel is in no fingerprint: what was stored must be white under the kernel as it is."""
    with monkeypatch.context() as patch:
        interrupt(patch, 6)
        with pytest.raises(KeyboardInterrupt):
            fit(optimizer=None, checkpoint=tmp_path)
    kernel = type(fit(optimizer=None).posterior_.prior.terms[0].kernel)
    gram = kernel.gram
    monkeypatch.setattr(kernel, "gram", lambda self, *args, **kwargs: 1.01 * gram(self, *args, **kwargs))
    with caplog.at_level(logging.WARNING):
        fit(optimizer=None, checkpoint=tmp_path)
    assert "the kernel of term 0 is another one" in caplog.text


def test_correlated_noise_goes_on_in_its_second_round(tmp_path, monkeypatch):
    data = molecule(40, noise=False)

    def correlated(checkpoint=None):
        solver, noise = Sparse(**SOLVER, checkpoint=checkpoint), kernelfe.CorrelatedNoise(rounds=1)
        return FreeEnergyRegressor(solver=solver, optimizer=None, noise=noise).fit(data)

    passes, accumulate = [], sparse_fit.accumulate

    def second(*args, **kwargs):
        passes.append(1)
        if len(passes) == 2:
            raise KeyboardInterrupt
        return accumulate(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(sparse_fit, "accumulate", second)
        with pytest.raises(KeyboardInterrupt):
            correlated(tmp_path / "own")
    blocks, add = [], sparse._add_block
    monkeypatch.setattr(sparse, "_add_block", lambda *args: blocks.append(args[2].kind) or add(*args))
    found = correlated(tmp_path / "own")
    first = len(blocks)
    blocks.clear()
    assert digest(found) == digest(correlated()) and first < len(blocks)
    assert not (tmp_path / "own").exists()


def test_the_checkpoint_needs_a_seed_and_is_not_saved(tmp_path):
    with pytest.raises(DataError, match="random_state"):
        fit(seed=None, checkpoint=tmp_path / "a")
    for wrong in ("", 3, False):
        with pytest.raises(DataError, match="checkpoint"):
            Sparse(checkpoint=wrong)
    model = fit(optimizer=None, checkpoint=tmp_path / "secret-folder")
    assert model.get_params()["solver__checkpoint"] == str(tmp_path / "secret-folder")
    model.save(tmp_path / "model.kfe")
    assert b"secret-folder" not in (tmp_path / "model.kfe").read_bytes()
    loaded = kernelfe.load(tmp_path / "model.kfe")
    assert loaded.solver.checkpoint is None and loaded.solver_ == Sparse(**SOLVER)


SCRIPT = """
import json, os, sys, torch
sys.path.insert(0, {root!r})
import kernelfe
from tests.gp.solvers.small_fit import digest, fit, frames

found = [digest(fit()), digest(fit(seed=None, optimizer=None))]
assert not torch.distributed.is_initialized()
try:
    fit(frames()[: 60 - int(os.environ["RANK"])])
except kernelfe.errors.DataError as error:
    found.append(str(error))
print(json.dumps(found))
"""


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_an_ordinary_script_in_several_processes(size, undisturbed):
    ended = [one.value() for one in run(size, SCRIPT.format(root=str(ROOT)))]
    assert {found[0] for found in ended} == {undisturbed}
    assert len({found[1] for found in ended}) == 1  # also without a seed, all have the same one
    assert all("process 1 was given other labels than process 0" in found[2] for found in ended)


@pytest.mark.slow
def test_torchrun_and_the_command_line(tmp_path):
    """The model file that two processes write is the one that a single process writes."""
    frames().save(tmp_path / "frames.npz")
    command = ["-m", "kernelfe", "fit", "frames.npz", "--solver", "sparse", "--checkpoint", "kept"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.setdefault("GLOO_SOCKET_IFNAME", "lo")  # the machine's own name may not be known to it
    options = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "timeout": 300}
    alone = subprocess.run([sys.executable, *command, "-o", "one.kfe"], **options)
    assert alone.returncode == 0, alone.stderr
    both = subprocess.run([*torchrun, *command, "-o", "two.kfe"], **options)
    assert both.returncode == 0, both.stderr
    assert both.stdout.replace("two.kfe", "one.kfe") == alone.stdout  # said once
    one, two = (kernelfe.load(tmp_path / f"{name}.kfe") for name in ("one", "two"))
    assert digest(one) == digest(two)
    assert not (tmp_path / "kept").exists()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_killed_workers(seed):
    """SIGKILL of a worker of two, resumed with one, two and three: the script of the benchmark, small."""
    path = ROOT / "benchmarks" / "kill_and_resume.py"
    out = subprocess.run(
        [sys.executable, str(path), "--kills", "2", "--seed", str(seed), "--frames", "3000", "--json", "-"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert out.returncode == 0, out.stderr
    for row in json.loads(out.stdout.splitlines()[-1])["rows"]:
        assert -9 in row["codes"] and row["codes"] != [-9, 0]
        assert max(row["deviation"].values()) < 1e-12 and set(row["deviation"]) == {"1", "2", "3"}
        assert row.get("refused", True) and row.get("after", 0.0) < 1e-12
