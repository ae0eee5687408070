"""Sums over chunks: interrupted and resumed, or shared, they have the same bits and repeat no work."""

from __future__ import annotations

import logging
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernelfe.errors import ProcessError
from kernelfe.runtime.checkpoint import Checkpoint
from kernelfe.runtime.processes import Processes
from kernelfe.runtime.sums import sum_chunks

from .workers import run

COUNTS = [1, 8, 5]


def contribution(t: int, c: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(100 * t + c)
    values = torch.randn(3, 2, generator=generator, dtype=torch.float64) * 10.0 ** (3 * (c % 5) - 6)
    return {"gram": values, "number": values.sum()}


def total(work=contribution, **options) -> list[dict[str, torch.Tensor]]:
    return sum_chunks(COUNTS, work, lambda t, c: 1.0, **options)


def equal(a, b) -> bool:
    return all(torch.equal(x[name], y[name]) for x, y in zip(a, b, strict=True) for name in x)


def interrupted(folder, after: int) -> Checkpoint:
    """A checkpoint of a run that was interrupted after some chunks."""
    own, calls = Checkpoint(folder, "ab" * 32), []

    def work(t, c):
        if len(calls) == after:
            raise KeyboardInterrupt
        calls.append((t, c))
        return contribution(t, c)

    with pytest.raises(KeyboardInterrupt):
        total(work, checkpoint=own)
    return own


def test_the_sum_is_right():
    for t, found in enumerate(total()):
        for name in ("gram", "number"):
            expected = torch.stack([contribution(t, c)[name] for c in range(COUNTS[t])]).sum(0)
            assert torch.allclose(found[name], expected, rtol=1e-12, atol=1e-12 * float(expected.abs().max()))


@pytest.mark.parametrize("after", [0, 1, 2, 6, 9, 13])
def test_an_interrupted_sum_goes_on(tmp_path, caplog, after):
    with caplog.at_level(logging.WARNING):
        own = interrupted(tmp_path, after)
    assert f"completed {after} of its 14 chunks" in caplog.text and str(tmp_path) in caplog.text
    calls, known = [], []

    def work(t, c):
        calls.append((t, c))
        return contribution(t, c)

    assert equal(total(work, checkpoint=own, resumed=known.append), total())
    assert len(calls) == 14 - after and sum(known) == after
    assert len(own.names()) <= len(COUNTS) + 4  # children are removed
    calls.clear()
    assert equal(total(work, checkpoint=own), total()) and not calls


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Every node that runs have written on their way: {name: bytes}."""
    found = {}
    for after in range(15):
        folder = tmp_path_factory.mktemp("after")
        own = interrupted(folder, after) if after < 14 else Checkpoint(folder, "ab" * 32)
        if after == 14:
            total(checkpoint=own)
        found |= {name: own.path(name).read_bytes() for name in own.names()}
    return found


@given(st.data())
def test_any_files_truncated_or_whole_give_the_same_bits(files, tmp_path_factory, data):
    own = Checkpoint(tmp_path_factory.mktemp("some"), "ab" * 32)
    for name in data.draw(st.lists(st.sampled_from(sorted(files)), unique=True)):
        content = files[name]
        cut = data.draw(st.booleans())
        own.path(name).write_bytes(content[: data.draw(st.integers(0, len(content) - 1))] if cut else content)
    assert equal(total(checkpoint=own), total())
    shutil.rmtree(own.folder)


def test_files_of_other_chunks_are_not_used(tmp_path, files):
    """Nodes of a sum that no longer exists, and invalid names."""
    own = Checkpoint(tmp_path, "ab" * 32)
    for name in ("sum-9-0-0", "sum-0-0-7", "sum-0-x-0", "sum-0-0"):
        own.write(name, contribution(0, 0))
    assert equal(total(checkpoint=own), total())


SHARED = """
import json, torch
from kernelfe.runtime import Checkpoint, launched, sum_chunks
{contribution}
def hexes(sums):
    return [x.hex() for part in sums for v in part.values() for x in v.reshape(-1).tolist()]

found, COUNTS = [], [1, 8, 5]
with launched(timeout=60.0) as p:
    weights = lambda t, c: 1.0 + t
    for own in (None, Checkpoint({folder!r}, "ab" * 32)):
        done = []
        def work(t, c):
            done.append((t, c))
            return contribution(t, c)
        found.append(hexes(sum_chunks(COUNTS, work, weights, processes=p, checkpoint=own)))
        found.append(len(done))
    try:
        def fails(t, c):
            if (t, c) == (2, 4):
                raise ValueError("chunk 4 of sum 2")
            return contribution(t, c)
        sum_chunks(COUNTS, fails, weights, processes=p)
    except Exception as error:
        found.append(f"{{type(error).__name__}}: {{error}}")
print(json.dumps(found))
"""


def test_three_processes_that_go_on_from_one(tmp_path):
    import inspect

    interrupted(tmp_path, 6)
    code = SHARED.format(contribution=inspect.getsource(contribution), folder=str(tmp_path))
    ended = [one.value() for one in run(3, code)]
    expected = [x.hex() for part in total() for v in part.values() for x in v.reshape(-1).tolist()]
    assert all(found[0] == found[2] == expected for found in ended)
    assert sum(found[1] for found in ended) == 14 and min(found[1] for found in ended) >= 3
    assert sum(found[3] for found in ended) == 8
    assert ended[2][4] == "ValueError: chunk 4 of sum 2"
    assert all(
        "process 2 of 3 failed" in found[4] and found[4].startswith(ProcessError.__name__) for found in ended[:2]
    )


def test_the_group_is_asked_only_where_there_is_one():
    assert equal(total(processes=Processes()), total())
