"""Where a solver computes: the ``device`` of its spec, found when it is first needed.

A spec names a device but does not look for it, so that the spec of a model fitted on a card can be read anywhere. A fit
goes to the device it names or fails; a saved model that is loaded where there is no card computes on the processor, and
says so.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import SolverError
from ..specs import Bound, hold
from .processes import Processes

logger = logging.getLogger(__name__)

CPU = torch.device("cpu")


@dataclass(frozen=True)
class DeviceName(Bound):
    """Names of devices that compute in float64; a ``torch.device`` becomes its name."""

    def __call__(self, value: Any) -> str:
        name = str(value) if isinstance(value, torch.device) else value
        hold(isinstance(name, str), re.fullmatch(r"cpu|cuda(:\d+)?", str(name)))
        return name

    def __str__(self) -> str:
        return "'cpu', 'cuda' or 'cuda:1' (mps has no float64, in which kernelfe computes)"


#: The bound of the field ``device`` of solver specs.
DEVICE = DeviceName()


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
