"""Sums over triplets: a centre and two of its neighbours within a short cutoff."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import require
from . import loading
from .grid import Grid
from .pairs import Features, Pairs


class CloseBeads:
    """All neighbours of every bead within a short cutoff, from a half list; its arrays are used again.

    Attributes
    ----------
    number, other, vector
        (beads,), (beads, most) and (beads, most, 3); of the rows only the first ``number`` entries count.
    """

    def __init__(self, beads: int, room: int = 16):
        self.number = np.zeros(beads, np.int32)
        self._room(room)

    def _room(self, room: int) -> None:
        self.other = np.zeros((len(self.number), room), np.int32)
        self.vector = np.zeros((len(self.number), room, 3))

    def fill(self, pairs: Pairs, cutoff: float) -> CloseBeads:
        """Fill in the neighbours within ``cutoff`` of the beads of a half list; returns itself."""
        most = loading.loops().close_beads(*pairs, cutoff, self.number, self.other, self.vector)
        if most > self.other.shape[1]:
            self._room(most + 4)
            loading.loops().close_beads(*pairs, cutoff, self.number, self.other, self.vector)
        return self

    @property
    def arrays(self) -> tuple[NDArray, NDArray, NDArray]:
        """The three arrays."""
        return self.number, self.other, self.vector


@dataclass(frozen=True)
class TripletColumns:
    """Columns of the features of triplets.

    The product P_l(cos) B_a(r_ij) B_b(r_ik) adds to the column base[kinds i, j, k] + local[kinds i, j, k, a, b] + l.

    Parameters
    ----------
    base
        (K, K, K) of int32, the same for j and k exchanged, −1 for triplets that do not count.
    local
        (K, K, K, n, n) of int32, the same for j and k exchanged together with a and b; multiples of the number of l.
    width
        (K, K, K) of int32, number of columns of such triplets.
    """

    base: NDArray[np.int32]
    local: NDArray[np.int32]
    width: NDArray[np.int32]

    def __post_init__(self) -> None:
        for name in ("base", "local", "width"):
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), np.int32))
        exchanged = (self.base == self.base.swapaxes(1, 2)).all()
        exchanged = exchanged and (self.local == self.local.transpose(0, 2, 1, 4, 3)).all()
        require(exchanged, "columns of triplets must not change if both neighbours are exchanged")

    def coefficients(self, weights: NDArray[np.float64], top: int) -> NDArray[np.float64]:
        """Weights (W,) as coefficients (K, K, K, top, n, n) of the products; ``top`` is the number of l."""
        column = self.base[..., None, None] + self.local
        out = np.asarray(weights, float)[np.maximum(column, 0)[:, :, :, None] + np.arange(top)[:, None, None]]
        return np.ascontiguousarray(np.where(self.base[..., None, None, None] < 0, 0.0, out))


def add_triplets(
    out: Features, close: CloseBeads, kinds: NDArray[np.int32], grid: Grid, columns: TripletColumns, top: int
) -> None:
    """Add Σ_i Σ_{j<k} P_l(cos θ_jik) B_a(r_ij) B_b(r_ik), l < ``top``, and its derivatives to features.

    Arguments as in :func:`~kernelfe.compiled.pairs.add_pairs`; ``close`` reaches to the end of the grid.
    """
    loading.loops().triplet_features(
        *(*close.arrays, kinds, columns.base, columns.local, columns.width),
        *(grid.start, 1.0 / grid.spacing, top, out.z, out.rows, out.strain),
    )


def triplet_energy(
    close: CloseBeads,
    kinds: NDArray[np.int32],
    grid: Grid,
    coefficients: NDArray[np.float64],
    forces: NDArray[np.float64],
    strain: NDArray[np.float64],
) -> float:
    """Energy of triplets, eV; forces (beads, 3) and derivatives by strain (6,) are added to the arrays.

    Parameters
    ----------
    coefficients
        Of :meth:`TripletColumns.coefficients`, eV.
    """
    energy = loading.loops().triplet_sum(
        *close.arrays, kinds, grid.start, 1.0 / grid.spacing, coefficients, forces, strain
    )
    return float(energy)
