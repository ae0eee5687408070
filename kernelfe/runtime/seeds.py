"""Random generators from seeds."""

from __future__ import annotations

import numpy as np
import torch

from ..errors import DataError
from .processes import Processes


def generator(seed, solver=None, processes: Processes | None = None) -> np.random.Generator:
    """A random generator of ``random_state``, the same one on all ``processes``.

    Raises
    ------
    DataError
        If NumPy does not accept the seed, or it is missing and the solver keeps checkpoints.
    """
    if seed is None and getattr(solver, "checkpoint", None) is not None:
        raise DataError("checkpoint= needs random_state=: without a seed, the next attempt would be another fit")
    if seed is None and processes is not None and processes.size > 1:
        drawn = torch.from_numpy(np.random.default_rng().integers(2**62, size=1))
        processes.broadcast([drawn])
        seed = int(drawn)
    try:
        return np.random.default_rng(seed)
    except (TypeError, ValueError) as error:
        raise DataError(f"random_state={seed!r}: pass a whole number that is not negative, or None") from error
