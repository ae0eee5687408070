"""Structure in the residual forces of a fit: systematic misfit that the learned noise would hide.

For a right model the residuals y − F(R) of single-frame forces are noise, so that their projection on any field w(R)
averages to zero. The fields here are the pair forces of short ranges of distance, w_b = Σ_{pairs in bin b} r̂: a kernel
whose length scale is too long, or terms that lack a pair, leave residuals that point one way within a bin. A fit has
adapted to its own labels, which makes these averages smaller than chance would; the test is conservative.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import t as student

from ...frames import Frames
from ...geometry.cell import minimum_image

Array = NDArray[Any]

#: Most frames, and most distances, that are looked at; fewest frames.
_MOST_FRAMES, _MOST_DISTANCES, _FEWEST = 400, 2_000_000, 50
#: Blocks of frames in their order, for errors; most bins of distance of each kind of pair, over at most so many Å.
_BLOCKS, _BINS, _RANGE = 25, 12, 6.0
#: Structure is reported if chance gives it in one of this many fits, and residuals are this share of the labels.
_CHANCE, _SIZE = 1e-3, 0.02
#: Pairs of beads that are looked at one by one; more are joined by the kinds of their beads.
_MOST_PAIRS = 66


@dataclass(frozen=True)
class Structure:
    """The bin of distances with the most significant mean residual.

    Attributes
    ----------
    pair
        Its beads or kinds, in words.
    distances
        Bounds of the bin, Å.
    force
        Mean residual of the force along the pair there, eV/Å; positive: the data repel more than the model.
    score
        Its absolute value in standard errors.
    chance
        Probability of one like it in any bin by chance.
    """

    pair: str
    distances: tuple[float, float]
    force: float
    score: float
    chance: float


def structure(frames: Frames, residuals: NDArray[np.float64]) -> Structure | None:
    """The strongest structure of residual forces by distance; None if there is nothing to look at.

    Parameters
    ----------
    frames
        Of two beads or more, 50 or more of them, in their order in time, with ``mean_force``.
    residuals
        Labels less predictions, (n, beads, 3), eV/Å.
    """
    found: list[Structure] = []
    tests = 0
    for name, pairs in _kinds_of_pairs(frames):
        r, unit = _pairs(frames, pairs)
        along, whole = (_along(f, unit, pairs) for f in (residuals, frames.labels["mean_force"]))
        if along.std() < _SIZE * whole.std():
            continue
        low, high = np.quantile(r, [0.002, 0.998])
        bins = min(_BINS, max(3, r.size // _BLOCKS))
        edges = np.linspace(low, min(high, low + _RANGE), bins + 1)
        score, force = _scores(r, along, edges)
        tests += int((score > 0.0).sum())
        best = int(score.argmax())
        found.append(
            Structure(name, (float(edges[best]), float(edges[best + 1])), force[best], float(score[best]), 1.0)
        )
    if not tests:
        return None
    worst = max(found, key=lambda one: one.score)
    return replace(worst, chance=min(1.0, 2.0 * tests * float(student.sf(worst.score, _BLOCKS - 1))))


def warn_of_structure(model, frames: Frames) -> None:
    """Warn of structure in the residual forces of a model on frames that it was fitted to.

    Parameters
    ----------
    model
        A :class:`~kernelfe.gp.FreeEnergy`.
    frames
        Whole frames of one molecule or one liquid; nothing is done without positions or with too few forces.

    Warns
    -----
    UserWarning
        If mean residuals at some distance are not zero.
    """
    present = frames.present.get("mean_force")
    if present is None or frames.positions is None or frames.shape[1] < 2 or present.sum() < _FEWEST:
        return
    most = max(_FEWEST, min(_MOST_FRAMES, 2 * _MOST_DISTANCES // frames.shape[1] ** 2))
    rows = np.flatnonzero(present)
    some = frames[rows[:: -(-len(rows) // most)]]
    worst = structure(some, some.labels["mean_force"] - model.predict(some, "mean_force"))
    if worst is not None and worst.chance < _CHANCE:
        low, high = worst.distances
        warnings.warn(
            f"the residuals of the forces show structure, which the learned noise hides: between {worst.pair} at "
            f"{low:.2f} to {high:.2f} Å, the labels exceed the fit by {worst.force:+.3g} eV/Å on average "
            f"({worst.score:.0f} standard errors). The model cannot follow its data there: start from a shorter length "
            "scale, add terms that see these beads, or use more inducing environments",
            stacklevel=3,
        )


def _scores(r: Array, along: Array, edges: Array) -> tuple[Array, list[float]]:
    """Means over the bins of distance in standard errors, 0 where there are too few, and the means, eV/Å."""
    bins = len(edges) - 1
    inside = (r >= edges[0]) & (r <= edges[-1])
    which = np.clip(np.searchsorted(edges, r) - 1, 0, bins - 1)
    block = np.arange(len(r)) * _BLOCKS // len(r)
    place = (block[:, None] * bins + which)[inside]
    sums = np.bincount(place, along[inside], _BLOCKS * bins).reshape(_BLOCKS, bins)
    counts = np.bincount(place, minlength=_BLOCKS * bins).reshape(_BLOCKS, bins)
    error = sums.std(0, ddof=1) * np.sqrt(_BLOCKS)
    used = ((counts > 0).sum(0) >= _BLOCKS // 2) & (error > 0.0)
    score = np.where(used, np.abs(sums.sum(0)) / np.where(used, error, 1.0), 0.0)
    return score, (sums.sum(0) / np.maximum(counts.sum(0), 1)).tolist()


def _pairs(frames: Frames, pairs: tuple[Array, Array]) -> tuple[Array, Array]:
    """Distances of pairs, (n, pairs), Å, and their directions, (n, pairs, 3); nearest images in a cell."""
    x: Any = frames.positions
    v = x[:, pairs[0]] - x[:, pairs[1]]
    if frames.cell is not None:
        v = minimum_image(torch.from_numpy(v), torch.from_numpy(np.array(frames.cell))).numpy()
    r = np.linalg.norm(v, axis=-1)
    return r, v / np.maximum(r, 1e-9)[..., None]


def _along(force: Array, unit: Array, pairs: tuple[Array, Array]) -> Array:
    """½ (f_i − f_j)·r̂ of pairs, (n, pairs), eV/Å."""
    return 0.5 * ((force[:, pairs[0]] - force[:, pairs[1]]) * unit).sum(-1)


def _kinds_of_pairs(frames: Frames) -> list[tuple[str, tuple[Array, Array]]]:
    """Names of kinds of pairs and their beads: every pair by itself, or joined by kinds where there are many."""
    i, j = np.triu_indices(frames.shape[1], 1)
    if len(i) <= _MOST_PAIRS:
        return [(f"beads {a} and {b}", (np.array([a]), np.array([b]))) for a, b in zip(i, j, strict=True)]
    known = frames.kinds or ("",) * frames.shape[1]
    names = np.array([" and ".join(sorted((known[a], known[b]))) for a, b in zip(i, j, strict=True)])
    return [
        (f"beads {name}" if frames.kinds else "beads", (i[names == name], j[names == name]))
        for name in np.unique(names)
    ]
