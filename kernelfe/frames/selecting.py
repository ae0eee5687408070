"""Frames of some of the beads: a coarser free energy from the same data."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..errors import DataError, require
from .arrays import FrameArrays
from .checks import frozen

#: Averages of a mechanical quantity over all that the beads do not fix: averaging on over dropped beads keeps them.
AVERAGES = frozenset({"mean_force", "generalized_force", "mean_energy", "parameter_derivative", "stress"})


def selected(frames: FrameArrays, beads: Iterable[int]) -> dict[str, Any]:
    """The fields of Frames that change; see ``Frames.select_beads``."""
    positions = frames.positions
    if positions is None:
        raise DataError("select_beads needs beads, these Frames hold variables: take columns and use from_arrays")
    try:
        kept = [operator.index(bead) for bead in beads]
    except TypeError:
        raise DataError(f"select_beads takes a list of bead indices, not {beads!r}") from None
    size = positions.shape[1]
    require(
        kept and len(set(kept)) == len(kept) and 0 <= min(kept) and max(kept) < size,
        f"select_beads({kept}): name one or more different beads, from 0 to {size - 1}",
    )
    others = sorted(key for key in frames.labels if key.partition(":")[0] not in AVERAGES)
    others += ["pairs"] if len(frames.pairs) else []
    require(
        not others or len(kept) == size,
        f"{', '.join(others)} of {size} beads cannot be those of {len(kept)}: the fluctuations of dropped beads are "
        f"missing in them. Leave them out: frames.drop_labels({others}).select_beads(…)",
    )
    labels = {key: frozen(v[:, kept]) if key == "mean_force" else v for key, v in frames.labels.items()}
    return {
        "positions": frozen(positions[:, kept]),
        "labels": labels,
        "noise": {},
        "displacements": None if frames.displacements is None else frozen(frames.displacements[:, :, kept]),
        "kinds": None if frames.kinds is None else tuple(frames.kinds[bead] for bead in kept),
        "masses": None if frames.masses is None else frozen(frames.masses[kept]),
        "bonds": _bonds(frames.bonds, kept, size),
    }


def _bonds(bonds, kept: list[int], size: int) -> tuple[tuple[int, int], ...] | None:
    """Bonds among the kept beads in their new numbers; None where a dropped bead joined kept ones."""
    if bonds is None:
        return None
    number = {bead: new for new, bead in enumerate(kept)}
    left = [(number[i], number[j]) for i, j in bonds if i in number and j in number]
    before, after = _pieces(bonds, size)[kept], _pieces(left, len(kept))
    if len(set(after)) > len(set(before)):
        return None
    return tuple(sorted((min(bond), max(bond)) for bond in left))


def _pieces(bonds, size: int) -> np.ndarray:
    i, j = np.array(bonds, dtype=int).reshape(-1, 2).T
    return connected_components(coo_array((np.ones(len(i)), (i, j)), shape=(size, size)).tocsr(), directed=False)[1]
