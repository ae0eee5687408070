"""Constraints of a simulation, found in its frames: distances between near atoms that do not vary."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array, triu

from ...arrays import real_array
from ...errors import require

#: Most frames that are looked at.
_FRAMES = 200


def rigid_distances(
    positions: ArrayLike, bonds: Iterable[tuple[int, int]], reach: int = 3, tolerance: float | None = None
) -> list[tuple[int, int]]:
    """Pairs of atoms whose distance does not vary: those that a simulation holds by constraints.

    A pair is rigid if 95 % of its distances are within ``tolerance`` of their median. Distances that constraints hold
    vary by 1e-7 to 1e-4 of their length in files of single precision or of six digits; bonds and angles that are not
    constrained vary by 1e-2. Some frames with a broken molecule do not hide a constraint. A pair that is found by
    chance, among very few frames, makes force maps noisier and never biased.

    Parameters
    ----------
    positions
        (n, atoms, 3) of whole molecules, Å; at least 3 frames.
    bonds
        Pairs of bonded atoms.
    reach
        Pairs up to so many bonds apart are looked at.
    tolerance
        Relative. None: 1e-3, and 1e-4 with fewer than ten frames, where distances are alike by chance.

    Returns
    -------
    list of pairs
        (i, j), i < j, sorted.

    Raises
    ------
    DataError
        If there are fewer than three frames.
    """
    x = real_array(positions, "positions", "Å")
    require(
        len(x) >= 3,
        f"constraints cannot be found in {len(x)} frames, which needs 3: state them (constraints=, --constraints)",
    )
    i, j = near_pairs(bonds, x.shape[1], reach)
    rows = np.unique(np.linspace(0, len(x) - 1, min(len(x), _FRAMES)).astype(int))
    if tolerance is None:
        tolerance = 1e-3 if len(x) >= 10 else 1e-4
    found = []
    for start in range(0, len(i), 10_000):
        a, b = i[start : start + 10_000], j[start : start + 10_000]
        d = np.linalg.norm(x[rows][:, a] - x[rows][:, b], axis=2)
        middle = np.median(d, axis=0)
        rigid = np.quantile(np.abs(d - middle), 0.95, axis=0) <= tolerance * middle
        found += list(zip(a[rigid].tolist(), b[rigid].tolist(), strict=True))
    return sorted(found)


def near_pairs(bonds: Iterable[tuple[int, int]], atoms: int, reach: int) -> tuple[NDArray, NDArray]:
    """Pairs i < j of atoms that at most ``reach`` bonds separate."""
    pairs = np.array([(int(a), int(b)) for a, b in bonds], int).reshape(-1, 2)
    step = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(atoms, atoms)).tocsr()
    step = step + step.T
    near, power = step, step
    for _ in range(reach - 1):
        power = power @ step
        near = near + power
    upper = triu(near, k=1).tocoo()
    return upper.row.astype(int), upper.col.astype(int)
