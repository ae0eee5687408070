"""OpenMM reporter of forces and energies that writes complete H5MD files.

A run writes a folder of ``part-000000.h5md``, ``part-000001.h5md`` …, every one written aside and moved into place: an
interrupted run leaves whole files and loses only the frames since the last of them. Positions (nm) and forces
(kJ/mol/nm) are in single precision, energies in double; MDAnalysis and :class:`kernelfe.allatom.Trajectory` read them.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, MissingDependencyError, require
from ..files.atomic import atomic_write


class ForceReporter:
    """Report positions, forces, potential energies, cell, time and step of an OpenMM ``Simulation``.

    OpenMM's forces do not contain those of constraints. Forces of virtual sites are reported as zero, because OpenMM
    has already given them to the atoms that carry the site: a sum over a group that holds both would count them twice.
    Keep the reporter out of minimisation, and use it as a context manager, or call :meth:`close` at the end.

    Parameters
    ----------
    folder
        Where the parts go; made if it does not exist.
    interval
        Steps between reports.
    groups
        Force groups (0…31) whose forces and energies are reported; None: all. Put restraints into a group of their own
        and leave it out: with the restraint's force the mean force vanishes.
    frames_per_file
        Frames that an interruption can cost, and that are held in memory.
    append
        Go on after the parts that are there, instead of refusing the folder.

    Raises
    ------
    MissingDependencyError
        If h5py is not installed.
    DataError
        If a number is out of range, or the folder holds parts already.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        interval: int,
        *,
        groups: Collection[int] | None = None,
        frames_per_file: int = 100,
        append: bool = False,
    ):
        try:
            import h5py  # noqa: F401  # before the run, not at its first report
        except ImportError:
            raise MissingDependencyError("ForceReporter writes H5MD; install kernelfe[mdanalysis]") from None
        require(
            min(interval, frames_per_file) >= 1,
            f"interval={interval} and frames_per_file={frames_per_file} must be at least 1",
        )
        if groups is not None and (not groups or not all(0 <= group <= 31 for group in groups)):
            raise DataError(f"groups={groups!r} must be force groups, from 0 to 31")
        self.interval, self.groups = interval, None if groups is None else {int(group) for group in groups}
        self._parts = _Parts(Path(folder), frames_per_file, append)
        self._finalize = weakref.finalize(self, self._parts.flush)  # also the rest at the end of the interpreter

    def describeNextReport(self, simulation: Any) -> dict[str, Any]:
        """Steps to the next report; the state is asked for in :meth:`report`, for its force groups."""
        return {"steps": self.interval - simulation.currentStep % self.interval, "periodic": False, "include": []}

    def report(self, simulation: Any, state: Any) -> None:
        """Keep one frame, and write a part when there are enough."""
        from openmm import unit

        if self._parts.fixed is None:
            self._parts.fixed = _fixed(simulation)
        options: dict[str, Any] = {} if self.groups is None else {"groups": self.groups}
        state = simulation.context.getState(positions=True, forces=True, energy=True, **options)
        forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
        forces = np.where(self._parts.fixed["virtual"][:, None], 0.0, forces)
        periodic = simulation.system.usesPeriodicBoundaryConditions()
        box = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.nanometer) if periodic else None
        energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
        if not (np.isfinite(energy) and np.isfinite(forces).all()):
            raise DataError(f"the energy or a force is not finite at step {simulation.currentStep}: the run blew up")
        self._parts.add(
            {
                "positions": state.getPositions(asNumpy=True).value_in_unit(unit.nanometer).astype(np.float32),
                "forces": forces.astype(np.float32),
                "energies": energy,
                "times": state.getTime().value_in_unit(unit.picosecond),
                "steps": int(simulation.currentStep),
                "boxes": box,
            }
        )

    def flush(self) -> None:
        """Write the frames that are held in memory as one part."""
        self._parts.flush()

    def close(self) -> None:
        """Write what is left."""
        self._parts.flush()

    def __enter__(self) -> ForceReporter:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


