"""Energy tables that OpenMM, GROMACS, LAMMPS and AMBER write, recognised by content."""

from __future__ import annotations

import csv
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..errors import DataError, UnitsError, require
from ..files.compressed import read_plain
from ..units import SYSTEMS, factor, resolve
from .edr import MAGIC as EDR_MAGIC
from .edr import read_edr
from .energies import EnergyTable

_LONGEST = 100_000  # characters of a line of a table
#: Names of columns, in the order in which they are looked for.
_OPENMM, _GROMACS, _LAMMPS = "Potential Energy", "Potential", "PotEng"
#: Units of the ``units`` command of LAMMPS, which a log repeats.
_LAMMPS_UNITS = {"real": SYSTEMS["charmm"], "metal": SYSTEMS["ase"], "electron": {"energy": "Hartree"}}


def read_energies(
    path: str | os.PathLike[str],
    units: str | Mapping[str, str] | None = None,
    *,
    column: str | int | None = None,
) -> EnergyTable:
    """Potential energies from a table of OpenMM, GROMACS, LAMMPS or AMBER.

    The format follows from the content, not from the suffix: the table of OpenMM's StateDataReporter (with step or
    time, and potentialEnergy; any separator), ``.edr`` of GROMACS, ``.xvg`` of ``gmx energy`` (with Potential chosen),
    a LAMMPS log with the columns Step and PotEng, ``mdout`` of AMBER; each may be compressed (gzip, bzip2, xz). Rows
    of a minimisation in a LAMMPS log, and a last line that is cut off, are left out with a warning. For restarts see
    :class:`~kernelfe.allatom.EnergyTable`.

    Parameters
    ----------
    path
        The file.
    units
        For LAMMPS logs that do not repeat their ``units`` command, for example ``"charmm"`` for ``units real``, and
        for ``.xvg`` without axis labels (``"gromacs"``). The others state theirs.
    column
        Name of the column of the potential energy where it is not the usual one. For ``.xvg`` without legends its
        number, 1 for the first after the time.

    Raises
    ------
    DataError
        If the file is missing, no such table, damaged, or holds a number that is not finite.
    UnitsError
        If units are missing, or given for a file that states them.
    MissingDependencyError
        If an ``.edr`` is read without pyedr.
    """
    path = Path(path)
    require(path.is_file(), f"{path} does not exist; check the path")
    try:
        content = read_plain(path)
        if content.startswith(EDR_MAGIC):
            _stated(path.name, units)
            table = read_edr(path, content, _GROMACS if column is None else str(column))
        else:
            table = _text(content.decode("utf-8"), path.name, units, column)
    except (DataError, UnitsError):
        raise
    except (ValueError, LookupError, csv.Error, OverflowError) as error:
        raise DataError(f"{path.name} is not readable as a table of energies ({error})") from error
    require(len(table), f"{path.name} holds no energies")
    return table


def _text(text: str, name: str, units: str | Mapping[str, str] | None, column: str | int | None) -> EnergyTable:
    lines = text.splitlines()
    if max(map(len, lines), default=0) > _LONGEST:
        raise ValueError("a line is too long")
    if lines and not text.endswith("\n") and re.search(r"\d", lines.pop()):  # of a run that was killed
        _say(f"{name} ends in the middle of a line, whose last number may be cut: that line is left out")
    head = next((line for line in lines if line.strip()), "")
    if not head:
        raise ValueError("it is empty")
    if head.startswith('#"') or "Potential Energy (" in head or name.partition(".")[2].startswith("csv"):
        _stated(name, units)
        return _openmm(lines, name, _OPENMM if column is None else str(column))
    if any(line.startswith("@") for line in lines) or ".xvg" in name:
        return _gromacs(lines, name, units, column)
    if any(re.match(r"\s*NSTEP\s*=", line) for line in lines):
        _stated(name, units)
        return _amber(lines, name, "EPtot" if column is None else str(column))
    return _lammps(lines, name, units, _LAMMPS if column is None else str(column))


def _say(message: str) -> None:
    warnings.warn(message, stacklevel=5)  # the caller of read_energies


