"""All-atom trajectories with forces, read in chunks and converted to internal units.

The readers of single formats are in :mod:`kernelfe.allatom.formats`; topologies and selections are MDAnalysis's.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arrays import real_array
from ..errors import DataError, UnitsError, require
from ..files.text import reader_warnings
from ..frames import Frames
from ..statistics import check_force_map
from ..units import factor, quantity_factor, resolve
from .atoms import AtomFrames, BeadMap, make_whole
from .energies import EnergyTable, Join
from .formats.base import Row, TrajectoryFile, joined
from .formats.registry import open_trajectory
from .formats.trr import mdanalysis, named_universe


class Trajectory:
    """A trajectory of positions and forces in one file or several, opened but not read.

    Parameters
    ----------
    paths
        TRR, AMBER NetCDF, H5MD or LAMMPS dump: a file, a list of files in order, or a folder of a
        :class:`~kernelfe.allatom.ForceReporter`. Dumps may be compressed (``.gz``, ``.bz2``, ``.xz``). A dict of files
        of coordinates to files of forces where AMBER writes them apart (``{"md.nc": "md.mdfrc"}``): frames are matched
        by time; formatted files, which have no times, one by one.
    topology
        Any topology file of MDAnalysis (PDB, GRO, PSF, PRMTOP, TPR, DATA …). None: selections go by index, or by the
        atom names that a ForceReporter keeps.
    selection
        Atoms to keep, in MDAnalysis's syntax. All indices elsewhere count these atoms.
    energies
        Potential energies: an :class:`~kernelfe.allatom.EnergyTable`, which is matched by step or time, or (n,) in eV,
        one per kept frame. None: those of H5MD files, where there are any. A table that fits no frame is refused, one
        that fits some of them causes a warning with their number.
    units
        Required for files that state none, as LAMMPS's dumps and H5MD files (``units real``: ``"charmm"``;
        ``units metal``: ``"ase"``), and refused for those that do.
    stride
        Keep every so-many-th frame.
    whole
        Put molecules together across periodic boundaries, along the bonds of the topology.
    format
        ``"trr"``, ``"netcdf"``, ``"h5md"``, ``"lammps"`` or ``"mdcrd"`` for all files. None: by suffix, or by what the
        file begins with (``dump.100``, ``.dat``).

    Attributes
    ----------
    n_atoms : int
        Kept atoms.
    indices : ndarray
        (n_atoms,), their numbers in the file.
    names : list of str or None
        ``RESIDUE:ATOM``, from the topology or the files of a ForceReporter.
    masses : ndarray or None
        Masses that the topology, an H5MD file or the column ``mass`` of a dump states, u; none are guessed.
    bonds : list of pairs or None
        Bonds between kept atoms, from the topology or the files of a ForceReporter.
    constraints : list of pairs or None
        Constrained distances between kept atoms, from the files of a ForceReporter.
    skipped : int
        Frames that the last complete pass left out because they hold no positions or no forces.
    repeated : int
        Frames that it left out because an earlier frame of the same step or time is equal.

    Raises
    ------
    MissingDependencyError
        If MDAnalysis is not installed.
    DataError
        If a format holds no forces (DCD, XTC …) or is unknown, a file is missing, damaged or declares more than it
        can hold, the system is periodic in some directions only, or the selection is empty or cannot be read.
    UnitsError
        If units are missing, or given where the file states them.
    """

    def __init__(
        self,
        paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Mapping[str, str],
        topology: str | os.PathLike[str] | None = None,
        *,
        selection: str = "all",
        energies: EnergyTable | ArrayLike | None = None,
        units: str | Mapping[str, str] | None = None,
        stride: int = 1,
        whole: bool = False,
        format: str | None = None,
    ):
        self._paths = _files(list(paths) if isinstance(paths, Mapping) else paths)
        others = _files(list(paths.values())) if isinstance(paths, Mapping) else []
        loaded = None if topology is None else _topology(topology)
        known = None if loaded is None else len(loaded.atoms)
        self._files = [open_trajectory(path, format, known) for path in self._paths]
        self._forces = self._force_files(others, format)
        first = self._files[0].head
        if len({file.head.n_atoms for file in (*self._files, *self._forces)}) > 1:
            raise DataError("the files hold different numbers of atoms: " + ", ".join(p.name for p in self._paths))
        if known not in (None, first.n_atoms):
            raise DataError(f"{Path(str(topology)).name} has {known} atoms and the trajectory {first.n_atoms}")
        self._factors = [_factors(file, other, units) for file, other in self._pairs()]
        self._universe = mdanalysis().Universe.empty(first.n_atoms) if loaded is None else loaded
        self._fixed = dict(first.fixed)
        if topology is None and "names" in self._fixed:
            self._universe = named_universe(self._fixed["names"])
        self._kept = self._selected(selection)
        self.n_atoms, self.indices = len(self._kept), self._kept
        self.names, self.masses, self.bonds, self.constraints = self._described()
        if whole and self.bonds is None:
            raise DataError("whole=True needs a topology with bonds")
        whole_number = isinstance(stride, (int, np.integer)) and stride >= 1
        require(whole_number, f"stride={stride} must be a whole number of at least 1")
        self._energies, self._stride, self._whole = energies, stride, whole
        self.skipped = self.repeated = 0

    # ------------------------------------------------------------------ what it is

    def select(self, text: str) -> list[int]:
        """Indices, among the kept atoms, of a selection in MDAnalysis's syntax.

        Raises
        ------
        DataError
            If the selection cannot be read, is empty, or takes an atom that is not kept.
        """
        place = {int(atom): k for k, atom in enumerate(self._kept)}
        chosen = self._selected(text)
        outside = [int(atom) for atom in chosen if int(atom) not in place]
        if outside:
            raise DataError(f"selection {text!r} takes atom {outside[0]}, which is not among the kept atoms")
        return [place[int(atom)] for atom in chosen]

    # ------------------------------------------------------------------ reading

    def chunks(self, size: int = 1000) -> Iterator[AtomFrames]:
        """All kept frames that hold positions and forces, at most ``size`` at a time.

        Raises
        ------
        DataError
            If a file is damaged, no frame holds forces, a number is not finite, or energies do not fit the frames.
        """
        _require_opened(self)
        require(size >= 1, f"chunks of {size} frames; at least 1")
        rows: list[dict[str, Any]] = []
        join, given = self._join(), 0
        for row in self._kept_rows():
            rows.append(row)
            if len(rows) == size:
                yield self._chunk(rows, given, join)
                given, rows = given + len(rows), []
        if rows:
            yield self._chunk(rows, given, join)
            given += len(rows)
        if not given:
            raise DataError(
                f"no frame of {', '.join(p.name for p in self._paths)} holds positions and forces; GROMACS writes "
                "forces every nstfout steps"
            )
        if isinstance(join, Join):
            join.finish()

    def read(self) -> AtomFrames:
        """All kept frames at once; errors as in :meth:`chunks`."""
        _require_opened(self)
        return AtomFrames.concatenate(self.chunks())

    def to_frames(self, bead_map: BeadMap, temperature: float, chunk: int = 1000) -> Frames:
        """Frames of beads with labels ``mean_force`` and, where energies are known, ``mean_energy``.

        All-atom frames are read and mapped ``chunk`` at a time, so that only the beads are held in memory.

        Parameters
        ----------
        bead_map
            Map from the kept atoms to beads.
        temperature
            K, of the thermostat of the run.
        chunk
            Frames at a time.

        Raises
        ------
        DataError
            As in :meth:`chunks` and :meth:`BeadMap.frames`, or if the map divides a constraint that the files state.
        """
        _require_opened(self)
        if self.constraints and bead_map.force_map.shape[1] == self.n_atoms:
            check_force_map(bead_map.position_map, bead_map.force_map, self.constraints)
        return Frames.concatenate([bead_map.frames(part, temperature) for part in self.chunks(chunk)])

    # ------------------------------------------------------------------ inside

    def _force_files(self, paths: list[Path], form: str | None) -> list[TrajectoryFile]:
        """The files of forces, one per file; none if the files hold forces themselves."""
        n_atoms = self._files[0].head.n_atoms
        opened = [open_trajectory(path, form, n_atoms, of_forces=True) for path in paths]
        for file in opened or self._files:
            require(file.head.forces, f"{file.path.name} holds no forces: {file.head.lacking}")
        return opened

    def _pairs(self) -> list[tuple[TrajectoryFile, TrajectoryFile | None]]:
        """Each file with its file of forces."""
        return list(zip(self._files, self._forces, strict=True)) if self._forces else [(f, None) for f in self._files]

    def _selected(self, text: str) -> NDArray[np.intp]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                chosen = self._universe.select_atoms(text).indices
        except Exception as error:  # SelectionError, and what broken expressions raise
            raise DataError(f"selection {text!r} cannot be read ({error})") from error
        require(len(chosen), f"selection {text!r} takes no atom")
        return np.asarray(chosen, np.intp)

    def _described(self) -> tuple[Any, Any, Any, Any]:
        """Names, masses, bonds and constraints of the kept atoms, from the topology first."""
        atoms, fixed = self._universe.atoms[self._kept], self._fixed
        place = {int(atom): k for k, atom in enumerate(self._kept)}
        names = [fixed["names"][atom] for atom in self._kept] if "names" in fixed else None
        if names is None and hasattr(atoms, "names"):
            residues = atoms.resnames if hasattr(atoms, "resnames") else [""] * len(atoms)
            names = [f"{residue}:{name}" for residue, name in zip(residues, atoms.names, strict=True)]
        masses = np.array(atoms.masses, float) if hasattr(atoms, "masses") else None
        if masses is None and "masses" in fixed:
            masses = fixed["masses"][self._kept]
        pairs = self._universe.bonds.indices.tolist() if hasattr(self._universe, "bonds") else fixed.get("bonds")
        bonds, constraints = (
            None if p is None else [(place[a], place[b]) for a, b in p if a in place and b in place]
            for p in (pairs, fixed.get("constraints"))
        )
        return names, masses, bonds, constraints

    def _kept_rows(self) -> Iterator[dict[str, Any]]:
        """Kept frames with positions and forces; those that a restarted run wrote twice, once."""
        seen = self.skipped = self.repeated = number = 0
        told: set[int] = set()
        array = None if self._energies is None or isinstance(self._energies, EnergyTable) else self._energies
        energies = None if array is None else real_array(array, "energies", "eV").reshape(-1)
        for (file, other), factors in zip(self._pairs(), self._factors, strict=True):
            for found in file.rows() if other is None else joined(file, other):
                seen += 1
                if (seen - 1) % self._stride:
                    continue
                if found.positions is None or found.forces is None:
                    self.skipped += 1
                    continue
                if found.energy is not None and self._energies is None and math.isnan(factors[2]):
                    raise DataError(
                        f"{file.path.name} states no unit for its potential energies; give energies= as an array"
                    )
                row = self._converted(found, *factors)
                if energies is not None:
                    require(
                        number < len(energies),
                        f"energies= holds {len(energies)} numbers, fewer than there are frames",
                    )
                    row["energies"] = energies[number]
                number += 1
                stamp = (row["steps"], row["times"])
                once = hash((stamp, row["positions"].tobytes(), row["forces"].tobytes()))
                if once in told and stamp != (None, None):
                    self.repeated += 1
                    continue
                told.add(once)
                yield row
        require(
            energies is None or number in (0, len(energies)),
            f"energies= holds {0 if energies is None else len(energies)} numbers for {number} frames",
        )
        if self.repeated:
            warnings.warn(
                f"{self.repeated} of {number} frames repeat an earlier one, as restarts write them; they are left out",
                stacklevel=3,
            )

    def _join(self) -> Join | NDArray[np.float64] | None:
        """Join of frames and table, or the energies of all frames if they depend on the order of the frames."""
        if not isinstance(self._energies, EnergyTable):
            return None
        join = Join(self._energies)
        if not self._energies.restarted:
            return join
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the second pass repeats them
            stamps = [(row["steps"], row["times"]) for row in self._kept_rows()]
        steps, times = (
            (
                None if not stamps or any(v is None for v in column) else np.array(column, dtype)
                for column, dtype in zip(zip(*stamps, strict=True), (np.int64, float), strict=True)
            )
            if stamps
            else (None, None)
        )
        energies = join(steps, times) if stamps else np.zeros(0)
        if stamps:
            join.finish()
        return energies

    def _converted(self, row: Row, length: float, force: float, energy: float) -> dict[str, Any]:
        """The kept atoms of a frame in internal units."""
        found = {
            "positions": np.asarray(row.positions)[self._kept].astype(float) * length,
            "forces": np.asarray(row.forces)[self._kept].astype(float) * force,
            "steps": row.step,
            "times": row.time,
            "energies": row.energy * energy if self._energies is None and row.energy is not None else None,
        }
        if row.cell is not None:
            found["cell"] = row.cell * length
        return found

    def _chunk(self, rows: list[dict[str, Any]], first: int, join: Join | NDArray | None) -> AtomFrames:
        def column(name: str, dtype: Any = float) -> Any:
            values = [row.get(name) for row in rows]
            return None if any(v is None for v in values) else np.array(values, dtype)

        part = {name: column(name) for name in ("positions", "forces", "energies", "cell", "times")}
        steps = column("steps", np.int64)
        if part["cell"] is None and any("cell" in row for row in rows):
            raise DataError("some frames have a cell and others have none")
        if self._whole and part["cell"] is not None:
            part["positions"] = make_whole(part["positions"], part["cell"], self.bonds or ())
        for name in ("positions", "forces"):
            bad = np.flatnonzero(~np.isfinite(part[name]).all(axis=(1, 2)))
            if bad.size:
                raise DataError(f"{name} of frame {first + bad[0]} are not finite: the run has blown up, or is damaged")
        if isinstance(join, Join):
            part["energies"] = join(steps, part["times"])
        elif join is not None:
            part["energies"] = join[first : first + len(rows)]
        return AtomFrames(**part, steps=steps)


def _require_opened(trajectory: Any) -> None:
    """Refuse a path where a method is called on the class."""
    require(isinstance(trajectory, Trajectory), "open the files first, as in Trajectory(paths).read()")


def _files(paths: Any) -> list[Path]:
    listed = [Path(paths)] if isinstance(paths, (str, os.PathLike)) else [Path(p) for p in paths]
    files: list[Path] = []
    for path in listed:
        if path.is_dir():
            parts = sorted(path.glob("part-*.h5md"))
            require(parts, f"the folder {path} holds no part-*.h5md of a ForceReporter")
            files += parts
        elif path.is_file():
            files.append(path)
        else:
            raise DataError(f"{path} does not exist; check the path")
    require(files, "no trajectory file given")
    return files


def _factors(file: TrajectoryFile, forces: TrajectoryFile | None, units: Any) -> tuple[float, float, float]:
    """Factors of lengths, forces and energies (NaN: unknown), from what the files state or else from ``units``."""
    name, stated = file.path.name, dict(file.head.units)
    if forces is not None:
        stated = {key: unit for key, unit in stated.items() if key == "length"} | {
            key: unit for key, unit in forces.head.units.items() if key != "length" or "length" not in stated
        }
    whole = "length" in stated and ("force" in stated or "energy" in stated)
    if units is None:
        require(whole, f"{name}: {file.head.lacking}", UnitsError)
        asked = stated
    else:
        require(not whole, f"{name} states its units; leave out units=", UnitsError)
        asked = resolve(units) or {}
        for key, unit in stated.items():
            same = np.isclose(factor(unit, key), factor(asked.get(key, unit), key), rtol=1e-9)
            require(same, f"{name} states its {key} in {unit}, which differs from units=", UnitsError)
        asked = asked | stated
    unit = file.head.energy_unit or (asked.get("energy", "") if units is not None else "")
    energy = factor(unit, "energy") if unit else math.nan
    return quantity_factor(asked, "positions", "Å"), quantity_factor(asked, "forces", "eV/Å"), energy


def _topology(topology: str | os.PathLike[str]) -> Any:
    mda = mdanalysis()
    require(os.path.isfile(topology), f"{topology} does not exist; check the path")
    try:
        with reader_warnings(Path(topology).name):
            return mda.Universe(os.fspath(topology), to_guess=())  # masses guessed from elements are not stated ones
    except (Exception, MemoryError) as error:  # its parsers raise many kinds
        raise DataError(f"{Path(topology).name} is not readable as a topology ({error})") from error
