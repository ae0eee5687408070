"""Processes: what one alone does at once, what two exchange, and that a failure of one ends the others."""

from __future__ import annotations

import socket

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernelfe.errors import DataError, ProcessError
from kernelfe.runtime.processes import ENVIRONMENT, Processes, launched

from .workers import run


@given(st.integers(0, 200), st.integers(1, 9))
def test_shares_cover_everything_once_and_in_order(count, size):
    everyone = [Processes(rank, size) for rank in range(size)]
    shares = [one.share(count) for one in everyone]
    assert [i for share in shares for i in share] == list(range(count))
    lengths = [len(share) for share in shares]
    assert max(lengths) - min(lengths) <= 1
    assert all(one.counts(count) == lengths for one in everyone)


def test_one_process_needs_no_group():
    one = Processes.current()
    assert (one.rank, one.size, one.first) == (0, 1, True)
    rows = torch.arange(6.0).reshape(3, 2)
    assert one.gather_rows(rows, [3]) is rows
    assert one.gather_bytes(b"x") == [b"x"]
    one.broadcast([rows])
    one.barrier()
    one.agree("labels", rows.reshape(-1))
    with pytest.raises(ValueError, match="as it was"), one.section("work"):
        raise ValueError("as it was")
    assert one.device("cuda") == torch.device("cuda") and one.device("cpu") == torch.device("cpu")


def test_wrong_counts_and_ranks_are_named():
    with pytest.raises(DataError, match="counts"):
        Processes().gather_rows(torch.zeros(3), [2])
    with pytest.raises(DataError, match="process 2 of 2"):
        Processes(2, 2)


def test_nothing_is_started_without_the_variables(monkeypatch):
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    with launched() as one:
        assert one == Processes() and not torch.distributed.is_initialized()
    with pytest.raises(DataError, match="timeout"), launched(timeout=0.0):
        pass


def test_others_that_never_come_are_given_up(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    for name, value in zip(ENVIRONMENT, ("0", "2", "127.0.0.1", "0"), strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(ProcessError, match="--standalone"), launched():  # not after two hours
        pass
    monkeypatch.setenv("MASTER_PORT", port)
    with pytest.raises(ProcessError, match=r"could not be reached.*WORLD_SIZE"), launched(timeout=1.0):
        pass
    assert not torch.distributed.is_initialized()


EXCHANGE = """
import json, torch
from kernelfe.errors import DataError, ProcessError
from kernelfe.runtime import Processes, launched

found = {}
for attempt in range(2):  # a group can be started, ended and started again
    with launched(timeout=60.0) as p:
        assert Processes.current() == p and p.size == 2
        counts = [3, 1]
        own = torch.arange(4.0, dtype=torch.float64).reshape(4, 1)[[slice(0, 3), slice(3, 4)][p.rank]] + attempt
        found["rows"] = p.gather_rows(own, counts).reshape(-1).tolist()
        found["equal"] = p.gather_rows(torch.full((2,), p.rank), [2, 2]).tolist()
        found["none"] = p.gather_rows(torch.zeros(p.rank, 2), [0, 1]).tolist()
        found["bytes"] = [b.decode() for b in p.gather_bytes(b"ab" * p.rank)]
        x, y = torch.full((2, 3), float(p.rank)), torch.arange(6.0).reshape(2, 3).T + 10 * p.rank
        weight = torch.nn.Parameter(torch.full((2,), float(p.rank)))
        p.broadcast([x, y, weight])
        found["sent"] = [x.tolist(), y.tolist(), weight.tolist()]
        p.broadcast([x.fill_(p.rank)], source=1)
        found["source"] = x[0].tolist()
        with launched() as inner:
            assert inner == p
        assert torch.distributed.is_initialized()
        with p.section("easy work"):
            pass
        p.agree("labels", torch.tensor([1.0, 2.0]))
        for numbers in (torch.tensor([1.0, 2.0 + p.rank]), torch.zeros(2 + p.rank)):
            try:
                p.agree("labels", numbers)
            except DataError as error:
                found["disagree"] = str(error)
        try:
            with p.section("hard work"):
                if p.rank == 1:
                    raise DataError("no room left")
        except (DataError, ProcessError) as error:
            found["failed"] = [type(error).__name__, str(error)]
        p.barrier()
    assert not torch.distributed.is_initialized()
print(json.dumps(found))
"""


def test_two_processes_exchange():
    first, second = (ended.value() for ended in run(2, EXCHANGE))
    assert second["failed"] == ["DataError", "no room left"]
    assert first["failed"] == ["ProcessError", "process 1 of 2 failed in hard work: DataError: no room left"]
    del first["failed"], second["failed"]
    assert first["disagree"].startswith("process 1 was given other labels than process 0: every process must read")
    assert first.pop("disagree") == second.pop("disagree")
    assert (
        first
        == second
        == {
            "rows": [1.0, 2.0, 3.0, 4.0],
            "equal": [0, 0, 1, 1],
            "none": [[0.0, 0.0]],
            "bytes": ["", "ab"],
            "sent": [[[0.0] * 3] * 2, [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]], [0.0, 0.0]],
            "source": [1.0, 1.0, 1.0],
        }
    )


FAILURE = """
import os, time, torch
from kernelfe.runtime import launched

with launched(timeout=3.0) as p:
    if p.rank == 1:
        {how}
    p.gather_rows(torch.zeros(1), [1, 1])
"""


@pytest.mark.parametrize(
    "how",
    [
        "os.kill(os.getpid(), 9)",
        pytest.param("time.sleep(8)", marks=pytest.mark.slow),
        pytest.param("raise ValueError('mine')", marks=pytest.mark.slow),
    ],
)
def test_a_process_that_fails_ends_the_others(how):
    first, second = run(2, FAILURE.format(how=how))
    assert first.code == 1 and "ProcessError: another process failed, or did not answer" in first.errors
    assert second.code != 0
