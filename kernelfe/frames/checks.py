"""Checks of arrays that come from users. Every message names the culprit and the remedy."""

from __future__ import annotations

import logging
import operator
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..arrays import real_array
from ..errors import DataError, require
from ..functionals import Functional
from ..geometry.broken import torn_bonds

logger = logging.getLogger(__name__)

#: Å; half the shortest bond there is, that of H2. Shorter ones are lengths in nm.
SHORTEST_BOND = 0.37


def frozen(array: np.ndarray) -> np.ndarray:
    """The array, read-only."""
    array.flags.writeable = False
    return array


def numbers(
    value: Any, name: str, shape: tuple[int, ...] | None = None, unit: str | None = None, scale: float = 1.0
) -> np.ndarray:
    """A fresh float64 array in internal units; ``shape`` is checked when given.

    Parameters
    ----------
    value, name, unit, scale
        As of :func:`kernelfe.arrays.real_array`.
    shape
        Wanted shape, or None.

    Raises
    ------
    DataError
        If the value is not a rectangular array of real numbers, or of another shape.
    """
    first = value[0] if isinstance(value, (list, tuple)) and len(value) else value
    # np.asarray of equally long Atoms silently builds an array of Atom
    require(not hasattr(first, "get_positions"), f"{name} holds ASE Atoms; use Frames.from_atoms")
    array = real_array(value, name, unit, scale)
    require(shape is None or array.shape == shape, f"{name} has shape {array.shape}, expected {shape}")
    return np.array(array, dtype=np.float64, order="C")


def first_bad_row(bad: np.ndarray) -> int | None:
    """Index of the first row with any True, or None."""
    rows = np.flatnonzero(bad.any(axis=tuple(range(1, bad.ndim))))
    return int(rows[0]) if len(rows) else None


def require_finite(array: np.ndarray, name: str, rows: np.ndarray | None = None, mend: str = "") -> None:
    """Raise DataError at the first row (of the rows wanted) with a NaN or infinity."""
    bad = ~np.isfinite(array)
    if rows is not None:
        bad[~rows] = False
    row = first_bad_row(bad)
    require(row is None, f"{name} is not finite at row {row}; {mend or 'correct or remove that row'}")


def require_finite_frames(array: np.ndarray, name: str) -> None:
    """Raise DataError at the first frame of an all-atom array with a NaN or infinity."""
    frame = first_bad_row(~np.isfinite(array))
    require(frame is None, f"{name} of frame {frame} are not finite: drop the frame or repair it")


def coordinates(value: Any, name: str, wanted: str, unit: str | None, scale: float) -> np.ndarray:
    """Positions (n, beads, 3) or variables (n, d), finite, in internal units."""
    array = numbers(value, name, None, unit, scale)
    good = array.ndim == 3 and array.shape[2] == 3 if name == "positions" else array.ndim == 2
    require(good and array.shape[1], f"{name} has shape {array.shape}; expected {wanted}")
    require_finite(array, name)
    return array


def per_frame(value: Any, name: str, count: int, unit: str | None = None, scale: float = 1.0) -> np.ndarray:
    """A finite (count,) array in internal units; a single number is repeated."""
    array = numbers(value, name, None, unit, scale)
    if array.ndim == 0:
        array = np.full(count, float(array))
    require(
        array.shape == (count,),
        f"{name} has shape {array.shape}; pass a number or one value per frame, shape ({count},)",
    )
    require_finite(array, name)
    return array


def present_mask(value: Any, key: str, count: int) -> np.ndarray:
    """The boolean mask of the rows that carry label ``key``; None means all."""
    if value is None:
        return np.ones(count, dtype=bool)
    require(not np.ma.is_masked(value), f"present[{key!r}] has masked entries; say True or False of every row")
    mask = np.asarray(value)
    require(
        mask.dtype == bool and mask.shape == (count,),
        f"present[{key!r}] must be a boolean mask of shape ({count},), not {mask.dtype} of shape {mask.shape}",
    )
    return mask.copy()


