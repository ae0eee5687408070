"""Files that commands read and write: frames with units from the command line, and where results go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import DataError, UnitsError


def read_frames(path: str, units: str | None, temperature: float | None, layout: str | None = None) -> Any:
    """Frames of a file; ``units`` is the name of a system or ``energy=kJ/mol,length=nm``."""
    from .. import Frames

    options: dict[str, Any] = {} if layout is None else {"layout": layout}
    if temperature is not None:
        options["temperature"] = temperature
    if units is not None:
        options["units"] = parse_units(units)
    try:
        return Frames.read(path, **options)
    except DataError as error:  # messages of the library name its arguments
        if isinstance(error, UnitsError) and units is None:
            error.add_note("On the command line: --units energy=kJ/mol,length=nm, or the name of a system.")
        elif "temperature" in str(error) and temperature is None:
            error.add_note("On the command line: --temperature KELVIN.")
        raise


def parse_units(text: str) -> str | dict[str, str]:
    """``"gromacs"``, or a dict from ``"energy=kJ/mol,length=nm"``.

    Raises
    ------
    UnitsError
        If a part is not ``name=unit``.
    """
    if "=" not in text:
        return text
    pairs = [part.partition("=") for part in text.split(",")]
    for name, equals, unit in pairs:
        if not (name.strip() and equals and unit.strip()):
            raise UnitsError(
                f"--units {text!r}: write name=unit pairs such as energy=kJ/mol,length=nm, or the name of a system"
            )
    return {name.strip(): unit.strip() for name, _, unit in pairs}


def parse_pairs(text: str) -> dict[str, str]:
    """``{"CA": "C"}`` from ``"CA=C"``; pairs are separated by commas.

    Raises
    ------
    DataError
        If a part is not ``name=value``.
    """
    pairs = [part.partition("=") for part in text.split(",")]
    for name, equals, value in pairs:
        if not (name.strip() and equals and value.strip()):
            raise DataError(f"{text!r}: write name=value pairs such as CA=C,CB=C")
    return {name.strip(): value.strip() for name, _, value in pairs}


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


def start_frames(path: str, units: str | None, temperature: float) -> Any:
    """Frames with positions, from a file that may lack temperatures and labels.

    Raises
    ------
    DataError
        If the file cannot be read, or holds no frames, or variables instead of positions.
    """
    from ..frames.formats.extxyz import read_extxyz
    from ..frames.formats.traj import read_traj

    if Path(path).suffix in (".xyz", ".extxyz", ".traj"):
        images, _ = read_traj(path, first=True) if Path(path).suffix == ".traj" else read_extxyz(path, index="0")
        frames = read_frames(path, units, None if "temperature" in images[0].info else temperature)
    else:
        frames = read_frames(path, units, None)
    if frames.positions is None:
        raise DataError(f"{path} holds variables; sampling needs bead positions")
    if not len(frames):
        raise DataError(f"{path} holds no frames; sampling needs at least one to start from")
    return frames


def require_folder(output: str) -> None:
    """Refuse an output whose folder does not exist: before the work, not after.

    Raises
    ------
    DataError
        If there is no such folder.
    """
    if not Path(output).absolute().parent.is_dir():
        raise DataError(f"the folder of {output} does not exist; make it first")


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
    """Refuse the state of another molecule or of another temperature.

    Raises
    ------
    DataError
        If it is one.
    """
    if state.positions.shape[1:] != source.positions.shape[1:]:
        raise DataError(f"{path} holds {state.positions.shape[1]} beads, the start frames {source.positions.shape[1]}")
    if not bool((state.temperature == temperature).all()):
        raise DataError(f"{path} is of a run at {float(state.temperature[0]):g} K, not at {temperature:g} K")
