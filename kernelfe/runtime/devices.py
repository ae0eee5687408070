"""Device of a solver: the field ``device`` of its spec, looked up on first use.

A spec names a device but does not look for it, so that the spec of a model fitted on a GPU can be read anywhere. A fit
runs on the device it names or fails; a saved model that is loaded without such a GPU computes on the CPU, with a
warning.
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
    """Device named by a solver spec, with its number; each of several processes takes a GPU of its own.

    Raises
    ------
    SolverError
        If the GPU does not exist; the message names the remedy.
    """
    device = Processes.current().device(spec.device)
    if device.type == "cpu":
        return CPU
    if not torch.cuda.is_available():
        built = "is built without CUDA" if torch.version.cuda is None else "finds no GPU"
        raise SolverError(
            f"{type(spec).__name__}: device={spec.device!r}, but this torch ({torch.__version__}) {built}: use "
            "device='cpu', or install torch for CUDA on a machine with a GPU"
        )
    count = torch.cuda.device_count()
    device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
    if device.index >= count:
        raise SolverError(
            f"{type(spec).__name__}: device={spec.device!r}, but the machine has {count} GPU"
            f"{'' if count == 1 else 's'}: use one of " + ", ".join(f"'cuda:{k}'" for k in range(count))
        )
    return device


def device_or_cpu(spec: Any) -> torch.device:
    """As :func:`device_of`; the CPU, with a warning, without such a GPU: for models that are loaded."""
    try:
        return device_of(spec)
    except SolverError as error:
        logger.warning("the model was fitted on %s and now computes on the CPU: %s", spec.device, error)
        return CPU
