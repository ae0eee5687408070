"""Sums over pairs: features of splines, and energies of tabulated functions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from . import loading
from .grid import Grid, Table

Pairs = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]


def pair_list(i, j, v) -> Pairs:
    """Pairs in the types of the loops: i, j (E,) of int32 and v = R_j − R_i (E, 3)."""
    return _writable(i, np.int32), _writable(j, np.int32), _writable(v, np.float64)


def _writable(array, dtype) -> NDArray:
    # numba compiles once more for arrays that are read-only
    out = np.ascontiguousarray(array, dtype)
    return out if out.flags.writeable else out.copy()


def kind_numbers(kinds) -> NDArray[np.int32]:
    """Kinds of the beads in the type of the loops."""
    return _writable(kinds, np.int32)


class Features:
    """z (W,), with ∂z/∂R and ∂z/∂strain unless only values are wanted.

    Attributes
    ----------
    z
        (W,).
    rows
        (3·beads, W): the transpose of the Jacobian, contiguous, 3·bead + xyz; (0, W) without derivatives.
    strain
        (6, W), Voigt order xx, yy, zz, yz, xz, xy with engineering shear, at fixed scaled positions.
    """

    def __init__(self, size: int, beads: int, derivatives: bool = True):
        self.z = np.zeros(size)
        self.rows = np.zeros((3 * beads if derivatives else 0, size))
        self.strain = np.zeros((6, size))

    @property
    def jacobian(self) -> NDArray[np.float64]:
        """∂z/∂R, (W, 3·beads), a view."""
        return self.rows.T


def add_pairs(out: Features, pairs: Pairs, kinds: NDArray[np.int32], grid: Grid, columns: NDArray[np.int32]) -> None:
    """Add z_a = Σ_pairs B_a(r) and its derivatives to features.

    Parameters
    ----------
    out
        Features; changed.
    pairs
        Of :func:`pair_list`; those beyond the grid count for nothing.
    kinds
        (beads,) of int32, 0 … K − 1.
    grid
        The splines.
    columns
        (K, K) of int32, symmetric: first column of the splines of a pair of kinds, −1 for pairs that do not count.
    """
    loading.loops().pair_features(
        *pairs, kinds, columns, grid.start, 1.0 / grid.spacing, grid.size, out.z, out.rows, out.strain
    )


class PairTables:
    """Functions of the distance of pairs, packed for one pass over the pairs.

    Parameters
    ----------
    tables
        For the same K kinds of beads; the functions of a pair add.
    """

    def __init__(self, tables: Sequence[Table]):
        self.tables = tuple(tables)
        self.cutoff = max((table.stop for table in self.tables), default=0.0)
        sizes = [table.rows.shape[1] for table in self.tables]
        lengths = [table.rows.size for table in self.tables]
        kinds = len(self.tables[0].which) if self.tables else 1
        self._packed = (
            np.array([table.which for table in self.tables], np.int32).reshape(-1, kinds, kinds),
            np.array([table.start for table in self.tables], float),
            np.array([1.0 / table.spacing for table in self.tables], float),
            np.array(sizes, np.int64),
            np.cumsum([0, *lengths])[:-1].astype(np.int64),
            np.concatenate([table.rows.ravel() for table in self.tables] or [np.zeros(0)]),
        )

    def add(self, pairs: Pairs, kinds: NDArray[np.int32], forces: NDArray, strain: NDArray) -> float:
        """Energy, eV; forces (beads, 3) and derivatives by strain (6,) are added to the arrays."""
        return float(loading.loops().pair_sum(*pairs, kinds, *self._packed, forces, strain))
