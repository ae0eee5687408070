"""All-atom trajectories with forces, read in chunks through MDAnalysis and converted to internal units.

MDAnalysis returns positions in Å, forces in kJ/mol/Å and times in ps for TRR (stored in nm, kJ/mol/nm), AMBER NetCDF
(Å, kcal/mol/Å) and H5MD (units stated in the file), in single precision; for LAMMPS dumps it returns the numbers as
they stand. A cell is returned as lengths and angles.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import DataError, MissingDependencyError, UnitsError, require
from ..frames import Frames
from ..units import quantity_factor, resolve
from .atoms import AtomFrames, BeadMap, make_whole
from .declared import FORCELESS, FORMATS, Declared, declared, h5md_energies, h5md_fixed, reading
from .energies import EnergyTable, Join


class Trajectory:
    """A trajectory of positions and forces in one file or several, opened but not read.

    Parameters
    ----------
    paths
        TRR, AMBER NetCDF, H5MD or LAMMPS dump: a file, a list of files in order, or a folder of a
        :class:`~kernelfe.allatom.ForceReporter`.
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
        Required for LAMMPS dumps, which state none (``units real``: ``"charmm"``; ``units metal``: ``"ase"``), and
        refused for all others, which do.
    stride
        Keep every so-many-th frame.
    whole
        Put molecules together across periodic boundaries, along the bonds of the topology.

    Attributes
    ----------
    n_atoms : int
        Kept atoms.
    names : list of str or None
        ``RESIDUE:ATOM``, from the topology or the files of a ForceReporter.
    masses : ndarray or None
        Masses that the topology or an H5MD file states, u; none are guessed.
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
        can hold, or the selection is empty or cannot be read.
    UnitsError
        If units are missing, or given where the file states them.
    """

    def __init__(
        self,
        paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        topology: str | os.PathLike[str] | None = None,
        *,
        selection: str = "all",
        energies: EnergyTable | ArrayLike | None = None,
        units: str | Mapping[str, str] | None = None,
        stride: int = 1,
        whole: bool = False,
    ):
        self._paths = _files(paths)
        self._formats = [_format(path) for path in self._paths]
        self._declared = [declared(path, form) for path, form in zip(self._paths, self._formats, strict=True)]
        if len({found.n_atoms for found in self._declared}) > 1:
            raise DataError("the files hold different numbers of atoms: " + ", ".join(p.name for p in self._paths))
        self._factors = self._conversion(units)
        self._universe = self._topology(topology, self._declared[0].n_atoms)
        first = self._paths[0] if self._formats[0] == "H5MD" else None
        self._fixed = {} if first is None else h5md_fixed(first, self._declared[0].n_atoms)
        if topology is None and "names" in self._fixed:
            self._universe.add_TopologyAttr("names", [name.partition(":")[2] for name in self._fixed["names"]])
        self._kept = self._selected(selection)
        self.n_atoms = len(self._kept)
        self.names, self.masses, self.bonds, self.constraints = self._described()
        if whole and self.bonds is None:
            raise DataError("whole=True needs a topology with bonds")
        require(stride >= 1, f"stride={stride} must be at least 1")
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
            As in :meth:`chunks` and :meth:`BeadMap.frames`.
        """
        return Frames.concatenate([bead_map.frames(part, temperature) for part in self.chunks(chunk)])

    # ------------------------------------------------------------------ inside

    def _conversion(self, units: str | Mapping[str, str] | None) -> tuple[float, float]:
        """Factors of lengths and forces."""
        stating = [path.name for path, form in zip(self._paths, self._formats, strict=True) if form != "LAMMPSDUMP"]
        if stating:
            if units is not None:
                raise UnitsError(f"{stating[0]} states its units; leave out units=")
            require(
                len(stating) >= len(self._paths),
                "LAMMPS dumps and files that state their units cannot be read together",
            )
            units = "mdanalysis"
        elif units is None:
            raise UnitsError(
                "LAMMPS dumps state no units: pass units=, for example 'charmm' for `units real` (kcal/mol, Å) or "
                "'ase' for `units metal` (eV, Å)"
            )
        asked = resolve(units)
        return quantity_factor(asked, "positions", "Å"), quantity_factor(asked, "forces", "eV/Å")

    @staticmethod
    def _topology(topology: str | os.PathLike[str] | None, n_atoms: int) -> Any:
        mda = _mdanalysis()
        if topology is None:
            return mda.Universe.empty(n_atoms)
        require(os.path.isfile(topology), f"{topology} does not exist; check the path")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                universe = mda.Universe(
                    os.fspath(topology), to_guess=()
                )  # masses guessed from elements are not stated ones
        except (Exception, MemoryError) as error:  # its parsers raise many kinds
            raise DataError(f"{Path(topology).name} is not readable as a topology ({error})") from error
        if len(universe.atoms) != n_atoms:
            raise DataError(f"{Path(topology).name} has {len(universe.atoms)} atoms and the trajectory {n_atoms}")
        return universe

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
        energies = None if array is None else np.asarray(array, float).reshape(-1)
        for path, form, found in zip(self._paths, self._formats, self._declared, strict=True):
            stored = self._stored_energies(path, form)
            for place, row in enumerate(self._rows(path, form, found)):
                seen += 1
                if (seen - 1) % self._stride:
                    continue
                if row is None:
                    self.skipped += 1
                    continue
                if stored is not None:
                    require(place < len(stored), f"{path.name} holds {len(stored)} energies and more frames")
                    row["energies"] = stored[place]
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

    def _rows(self, path: Path, form: str, found: Declared) -> Iterator[dict[str, Any] | None]:
        """One frame after the other in internal units; None for those without positions or forces."""
        mda = _mdanalysis()
        length, force = self._factors
        options = dict(found.options) | ({"refresh_offsets": True} if form == "TRR" else {})  # trust no file beside it
        with reading(path, form):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                universe = mda.Universe.empty(found.n_atoms)
                universe.load_new(os.fspath(path), format=form, **options)
            for ts in universe.trajectory:
                if not (ts.has_positions and ts.has_forces):
                    yield None
                    continue
                row = {
                    "positions": ts.positions[self._kept].astype(float) * length,
                    "forces": ts.forces[self._kept].astype(float) * force,
                    "steps": ts.data.get("step"),
                    "times": _stated_time(ts, form),
                }
                if found.periodic is not False and ts.dimensions is not None and ts.dimensions[:3].any():
                    row["cell"] = np.array(ts.triclinic_dimensions, float) * length
                yield row
            universe.trajectory.close()

    def _stored_energies(self, path: Path, form: str) -> NDArray[np.float64] | None:
        return h5md_energies(path) if self._energies is None and form == "H5MD" else None

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


def _stated_time(ts: Any, form: str) -> float | None:
    """Time of a frame, None where the file holds none: MDAnalysis then counts frames, or takes 1 ps per step."""
    return float(ts.time) if form != "LAMMPSDUMP" and "time" in ts.data else None


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


def _format(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix in FORCELESS:
        raise DataError(
            f"{path.name}: {suffix[1:].upper()} files hold no forces; run again writing TRR (GROMACS: nstfout), NetCDF "
            "(AMBER: ntwf), a LAMMPS dump with fx fy fz, or with kernelfe.allatom.ForceReporter (OpenMM)"
        )
    require(suffix in FORMATS, f"{path.name}: unknown format; with forces there are {', '.join(FORMATS)}")
    return FORMATS[suffix]


def _mdanalysis() -> Any:
    try:
        import MDAnalysis
    except ImportError:
        raise MissingDependencyError("reading trajectories needs MDAnalysis; install kernelfe[mdanalysis]") from None
    return MDAnalysis
