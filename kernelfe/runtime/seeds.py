"""Random generators from seeds: one rule for every argument that takes a seed.

A seed is a whole number from 0 to 2⁶³ − 1, of any integer type, the range that NumPy and torch share. None stands for
fresh random numbers at every call.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..errors import DataError
from ..specs import SEED, AnyOf, Each, checked
from .processes import Processes

#: Seeds of scikit-learn's style: several numbers together are one seed.
_RANDOM_STATE = AnyOf((Each(SEED.bound, least=1), SEED))


def whole_seed(seed: Any, name: str = "seed") -> int:
    """A seed as an int; None becomes a fresh one.

    Parameters
    ----------
    seed
        Whole number from 0 to 2⁶³ − 1, or None.
    name
        Name of the argument, for the message.

    Raises
    ------
    DataError
        If it is anything else.
    """
    given = checked(name, seed, SEED)
    return int(np.random.default_rng().integers(2**63 - 1)) if given is None else given


def random_numbers(seed: Any, name: str = "seed") -> np.random.Generator:
    """The generator of a seed; a generator is returned as it is.

    Parameters
    ----------
    seed
        As in :func:`whole_seed`, or a ``numpy.random.Generator``.
    name
        Name of the argument, for the message.

    Raises
    ------
    DataError
        If it is anything else.
    """
    return seed if isinstance(seed, np.random.Generator) else np.random.default_rng(checked(name, seed, SEED))


def generator(seed, solver=None, processes: Processes | None = None) -> np.random.Generator:
    """A random generator of ``random_state``, the same one on all ``processes``.

    Raises
    ------
    DataError
        If the seed is out of range, or it is missing and the solver keeps checkpoints.
    """
    if seed is None and getattr(solver, "checkpoint", None) is not None:
        raise DataError("checkpoint= needs random_state=: without a seed, the next attempt would be another fit")
    if seed is None and processes is not None and processes.size > 1:
        drawn = torch.from_numpy(np.random.default_rng().integers(2**62, size=1))
        processes.broadcast([drawn])
        seed = int(drawn)
    if isinstance(seed, (np.random.Generator, np.random.RandomState)):
        return np.random.default_rng(seed)
    return np.random.default_rng(checked("random_state", seed, _RANDOM_STATE))
