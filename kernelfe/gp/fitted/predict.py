"""Predictions by blocks, their default temperature, and zeros of free energies.

Data fix A up to a function of T unless they hold free energies themselves.
"""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import torch

from ...errors import DataError
from ...functionals import Functional
from ...runtime.threads import side_by_side
from ..observations.labels import baseline_rows
from ..posterior import predict_mean
from ..prior.rows import frame_chunks
from ..states import States

#: Frames per block of a covariance, and per batch of a prediction: memory only.
BLOCK_FRAMES = PREDICT_FRAMES = 1024
#: Difference of temperatures that is rounding, K.
_SAME_KELVIN = 0.01


def default_temperature(temperature: float, trained: tuple[float, ...]) -> float:
    """The temperature of a model for arrays that state none, K.

    Parameters
    ----------
    temperature
        That of the model.
    trained
        Temperatures of the training frames.

    Warns
    -----
    UserWarning
        If it lies outside the training temperatures, so that it was hardly chosen for this model.
    """
    t = float(temperature)
    if trained and not min(trained) - _SAME_KELVIN <= t <= max(trained) + _SAME_KELVIN:
        low, high = min(trained), max(trained)
        known = f"{low:g} K" if low == high else f"{low:g} to {high:g} K"
        warnings.warn(
            f"no temperature given: the default, {t:g} K, lies outside the training temperatures ({known}). Give "
            "temperature=, or set_params(temperature=…) on the estimator",
            stacklevel=2,
        )
    return t


def reference_groups(functional: Functional, states: States, reference, zero_known: bool):
    """Rows that share a zero, as (indices, state of the zero or None for their mean); None for absolute values.

    Warns
    -----
    UserWarning
        If every row is the only one at its temperature, so that its free energy is relative to itself.
    """
    if reference == "auto":
        reference = None if zero_known else "mean"
    if functional.key != "free_energy" or reference is None or len(states) == 0:
        return None
    out: list[tuple[torch.Tensor, States | None]] = []
    temperatures = torch.unique(states.temperature)
    if reference == "mean" and len(temperatures) == len(states) > 1:
        warnings.warn(
            f"free energies are relative to their mean at each temperature, and the {len(states)} rows are at "
            f"{len(states)} temperatures: all are zero. Give temperature= (one for all rows), or reference= (a row "
            "number, or None for absolute values)",
            stacklevel=2,
        )
    for t in temperatures:
        index = torch.nonzero(states.temperature == t)[:, 0]
        if reference == "mean":
            out.append((index, None))
        elif isinstance(reference, (int, np.integer)) and -len(states) <= reference < len(states):
            row = states[[int(reference) % len(states)]]
            out.append((index, replace(row, temperature=t.reshape(1))))
        else:
            raise DataError(f"reference={reference!r}: use 'auto', 'mean', a row number or None")
    return out


@torch.no_grad()
def predicted(posterior, baseline, functional: Functional, states: States, groups, with_std: bool):
    """Means of a functional and, if wanted, standard deviations, each relative to the zero of its group.

    Parameters
    ----------
    posterior, baseline
        The model.
    groups
        What :func:`reference_groups` gave.

    Returns
    -------
    Tensor, Tensor or None
        Shape (rows,), rows of a frame next to each other.
    """
    own_std, nothing = with_std and groups is None, states.temperature.new_zeros(0)

    def block(bounds: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        part = states[slice(*bounds)]
        rows = posterior.prior.rows(functional, part)
        mean = predict_mean(posterior, rows) + baseline_rows(baseline, functional, part)
        return mean, posterior.variance(rows).clamp_min(0.0).sqrt() if own_std else nothing

    # variances share threads, or processes, themselves; a GPU has one queue
    alone = 1 if with_std or states.temperature.is_cuda else None
    found = [(nothing, nothing), *side_by_side(block, frame_chunks(len(states), PREDICT_FRAMES), alone)]
    values, std = (torch.cat(parts) for parts in zip(*found, strict=True))
    if groups is None:
        return values, std if with_std else None
    deviations = torch.empty_like(values) if with_std else None
    for index, origin in groups:
        values[index] -= zero(posterior, baseline, functional, values[index], origin)
        if deviations is not None:
            deviations[index] = relative_std(posterior, functional, states[index], origin)
    return values, deviations


def zero(posterior, baseline, functional: Functional, values: torch.Tensor, origin: States | None) -> torch.Tensor:
    """The zero that a group of values is relative to."""
    if origin is None:
        return values.mean()
    rows = posterior.prior.rows(functional, origin)
    return (predict_mean(posterior, rows) + baseline_rows(baseline, functional, origin))[0]


def relative_std(posterior, functional: Functional, states: States, origin: States | None) -> torch.Tensor:
    """Standard deviation of A_i − A(origin), or − mean of A: exact, from blocks of the covariance."""
    if origin is None and len(states) == 1:  # relative to itself: not even rounding
        return states.temperature.new_zeros(1)
    prior = posterior.prior
    others = [prior.rows(functional, states[i:j]) for i, j in frame_chunks(len(states), BLOCK_FRAMES)]
    own = others if origin is None else [prior.rows(functional, origin)]
    count = len(states) if origin is None else 1
    across = [sum(posterior.covariance(a, b).sum(1) for b in own) / count for a in others]
    zero_variance = torch.cat(across).mean() if origin is None else posterior.variance(own[0])[0]
    variances = [posterior.variance(a) - 2.0 * c + zero_variance for a, c in zip(others, across, strict=True)]
    return torch.cat(variances).clamp_min(0.0).sqrt()
