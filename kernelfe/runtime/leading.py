"""Rank 0 runs the solver; the other ranks compute their share of each distributed operation.

An iterative solver decides at every step whether to go on. Processes that each ran it would have to come to the same
decisions, and with different rounding on different CPUs one of them might not: it would end while the others wait for
its share. Here one process runs the solver, and calls **steps**, functions in which all processes work together, such
as a product with a matrix whose rows they have divided.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from ..errors import ProcessError
from .processes import Processes

logger = logging.getLogger(__name__)

#: Calls step number i, with tensors (float64), on every process, where they lie on the same kind of device; what it
#: returns is that of the first process.
Call = Callable[..., Any]


def lead(
    what: str, steps: Sequence[Callable[..., Any]], work: Callable[[Call], dict[str, Tensor]], processes: Processes
) -> dict[str, Tensor]:
    """Run ``work`` on the first process, and the steps that it calls on all of them.

    Parameters
    ----------
    what
        What this is, for messages of errors.
    steps
        Functions of tensors, which may talk to the other processes.
    work
        Given ``call``; ``call(i, *tensors)`` runs ``steps[i](*tensors)`` on every process and returns what it returned
        here. May raise.
    processes
        Who takes part; a single process just runs ``work``.

    Returns
    -------
    dict
        What ``work`` returned, on every process; the others have it in CPU memory.

    Raises
    ------
    ProcessError
        If another process failed; on the others, also if ``work`` did.
    """
    if processes.size == 1:
        return work(lambda step, *tensors: steps[step](*tensors))
    if not processes.first:
        return _follow(what, steps, processes)

    inside = False

    def call(step: int, *tensors: Tensor) -> Any:
        nonlocal inside
        described = [[tensor.device.type, *tensor.shape] for tensor in tensors]
        _send({"step": step, "tensors": described}, processes)
        processes.broadcast(tensors)
        inside = True
        found = steps[step](*tensors)
        inside = False
        return found

    try:
        found = work(call)
    except Exception as error:
        logger.error("process 0 of %d failed in %s: %s", processes.size, what, error)
        if inside:  # the others are in the step, which tells them by itself
            raise
        with suppress(ProcessError):  # others may have failed first: the own error is the one to raise
            _send({"failed": f"{type(error).__name__}: {error}"[:500]}, processes)
        raise
    _send({"done": True}, processes)
    processes.give({name: tensor.cpu() for name, tensor in found.items()})
    return found


def _send(message: dict, processes: Processes) -> None:
    processes.gather_bytes(json.dumps(message).encode())


def _follow(what: str, steps: Sequence[Callable[..., Any]], processes: Processes) -> dict[str, Tensor]:
    """Serve the operations of rank 0 on another process, until rank 0 has finished."""
    while True:
        message = json.loads(processes.gather_bytes(b"")[0])
        if "failed" in message:
            raise ProcessError(f"process 0 of {processes.size} failed in {what}: {message['failed']}")
        if "done" in message:
            return processes.give({})
        described = message["tensors"]
        tensors = [torch.empty(shape, dtype=torch.float64, device=processes.device(on)) for on, *shape in described]
        processes.broadcast(tensors)
        steps[message["step"]](*tensors)
