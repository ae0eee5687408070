"""Threads of one process: blocks of work side by side, one thread inside each operation.

With its default settings torch divides every operation among all cores and lets them wait in loops for one another. A
fit is thousands of operations of less than a millisecond: while another process holds one of the cores, each of them
waits for it, and a fit takes ten to fifty times as long. Here a heavy function runs under :func:`one_thread`, and loops
over blocks go through :func:`side_by_side`, whose workers share no operation and meet once, at the end. As the blocks
do not depend on the number of workers, results are the same to the last bit for any number of them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import copy_context
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")

#: Of each thread: ``allowed``, the threads that the user allows, while kernelfe has set its own number.
_here = threading.local()


@contextmanager
def one_thread() -> Iterator[None]:
    """Operations of torch in this thread use one thread; as a context or as a decorator of functions.

    The number that the user set (``torch.set_num_threads``, OMP_NUM_THREADS) is restored at the end. Inside, it is the
    largest number of workers of :func:`side_by_side`.
    """
    before, outer = torch.get_num_threads(), getattr(_here, "allowed", None)
    if outer is None:
        _here.allowed = before
    if before > 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if before > 1:
            torch.set_num_threads(before)
        _here.allowed = outer


@contextmanager
def at_most(workers: int) -> Iterator[None]:
    """Blocks within use so many workers at most, in this thread, and one thread inside operations.

    More than the machine has free are used if asked for here: for tests, and where the reader knows better.

    Parameters
    ----------
    workers
        The number; 1 for none besides this thread.
    """
    outer = getattr(_here, "asked", None)
    _here.asked = workers
    try:
        with one_thread():
            yield
    finally:
        _here.asked = outer


def worker_count() -> int:
    """Workers for blocks: the threads that torch may use, on cores that this process may use and nobody else does."""
    asked = getattr(_here, "asked", None)
    if asked is not None:
        return asked
    allowed = getattr(_here, "allowed", None) or torch.get_num_threads()
    return allowed if allowed == 1 else max(1, min(allowed, _cores(os.getpid()), _idle()))


@lru_cache(maxsize=1)  # a memo; forked processes ask again
def _cores(process: int) -> int:
    """Cores that this process may use: its affinity, and the quota of its control group."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # no such file or no quota ("max")
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        count = min(count, max(1, round(int(quota) / int(period))))
    return count


def _idle() -> int:
    """Cores of the machine on which no other thread runs at this moment, at least one; all where that is not known."""
    count = os.cpu_count() or 1
    with suppress(OSError, ValueError, IndexError):
        running = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0])
        count = max(1, count - max(0, running - 1))  # this thread is one of them
    return count


@lru_cache(maxsize=1)
def _pool(process: int) -> ThreadPoolExecutor:
    """Threads of this process, started when first needed; a forked process has its own."""
    return ThreadPoolExecutor(max(2, os.cpu_count() or 1), thread_name_prefix="kernelfe")


def side_by_side(function: Callable[[T], R], blocks: Iterable[T], most: int | None = None) -> list[R]:
    """``[function(block) for block in blocks]``, by several threads.

    Blocks are handed out one at a time, in order; this thread works, too. ``function`` runs with one thread inside
    operations, with the modes of this thread (gradients, inference), and must not depend on the other blocks. Blocks of
    blocks are not divided further.

    Parameters
    ----------
    function
        Applied to every block.
    blocks
        Work of about a millisecond or more each.
    most
        Largest number of workers, for example since each of them needs memory.

    Returns
    -------
    list
        In the order of the blocks. The error of the first block that fails is raised.
    """
    items = list(blocks)
    count = 1 if len(items) < 2 else min(worker_count(), len(items), len(items) if most is None else max(1, most))
    with one_thread():
        if count == 1:
            return [function(item) for item in items]
        return _Shared(function, items).run(count - 1)


class _Shared:
    """Blocks handed out to threads."""

    def __init__(self, function: Callable, items: list):
        self.function, self.items = function, items
        self.results: list = [None] * len(items)
        self.errors: dict[int, BaseException] = {}
        self.next, self.lock = 0, threading.Lock()
        self.modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    def claim(self) -> int | None:
        """The next block; None after the last one, or once one has failed."""
        with self.lock:
            if self.errors or self.next == len(self.items):
                return None
            self.next += 1
            return self.next - 1

    def work(self) -> None:
        """Work on blocks until none is left."""
        gradients, inference = self.modes
        with at_most(1), torch.inference_mode(inference), torch.set_grad_enabled(gradients):
            while (k := self.claim()) is not None:
                try:
                    self.results[k] = self.function(self.items[k])
                except BaseException as error:  # raised again by the thread that waits
                    self.errors[k] = error

    def run(self, helpers: int) -> list:
        """All results, with so many threads besides this one."""
        pool = _pool(os.getpid())
        futures: list[Future] = [pool.submit(copy_context().run, self.work) for _ in range(helpers)]
        try:
            self.work()
        finally:
            with self.lock:
                self.next = len(self.items)  # also after an interrupt between blocks: nobody begins another one
            for future in futures:
                if not future.cancel():
                    future.result()
        if self.errors:
            raise self.errors[min(self.errors)]
        return self.results


__all__ = ["at_most", "one_thread", "side_by_side", "worker_count"]
