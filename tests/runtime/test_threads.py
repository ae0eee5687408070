"""Blocks of work in several threads."""

import threading
import time

import pytest
import torch

from kernelfe.runtime import threads
from kernelfe.runtime.threads import at_most, one_thread, side_by_side, worker_count


@pytest.fixture
def three():
    """A user who has set three threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def slow(k):
    time.sleep(0.005)
    return k * k, threading.get_ident(), torch.get_num_threads()


def test_results_come_in_order_from_several_threads_with_one_thread_each(three):
    with at_most(3):
        found = side_by_side(slow, range(12))
    assert [value for value, _, _ in found] == [k * k for k in range(12)]
    assert len({thread for _, thread, _ in found}) == 3
    assert {count for _, _, count in found} == {1}


def test_settings_of_the_user_are_restored(three):
    def fails(k):
        raise ValueError(k)

    @one_thread()
    def inside():
        assert torch.get_num_threads() == 1
        with pytest.raises(ValueError, match="0"):
            side_by_side(fails, range(4))
        with at_most(2), pytest.raises(ValueError):
            side_by_side(fails, range(4))
        return torch.get_num_threads()

    assert inside() == 1
    assert torch.get_num_threads() == 3
    later = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [3]  # also in threads that begin later


def test_the_error_of_the_first_block_that_fails_is_raised():
    def late(k):
        time.sleep(0.02 if k == 1 else 0.0)
        if k:
            raise ValueError(f"block {k}")

    with at_most(3), pytest.raises(ValueError, match="block 1"):
        side_by_side(late, range(3))


def test_nothing_begins_after_an_error():
    begun = []

    def fails(k):
        begun.append(k)
        time.sleep(0.002)
        raise KeyboardInterrupt

    with at_most(2), pytest.raises(KeyboardInterrupt):
        side_by_side(fails, range(100))
    assert len(begun) <= 2


def test_modes_of_the_caller_hold_in_all_threads():
    with at_most(3):
        with torch.no_grad():
            assert side_by_side(lambda k: (time.sleep(0.003), torch.is_grad_enabled())[1], range(6)) == [False] * 6
        with torch.inference_mode():
            found = side_by_side(lambda k: (time.sleep(0.003), torch.is_inference_mode_enabled())[1], range(6))
        assert found == [True] * 6


def test_blocks_within_blocks_stay_in_their_thread():
    def outer(k):
        time.sleep(0.003)
        return {threading.get_ident(), *side_by_side(lambda j: threading.get_ident(), range(3))}

    with at_most(2):
        assert all(len(found) == 1 for found in side_by_side(outer, range(6)))


def test_workers_are_threads_of_the_user_on_cores_that_are_free(three, monkeypatch):
    monkeypatch.setattr(threads, "_cores", lambda process: 8)
    monkeypatch.setattr(threads, "_idle", lambda: 2)
    assert worker_count() == 2
    monkeypatch.setattr(threads, "_idle", lambda: 8)
    assert worker_count() == 3
    with one_thread():
        assert worker_count() == 3
    torch.set_num_threads(1)
    assert worker_count() == 1
    monkeypatch.undo()
    assert 1 <= threads._idle() <= 4096