class _Parts:
    """Frames in memory, and the files they go to."""

    def __init__(self, folder: Path, size: int, append: bool):
        folder.mkdir(parents=True, exist_ok=True)
        there = sorted(folder.glob("part-*.h5md"))
        require(
            not (there and not append),
            f"{folder} holds {len(there)} parts of an earlier run; choose another folder or append=True",
        )
        self.folder, self.size = folder, size
        self.number = int(there[-1].stem.removeprefix("part-")) + 1 if there else 0
        self.rows: list[dict[str, Any]] = []
        self.fixed: dict[str, np.ndarray] | None = None

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        if len(self.rows) >= self.size:
            self.flush()

    def flush(self) -> None:
        if not self.rows:
            return
        with atomic_write(self.folder / f"part-{self.number:06d}.h5md") as aside:
            _write(aside, self.rows, self.fixed or {})
        self.number, self.rows = self.number + 1, []


def _fixed(simulation: Any) -> dict[str, np.ndarray]:
    """Constants of a run: masses, names, bonds, constraints, and which particles are virtual sites."""
    from openmm import unit

    system, topology = simulation.system, simulation.topology
    count = system.getNumParticles()
    fixed = {
        "masses": np.array([system.getParticleMass(k).value_in_unit(unit.dalton) for k in range(count)]),
        "virtual": np.array([system.isVirtualSite(k) for k in range(count)], bool),
        "constraints": np.array(
            [system.getConstraintParameters(k)[:2] for k in range(system.getNumConstraints())], np.int64
        ).reshape(-1, 2),
    }
    if topology is not None and topology.getNumAtoms() == count:
        names = [f"{atom.residue.name}:{atom.name}" for atom in topology.atoms()]
        fixed["names"] = np.array([name.encode() for name in names] or [b""])
        fixed["bonds"] = np.array([(b[0].index, b[1].index) for b in topology.bonds()], np.int64).reshape(-1, 2)
    return fixed


def _write(path: Path, rows: list[dict[str, Any]], fixed: dict[str, np.ndarray]) -> None:
    """One H5MD file; names and units as the specification (de Buyl et al. 2014) and MDAnalysis have them."""
    import h5py

    steps = np.array([row["steps"] for row in rows], np.int64)
    times = np.array([row["times"] for row in rows])

    def element(parent: Any, name: str, values: np.ndarray, unit: str) -> None:
        group = parent.create_group(name)
        group["step"] = steps
        group["time"] = times
        group["time"].attrs["unit"] = "ps"
        group["value"] = values
        group["value"].attrs["unit"] = unit

    with h5py.File(path, "w") as file:
        about = file.create_group("h5md")
        about.attrs["version"] = np.array([1, 1])
        about.create_group("author").attrs["name"] = "unknown"
        about.create_group("creator").attrs["name"] = "kernelfe"
        about["creator"].attrs["version"] = "1"
        particles = file.create_group("particles/trajectory")
        box = particles.create_group("box")
        periodic = rows[0]["boxes"] is not None
        box.attrs["dimension"] = 3
        box.attrs["boundary"] = np.array([b"periodic" if periodic else b"none"] * 3)
        if periodic:
            element(box, "edges", np.array([row["boxes"] for row in rows]), "nm")
        element(particles, "position", np.array([row["positions"] for row in rows]), "nm")
        element(particles, "force", np.array([row["forces"] for row in rows]), "kJ mol-1 nm-1")
        element(file, "observables/potential_energy", np.array([row["energies"] for row in rows]), "kJ mol-1")
        if "masses" in fixed:
            particles["mass"] = fixed["masses"]
            particles["mass"].attrs["unit"] = "u"
        for name in ("names", "bonds", "constraints"):
            if name in fixed:
                file[f"parameters/kernelfe/{name}"] = fixed[name]
