"""Potential energies from the tables that simulation programs write next to a trajectory."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, UnitsError, require
from ..units import factor, resolve

_LONGEST = 100_000  # characters of a line of a table


@dataclass(frozen=True, eq=False)
class EnergyTable:
    """Potential energies by step or time.

    Attributes
    ----------
    energies
        (rows,), eV.
    steps, times
        (rows,), steps of integration and ps; None where the table lacks them.
    """

    energies: NDArray[np.float64]
    steps: NDArray[np.int64] | None = None
    times: NDArray[np.float64] | None = None

    def at(self, steps: NDArray[np.int64] | None, times: NDArray[np.float64] | None) -> NDArray[np.float64]:
        """Energies of frames (n,), NaN where the table has none; by step if both sides have steps, else by time.

        Times agree within 1e-3 ps and a relative 2e-7, because trajectories store them in single precision.

        Raises
        ------
        DataError
            If there is neither in common, the table is denser in time than that, or gives a step two energies.
        """
        if steps is not None and self.steps is not None:
            return self._looked_up(self.steps.astype(float), steps.astype(float), np.full(len(steps), 0.25))
        if times is not None and self.times is not None:
            return self._looked_up(self.times, times, 1e-3 + 2e-7 * np.abs(times))
        raise DataError("frames and energies have neither steps nor times in common; give energies= as an array")

    def _looked_up(self, keys: NDArray[np.float64], wanted: NDArray[np.float64], within: NDArray) -> NDArray:
        order = np.argsort(keys, kind="stable")
        keys, energies = keys[order], self.energies[order]
        twice = np.diff(keys) == 0.0
        require(
            not (np.abs(np.diff(energies))[twice] > 1e-6 * (1.0 + np.abs(energies[:-1][twice]))).any(),
            "the energy table has two energies for one step or time: split it, one run per table",
        )
        keep = np.concatenate([[True], ~twice]) if len(keys) else np.zeros(0, bool)
        keys, energies = keys[keep], energies[keep]
        require(
            not (len(keys) > 1 and np.diff(keys).min() < 2 * within.max(initial=0.0)),
            "the energy table is denser in time than single-precision times of frames can tell apart",
        )
        out = np.full(len(wanted), np.nan)
        if len(keys):
            near = np.clip(np.searchsorted(keys, wanted), 1, max(len(keys) - 1, 1))
            near = np.minimum(near, len(keys) - 1)
            near = np.where(np.abs(keys[near - 1] - wanted) < np.abs(keys[near] - wanted), near - 1, near)
            found = np.abs(keys[near] - wanted) <= within
            out[found] = energies[near[found]]
        return out


def read_energies(path: str | os.PathLike[str], units: str | Mapping[str, str] | None = None) -> EnergyTable:
    """Potential energies from an OpenMM, GROMACS or LAMMPS table.

    Parameters
    ----------
    path
        ``.csv`` of OpenMM's StateDataReporter (with step or time, and potentialEnergy); ``.xvg`` of ``gmx energy``
        (with Potential chosen); anything else: a LAMMPS log with the columns Step and PotEng.
    units
        For LAMMPS, whose log states none: for example ``"charmm"`` for ``units real``. The others state theirs.

    Raises
    ------
    DataError
        If the file is missing, no such table, damaged, or holds a number that is not finite.
    UnitsError
        If units are missing, or given for a file that states them.
    """
    path = Path(path)
    require(path.is_file(), f"{path} does not exist; check the path")
    read = {".csv": _openmm, ".xvg": _gromacs}.get(path.suffix)
    if read is not None and units is not None:
        raise UnitsError(f"{path.name} states its units; leave out units=")
    try:
        text = path.read_text(encoding="utf-8")
        lines = text.splitlines()
        if not text.endswith("\n"):  # of a run that was killed: the last number may be cut
            lines = lines[:-1]
        if max(map(len, lines), default=0) > _LONGEST:
            raise ValueError("a line is too long")
        table = read(lines, path.name) if read is not None else _lammps(lines, path.name, units)
    except (DataError, UnitsError):
        raise
    except (ValueError, LookupError, csv.Error, OverflowError) as error:
        raise DataError(f"{path.name} is not readable as a table of energies ({error})") from error
    require(len(table.energies), f"{path.name} holds no energies")
    require(
        np.isfinite(table.energies).all(),
        f"{path.name} holds an energy that is not finite; the run has blown up, or the file is damaged",
    )
    return table


def _openmm(lines: list[str], name: str) -> EnergyTable:
    rows = list(csv.reader(lines))
    head = [column.lstrip("#").strip('" ') for column in rows[0]]
    column = next((k for k, h in enumerate(head) if h.startswith("Potential Energy")), None)
    if column is None:
        raise DataError(f"{name} has no column 'Potential Energy'; it has {', '.join(head)}")
    unit = re.fullmatch(r".*\((.*)\)", head[column])
    if unit is None:
        raise UnitsError(f"{name} does not state the unit of its potential energy")
    scale = factor(unit[1].replace("kJ/mole", "kJ/mol"), "energy")
    body = [row for row in rows[1:] if len(row) == len(head) and not row[0].startswith("#")]
    step = head.index("Step") if "Step" in head else None
    time = head.index("Time (ps)") if "Time (ps)" in head else None
    return EnergyTable(
        np.array([float(row[column]) for row in body]) * scale,
        None if step is None else np.array([int(row[step]) for row in body], np.int64),
        None if time is None else np.array([float(row[time]) for row in body]),
    )


def _gromacs(lines: list[str], name: str) -> EnergyTable:
    text = [line for line in lines if line.startswith("@")]
    legends = {int(m[1]): m[2] for line in text if (m := re.match(r'@\s+s(\d+)\s+legend\s+"(.*)"', line))}
    column = next((k for k, legend in legends.items() if legend == "Potential"), None)
    if column is None:
        raise DataError(f"{name} has no column 'Potential'; it has {', '.join(legends.values()) or 'no legends'}")
    axis = next((m[1] for line in text if (m := re.match(r'@\s+yaxis\s+label\s+"(.*)"', line))), "")
    units = re.findall(r"\(([^()]*)\)", axis)
    require(
        not (column >= len(units) and len(units) != 1),
        f"{name} does not state the unit of its potential energy: the label of its y axis is {axis!r}",
        UnitsError,
    )
    unit = units[0] if len(units) == 1 else units[column]
    require(
        any(re.match(r'@\s+xaxis\s+label\s+"Time \(ps\)"', line) for line in text),
        f"the x axis of {name} is not 'Time (ps)'; write it without -xvg none and in ps",
        UnitsError,
    )
    body = [line.split() for line in lines if line.strip() and line[0] not in "#@&"]
    if any(len(row) != 1 + len(legends) for row in body):
        raise ValueError(f"a row has not {1 + len(legends)} columns")
    return EnergyTable(
        np.array([float(row[1 + column]) for row in body]) * factor(unit, "energy"),
        None,
        np.array([float(row[0]) for row in body]),
    )


def _lammps(lines: list[str], name: str, units: str | Mapping[str, str] | None) -> EnergyTable:
    asked = resolve(units)
    if asked is None or "energy" not in asked:
        raise UnitsError(f"a LAMMPS log states no units: pass units= for {name}, for example 'charmm' for `units real`")
    steps, energies, head = [], [], None
    for line in lines:
        words = line.split()
        if "Step" in words and "PotEng" in words:
            head = words
        elif head is not None:
            try:
                row = [float(word) for word in words]
            except ValueError:
                row = []
            if len(row) != len(head):  # the end of the run, or a warning between its rows
                head = None if words[:2] == ["Loop", "time"] else head
                continue
            steps.append(int(words[head.index("Step")]))
            energies.append(row[head.index("PotEng")])
    require(steps, f"{name} has no table with the columns Step and PotEng; add them to thermo_style")
    return EnergyTable(np.array(energies) * factor(asked["energy"], "energy"), np.array(steps, np.int64))
