"""Cubic B-splines on a uniform grid, and piecewise cubic tables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import require

#: Of the cubic B-splines that overlap an interval, in order, the k-th is Σ_p PIECES[k, p] t^p there, t in [0, 1).
PIECES = np.array([[1.0, -3.0, 3.0, -1.0], [4.0, 0.0, -6.0, 3.0], [1.0, 3.0, 3.0, -3.0], [0.0, 0.0, 0.0, 1.0]]) / 6.0


@dataclass(frozen=True)
class Grid:
    """Cubic B-splines B_q, q = 0 … size − 1, on uniform knots; B_q lives on start + spacing · [q, q + 4].

    Parameters
    ----------
    start
        First knot, Å.
    spacing
        Distance of knots, Å.
    size
        Number of splines.

    Raises
    ------
    DataError
        If a number is out of range.
    """

    start: float
    spacing: float
    size: int

    def __post_init__(self) -> None:
        fine = np.isfinite([self.start, self.spacing]).all() and self.spacing > 0.0 and self.size > 0
        require(fine, f"{self}: start and spacing must be finite, spacing and size positive")

    @property
    def stop(self) -> float:
        """Last knot, Å."""
        return self.start + self.spacing * (self.size + 3)

    def polynomials(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Σ_q weights_q B_q as polynomials of t = (r − start)/spacing − m on every interval m.

        Parameters
        ----------
        weights
            (..., size).

        Returns
        -------
        ndarray
            (..., size + 3, 4), coefficients of 1, t, t², t³.
        """
        weights = np.asarray(weights, float)
        full = np.zeros((*weights.shape[:-1], self.size + 6))
        full[..., 3 : self.size + 3] = weights
        return np.stack([full[..., k : k + self.size + 3] for k in range(4)], -1) @ PIECES


@dataclass(frozen=True)
class Table:
    """Functions of the distance of a pair, cubic polynomials on intervals of equal width.

    Below the start a function continues as a straight line, beyond the last interval it is zero.

    Parameters
    ----------
    start, spacing
        Å.
    rows
        (rows, intervals, 4), coefficients of 1, t, t², t³ with t = (r − start)/spacing − m on interval m, eV.
    which
        (K, K), row of every pair of kinds, −1 for none.

    Raises
    ------
    DataError
        If shapes do not fit or a number is not finite.
    """

    start: float
    spacing: float
    rows: NDArray[np.float64]
    which: NDArray[np.int32]

    def __post_init__(self) -> None:
        rows, which = np.ascontiguousarray(self.rows, float), np.ascontiguousarray(self.which, np.int32)
        fine = rows.ndim == 3 and rows.shape[2] == 4 and bool(np.isfinite(rows).all()) and self.spacing > 0.0
        require(fine, f"a table of pairs needs finite coefficients (rows, intervals, 4), not {rows.shape}")
        square = which.ndim == 2 and which.shape[0] == which.shape[1] and bool((which == which.T).all())
        require(square and which.max(initial=-1) < len(rows), "which must be symmetric, (kinds, kinds), and name rows")
        object.__setattr__(self, "rows", rows)
        object.__setattr__(self, "which", which)

    @property
    def stop(self) -> float:
        """Distance from which all functions are zero, Å."""
        return self.start + self.spacing * self.rows.shape[1]

    @staticmethod
    def hermite(start: float, spacing: float, values, slopes, which) -> Table:
        """Table through values (rows, points), eV, and slopes, eV/Å, at start + spacing · (0, 1, …)."""
        y, d = np.asarray(values, float), np.asarray(slopes, float) * spacing
        y0, y1, d0, d1 = y[:, :-1], y[:, 1:], d[:, :-1], d[:, 1:]
        return Table(
            start, spacing, np.stack([y0, d0, 3 * (y1 - y0) - 2 * d0 - d1, 2 * (y0 - y1) + d0 + d1], -1), which
        )
