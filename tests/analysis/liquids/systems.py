"""Configurations whose structure is known, and a naive list of distances to compare with."""

from __future__ import annotations

import itertools

import numpy as np

#: A triclinic cell, Å.
TILTED = np.array([[11.0, 0.0, 0.0], [3.0, 10.0, 0.0], [-2.0, 2.5, 12.0]])


def ideal_gas(frames, beads, cell, seed=0, breathing=0.0):
    """Positions (n, beads, 3) and cells (n, 3, 3) of volumes that vary by a factor."""
    rng = np.random.default_rng(seed)
    cells = cell * np.exp(breathing * rng.normal(size=(frames, 1, 1)))
    return rng.uniform(-1.0, 2.0, size=(frames, beads, 3)) @ cells, cells


def diamond(a=3.567):
    """Eight sites of a cubic cell, (1, 8, 3), and the cell."""
    face = np.array([[0, 0, 0], [0, 2, 2], [2, 0, 2], [2, 2, 0]])
    return np.concatenate([face, face + 1])[None] * a / 4.0, a * np.eye(3)


def vectors(x, cell, cutoff):
    """{(i, j): vectors R_j − R_i} closer than the cutoff, of one frame, by trying 7³ images."""
    shifts = np.array(list(itertools.product(range(-3, 4), repeat=3))) @ cell
    wrapped = (x @ np.linalg.inv(cell)) % 1.0 @ cell
    out = {}
    for i, j in itertools.product(range(len(x)), repeat=2):
        v = wrapped[j] - wrapped[i] + shifts
        r = np.linalg.norm(v, axis=1)
        out[i, j] = v[(r < cutoff) & (r > 1e-9)]
    return out