def displacement_fields(value: Any, n: int, shape: tuple[int, ...], rows: np.ndarray | None) -> np.ndarray:
    """Fields (n, k, *shape): finite in the rows with a generalised force, complete or absent in the others."""
    array = numbers(value, "displacements")
    require(
        array.ndim == 2 + len(shape) and array.shape[0] == n and array.shape[2:] == shape and array.shape[1],
        f"displacements has shape {array.shape}; expected ({n}, fields, {', '.join(map(str, shape))}): one field of "
        "all beads per generalised force",
    )
    axes = tuple(range(1, array.ndim))
    absent = np.isnan(array).all(axis=axes) if rows is None else ~rows  # an all-NaN row has no fields
    require_finite(array, "displacements", ~absent)
    array[absent & ~np.isfinite(array).all(axis=axes)] = np.nan
    return array


def label_values(
    value: Any, key: str, shape: tuple[int, ...], rows: np.ndarray, unit: str | None, scale: float
) -> np.ndarray:
    """A label in internal units, checked: shape (n, *shape), finite in the rows that have it and NaN in the others."""
    array, n = numbers(value, f"label {key!r}", None, unit, scale), len(rows)
    require(
        array.shape == (n, *shape),
        f"label {key!r} has shape {array.shape}; expected {(n, *shape)}, one value "
        f"{'of shape ' + str(shape) + ' ' if shape else ''}per frame",
    )
    mend = f"correct it, or leave it out with present={{{key!r}: mask of the rows that have it}}"
    if len(shape) == 2 and np.isnan(array[rows]).any(axis=(0, 2)).sum() < shape[0]:  # on some beads only
        mend += (
            ". If single beads lack it in all frames, set it to 0 there and state a large noise for these beads, "
            f"noise={{{key!r}: array of shape (1, {shape[0]}, {shape[1]})}} with 1e3 for them"
        )
    require_finite(array, f"label {key!r}", rows, mend)
    array[~rows] = np.nan
    return array


def check_context(key: str, functional: Functional, parameters: dict[str, Any], cell: Any) -> None:
    """Check that a label has its context: a stress needs a cell, labels of a parameter need that parameter."""
    require(
        cell is not None or not functional.spatial.needs_cell,
        f"label {key!r} needs a cell: pass cell=(3, 3) or (n, 3, 3)",
    )
    for read in functional.reads:
        require(
            read.parameter != "*" or len(parameters) == 1,
            f"label {key!r} needs exactly one parameter and there are {len(parameters)}; "
            f"pass parameters={{name: values}} and name it as '{key}:name' when there are several",
        )
        require(
            read.parameter in (None, "*", *parameters),
            f"label {key!r} is about parameter {read.parameter!r}, which is not among {list(parameters)}; pass it in "
            "parameters=",
        )


def noise_of(
    value: Any, key: str, shape: tuple[int, ...], rows: np.ndarray, unit: str | None, scale: float
) -> float | np.ndarray:
    """Noise of one label kind in internal units.

    Parameters
    ----------
    value
        One standard deviation; one per frame (n,); anything of the label's number of axes that broadcasts to
        the label, (n, *shape); or one covariance block per frame, (n, m, m) with m = prod(shape).
    shape
        Shape of one frame's label.
    rows
        Mask of the rows that carry the label; the noise of other rows is ignored.
    unit, scale
        Internal unit of the label and the factor to it; covariances take their squares and carry no unit.

    Returns
    -------
    float or ndarray
        A number, an array of the label's shape, or blocks (n, m, m); NaN in rows without the label.
    """
    name = f"noise of {key!r}"
    array = numbers(value, name, None, unit, scale)
    n, m = len(rows), int(np.prod(shape, dtype=int))
    if array.ndim == 0:
        std = float(array)
        require(
            np.isfinite(std) and std > 0,
            f"{name} is {std:g}; a standard deviation must be finite and positive (leave it out to have it learned)",
        )
        return std
    if array.shape == (n, m, m) and array.shape != (n, *shape):
        return frozen(_blocks(array * scale, name, rows))
    if array.shape == (n,):
        array = array.reshape(n, *(1 for _ in shape))
    try:
        if array.ndim != 1 + len(shape):
            raise ValueError
        array = np.array(np.broadcast_to(array, (n, *shape)))
    except ValueError:
        raise DataError(
            f"{name} has shape {np.shape(value)}; pass a number, ({n},), {(n, *shape)}, or covariance "
            f"blocks ({n}, {m}, {m})"
        ) from None
    array[~rows] = np.nan
    bad = ~(np.isfinite(array) & (array > 0))
    bad[~rows] = False
    row = first_bad_row(bad)
    require(row is None, f"{name} is not finite and positive at row {row}; correct it or leave the noise out")
    return frozen(array)


