"""Several processes that work on one fit: a thin layer over torch.distributed.

Every process holds the same data and the same model and does a contiguous share of the work; what each has found is
then given to all, so that every process ends with the same numbers. With one process nothing here does anything.

Nothing is pickled: only tensors and plain bytes travel. If one process fails, the others fail as well: one that
ended closes its connections, which the others notice at once; one that raised reports it at the end of its
:meth:`Processes.section`; one that neither ends nor answers is given up after the timeout of the group.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import DataError, ProcessError, require

logger = logging.getLogger(__name__)

#: Variables of the environment by which torchrun, or a script for another launcher, describes the processes.
ENVIRONMENT = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
#: Bytes of the message of a failed process that the others repeat.
_MESSAGE = 500


@dataclass(frozen=True)
class Processes:
    """The processes that work together, as one of them sees them.

    Parameters
    ----------
    rank
        Number of this process, from 0.
    size
        How many there are.
    """

    rank: int = 0
    size: int = 1

    def __post_init__(self):
        require(
            0 <= self.rank < self.size,
            f"process {self.rank} of {self.size}: ranks count from 0 to the number of processes - 1",
        )

    @classmethod
    def current(cls) -> Processes:
        """Those of torch.distributed's default group; this process alone without one."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    @property
    def first(self) -> bool:
        """True for the process that writes files and shows progress."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """The contiguous ids, of ``count`` in all, that this process works on; shares differ by one at most."""
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def counts(self, count: int) -> list[int]:
        """Length of the :meth:`share` of every process: the counts of :meth:`gather_rows`."""
        return [len(Processes(rank, self.size).share(count)) for rank in range(self.size)]

    def device(self, name: str) -> torch.device:
        """The device of this process: ``"cuda"`` is the GPU with the local rank of the process."""
        device = torch.device(name)
        if device.type == "cuda" and device.index is None and self.size > 1:
            gpus = torch.cuda.device_count()
            return torch.device("cuda", int(os.environ.get("LOCAL_RANK", self.rank)) % max(1, gpus))
        return device

    def gather_rows(self, own: Tensor, counts: list[int]) -> Tensor:
        """Rows of all processes, in the order of their ranks, on every process.

        Parameters
        ----------
        own
            The rows of this process, shape (counts[rank], ...).
        counts
            Rows of each process; they may differ.

        Returns
        -------
        Tensor, shape (sum(counts), ...), on the device of ``own``

        Raises
        ------
        ProcessError
            If another process ended, or did not answer in time.
        """
        require(
            len(counts) == self.size and len(own) == counts[self.rank],
            f"process {self.rank} holds {len(own)} rows; counts={counts} of {self.size} processes",
        )
        most, rest = max(counts), own.shape[1:]
        if self.size == 1 or not most:
            return own
        local = _to_group(own.detach()).contiguous()
        if len(local) < most:  # collectives want equal shapes
            local = torch.cat([local, local.new_zeros(most - len(local), *rest)])
        every = local.new_empty(self.size, most, *rest)
        with _answering():
            dist.all_gather(list(every.unbind()), local)
        if min(counts) == most:
            return every.flatten(0, 1).to(own.device)
        return torch.cat([rows[:count] for rows, count in zip(every, counts, strict=True)]).to(own.device)

    def gather_bytes(self, own: bytes) -> list[bytes]:
        """Bytes of all processes, in the order of their ranks, on every process."""
        if self.size == 1:
            return [own]
        lengths = self.gather_rows(torch.tensor([len(own)], device="cpu"), [1] * self.size).tolist()
        # a copy: torch warns of buffers that cannot be written to
        buffer = (
            torch.frombuffer(bytearray(own), dtype=torch.uint8)
            if own
            else torch.zeros(0, dtype=torch.uint8, device="cpu")
        )
        every = self.gather_rows(buffer, lengths)
        return [bytes(part.numpy()) for part in every.split(lengths)]

    def broadcast(self, tensors: Iterable[Tensor], source: int = 0) -> None:
        """Replace tensors, in place, by those of the process ``source``; all hold the same shapes."""
        if self.size == 1:
            return
        for tensor in tensors:
            local = _to_group(tensor.detach()).contiguous()
            with _answering():
                dist.broadcast(local, source)
            if local.data_ptr() != tensor.data_ptr():
                tensor.detach().copy_(local)

    def give(self, own: dict[str, Tensor], device: torch.device | None = None) -> dict[str, Tensor]:
        """Named tensors (float64) of process 0 on every process; what the others pass is not looked at."""
        if self.size == 1:
            return own
        text = json.dumps({name: list(tensor.shape) for name, tensor in own.items()} if self.first else {})
        shapes = json.loads(self.gather_bytes(text.encode())[0])
        if not self.first:
            own = {name: torch.empty(shape, dtype=torch.float64, device=device) for name, shape in shapes.items()}
        self.broadcast(own.values())
        return own

    def barrier(self) -> None:
        """Wait until every process is here."""
        self.gather_rows(torch.zeros(1, device="cpu"), [1] * self.size)

    @contextmanager
    def section(self, what: str) -> Iterator[None]:
        """A part of the work in which each process is on its own; where one raises, all do.

        The block must not talk to the other processes. An interrupt (Ctrl-C) is not waited for.

        Raises
        ------
        ProcessError
            On the processes that did not fail themselves: with the rank and the message of the first one that did.
        """
        if self.size == 1:
            yield
            return
        try:
            yield
        except Exception as error:
            logger.error("process %d of %d failed in %s: %s", self.rank, self.size, what, error)
            with suppress(ProcessError):  # the others may also have failed: the own error is the one to raise
                self.gather_bytes(f"{type(error).__name__}: {error}".encode()[:_MESSAGE])
            raise
        found = self.gather_bytes(b"")
        for rank, message in enumerate(found):
            if message:
                said = message.decode(errors="replace")
                raise ProcessError(f"process {rank} of {self.size} failed in {what}: {said}")

    def agree(self, what: str, numbers: Tensor, tolerance: float = 1e-9) -> None:
        """Refuse to go on where processes hold different numbers (shape (n,); compared with those of rank 0).

        Raises
        ------
        DataError
            On every process, if one of them differs by more than ``tolerance`` × the size of the number.
        """
        lengths = self.gather_rows(torch.tensor([len(numbers)], device="cpu"), [1] * self.size).tolist()
        every = self.gather_rows(numbers.detach().double(), lengths).split(lengths)
        for rank, theirs in enumerate(every):
            if len(theirs) != len(every[0]) or not torch.allclose(theirs, every[0], rtol=tolerance, atol=0.0):
                raise DataError(
                    f"process {rank} was given other {what} than process 0: every process must read the same data; "
                    "the work is divided by kernelfe"
                )


def _to_group(tensor: Tensor) -> Tensor:
    """On a device that the group can send from: a group of nccl alone knows no CPU."""
    if tensor.device.type == "cpu" and dist.get_backend() == "nccl":
        return tensor.cuda()
    return tensor


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise ProcessError(
            f"another process failed, or did not answer in time ({' '.join(str(error).split())[:300]}): its own "
            "message says why. All processes must make the same calls; start them again to repeat the fit"
        ) from error


def launched_by_environment() -> bool:
    """True if torchrun (or a script that sets the same variables) started this process as one of several."""
    return all(name in os.environ for name in ENVIRONMENT) and os.environ["WORLD_SIZE"] != "1"


@contextmanager
def launched(timeout: float = 7200.0, device: str = "cpu") -> Iterator[Processes]:
    """Join the processes that torchrun started, for the time of the block.

    Where a default group exists, or the variables RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT do not, this only
    says who is there. Otherwise a group is started (gloo; with nccl for tensors on CUDA devices where ``device`` is
    one) and ended after the block: in order, when every process has come to the end; at once, when this one raised.

    Parameters
    ----------
    timeout
        Seconds after which a process that does not answer is given up: longer than shares of one fit can differ by.
    device
        Where the tensors to be exchanged lie.

    Yields
    ------
    Processes

    Raises
    ------
    ProcessError
        If the others could not be reached.
    """
    require(math.isfinite(timeout) and timeout > 0.0, f"timeout={timeout}: seconds, positive and finite")
    if not dist.is_available() or dist.is_initialized() or not launched_by_environment():
        yield Processes.current()
        return
    if os.environ["MASTER_PORT"] == "0":  # what torchrun --master-port 0 tells its processes
        raise ProcessError(
            "MASTER_PORT is 0, a port at which processes cannot find each other: start them with torchrun "
            "--standalone, which looks for a free one, or give --master-port a number"
        )
    try:
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        own = Processes(rank, size)
        which = tuple(os.environ.get(name, "") for name in (*ENVIRONMENT, "TORCHELASTIC_RESTART_COUNT"))
        store = _store(which, timeout)
        # every launch in a store of its own: addresses of an earlier group must not be found
        launch = store.add(f"kernelfe/launches/{rank}", 1)
        backend = "gloo"
        if torch.device(device).type == "cuda" and dist.is_nccl_available():
            backend = "cpu:gloo,cuda:nccl"
            torch.cuda.set_device(own.device(device))
        dist.init_process_group(
            backend,
            store=dist.PrefixStore(f"kernelfe/{launch}", store),
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=timeout),
        )
    except (RuntimeError, ValueError) as error:
        values = {name: os.environ[name] for name in ENVIRONMENT}
        raise ProcessError(
            f"the other processes could not be reached ({' '.join(str(error).split())[:300]}); the environment says "
            f"{values}: start all of them, with torchrun, or unset RANK"
        ) from error
    try:
        yield own
        own.barrier()
    finally:
        dist.destroy_process_group()


@functools.cache
def _store(environment: tuple[str, ...], timeout: float):
    """The store in which processes find each other; kept, since rank 0 may be the one that serves it."""
    from torch.distributed.rendezvous import rendezvous

    return next(rendezvous("env://", timeout=timedelta(seconds=timeout)))[0]
