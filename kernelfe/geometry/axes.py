"""Axes that turn with a molecule, bead by bead."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..arrays import real_array
from ..errors import DataError, require

FloatArray = NDArray[np.float64]


def choose_arms(positions: FloatArray, straight: float = 1e-3) -> tuple[tuple[int, int], ...]:
    """For every bead the two others that span its axes: the nearest on average, and the next one out of line.

    Parameters
    ----------
    positions
        (n, beads, 3), at least three beads.
    straight
        Least distance (Å) of the second arm from the line of the first for their plane to be defined.

    Raises
    ------
    DataError
        If there are fewer than three beads, or a bead lies on a line with all others in some frame.
    """
    r = real_array(positions, "positions", "Å")
    require(
        r.ndim == 3 and r.shape[1] >= 3 and r.shape[2] == 3 and len(r),
        f"local frames need at least three beads, the positions have shape {r.shape}",
    )
    out = []
    for bead in range(r.shape[1]):
        arms = r - r[:, bead : bead + 1]
        order = [int(b) for b in np.argsort(np.linalg.norm(arms, axis=-1).mean(axis=0))[1:]]  # one choice for all
        first = order[0]
        for other in order[1:]:
            if (_normal(_unit(arms[:, first]), arms[:, other])[1] > straight).all():
                out.append((first, other))
                break
        else:
            raise DataError(
                f"bead {bead} lies on a line with all other beads in some frame: it has no frame of its own"
            )
    return tuple(out)


def local_axes(positions: FloatArray, arms: tuple[tuple[int, int], ...]) -> FloatArray:
    """Rotations (n, beads, 3, 3) into the axes of every bead; rows are the axes.

    Raises
    ------
    DataError
        If a bead lies on a line with its arms in some frame.
    """
    r = real_array(positions, "positions", "Å")
    out = np.empty((*r.shape, 3))
    for bead, (a, b) in enumerate(arms):
        first = _unit(r[:, a] - r[:, bead])
        normal, size = _normal(first, r[:, b] - r[:, bead])
        require(
            (size > 0.0).all(),
            f"bead {bead} lies on a line with beads {a} and {b} in some frame: it has no frame there",
        )
        third = normal / size
        out[:, bead] = np.stack([first, np.cross(third, first), third], axis=1)
    return out


def _unit(v: FloatArray) -> FloatArray:
    length = np.linalg.norm(v, axis=1, keepdims=True)
    return v / np.where(length > 0.0, length, 1.0)


def _normal(first: FloatArray, arm: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Cross product and its length, which is zero for beads in a line."""
    third = np.cross(first, arm)
    return third, np.linalg.norm(third, axis=1, keepdims=True)