def _stated(name: str, units: object) -> None:
    require(units is None, f"{name} states its units; leave out units=", UnitsError)


def _table(name: str, energies: list[float], scale: float, steps: list | None, times: list | None) -> EnergyTable:
    values = np.array(energies, float)
    require(
        np.isfinite(values).all(),
        f"{name} holds an energy that is not finite; the run has blown up, or the file is damaged",
    )
    return EnergyTable(
        values * scale,
        None if steps is None else np.array(steps, np.int64),
        None if times is None else np.array(times, float),
        name,
    )


def _openmm(lines: list[str], name: str, wanted: str) -> EnergyTable:
    separator = re.match(r'#?"[^"]*"([^"]+)"', lines[0])
    rows = list(csv.reader(lines, delimiter=separator[1] if separator and len(separator[1]) == 1 else ","))
    head = [column.lstrip("#").strip('" ') for column in rows[0]]
    column = next((k for k, h in enumerate(head) if h.startswith(wanted)), None)
    if column is None:
        raise DataError(f"{name} has no column {wanted!r}; it has {', '.join(head)}")
    unit = re.fullmatch(r".*\((.*)\)", head[column])
    if unit is None:
        raise UnitsError(f"{name} does not state the unit of its potential energy")
    scale = factor(unit[1].replace("kJ/mole", "kJ/mol"), "energy")
    body, damaged = [], 0
    for row in rows[1:]:
        if not row or row[0].startswith("#"):  # a restart repeats the head
            continue
        if len(row) == len(head):
            body.append(row)
        else:  # cut off by a crash, with the rows of the restart behind it
            damaged += 1
    if damaged:
        _say(
            f"{damaged} rows of {name} do not have its {len(head)} columns and are left out; was the run killed there?"
        )
    step = head.index("Step") if "Step" in head else None
    time = head.index("Time (ps)") if "Time (ps)" in head else None
    return _table(
        name,
        [float(row[column]) for row in body],
        scale,
        None if step is None else [int(row[step]) for row in body],
        None if time is None else [float(row[time]) for row in body],
    )


def _gromacs(
    lines: list[str], name: str, units: str | Mapping[str, str] | None, wanted: str | int | None
) -> EnergyTable:
    text = [line for line in lines if line.startswith("@")]
    legends = {int(m[1]): m[2] for line in text if (m := re.match(r'@\s+s(\d+)\s+legend\s+"(.*)"', line))}
    body = [line.split() for line in lines if line.strip() and line[0] not in "#@&"]
    width = 1 + len(legends) if legends else max(map(len, body), default=2)
    if any(len(row) != width for row in body):
        raise ValueError(f"a row has not {width} columns")
    if legends:
        column = next((k for k, legend in legends.items() if legend == (wanted or _GROMACS)), None)
        if column is None:
            raise DataError(f"{name} has no column {wanted or _GROMACS!r}; it has {', '.join(legends.values())}")
    else:
        require(
            isinstance(wanted, int) and 1 <= wanted < width,
            f"{name} has no legends, so that its column of the potential energy is not known: pass column=, from 1 "
            f"(the first after the time) to {width - 1}, or write it again without -xvg none",
        )
        column = int(wanted or 0) - 1
    axis = next((m[1] for line in text if (m := re.match(r'@\s+yaxis\s+label\s+"(.*)"', line))), "")
    stated = re.findall(r"\(([^()]*)\)", axis)
    if not stated and not axis and units is not None:
        asked = resolve(units) or {}
        require("energy" in asked, f"units= of {name} must state energy", UnitsError)
        unit = asked["energy"]
    else:
        require(
            len(stated) == 1 or column < len(stated),
            f"{name} does not state the unit of its potential energy: the label of its y axis is {axis!r}"
            + ("" if axis else "; pass units='gromacs' if gmx energy wrote it"),
            UnitsError,
        )
        _stated(name, units)
        unit = stated[0] if len(stated) == 1 else stated[column]
    x_label = next((m[1] for line in text if (m := re.match(r'@\s+xaxis\s+label\s+"(.*)"', line))), None)
    require(
        x_label == "Time (ps)" or (x_label is None and not text),  # without any labels, times are those of gmx: ps
        f"the x axis of {name} is not 'Time (ps)'; write it without -xvg none and in ps",
        UnitsError,
    )
    return _table(
        name, [float(row[1 + column]) for row in body], factor(unit, "energy"), None, [float(row[0]) for row in body]
    )


