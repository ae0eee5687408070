"""Interrupted exact fits resume: real signals, limits, foreign and damaged files."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import kernelfe
from kernelfe import FreeEnergyRegressor, Iterative
from kernelfe.errors import DataError, SolverError
from kernelfe.gp.solvers.resume import KeptSolution
from kernelfe.linalg import Step
from kernelfe.runtime.checkpoint import Checkpoint
from kernelfe.runtime.processes import Processes

from ...runtime.workers import run
from ..systems import molecule, one_term

ROOT = Path(__file__).resolve().parents[3]
TOLERANCE = 1e-8
#: A preconditioner without its low-rank part: so many iterations that there is something to interrupt.
SLOW = {"rank": 0, "tolerance": TOLERANCE, "evidence_rows": None}


def regressor(folder, optimizer=None, **more):
    solver = Iterative(checkpoint=folder, **{**SLOW, **more})
    return FreeEnergyRegressor(terms=one_term(), solver=solver, optimizer=optimizer, baseline=False)


@pytest.fixture(scope="module")
def frames():
    return molecule(60)


@pytest.fixture(scope="module")
def undisturbed(frames):
    return regressor(None).fit(frames)


@pytest.fixture
def half(tmp_path, frames):
    """A folder with what a fit had reached after about half of its products."""
    with pytest.raises(SolverError, match="max_iterations"):
        regressor(tmp_path, max_iterations=40).fit(frames)
    return tmp_path


def close(a, b, frames):
    test = frames[:4]
    for key in ("mean_force", "entropy"):
        x, y = a.predict(test, key), b.predict(test, key)
        np.testing.assert_allclose(x, y, atol=1e-6 * np.abs(y).max(), rtol=0)


def files(folder):
    return sorted(path.name.split("-")[-1] for path in Path(folder).glob("kernelfe-*.ckpt"))


def test_a_limit_leaves_what_a_larger_one_goes_on_from(half, frames, undisturbed, caplog):
    assert files(half) == ["solution.ckpt", "start.ckpt"]
    with caplog.at_level(logging.WARNING):
        model = regressor(half, tolerance=TOLERANCE).fit(frames)
    assert "resuming from a residual of" in caplog.text
    assert model.posterior_.solution.iterations < undisturbed.posterior_.solution.iterations
    close(model, undisturbed, frames)
    assert not half.exists()  # nothing is left of a fit that is complete


SCRIPT = """
import signal, sys
from kernelfe.gp.solvers.iterative import posterior as iterative
from tests.gp.systems import molecule
from tests.gp.solvers.test_resume import regressor
signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent in the background may have left it ignored
real = iterative.conjugate_gradients
def told(*args, callback, **more):
    def every(step):
        callback(step)
        if step.iteration == 6:
            print("under way", flush=True)
            while True:  # until the signal comes
                pass
    return real(*args, callback=every, **more)
iterative.conjugate_gradients = told
regressor(sys.argv[1]).fit(molecule(60))
"""


def test_ctrl_c(tmp_path, frames, undisturbed, caplog):
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    own = {"cwd": ROOT, "env": environment, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)], **own) as process:
        try:
            assert process.stdout.readline() == "under way\n"
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode in (-signal.SIGINT, 128 + signal.SIGINT, 1)
    assert "KeyboardInterrupt: interrupted: the solution after 6 products" in said and str(tmp_path) in said
    assert files(tmp_path) == ["solution.ckpt", "start.ckpt"]
    with caplog.at_level(logging.WARNING):
        model = regressor(tmp_path).fit(frames)
    assert "reached in 6 products" in caplog.text
    assert model.posterior_.solution.iterations < undisturbed.posterior_.solution.iterations
    close(model, undisturbed, frames)


SEVERAL = """
import json
from kernelfe.errors import ProcessError, SolverError
from tests.gp.systems import molecule
from tests.gp.solvers.test_resume import regressor
frames, found = molecule(40), []
for folder in {folders!r}:
    try:
        regressor(folder, max_iterations=5).fit(frames)
    except (SolverError, ProcessError) as error:
        found.append([type(error).__name__, str(error)])