def _blocks(array: np.ndarray, name: str, rows: np.ndarray) -> np.ndarray:
    require_finite(array, name, rows)
    array[~rows] = np.nan
    scale = np.abs(array).max(axis=(1, 2), keepdims=True, initial=0.0)
    asymmetric = np.abs(array - array.swapaxes(1, 2)) > 1e-6 * scale
    row = first_bad_row(asymmetric)
    require(row is None, f"{name}: the covariance block of row {row} is not symmetric; pass (C + Cᵀ)/2")
    array = 0.5 * (array + array.swapaxes(1, 2))
    for k in np.flatnonzero(rows):
        try:
            np.linalg.cholesky(array[k])
        except np.linalg.LinAlgError:
            raise DataError(
                f"{name}: the covariance block of row {k} is not positive definite; add a small "
                "variance to its diagonal or average over more samples"
            ) from None
    return array


def bead_data(
    kinds: Any, masses: Any, bonds: Any, beads: int | None, mass_factor: float = 1.0
) -> tuple[tuple[str, ...] | None, np.ndarray | None, tuple[tuple[int, int], ...] | None]:
    """Kinds, masses (in u) and bonds of the beads, checked; ``beads`` is None for frames of variables."""
    given = {"kinds": kinds, "masses": masses, "bonds": bonds}
    if beads is None:
        for name, value in given.items():
            require(value is None, f"{name} belongs to beads, but these frames hold variables; leave it out")
        return None, None, None
    if kinds is not None:
        try:
            kinds = tuple(str(kind) for kind in kinds)
        except TypeError:
            raise DataError(f"kinds is {kinds!r}; pass the name of every bead, such as ['C', 'N', 'O']") from None
        require(len(kinds) == beads, f"kinds has {len(kinds)} entries for {beads} beads; name every bead once")
    if masses is not None:
        masses = numbers(masses, "masses", (beads,), "u", mass_factor)
        bead = first_bad_row(~(np.isfinite(masses) & (masses > 0)))
        if bead is not None:
            raise DataError(f"masses must be finite and positive; that of bead {bead} is {masses[bead]:g}")
        masses = frozen(masses)
    if bonds is not None:
        try:  # operator.index: int would make a bead of any number, 1 of 1.9
            bonds = tuple((operator.index(a), operator.index(b)) for a, b in bonds)
        except (TypeError, ValueError):
            raise DataError("bonds must be pairs of bead numbers, counted from 0, such as [(0, 1), (1, 2)]") from None
        for a, b in bonds:
            require(
                a != b and 0 <= a < beads and 0 <= b < beads,
                f"bond ({a}, {b}) does not join two of the beads 0 to {beads - 1}",
            )
    return kinds, masses, bonds


def cells(value: Any, count: int, factor: float) -> np.ndarray:
    """Cell vectors (count, 3, 3) in Å, from one cell or one per frame."""
    array = numbers(value, "cell", None, "Å", factor)
    if array.shape == (3, 3):
        array = np.repeat(array[None], count, axis=0)
    require(
        array.shape == (count, 3, 3),
        f"cell has shape {array.shape}; pass (3, 3) or one cell per frame, ({count}, 3, 3)",
    )
    require_finite(array, "cell")
    row = first_bad_row(np.abs(np.linalg.det(array)) <= 0)
    require(
        row is None,
        f"the cell of row {row} has no volume; pass three independent vectors, "
        "or no cell at all for a system that is not periodic",
    )
    return frozen(array)


