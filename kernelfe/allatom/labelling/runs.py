"""Files of a run: the trajectory, and the topology and the energies that lie beside it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DataError, KernelfeError, UnitsError, require
from ..energies import EnergyTable
from ..energy_files import read_energies
from ..formats.registry import by_suffix
from ..trajectory import Trajectory

#: Suffixes of topologies, those that state masses and bonds first.
_TOPOLOGIES = (".tpr", ".prmtop", ".parm7", ".psf", ".data", ".gro", ".pdb")
#: Suffixes of tables of energies.
_ENERGIES = (".edr", ".xvg", ".csv", ".mdout", ".out", ".log", ".lammps")
#: Suffixes of AMBER's files of forces, which go with a file of coordinates.
_FORCES = (".mdfrc", ".frc")
#: Names of LAMMPS's systems of units.
LAMMPS_UNITS = {"real": "charmm", "metal": "ase"}


@dataclass(frozen=True)
class Run:
    """One simulation at one temperature.

    Attributes
    ----------
    paths
        Files of the trajectory in order, or the folder of a ForceReporter.
    temperature
        K, of the thermostat.
    topology, energies, forces
        Files, or None; forces only where they are in a file of their own.
    units
        Of a LAMMPS run: "real", "metal" or a system of units; None for files that state theirs.
    found
        True if the file of energies was found, not given: one that cannot be read is then left out.
    """

    paths: tuple[str, ...]
    temperature: float
    topology: str | None = None
    energies: str | None = None
    forces: str | None = None
    units: Any = None
    found: bool = False

    @property
    def name(self) -> str:
        """Short name."""
        return Path(self.paths[0]).name

    def table(self) -> tuple[EnergyTable | None, str | None]:
        """Energies of the run, and a remark if a file was found that is of no use.

        Raises
        ------
        DataError, UnitsError
            If a file that was given cannot be read.
        """
        if self.energies is None:
            return None, None
        try:
            try:
                return read_energies(self.energies), None
            except UnitsError:
                if self.units is None:
                    raise
                return read_energies(self.energies, units=self._system()), None
        except KernelfeError as error:
            if not self.found:
                raise
            return None, f"{Path(self.energies).name} lies beside {self.name} and was not used: {error}"

    def open(self, selection: str = "all", stride: int = 1, energies: EnergyTable | None = None) -> Trajectory:
        """The trajectory, of a selection of its atoms."""
        return Trajectory(
            self.paths if self.forces is None else {self.paths[0]: self.forces},
            self.topology,
            selection=selection,
            energies=energies,
            units=self._system(),
            stride=stride,
        )

    def _system(self) -> Any:
        return LAMMPS_UNITS.get(self.units, self.units) if isinstance(self.units, str) else self.units


def find_run(
    path: str | os.PathLike[str],
    temperature: float,
    *,
    topology: str | os.PathLike[str] | None = None,
    energies: str | os.PathLike[str] | None = None,
    units: Any = None,
) -> Run:
    """A run from a trajectory file or a folder; topology and energies are looked for where they are not given.

    Of a file, those beside it with its name are taken: ``md.tpr`` and ``md.edr`` of ``md.trr``. Of a folder, all its
    trajectories in the order of their names, and the only topology and the only table of energies in it.

    Parameters
    ----------
    path
        A trajectory, a folder of a ForceReporter, or a folder of one run.
    temperature
        K.
    topology, energies
        Files; None: found, where there are any.
    units
        For LAMMPS: "real", "metal", or a system of units.

    Raises
    ------
    DataError
        If the path does not exist, a folder holds no trajectory or trajectories of several formats, or several files
        could be meant.
    """
    place = Path(path)
    require(place.exists(), f"{place} does not exist; check the path")
    given = None if topology is None else os.fspath(topology), None if energies is None else os.fspath(energies)
    if place.is_dir() and any(place.glob("part-*.h5md")):
        return Run((str(place),), float(temperature), *given, units=units)
    if place.is_dir():
        inside = sorted(p for p in place.iterdir() if p.is_file())
        files = [p for p in inside if by_suffix(p)]
        require(files, f"the folder {place} holds no trajectory by its suffix; name the file, as in {place}/dump.100")
        require(
            len({by_suffix(p) for p in files}) == 1,
            f"the folder {place} holds trajectories of several formats; name one of them",
        )
    else:
        files = [place]
        inside = sorted(p for p in place.parent.iterdir() if p.is_file() and p.stem == place.stem)
    others = [p for p in inside if p not in files]
    return Run(
        tuple(map(str, files)),
        float(temperature),
        given[0] or _only(others, _TOPOLOGIES),
        given[1] or _only(others, _ENERGIES),
        _only(others, _FORCES) if len(files) == 1 else None,
        units,
        found=energies is None,
    )


def _only(files: Sequence[Path], suffixes: Sequence[str]) -> str | None:
    """The one file with the first of the suffixes that occurs.

    Raises
    ------
    DataError
        If several files have it.
    """
    for suffix in suffixes:
        found = [str(p) for p in files if p.suffix.lower() == suffix]
        if len(found) > 1:
            raise DataError(f"several files could be meant: {', '.join(found)}; name one (--topology, --energies)")
        if found:
            return found[0]
    return None
