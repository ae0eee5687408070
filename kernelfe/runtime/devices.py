"""Where a solver computes: the ``device`` of its spec, found when it is first needed.

A spec names a device but does not look for it, so that the spec of a model fitted on a card can be read anywhere. A fit
goes to the device it names or fails; a saved model that is loaded where there is no card computes on the processor, and
says so.
"""

from __future__ import annotations

import logging
import re
from typing import Any

import torch

from ..errors import DataError, SolverError
from .processes import Processes

logger = logging.getLogger(__name__)

CPU = torch.device("cpu")


def check_device(spec: Any) -> None:
    """Check the field ``device`` of a solver spec: "cpu", "cuda" or "cuda:1".

    Raises
    ------
    DataError
        For any other device; of Apple's it says why.
    """
    name, who = spec.device, type(spec).__name__
    if isinstance(name, torch.device):
        name = str(name)
        object.__setattr__(spec, "device", name)
    if isinstance(name, str) and re.fullmatch(r"cpu|cuda(:\d+)?", name):
        return
    why = ""
    if isinstance(name, str) and name.split(":")[0] == "mps":
        why = " (mps has no float64, in which kernelfe computes)"
    raise DataError(f"{who}: device={name!r}{why}: use 'cpu', 'cuda' or 'cuda:1'")


def device_of(spec: Any) -> torch.device:
    """The device a solver spec names, with its number; of several processes each takes a card of its own.

    Raises
    ------
    SolverError
        If there is no such card; the message says what can be done.
    """
    device = Processes.current().device(spec.device)
    if device.type == "cpu":
        return CPU
    if not torch.cuda.is_available():
        built = "is built without CUDA" if torch.version.cuda is None else "finds no card"
        raise SolverError(
            f"{type(spec).__name__}: device={spec.device!r}, but this torch ({torch.__version__}) {built}: use "
            "device='cpu', or install torch for CUDA on a machine with a card"
        )
    count = torch.cuda.device_count()
    device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
    if device.index >= count:
        raise SolverError(
            f"{type(spec).__name__}: device={spec.device!r}, but the machine has {count} cards: use one of "
            + ", ".join(f"'cuda:{k}'" for k in range(count))
        )
    return device


def device_or_cpu(spec: Any) -> torch.device:
    """As :func:`device_of`; the processor, with a warning, where there is no such card: for models that are loaded."""
    try:
        return device_of(spec)
    except SolverError as error:
        logger.warning("the model was fitted on %s and now computes on the processor: %s", spec.device, error)
        return CPU
