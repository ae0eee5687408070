"""Work that the first process leads: steps on all, results to all, and no failure that leaves others waiting."""

from __future__ import annotations

import pytest
import torch

from kernelfe.runtime.leading import lead
from kernelfe.runtime.processes import Processes

from .workers import run


def test_one_process_just_works():
    found = lead("work", [torch.add, torch.mul], lambda call: {"x": call(1, call(0, TWO, TWO), TWO)}, Processes())
    assert float(found["x"]) == 8.0
    with pytest.raises(ValueError, match="as it is"):
        lead("work", [], fail, Processes())


TWO = torch.full((), 2.0, dtype=torch.float64)


def fail(call):
    raise ValueError("as it is")


SCRIPT = """
import json, os, torch
from kernelfe.errors import ProcessError
from kernelfe.runtime import launched, lead

found, calls = {}, []
matrix = torch.arange(12.0, dtype=torch.float64).reshape(4, 3)


def product(x):
    calls.append(list(x.shape))
    rows = matrix[[slice(0, 3), slice(3, 4)][p.rank]]
    return p.gather_rows(rows @ x, [3, 1])


def nothing():
    calls.append("nothing")


def breaks(x):
    if p.rank == 1:
        raise MemoryError("no room")
    return p.gather_rows(x, [1, 1])


def work(call):
    assert p.first  # the others only follow
    call(1)
    y = call(0, torch.ones(3, 1, dtype=torch.float64))
    if float(y.sum()) < 0.0:
        raise AssertionError("not reached")
    return {"y": call(0, y[:3, [0, 0]]), "empty": torch.zeros(0, dtype=torch.float64)}


with launched(60.0) as p:
    out = lead("the test", [product, nothing], work, p)
    found["y"], found["empty"], found["calls"] = out["y"].tolist(), list(out["empty"].shape), list(calls)


def attempt(name, steps, work):
    global p
    try:
        with launched(60.0) as p:
            lead("the test", steps, work, p)
    except Exception as error:
        found[name] = [type(error).__name__, str(error)]


def stops(call):
    call(0, torch.ones(3, 1, dtype=torch.float64))
    raise ArithmeticError("did not converge")


attempt("first fails", [product], stops)
attempt("other fails", [breaks], lambda call: {"y": call(0, torch.ones(1, dtype=torch.float64))})
print(json.dumps(found))
"""


def test_the_first_leads_and_failures_reach_everybody():
    first, second = (one.value() for one in run(2, SCRIPT))
    matrix = torch.arange(12.0, dtype=torch.float64).reshape(4, 3)
    y = matrix @ (matrix @ torch.ones(3, 1, dtype=torch.float64))[:3, [0, 0]]
    assert first["y"] == second["y"] == y.tolist()
    assert first["empty"] == second["empty"] == [0]
    assert first["calls"] == second["calls"] == ["nothing", [3, 1], [3, 2]]
    assert first["first fails"] == ["ArithmeticError", "did not converge"]
    kind, message = second["first fails"]
    assert kind == "ProcessError" and "process 0 of 2 failed in the test: ArithmeticError: did not converge" in message
    assert second["other fails"] == ["MemoryError", "no room"]
    assert first["other fails"][0] == "ProcessError"
