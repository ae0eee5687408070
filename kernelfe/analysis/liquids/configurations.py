"""Frames of a liquid as the analysis takes them: checked once, cells reduced, beads grouped by kind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ...arrays import real_array
from ...errors import DataError, require
from ...geometry.cell import reduced_cell
from ...statistics import series_labels

FloatArray = NDArray[np.float64]

#: Å; beads closer than this are one bead twice.
COINCIDENT = 1e-4
#: Volume over the product of the lengths of the lattice vectors: flatter cells have no volume.
_FLAT = 1e-6


@dataclass(frozen=True, eq=False)
class Configurations:
    """Periodic frames of a liquid.

    Attributes
    ----------
    positions
        (n, beads, 3), Å, wrapped or not.
    cells
        (n, 3, 3), Å: the same lattices as given, of the shortest possible vectors.
    given
        (n, 3, 3), Å: the cells as they came, which change smoothly from frame to frame.
    series
        (n,), number of the independent series of each frame.
    kinds
        (beads,) names of kinds, or None.
    """

    positions: FloatArray
    cells: FloatArray
    given: FloatArray
    series: NDArray[np.intp]
    kinds: NDArray[np.str_] | None

    @property
    def beads(self) -> int:
        """Number of beads."""
        return int(self.positions.shape[1])

    @property
    def volumes(self) -> FloatArray:
        """(n,), Å³."""
        return np.abs(np.linalg.det(self.cells))

    @property
    def heights(self) -> FloatArray:
        """Least distance between opposite faces of each cell, (n,), Å."""
        return np.asarray(1.0 / np.linalg.norm(np.linalg.inv(self.cells), axis=1).max(axis=1))

    def largest_distance(self) -> float:
        """Half the least height of all cells, Å: up to there, one image of each pair is in range."""
        return float(0.5 * self.heights.min())

    def require_within(self, distance: float, name: str) -> None:
        """Refuse a distance that is not positive or exceeds half the least height of a cell."""
        require(np.isfinite(distance) and distance > 0.0, f"{name}={distance!r} must be a positive distance in Å")
        half = 0.5 * self.heights
        frame = int(half.argmin())
        require(
            distance <= half[frame] * (1.0 + 1e-9),
            f"{name}={distance:g} Å exceeds half the least height of the cell of frame {frame}, {half[frame]:.4g} Å: "
            "beyond it a sphere overlaps its own images; take a smaller distance or a larger cell",
        )

    def of_kind(self, kind: str | None) -> Configurations:
        """The same frames with the beads of one kind only; all beads for None."""
        if kind is None:
            return self
        return replace(self, positions=self.positions[:, self.members(kind)], kinds=None)

    def members(self, kind: str | None) -> NDArray[np.intp]:
        """Numbers of the beads of a kind; of all for None."""
        if kind is None:
            return np.arange(self.beads)
        if self.kinds is None:
            raise DataError(f"kind {kind!r} was asked for, but kinds= was not given")
        found = np.flatnonzero(self.kinds == kind)
        require(len(found), f"no bead is of kind {kind!r}; kinds: {', '.join(sorted(set(self.kinds.tolist())))}")
        return found

    def blocks(self, size: int) -> Iterator[slice]:
        """Slices of ``size`` frames at most, in order."""
        for start in range(0, len(self.positions), max(1, size)):
            yield slice(start, min(start + max(1, size), len(self.positions)))


def configurations(
    positions: ArrayLike, cell: ArrayLike | None, kinds: Sequence[str] | None = None, series: ArrayLike | None = None
) -> Configurations:
    """Check frames of a liquid.

    Parameters
    ----------
    positions
        (n, beads, 3), Å, wrapped or not.
    cell
        Lattice vectors as rows, (3, 3) or (n, 3, 3), Å, of any shape and handedness.
    kinds
        Name of the kind of each bead.
    series
        (n,), label of the independent series of each frame; None for one series.

    Raises
    ------
    DataError
        If the cell is missing or flat, a number is not finite, or shapes do not fit; names the frame.
    """
    x = real_array(positions, "positions", "Å")
    require(x.ndim == 3 and x.shape[2] == 3 and x.shape[0], f"positions have shape {x.shape}, expected (n, beads, 3)")
    require(x.shape[1] > 1, "positions hold a single bead: a liquid has two at least")
    _require_finite(x, "positions")
    names = None if kinds is None else np.asarray([str(kind) for kind in kinds])
    require(
        names is None or len(names) == x.shape[1],
        f"kinds has {0 if names is None else len(names)} entries for {x.shape[1]} beads",
    )
    given = checked_cells(cell, len(x))
    boxes = given if given.strides[0] else given[:1]
    cells = np.broadcast_to(reduced_cell(torch.as_tensor(np.array(boxes))).numpy(), given.shape)
    return Configurations(x, cells, given, series_labels(series, len(x)), names)


def checked_cells(cell: ArrayLike | None, frames: int) -> FloatArray:
    """Cells (n, 3, 3), Å, of cells (3, 3) or (n, 3, 3), checked; one for all frames is not copied.

    Raises
    ------
    DataError
        If the cell is missing, of another shape, or without volume; names the frame.
    """
    if cell is None:
        raise DataError("the cell is missing: a liquid is periodic; give cell= as (3, 3) or (n, 3, 3), in Å")
    box = real_array(cell, "cell", "Å")
    require(
        box.shape in ((3, 3), (frames, 3, 3)),
        f"cell has shape {box.shape}: give (3, 3), or ({frames}, 3, 3) with one per frame",
    )
    boxes = box.reshape(-1, 3, 3)
    _require_finite(boxes, "cell")
    lengths = np.linalg.norm(boxes, axis=2).prod(axis=1)
    flat = np.asarray(~(np.abs(np.linalg.det(boxes)) > _FLAT * lengths))
    refuse_frames(flat, "the cell of frame {} has no volume: give three independent lattice vectors")
    return np.broadcast_to(boxes, (frames, 3, 3))


def coincident(frame: int, i: int, j: int, distance: float) -> DataError:
    """The error of two beads at one place."""
    return DataError(
        f"beads {i} and {j} of frame {frame} coincide ({distance:.2g} Å apart): drop the frame, or the bead that is "
        "there twice"
    )


def refuse_frames(bad: ArrayLike, message: str) -> None:
    """Raise DataError for the first True of (n,) frames; ``{}`` in the message is its number."""
    rows = np.flatnonzero(np.asarray(bad))
    if len(rows):
        raise DataError(message.format(int(rows[0])))


def _require_finite(values: FloatArray, name: str) -> None:
    bad = np.asarray(~np.isfinite(values).all(axis=(1, 2)))
    refuse_frames(bad, name + " of frame {} is not finite: drop the frame or repair it")
