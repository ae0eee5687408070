"""Free-energy difference of two sampled models, also of systems so large that their samples hardly overlap.

Where the two ensembles overlap, Bennett's acceptance ratio is the best estimate. The work w = u_1 − u_0 of a large box
is a sum over many beads: its spread grows as the square root of their number, and with a few nats per box between two
models no sample of one looks like one of the other. But as such a sum w is nearly normal. With d⟨w⟩_t/dt = −Var_t(w)
along the line u_0 + t w, integration by Hermite's rule from the means and variances at both ends gives

    ln Z_0 − ln Z_1 = ∫₀¹ ⟨w⟩_t dt = ½ (⟨w⟩_0 + ⟨w⟩_1) + (Var_1(w) − Var_0(w))/12,

exact up to the third cumulant; the next term is κ_5/720.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..statistics.bennett import BennettDifference, bennett

FloatArray = NDArray[np.float64]


def free_difference(
    work: tuple[FloatArray, FloatArray],
    unit: tuple[NDArray[np.integer], NDArray[np.integer]],
    units: tuple[int, int],
    overlap: float = 0.05,
) -> BennettDifference:
    """ln Z_0 − ln Z_1 by Bennett's acceptance ratio, or by moments where the ensembles overlap less than ``overlap``.

    Parameters
    ----------
    work
        u_1 − u_0 of the samples of model 0 and of those of model 1, reduced potentials.
    unit
        Number of the independent part of a run (replica, or block of one) that each sample belongs to.
    units
        Number of these parts in each run.
    overlap
        Least overlap (see :class:`~kernelfe.statistics.bennett.BennettDifference`) for Bennett's ratio.

    Returns
    -------
    BennettDifference
    """
    found = bennett(work, unit, units)
    return found if found.overlap >= overlap else by_moments(work, unit, units, found.overlap)


def by_moments(
    work: tuple[FloatArray, FloatArray],
    unit: tuple[NDArray[np.integer], NDArray[np.integer]],
    units: tuple[int, int],
    overlap: float = 0.0,
) -> BennettDifference:
    """ln Z_0 − ln Z_1 from the means and variances of the work at both ends; arguments as :func:`free_difference`."""
    value, influence = 0.0, []
    for sign, w, label, count in zip((-1.0, 1.0), work, unit, units, strict=True):
        off = w - w.mean()
        value += 0.5 * float(w.mean()) + sign * float((off**2).mean()) / 12.0
        each = 0.5 * off + sign * (off**2 - (off**2).mean()) / 12.0
        influence.append(np.bincount(label, each, count) / len(w))
    return BennettDifference(value, (influence[0], influence[1]), overlap)


def unit_labels(samples: int, replicas: int, least: int = 20) -> tuple[NDArray[np.intp], int]:
    """Independent parts of a run: its replicas, each cut into blocks of time if there are fewer than ``least``.

    Returns
    -------
    labels, units
        (samples · replicas,), sample by sample, and their number.
    """
    blocks = min(samples, -(-least // replicas))
    block = np.arange(samples) * blocks // samples
    return (block[:, None] * replicas + np.arange(replicas)).reshape(-1), blocks * replicas


__all__ = ["by_moments", "free_difference", "unit_labels"]
