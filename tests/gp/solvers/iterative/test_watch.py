"""Display of a long solve: iterations, residual, remaining time marked as an estimate; lines in the log."""

from __future__ import annotations

import logging

import pytest
import torch

from kernelfe import FreeEnergyRegressor, Iterative
from kernelfe.gp.solvers.iterative import watch as solve_watch
from kernelfe.gp.solvers.iterative.watch import SolveWatch
from kernelfe.linalg import Step

from ...systems import molecule, one_term


class Bar:
    """Record the calls of a tqdm bar."""

    def __init__(self):
        self.count, self.said = 0, []

    def set_postfix_str(self, text, refresh):
        self.said.append(text)

    def update(self, n):
        self.count += n


def test_the_bar_says_what_is_left():
    bar, now = Bar(), [0.0]
    watch = SolveWatch(bar, 2e-6, 1000, clock=lambda: now[0])
    for k in range(1, 21):
        now[0] = 4.0 * k
        watch(Step(k + 1, 10.0 ** (-0.1 * k), torch.zeros(1)))  # one product went into a true residual
    assert bar.count == 21
    assert bar.said[0] == "residual 7.9e-01 of 2e-06"
    assert bar.said[-1] == "residual 1.0e-02 of 2e-06, about 2.7 min left (estimate)"  # 40 iterations of 4 s


def test_lines_in_the_log_where_there_is_no_bar(caplog):
    now = [0.0]
    watch = SolveWatch(Bar(), 1e-6, 1000, clock=lambda: now[0])
    with caplog.at_level(logging.INFO, logger="kernelfe"):
        for k in range(1, 31):
            now[0] = SolveWatch.log_interval / 10.0 * k
            watch(Step(k, 0.5**k, torch.zeros(1)))
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 3
    assert lines[0] == "conjugate gradients: 10 products, residual 9.8e-04 of 1e-06, about 33 s left (estimate)"


@pytest.mark.parametrize("precision", ["double", "mixed"])
def test_a_fit_shows_every_product(monkeypatch, precision):
    bars = []

    class Shown(Bar):
        def __init__(self, **how):
            super().__init__()
            bars.append((how, self))

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

    monkeypatch.setattr(solve_watch, "tqdm", Shown)
    solver = Iterative(tolerance=1e-8, rank=0, precision=precision)
    model = FreeEnergyRegressor(terms=one_term(), solver=solver, optimizer=None, baseline=False, progress=True)
    model.fit(molecule(40))
    ((how, bar),) = bars
    done = model.posterior_.solution.iterations
    assert how == {"desc": "conjugate gradients", "disable": False, "leave": False}
    assert done - 1 <= bar.count <= done  # but the last true residual
    assert any("left (estimate)" in text for text in bar.said)