model = regressor({folders!r}[0]).fit(frames)
found.append([model.posterior_.solution.iterations, model.predict(frames[:4], "mean_force").tolist()])
print(json.dumps(found))
"""


@pytest.mark.slow
def test_what_two_processes_left_is_gone_on_from_by_two_and_by_one(tmp_path):
    folders = [str(tmp_path / name) for name in "ab"]
    first, second = (one.value() for one in run(2, SEVERAL.format(folders=folders)))
    assert [kind for kind, _ in first[:2]] == ["SolverError"] * 2
    assert [kind for kind, _ in second[:2]] == ["ProcessError"] * 2 and folders[1] in second[1][1]
    assert not os.path.exists(folders[0]) and files(folders[1]) == ["solution.ckpt", "start.ckpt"]
    frames = molecule(40)
    whole, alone = regressor(None).fit(frames), regressor(folders[1]).fit(frames)
    assert first[2] == second[2]
    for iterations in (first[2][0], alone.posterior_.solution.iterations):
        assert iterations < whole.posterior_.solution.iterations
    np.testing.assert_allclose(np.array(first[2][1]), whole.predict(frames[:4], "mean_force"), atol=1e-7)
    close(alone, whole, frames)


def test_hyperparameters_are_read_and_not_searched_again(tmp_path, monkeypatch):
    frames, calls = molecule(60, noise=False), []
    expected = regressor(None, "evidence", evidence_rows=100).fit(frames)
    with pytest.raises(SolverError):
        regressor(tmp_path, "evidence", evidence_rows=100, max_iterations=2).fit(frames)
    monkeypatch.setattr("kernelfe.gp.solvers.iterative.fit.fit_dense", lambda *a: calls.append(a))
    found = regressor(tmp_path, "evidence", evidence_rows=100).fit(frames)
    assert not calls and found.fitted_terms() == expected.fitted_terms() and found.noise_ == expected.noise_
    close(found, expected, frames)


def test_the_log_evidence_is_kept(tmp_path, monkeypatch):
    frames, fit_all_rows = molecule(4, noise=False), "kernelfe.gp.solvers.iterative.fit.fit_all_rows"

    def interrupted(self, like):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(fit_all_rows, lambda *a: 12.5)
        patch.setattr(KeptSolution, "first", interrupted)
        regressor(tmp_path, "evidence").fit(frames)
    monkeypatch.setattr(fit_all_rows, None)
    assert regressor(tmp_path, "evidence").fit(frames).log_evidence_ == 12.5


def test_another_fit_is_not_gone_on_from(half, frames, caplog):
    other = molecule(60, seed=1)
    with caplog.at_level(logging.WARNING):
        model = regressor(half).fit(other)
    assert "holds 1 other fit(s), of other labels, settings or seeds: not used" in caplog.text
    close(model, regressor(None).fit(other), other)
    assert files(half) == ["solution.ckpt", "start.ckpt"]  # those of the other fit
    caplog.clear()
    changed = regressor(half).set_params(terms=one_term(kernelfe.kernels.RBF(lengthscale=1.4)))
    changed.fit(frames)
    assert "going on" not in caplog.text


@pytest.mark.parametrize("what", ["start", "solution"])
@pytest.mark.parametrize("damage", ["truncated", "a bit", "renamed"])
def test_damaged_files_are_named_and_not_used(half, frames, undisturbed, caplog, what, damage):
    (path,) = half.glob(f"*-{what}.ckpt")
    data = bytearray(path.read_bytes())
    if damage == "truncated":
        data = data[: len(data) // 2]
    elif damage == "a bit":
        data[-40] ^= 1
    else:
        (other,) = half.glob(f"*-{'start' if what == 'solution' else 'solution'}.ckpt")
        data = other.read_bytes()
    path.write_bytes(bytes(data))
    with caplog.at_level(logging.WARNING):
        model = regressor(half).fit(frames)
    assert str(path) in caplog.text and "starts anew" in caplog.text
    close(model, undisturbed, frames)


def test_a_well_made_file_with_wrong_numbers_is_not_used(tmp_path, caplog):
    kept = KeptSolution(Checkpoint(tmp_path, "ab" * 32), Processes())
    for tensors in (
        {"x": torch.zeros(3), "state": torch.zeros(2)},
        {"x": torch.full((4,), torch.nan), "state": torch.zeros(2)},
        {"y": torch.zeros(4)},
    ):
        kept.files.write("solution", {name: tensor.double() for name, tensor in tensors.items()})
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert kept.first(torch.zeros(4, dtype=torch.float64)) is None
        assert "the solve starts anew" in caplog.text


def test_written_from_time_to_time(tmp_path):
    x = torch.arange(3.0, dtype=torch.float64)
    kept = KeptSolution(Checkpoint(tmp_path, "ab" * 32), Processes(), interval=1e9)
    kept.keep(Step(1, 0.5, x))
    assert not files(tmp_path)
    kept.interval = 0.0
    kept.keep(Step(2, 0.4, x))
    assert torch.equal(kept.first(torch.zeros(3, dtype=torch.float64)), x)
    kept.keep(Step(3, 2.0, 7.0 * x))  # worse than nothing
    kept.keep(Step(4, 0.3, torch.full_like(x, torch.nan)))
    assert torch.equal(kept.first(torch.zeros(3, dtype=torch.float64)), x)


def test_a_folder_that_fails_hides_no_error(tmp_path, caplog, monkeypatch):
    kept = KeptSolution(Checkpoint(tmp_path, "ab" * 32), Processes())
    kept.keep(Step(1, 0.5, torch.ones(2, dtype=torch.float64)))
    monkeypatch.setattr(Checkpoint, "write", lambda *a: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(ZeroDivisionError), kept.guarding():
        raise ZeroDivisionError
    assert "no space left" in caplog.text


def test_what_a_checkpoint_may_be(tmp_path, frames):
    for bad in (3, "", b"x"):
        with pytest.raises(DataError, match="checkpoint"):
            Iterative(checkpoint=bad)
    solver = Iterative(checkpoint=tmp_path)
    assert solver.checkpoint == str(tmp_path) and "checkpoint" not in json.dumps(solver.to_dict())
    with pytest.raises(DataError, match="random_state"):
        regressor(tmp_path).set_params(random_state=None).fit(frames)
