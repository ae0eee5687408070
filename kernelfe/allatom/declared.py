"""Sizes that a trajectory file declares, checked before a reader allocates memory by them.

NetCDF files are opened with SciPy's reader and errors of readers are translated. Their own checks do not suffice for TRR
(https://github.com/MDAnalysis/mdanalysis/issues/2170), for H5MD, whose links lead out of the file, and for LAMMPS dumps,
where MDAnalysis allocates by the declared number of atoms and ignores missing ids and the flags of the boundaries.
"""

from __future__ import annotations

import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, KernelfeError
from ..files.hdf5 import dataset, member, open_hdf5
from ..files.npz import MAX_BYTES
from ..units import factor

#: Suffix to the name that MDAnalysis has for the format.
FORMATS = {
    ".trr": "TRR",
    ".nc": "NCDF",
    ".ncdf": "NCDF",
    ".h5md": "H5MD",
    ".h5": "H5MD",
    ".dump": "LAMMPSDUMP",
    ".lammpsdump": "LAMMPSDUMP",
    ".lammpstrj": "LAMMPSDUMP",
}
#: Formats that hold no forces, by suffix.
FORCELESS = {".dcd", ".xtc", ".pdb", ".gro", ".xyz", ".mdcrd", ".trj", ".tng", ".crd", ".rst7"}


#: Magic number, length of the name, and the name of the format, which XDR prefixes with its own length.
_TRR_MAGIC = struct.pack(">3i", 1993, 13, 12) + b"GMX_trn_file"


@dataclass(frozen=True)
class Declared:
    """Number of atoms, whether the system is periodic (None: unknown before reading), options of MDAnalysis's reader."""

    n_atoms: int
    periodic: bool | None = None
    options: tuple[tuple[str, Any], ...] = ()


def declared(path: Path, form: str) -> Declared:
    """Check the head of a file.

    Raises
    ------
    DataError
        If it has another format, lacks forces, or declares more atoms than it has bytes for.
    """
    with reading(path, form):
        return {"TRR": _trr, "NCDF": _netcdf, "H5MD": _h5md, "LAMMPSDUMP": _lammps}[form](path)


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


def _require(ok: Any, path: Path, fault: str) -> None:
    if not ok:
        raise DataError(f"{path.name} {fault}")


def _require_bytes(path: Path, atoms: int, limit: int | None = None) -> int:
    size = path.stat().st_size
    fault = f"declares {atoms} atoms in {size} bytes; it is damaged, hostile or empty"
    _require(0 < 12 * atoms <= (size if limit is None else limit), path, fault)
    return atoms


