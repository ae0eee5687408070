"""Interface of trajectory files, and checks shared by all formats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError, KernelfeError


@dataclass
class Row:
    """One frame in the units of its file.

    Attributes
    ----------
    positions, forces
        (atoms, 3); None where the frame lacks them.
    cell
        (3, 3), vectors in rows; None without periodicity.
    step, time
        Step of integration, and ps; None where the file does not state them.
    energy
        Potential energy, NaN for a frame without; None where the file has none.
    """

    positions: NDArray[Any] | None = None
    forces: NDArray[Any] | None = None
    cell: NDArray[np.float64] | None = None
    step: int | None = None
    time: float | None = None
    energy: float | None = None


@dataclass
class Head:
    """Contents of the head of a file.

    Attributes
    ----------
    n_atoms
        Number of atoms.
    units
        Units that the file states: ``length`` and ``force`` or ``energy``, as far as it does.
    forces
        Whether frames hold forces.
    lacking
        Advice for a file without forces, or without units.
    energy_unit
        Unit of the energies of frames, where the file states one.
    fixed
        Masses, names, bonds and constraints, as far as the file has them.
    """

    n_atoms: int
    units: Mapping[str, str]
    forces: bool = True
    lacking: str = ""
    energy_unit: str = ""
    fixed: dict[str, Any] = field(default_factory=dict)


class TrajectoryFile(Protocol):
    """One file: its head, read at once, and its frames, read one at a time."""

    path: Path
    head: Head

    def rows(self) -> Iterator[Row]:
        """All frames in order."""
        ...


@contextmanager
def reading(path: Path, form: str) -> Iterator[None]:
    """Turn any error of a reader, which damaged bytes may cause, into one that names the file.

    Raises
    ------
    DataError
        In place of errors that are not kernelfe's.
    """
    try:
        yield
    except KernelfeError:
        raise
    except (Exception, MemoryError) as error:
        raise DataError(f"{path.name} is not readable as {form} ({error}); is it damaged?") from error


def require_in(path: Path, ok: Any, fault: str) -> None:
    """Raise a DataError that names the file unless a condition holds."""
    if not ok:
        raise DataError(f"{path.name} {fault}")


def require_bytes(path: Path, atoms: int, limit: int | None = None) -> int:
    """The declared number of atoms, unless there are not bytes enough for them."""
    size = path.stat().st_size
    fault = f"declares {atoms} atoms in {size} bytes; it is damaged, hostile or empty"
    require_in(path, 0 < 12 * atoms <= (size if limit is None else limit), fault)
    return atoms


def joined(frames: TrajectoryFile, forces: TrajectoryFile) -> Iterator[Row]:
    """Frames of one file with the forces of another: by time if both state times, else one by one.

    Raises
    ------
    DataError
        If one file has more frames than the other, and one of them states no times.
    """
    others = forces.rows()
    other = next(others, None)
    by_time: bool | None = None
    for row in frames.rows():
        if by_time is None:
            by_time = row.time is not None and other is not None and other.time is not None
        if not by_time:
            require_in(forces.path, other, f"holds fewer frames than {frames.path.name}, and no times to match them by")
        time = row.time or 0.0
        within = 1e-3 + 2e-7 * abs(time)  # times are stored in single precision
        while by_time and other is not None and (other.time or 0.0) < time - within:
            other = next(others, None)
        if other is not None and (not by_time or (other.time or 0.0) <= time + within):
            row.forces, other = other.forces, next(others, None)
        yield row
    if other is not None and not by_time:
        raise DataError(f"{forces.path.name} holds more frames than {frames.path.name}, and no times to match them by")
