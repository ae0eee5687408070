"""Recognize replicas whose frames come in turns, which would look like one series of independent frames.

Samplers return (steps, replicas, beads, 3). Flattened to (steps·replicas, beads, 3) without labels of series, frames of
other replicas lie between the correlated ones, and errors come out too small. Beads of a replica move continuously, so
that frames at a distance of the number of replicas are closer to each other than neighbours.
"""

from __future__ import annotations

import numpy as np

from .configurations import Configurations


def replicas_in_turns(frames: Configurations, most: int = 64, beads: int = 32, rows: int = 512) -> int:
    """Number of replicas whose frames alternate; 1 for a single series, or where nothing shows.

    Parameters
    ----------
    frames
        Frames of one series as given.
    most
        Largest number of replicas to look for.
    beads, rows
        Beads and last frames to look at.
    """
    x, cells = frames.positions[-rows:, :beads], frames.cells[-rows:]
    lags = np.arange(1, min(most, len(x) // 2) + 1)
    if len(lags) < 2:
        return 1
    scaled = np.einsum("nbx,nxk->nbk", x, np.linalg.inv(cells))
    moved = np.empty(len(lags))
    for row, lag in enumerate(lags):
        d = scaled[lag:] - scaled[:-lag]
        v = np.einsum("nbk,nkx->nbx", d - np.rint(d), cells[lag:])
        moved[row] = np.mean(v**2)
    if not moved.min() < 0.5 * moved[0]:
        return 1
    return int(lags[np.flatnonzero(moved <= 1.1 * moved.min())[0]])
