"""Pair labels: measured differences of the free energy between two rows of a Frames."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..errors import DataError, require
from .checks import numbers


def _none(dtype: type) -> np.ndarray:
    empty: np.ndarray = np.zeros(0, dtype)
    empty.flags.writeable = False
    return empty


@dataclass(frozen=True, eq=False)
class PairLabels:
    """Measured differences A_j − A_i, for example from MBAR or thermodynamic integration.

    Parameters
    ----------
    i, j
        Rows of the Frames they belong to, (pairs,).
    value
        A_j − A_i in eV, (pairs,).
    std
        Standard deviation of each value in eV, (pairs,).
    """

    i: np.ndarray = field(default_factory=lambda: _none(np.int64))
    j: np.ndarray = field(default_factory=lambda: _none(np.int64))
    value: np.ndarray = field(default_factory=lambda: _none(np.float64))
    std: np.ndarray = field(default_factory=lambda: _none(np.float64))

    def __post_init__(self) -> None:
        for array in (self.i, self.j, self.value, self.std):
            array.flags.writeable = False

    def __len__(self) -> int:
        return len(self.i)

    @classmethod
    def checked(cls, i, j, value, std, rows: int, factor: float = 1.0) -> PairLabels:
        """Pair labels from user input, broadcast together; ``factor`` takes value and std to eV.

        Raises
        ------
        DataError
            If a row does not exist, a pair joins a row with itself, or a number is not finite or std ≤ 0.
        """
        ends = []
        for name, rows_given in (("i", i), ("j", j)):
            array = np.atleast_1d(numbers(rows_given, f"pair labels: {name}"))
            bad = (array != np.round(array)) | (array < -rows) | (array >= rows)
            for row in array[bad]:
                raise DataError(f"pair labels: {name} = {row:g} is not a row of these {rows} frames; pass row indices")
            ends.append(np.where(array < 0, array + rows, array).astype(np.int64))
        measured = [
            np.atleast_1d(numbers(x, f"pair labels: {name}", None, "eV", factor))
            for name, x in (("value", value), ("std", std))
        ]
        try:
            a, b, v, s = (np.array(x) for x in np.broadcast_arrays(*ends, *measured))
        except ValueError as error:
            raise DataError(
                "pair labels: i, j, value and std have lengths that do not match; pass equal lengths or single numbers"
            ) from error
        require(a.ndim == 1, "pair labels: i, j, value and std must be one-dimensional")
        for k in np.flatnonzero(~np.isfinite(v) | ~np.isfinite(s) | (s <= 0) | (a == b)):
            raise DataError(
                f"pair label {k} (rows {a[k]} and {b[k]}, value {v[k]:g}, std {s[k]:g}) is unusable: "
                "the rows must differ, the value be finite and std be positive"
            )
        return cls(a, b, v, s)

    def take(self, rows: np.ndarray, total: int) -> PairLabels:
        """The pairs whose two ends are both among ``rows``, re-indexed to positions in ``rows``.

        A row that is taken several times carries its pairs on its first copy.
        """
        place = np.full(total, -1, dtype=np.int64)
        place[rows[::-1]] = np.arange(len(rows), dtype=np.int64)[::-1]
        i, j = place[self.i], place[self.j]
        keep = (i >= 0) & (j >= 0)
        return PairLabels(i[keep], j[keep], self.value[keep], self.std[keep])

    def shifted(self, offset: int) -> PairLabels:
        """The same pairs with ``offset`` added to every row."""
        return PairLabels(self.i + offset, self.j + offset, self.value, self.std)

    @classmethod
    def joined(cls, parts: list[PairLabels]) -> PairLabels:
        """All pairs of ``parts`` (already shifted)."""
        return cls(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("i", "j", "value", "std")))