def _lammps(lines: list[str], name: str, units: str | Mapping[str, str] | None, wanted: str) -> EnergyTable:
    steps: list[int] = []
    energies: list[float] = []
    head: list[str] | None = None
    block, minimised, minimising = 0, 0, False
    own = None
    for line in lines:
        words = line.split()
        if line.startswith("keywords:"):  # thermo_style yaml
            words = re.findall(r"[^\s,'\[\]]+", line)[1:]
        elif line.lstrip().startswith("- ["):
            words = re.findall(r"[^\s,\[\]]+", line)[1:]
        if words[:1] == ["units"] and len(words) == 2 and own is None:
            own = words[1]
        elif re.match(r"Setting up .*style minimization", line):
            minimising = True
        elif "Step" in words and wanted in words:
            head, block = words, len(steps)
        elif words[:2] == ["Loop", "time"] or words[:2] == ["Minimization", "stats:"]:
            if minimising or words[0] == "Minimization":
                minimised += len(steps) - block
                del steps[block:], energies[block:]
            head, minimising = None, False
        elif head is not None:
            try:
                row = [float(word) for word in words]
            except ValueError:
                continue  # a warning between the rows
            if len(row) == len(head):
                steps.append(int(words[head.index("Step")]))
                energies.append(row[head.index(wanted)])
    if minimising:  # a run that was killed while it minimised
        minimised += len(steps) - block
        del steps[block:], energies[block:]
    require(
        steps or minimised,
        f"{name} has no table with the columns Step and {wanted}; add them to thermo_style (read as a LAMMPS log, "
        "because it is not a table of OpenMM, GROMACS or AMBER)",
    )
    require(steps, f"{name} holds the {minimised} rows of a minimisation only")
    if minimised:
        _say(f"{minimised} rows of {name} belong to a minimisation and are left out")
    return _table(name, energies, factor(_lammps_unit(name, units, own), "energy"), steps, None)


def _lammps_unit(name: str, units: str | Mapping[str, str] | None, own: str | None) -> str:
    asked, stated = resolve(units), _LAMMPS_UNITS.get(own or "")
    if asked is None and stated is not None:
        return stated["energy"]
    if asked is None or "energy" not in asked:
        raise UnitsError(
            f"a LAMMPS log states no units: pass units= for {name}, for example 'charmm' for `units real`"
            if own is None
            else f"{name} has `units {own}`: pass units= with the energy in eV, for example {{'energy': 'meV'}}"
        )
    require(
        stated is None or factor(stated["energy"]) == factor(asked["energy"]),
        f"{name} has `units {own}`, and units= states {asked['energy']}; leave out units=",
        UnitsError,
    )
    return asked["energy"]


def _amber(lines: list[str], name: str, wanted: str) -> EnergyTable:
    steps: list[int] = []
    times: list[float] = []
    energies: list[float] = []
    head: tuple[int, float] | None = None
    averages = False
    for line in lines:
        if re.search(r"A V E R A G E S|R M S  F L U C", line):  # a block of the same form follows
            averages = True
        elif match := re.match(r"\s*NSTEP\s*=\s*(\d+)\s+TIME\(PS\)\s*=\s*(\S+)", line):
            head, averages = None if averages else (int(match[1]), float(match[2])), False
        elif head is not None and (match := re.search(rf"\b{re.escape(wanted)}\s*=\s*(\S+)", line)):
            steps.append(head[0])
            times.append(head[1])
            energies.append(float("nan") if "*" in match[1] else float(match[1]))
            head = None
    require(steps, f"{name} has no rows with NSTEP, TIME(PS) and {wanted}; was it a minimisation?")
    return _table(name, energies, factor("kcal/mol", "energy"), steps, times)


__all__ = ["read_energies"]
