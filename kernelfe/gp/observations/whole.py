"""Frames with broken molecules: their labels are left out of what a model learns from."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from ...frames import Frames
from ...geometry import broken_frames


def left_out(frames: Frames) -> NDArray[np.bool_]:
    """Frames of which nothing is learned, (n,): those that :func:`~kernelfe.geometry.broken_frames` finds broken.

    None of them if fewer than three others would be left.
    """
    if frames.positions is None:
        return np.zeros(len(frames), bool)
    broken = broken_frames(frames.positions, frames.bonds, frames.cell)
    return broken if np.count_nonzero(~broken) >= 3 else np.zeros(len(frames), bool)


def warn_left_out(broken: NDArray[np.bool_]) -> None:
    """Warn of the number of frames that are left out, if any."""
    rows = np.flatnonzero(broken)
    if len(rows):
        named = ", ".join(map(str, rows[:10])) + (", …" if len(rows) > 10 else "")
        warnings.warn(
            f"{len(rows)} of {len(broken)} frames hold a broken molecule (a bond of an implausible length) and are "
            f"left out: frames {named}. Unwrap the molecules to use them. If these beads are not bonded, name those "
            "that are with bonds= of the Frames, and the frames are used",
            stacklevel=3,
        )