def _trr(path: Path) -> Declared:
    """Check every header of a TRR file: on inconsistent ones MDAnalysis's C code reads outside its memory."""
    size, at, atoms = path.stat().st_size, 0, 0
    with open(path, "rb") as handle:
        while at < size:
            handle.seek(at)
            head = handle.read(76)
            if at and len(head) < 76:
                break  # a run that was killed
            if len(head) < 76 or head[:24] != _TRR_MAGIC:
                raise DataError(f"{path.name} has no TRR header at byte {at}; it is not a TRR file, or is damaged")
            ir, e, box, vir, pres, top, sym, *vectors, count, _, _ = struct.unpack_from(">13i", head, 24)
            if not at:
                atoms = _require_bytes(path, count)
            tensors, lengths = (box, vir, pres), (0, 3 * atoms)
            real = next((n // of for of, ns in ((9, tensors), (3 * atoms, vectors)) for n in ns if n), 4)
            good = real in (4, 8) and count == atoms and not (ir or e or top or sym)
            good = good and all(n in (0, 9 * real) for n in tensors)
            if not (good and all(n in {length * real for length in lengths} for n in vectors)):
                raise DataError(f"{path.name} has an inconsistent header at byte {at}; it is damaged or hostile")
            at += 76 + 2 * real + sum(tensors) + sum(vectors)
    return Declared(_require_bytes(path, atoms))


def _netcdf(path: Path) -> Declared:
    from scipy.io import netcdf_file

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a map that is closed while arrays refer to it
        with netcdf_file(path, "r", mmap=True) as file:
            atoms, names = int(file.dimensions["atom"]), set(file.variables)
    _require("forces" in names, path, "holds no forces; run AMBER with ntwf")
    return Declared(_require_bytes(path, atoms))


def _h5md(path: Path) -> Declared:
    with open_hdf5(path) as file:
        group = h5md_group(file)
        have = set(group)
        _require({"position", "force"} <= have, path, f"holds {sorted(have)}; both position and force are needed")
        for name in sorted(have & {"position", "force", "velocity"}):
            for part in ("value", "step", "time"):
                if part in member(group, name):
                    dataset(group, f"{name}/{part}", frame_limit=1)
        atoms = int(dataset(group, "position/value", frame_limit=1).shape[1])
        box = member(group, "box")
        periodic = "edges" in box
        if periodic:
            dataset(box, "edges/value", frame_limit=1)
            _require_triangular(dataset(box, "edges/value"), path)
        if "observables" in file:
            _require_plain(member(file, "observables"))
    return Declared(_require_bytes(path, atoms, MAX_BYTES // 2), periodic)


def _require_plain(group: Any) -> None:
    """Everything below the observables, which MDAnalysis reads with every frame, is a plain dataset of few bytes."""
    for name in group:
        node = member(group, name)
        if hasattr(node, "keys"):
            _require_plain(node)
        else:
            dataset(group, name, frame_limit=1)


def h5md_group(file: Any) -> Any:
    """The first group of particles, which is the one that MDAnalysis reads."""
    particles = member(file, "particles")
    return member(particles, next(iter(particles)))


def h5md_energies(path: Path) -> np.ndarray | None:
    """Potential energies (n,) in eV of an H5MD file that states their unit; None if it has none."""
    with open_hdf5(path) as file:
        if "observables" not in file or "potential_energy" not in member(file, "observables"):
            return None
        values = dataset(file, "observables/potential_energy/value")
        unit = values.attrs.get("unit")
        _require(unit is not None, path, "states no unit for its potential energies; give energies= as an array")
        unit = unit.decode() if isinstance(unit, bytes) else str(unit)
        return np.asarray(values[()], float) * factor(unit, "energy")


def h5md_fixed(path: Path, n_atoms: int) -> dict[str, Any]:
    """Masses, and the names, bonds and constraints that a ForceReporter keeps, as far as an H5MD file has them."""
    found: dict[str, Any] = {}
    with open_hdf5(path) as file:
        group = h5md_group(file)
        if "mass" in group and (mass := dataset(group, "mass")).shape == (n_atoms,):
            found["masses"] = np.asarray(mass[()], float) * factor(str(mass.attrs.get("unit", "u")), "mass")
        if "parameters" not in file or "kernelfe" not in member(file, "parameters"):
            return found
        own = member(file, "parameters/kernelfe")
        if "names" in own and (names := dataset(own, "names", kinds="S")).shape == (n_atoms,):
            found["names"] = [name.decode("utf-8", "replace") for name in names[()].tolist()]
        for key in ("bonds", "constraints"):
            if key in own:
                pairs = np.asarray(dataset(own, key)[()])
                valid = pairs.shape[1:] == (2,) and pairs.min(initial=0) >= 0 and pairs.max(initial=0) < n_atoms
                _require(valid, path, f"holds {key} that are not pairs of its {n_atoms} atoms")
                found[key] = [(int(a), int(b)) for a, b in pairs]
    return found


def _require_triangular(edges: Any, path: Path) -> None:
    """Require the usual form of a cell: MDAnalysis keeps lengths and angles only, and with them no orientation."""
    if edges.ndim == 3:
        box = np.asarray(edges[()], float)
        fault = "has a cell whose vectors are not a along x and b in the xy plane; rotate cell and coordinates"
        _require(np.abs(np.triu(box, 1)).max(initial=0.0) <= 1e-6 * np.abs(box).max(initial=1.0), path, fault)


def _lammps(path: Path) -> Declared:
    with open(path, "rb") as handle:
        handle.seek(-1, os.SEEK_END)
        # the last number may be cut, and would be read as another
        _require(handle.read(1) == b"\n", path, "ends in the middle of a line; remove its last, incomplete frame")
    with open(path, encoding="utf-8") as handle:
        head = [handle.readline(100_000) for _ in range(9)]
    plain = head[0].strip() == "ITEM: TIMESTEP" and head[2].strip() == "ITEM: NUMBER OF ATOMS"
    _require(plain, path, "is not a plain LAMMPS dump; write it with `dump custom` and no modifications")
    atoms = _require_bytes(path, int(head[3]))
    flags = head[4].split()[-3:]
    periodic = [flag == "pp" for flag in flags]
    partly = f"is periodic in some directions only ({' '.join(flags)}); that is not supported"
    _require(any(periodic) == all(periodic), path, partly)
    columns = head[8].split()[2:]
    lacking = [name for name in ("id", "fx", "fy", "fz") if name not in columns]
    fault = (
        f"has no column {', '.join(lacking)}: without ids atoms change places, without forces there is no mean force"
    )
    _require(not lacking, path, f"{fault}; dump id type xu yu zu fx fy fz")
    unwrapped = {"xu", "yu", "zu"} <= set(columns)
    options = (("lammps_coordinate_convention", "unwrapped"),) if unwrapped else ()
    return Declared(atoms, all(periodic), options)
