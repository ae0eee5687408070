"""Files that commands read and write, and the text of their options."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError, UnitsError, require


@dataclass(frozen=True)
class Source:
    """Options of reading a file of frames.

    Parameters
    ----------
    units
        Name of a system of units, or ``energy=kJ/mol,length=nm``; None: those that the file states.
    temperature
        K, of all frames; None: those in the file.
    layout
        Layout of a ``.npz`` file of another program.
    bonds
        Bonded beads, as in ``0-1,1-2``; None: those in the file.
    """

    units: str | None = None
    temperature: float | None = None
    layout: str | None = None
    bonds: str | None = None

    def read(self, path: str) -> Any:
        """Frames of a file."""
        from .. import Frames

        given: dict[str, Any] = {
            "layout": self.layout,
            "temperature": self.temperature,
            "units": None if self.units is None else parse_units(self.units),
        }
        bonds = None if self.bonds is None else parse_bonds(self.bonds)
        try:
            frames = Frames.read(path, **{name: value for name, value in given.items() if value is not None})
            return frames if bonds is None else frames.replace(bonds=bonds)
        except DataError as error:  # messages of the library name its arguments
            if isinstance(error, UnitsError) and self.units is None:
                error.add_note("On the command line: --units energy=kJ/mol,length=nm, or the name of a system.")
            elif "temperature" in str(error) and self.temperature is None:
                error.add_note("On the command line: --temperature KELVIN.")
            raise


@dataclass(frozen=True)
class Start:
    """Options of reading a file of frames to start from, as those of :class:`Source`."""

    units: str | None = None
    layout: str | None = None
    bonds: str | None = None

    def source(self, temperature: float | None) -> Source:
        """The source with a temperature, K."""
        return Source(self.units, temperature, self.layout, self.bonds)


def parse_units(text: str) -> str | dict[str, str]:
    """``"gromacs"``, or a dict from ``"energy=kJ/mol,length=nm"``.

    Raises
    ------
    UnitsError
        If a part is not ``name=unit``.
    """
    if "=" not in text:
        return text
    message = f"--units {text!r}: write name=unit pairs such as energy=kJ/mol,length=nm, or the name of a system"
    return _pairs(text, message, UnitsError)


def parse_pairs(text: str) -> dict[str, str]:
    """``{"CA": "C"}`` from ``"CA=C"``; pairs are separated by commas.

    Raises
    ------
    DataError
        If a part is not ``name=value``.
    """
    return _pairs(text, f"{text!r}: write name=value pairs such as CA=C,CB=C", DataError)


def _pairs(text: str, message: str, error: type[DataError]) -> dict[str, str]:
    pairs = [[word.strip() for word in part.split("=", 1)] for part in text.split(",")]
    require(all(len(pair) == 2 and all(pair) for pair in pairs), message, error)
    return dict(pairs)


def parse_bonds(text: str) -> list[tuple[int, int]]:
    """Bonds from ``"0-1,1-2"``.

    Raises
    ------
    DataError
        If a part is not two bead numbers.
    """
    pairs = [re.fullmatch(r"\s*(\d+)\s*-\s*(\d+)\s*", part) for part in text.split(",")]
    require(all(pairs), f"--bonds {text!r}: write two bead numbers each, such as 0-1,1-2")
    return [(int(pair[1]), int(pair[2])) for pair in pairs if pair]


def check_reading(units: str | None = None, bonds: str | None = None, **_: Any) -> None:
    """Check the text of options of reading.

    Raises
    ------
    UnitsError
        If ``units`` names no system and no pairs of known units.
    DataError
        If ``bonds`` is not a list of pairs.
    """
    from ..units import resolve

    if units is not None:
        parsed = parse_units(units)
        resolve(parsed, tuple(parsed))  # quantities may have names that only the file knows
    if bonds is not None:
        parse_bonds(bonds)


def parse_torsions(text: str) -> list[tuple[int, int, int, int]]:
    """Dihedrals from ``"0,1,2,4;1,2,4,5"``.

    Raises
    ------
    DataError
        If a part is not four whole numbers.
    """
    found = []
    for part in text.split(";"):
        try:
            i, j, k, end = (int(number) for number in part.split(","))
        except ValueError:
            raise DataError(f"--torsions {text!r}: write four bead numbers each, such as 0,1,2,4;1,2,4,5") from None
        found.append((i, j, k, end))
    return found


def start_frames(path: str, start: Start, temperature: float) -> Any:
    """Frames with positions, from a file that may lack temperatures and labels.

    Parameters
    ----------
    path
        The file.
    start
        How to read it.
    temperature
        K, for files without temperatures.

    Raises
    ------
    DataError
        If the file cannot be read, or holds no frames, or variables instead of positions.
    """
    from ..frames.formats.registry import read_images

    found = None if start.layout is not None else read_images(path, first=True)
    if found is not None:
        frames = start.source(None if "temperature" in found[0][0].info else temperature).read(path)
    else:
        frames = start.source(None if start.layout is None else temperature).read(path)
    require(frames.positions is not None, f"{path} holds variables; sampling needs bead positions")
    require(len(frames), f"{path} holds no frames; sampling needs at least one to start from")
    return frames


def require_folder(output: str) -> None:
    """Check, before the work, that the folder of an output exists.

    Raises
    ------
    DataError
        If it does not.
    """
    require(Path(output).absolute().parent.is_dir(), f"the folder of {output} does not exist; make it first")


def write_samples(runs: Any, temperatures: Any, source: Any, output: str) -> int:
    """Write the samples of runs at some temperatures, beads as in ``source``; returns how many there are."""
    import numpy as np

    from .. import Frames

    positions = np.concatenate([run.flat() for run in runs])
    at = np.repeat(np.asarray(temperatures, float), [len(run) * run.positions.shape[1] for run in runs])
    Frames.from_arrays(
        positions=positions, temperature=at, kinds=source.kinds, masses=source.masses, bonds=source.bonds
    ).write(output)
    return len(positions)


def check_restart(state: Any, source: Any, temperature: float, path: str) -> None:
    """Check that a state belongs to the molecule and the temperature of a run.

    Raises
    ------
    DataError
        If it does not.
    """
    require(
        state.positions.shape[1:] == source.positions.shape[1:],
        f"{path} holds {state.positions.shape[1]} beads, the start frames {source.positions.shape[1]}",
    )
    require(
        bool((state.temperature == temperature).all()),
        f"{path} is of a run at {float(state.temperature[0]):g} K, not at {temperature:g} K",
    )