def look_fractional(positions: np.ndarray, cell: np.ndarray) -> bool:
    """Return True if positions fill the unit cube of a larger cell, as fractions do and lengths hardly ever."""
    low, high = positions.min(axis=(0, 1), initial=1.0), positions.max(axis=(0, 1), initial=0.0)
    fills = low.min() > -0.1 and high.max() < 1.1 and (high - low).min() > 0.8
    return bool(fills and np.linalg.norm(cell, axis=-1).min(initial=np.inf) > 1.5)


def warn_of_fractions(positions: np.ndarray | None, cell: np.ndarray | None) -> None:
    """Log a warning if positions of several beads, Å, look like fractions of the cell."""
    if positions is not None and cell is not None and positions.shape[1] >= 4 and look_fractional(positions, cell):
        logger.warning(
            "the positions of %d beads fill the range from 0 to 1 Å of a larger cell. If they are fractions of it, "
            "pass positions @ cell",
            positions.shape[1],
        )


def warn_of_broken_frames(positions: np.ndarray | None, bonds: Any, cell: np.ndarray | None) -> None:
    """Log a warning that names the frames with a bond of an implausible length, and the remedy."""
    if positions is None:
        return
    torn, lengths, pairs = torn_bonds(positions, bonds, cell)
    if bonds and len(lengths) and (middle := np.median(lengths)) < SHORTEST_BOND:
        logger.warning(
            "bonds are %.3g Å long (median), nearer than any two atoms are. Are the positions in nm? Then state units=",
            middle,
        )
    rows = np.flatnonzero(torn.any(0))
    if not len(rows):
        return
    bond = int(np.argmax(torn[:, rows[0]]))
    logger.warning(
        "%d of %d frames have a bond of an implausible length: frames %s. In frame %d, beads %d and %d are %.3g Å "
        "apart (median %.3g Å). Fits leave these frames out; the others are frames[~kernelfe.geometry.broken_frames("
        "frames.positions, frames.bonds, frames.cell)]. Unwrap the molecules (make them whole) before mapping them to "
        "beads. If these beads are not bonded, name those that are with bonds=",
        len(rows),
        len(positions),
        ", ".join(map(str, rows[:10])) + (", …" if len(rows) > 10 else ""),
        rows[0],
        *pairs[bond],
        lengths[bond, rows[0]],
        np.median(lengths[bond]),
    )


def mapping(value: Any, name: str, example: str) -> dict[Any, Any]:
    """A dict of a Mapping; an empty one for None.

    Raises
    ------
    DataError
        If the value is anything else.
    """
    if value is None:
        return {}
    require(isinstance(value, Mapping), f"{name} must be a dict such as {example}, not {type(value).__name__}")
    return dict(value)


def known_keys(given: Mapping[str, Any] | None, allowed: Mapping[str, Any], what: str) -> dict[str, Any]:
    """``given`` as a dict without its None values, after checking that each key is a label."""
    for key in given or {}:
        require(key in allowed, f"{what} names {key!r}, which is not among the labels: {', '.join(allowed) or 'none'}")
    return {key: value for key, value in (given or {}).items() if value is not None}


def row_numbers(index: Any, n: int) -> np.ndarray:
    """Non-negative row numbers of any index of ``n`` rows: int, slice, boolean mask, or array of numbers."""
    if isinstance(index, slice):
        return np.arange(n)[index]
    array = np.asarray(index)
    if array.ndim == 0:
        try:
            row = operator.index(index)
        except TypeError:
            raise IndexError(f"index Frames by rows, not by {index!r}") from None
        if not -n <= row < n:
            raise IndexError(f"row {row} is out of range for {n} frames")
        return np.array([row % n])
    if array.size == 0 and array.dtype != bool:
        array = array.astype(np.int64)
    if array.ndim != 1 or array.dtype.kind not in "biu":
        raise IndexError("index Frames by an int, a slice, a boolean mask or an array of row numbers")
    if array.dtype == bool:
        if len(array) != n:
            raise IndexError(f"mask of length {len(array)} for {n} frames")
        return np.flatnonzero(array)
    if array.size and (array.min() < -n or array.max() >= n):
        raise IndexError(f"rows from {array.min()} to {array.max()} are out of range for {n} frames")
    return np.where(array < 0, array + n, array).astype(np.int64)
