"""From Frames to what a fit conditions on: label sets, specs with numbers, starting hyperparameters."""

from __future__ import annotations

import numpy as np
import torch

from ... import functionals
from ...errors import DataError
from ...frames.checks import mapping, numbers
from ..states import States, without_copy
from .labels import PAIR, LabelSet, baseline_rows, less_baseline, pair_labels
from .noise import CorrelatedNoise, RelativeNoise
from .noise_models import noise_of


def label_sets(frames, keys, noise, baseline, counts, molecule=None, without=None) -> list[LabelSet]:
    """One :class:`LabelSet` per kind of label to condition on, baseline removed.

    Parameters
    ----------
    frames
        Frames of one molecule.
    keys, noise
        ``labels`` and ``noise`` of the regressor.
    baseline, counts
        Its fitted baseline or None, and N_X of a frame.
    molecule
        With several molecules in the fit: which one.
    without
        (n,) bool, frames whose labels are left out; None: none.

    Raises
    ------
    DataError
        If a label is asked for that is not there, or twice, or the noise is not one of positive numbers by label.
    """
    kept = np.ones(len(frames), bool) if without is None else ~without
    available = [key for key in frames.labels if (frames.present[key] & kept).any()]
    keys = available if keys is None else asked_for(keys)
    noise = {} if isinstance(noise, CorrelatedNoise) else mapping(noise, "noise", "{'mean_force': 0.1}, by label")
    if PAIR in noise:
        raise DataError("free-energy differences carry their own std: give it to add_pair_labels, not in noise=")
    for key in [*keys, *noise]:
        if key not in available and key != PAIR:
            raise DataError(f"label {key!r} was asked for, but the Frames hold {available}")
    out: list[LabelSet] = []
    everywhere = None  # what kinds that all frames carry share
    for key in keys:
        if key == PAIR:
            continue
        functional = functionals.get(key)
        index = np.flatnonzero(frames.present[key] & kept)
        everyone = len(index) == len(frames)
        part = frames if everyone else frames[index]
        if everyone and everywhere is not None:
            states, index = everywhere
        else:
            states = States.from_frames(part, counts=np.tile(counts, (len(part), 1)), molecule=molecule)
            everywhere = (states, index) if everyone else everywhere
        y = without_copy(part.labels[key]).reshape(len(part), -1)
        if baseline is not None:
            y = less_baseline(y, baseline, functional, states)
        relative = isinstance(noise.get(key), RelativeNoise)
        chosen = noise[key].scale if relative else noise.get(key)
        given = None if chosen is None else numbers(chosen, f"noise of {key!r}")
        if given is not None and given.ndim and len(given) == len(frames):
            given = given[index]  # one entry per frame: those of the rows that have the label
        scale = _noise(key, part.noise.get(key) if given is None else given, y)
        if relative and scale is not None and scale.ndim == 3:
            raise DataError(f"noise of {key!r}: RelativeNoise takes standard deviations, not covariance blocks")
        described = {} if scale is None else {"relative" if relative else "noise": scale}
        out.append(LabelSet(key, functional, states, y, noise_of(described), frame=torch.from_numpy(index)))
    pairs = frames.pairs
    whole = np.flatnonzero(kept[pairs.i] & kept[pairs.j]) if len(pairs.i) else np.zeros(0, int)
    if len(whole) and (keys is available or PAIR in keys):
        first, second = (
            States.from_frames(frames[k], counts=np.tile(counts, (len(k), 1)), molecule=molecule)
            for k in (np.asarray(pairs.i)[whole], np.asarray(pairs.j)[whole])
        )
        read = functionals.FreeEnergy()
        value = torch.from_numpy(np.array(pairs.value, dtype=np.float64)[whole])
        value = value - baseline_rows(baseline, read, second) + baseline_rows(baseline, read, first)
        out.append(pair_labels(first, second, value, torch.from_numpy(np.array(pairs.std, dtype=np.float64)[whole])))
    if not out:
        raise DataError("there are no labels to condition on: pass labels={'mean_force': …} when building the Frames")
    return out


def asked_for(keys) -> list:
    """``labels`` of the regressor as a list; a kind named twice would count as twice the information."""
    try:
        out = [keys] if isinstance(keys, str) else list(keys)
        repeated = [key for k, key in enumerate(out) if key in out[:k]]
    except (TypeError, ValueError):
        raise DataError(
            f"labels={keys!r}: pass a list of label kinds such as ['mean_force'], or None for all"
        ) from None
    if repeated:
        raise DataError(f"label {repeated[0]!r} is asked for twice: name every label kind once")
    return out


def _noise(key: str, noise, y: torch.Tensor) -> torch.Tensor | None:
    if noise is None:
        return None
    noise = without_copy(np.asarray(noise, dtype=np.float64))
    if not bool(torch.isfinite(noise).all()):
        raise DataError(f"noise of {key!r} holds non-finite numbers: give a positive standard deviation for every row")
    n, m = y.shape
    if noise.ndim == 3 and noise.shape == (n, m, m) and n > 0 and m > 1:
        bad = torch.nonzero(torch.linalg.cholesky_ex(noise)[1])
        if len(bad) or not torch.allclose(noise, noise.mT):
            row = int(bad[0]) if len(bad) else 0
            raise DataError(f"noise of {key!r}: covariance block {row} is not symmetric positive definite")
        return noise
    if noise.ndim == 1 and len(noise) == n:
        noise = noise[:, None]
    elif noise.ndim > 1:
        noise = noise.reshape(noise.shape[0], -1)
    try:
        noise = noise.expand(n, m)
    except RuntimeError as error:
        raise DataError(f"noise of {key!r} has shape {tuple(noise.shape)}, its labels ({n}, {m} per frame)") from error
    if not bool((noise > 0).all()):
        raise DataError(f"noise of {key!r} must be positive: it is a standard deviation")
    return noise  # one number for all rows stays one number in memory
