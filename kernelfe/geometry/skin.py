"""Half list of pairs with a skin, kept from step to step of a simulation.

The list holds all pairs closer than cutoff + skin at some earlier positions. It serves as long as no pair can have come
from beyond it: with the two largest displacements d, d' since then, measured in the cell of the list, and the largest
stretch ‖S⁻¹‖ of a vector that is carried back from the present cell to that one,

    ‖S⁻¹‖ · cutoff + d + d' ≤ cutoff + skin.

So it follows changes of the cell as well. Pairs that are within the cutoff now are the same whatever the history.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..compiled import loading
from ..compiled.pairs import Pairs
from ..errors import DataError, require


class SkinList:
    """Pairs of beads within a cutoff in successive configurations.

    Parameters
    ----------
    cutoff
        Å.
    skin
        Å. A larger one makes a longer list less often.
    wanted
        Symmetric mask (beads, beads) of the pairs that count; None for all.

    Attributes
    ----------
    builds
        How often the list was made.

    Raises
    ------
    DataError
        If a length is not positive.
    """

    def __init__(self, cutoff: float, skin: float = 1.0, wanted: NDArray[np.bool_] | None = None):
        require(cutoff > 0.0 and skin > 0.0, f"SkinList(cutoff={cutoff!r}, skin={skin!r}): both must be positive")
        self.cutoff, self.skin, self.builds = float(cutoff), float(skin), 0
        self._wanted = np.zeros((0, 0), np.bool_) if wanted is None else np.ascontiguousarray(wanted, np.bool_)
        self._origin: NDArray[np.float64] | None = None  # positions when the list was made
        self._cell = self._seen = np.zeros((3, 3))
        self._room(64)

    def pairs(self, x: NDArray[np.float64], cell: NDArray[np.float64]) -> Pairs:
        """Pairs closer than the cutoff.

        Parameters
        ----------
        x
            (beads, 3), Å, wrapped or not, finite.
        cell
            (3, 3), Å, lattice vectors as rows.

        Returns
        -------
        i, j, v
            (E,), (E,) and R_j − R_i of the image, (E, 3), each pair and image once. Views that are valid until
            the next call.

        Raises
        ------
        DataError
            If the cell has no volume, or is so small that a list would not fit.
        """
        if not self._serves(x, cell):
            self._build(x, cell)
        shifted = x - self._wraps @ cell if self._wrapped else x
        i, j, v = self._now
        count = loading.loops().pairs_within(
            np.ascontiguousarray(shifted), self._i, self._j, self._code, self._shifts, self.cutoff, i, j, v
        )
        return i[:count], j[:count], v[:count]

    def _serves(self, x: NDArray, cell: NDArray) -> bool:
        """True if the list holds all pairs of these positions; shifts then follow the cell."""
        origin = self._origin
        if origin is None or origin.shape != x.shape:
            return False
        if not np.array_equal(cell, self._seen):
            if not abs(np.linalg.det(cell)) > 0.0:
                return False
            self._seen, self._shifts = cell.copy(), self._images @ cell
            self._back = np.linalg.solve(cell, self._cell)
            self._stretch = float(np.linalg.norm(self._back, 2))
            self._same = np.array_equal(cell, self._cell)
        moved = (x if self._same else x @ self._back) - origin
        squares = np.einsum("ij,ij->i", moved, moved)
        if len(squares) > 1:  # the two that moved most may have moved towards each other
            squares = np.partition(squares, len(squares) - 2)[-2:]
        slack = self.cutoff + self.skin - self._stretch * self.cutoff
        return bool(np.sqrt(squares).sum() * (2.0 if len(squares) == 1 else 1.0) <= slack)

    def _build(self, x: NDArray, cell: NDArray) -> None:
        volume = abs(float(np.linalg.det(cell)))
        require(np.isfinite(volume) and volume > 0.0, "a cell has no volume: give three independent lattice vectors")
        require(np.isfinite(x).all(), "positions contain a non-finite value")
        inverse = np.linalg.inv(cell)
        heights = 1.0 / np.linalg.norm(inverse, axis=0)
        reach = self.cutoff + self.skin
        scaled = x @ inverse
        self._wraps = np.floor(scaled)
        self._wrapped = bool(self._wraps.any())
        scaled = np.ascontiguousarray(np.clip(scaled - self._wraps, 0.0, np.nextafter(1.0, 0.0)))
        expected = 0.5 * len(x) ** 2 * 4.19 * (reach + heights.max()) ** 3 / volume
        if (reach / heights).max() > 50.0 or expected > 5e8:
            raise DataError(
                f"the cell is {heights.min():.3g} by {heights.max():.3g} Å for {len(x)} beads: too small or flat for a "
                f"cutoff of {self.cutoff:g} Å"
            )
        bins = np.clip(np.floor(2.0 * heights / reach), 1, 64).astype(np.int64)
        steps = np.ceil(reach / heights * bins).astype(np.int64)
        most = steps // bins + 1
        cell = np.ascontiguousarray(cell, float)
        while True:
            count = loading.loops().find_pairs(scaled, cell, reach, bins, steps, most, self._wanted, *self._found)
            if count < len(self._found[0]):
                break
            self._room(int(1.2 * count) + 64)
        self._i, self._j, self._code = (part[:count] for part in self._found)
        self._images = (np.indices(2 * most + 1).reshape(3, -1).T - most).astype(float)
        self._origin, self._cell, self._seen, self._shifts = x.copy(), cell.copy(), cell.copy(), self._images @ cell
        self._same, self._stretch = True, 1.0
        self.builds += 1

    def _room(self, size: int) -> None:
        self._found = tuple(np.empty(size, np.int32) for _ in range(3))
        self._now = np.empty(size, np.int32), np.empty(size, np.int32), np.empty((size, 3))
