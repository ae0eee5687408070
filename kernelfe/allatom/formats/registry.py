"""The format of a trajectory file: as given, by its suffix, or by its first bytes."""

from __future__ import annotations

import re
from pathlib import Path

from ...errors import DataError, require
from ...files.text import first_bytes, is_compressed, plain_suffix
from .base import TrajectoryFile
from .dump import DumpFile
from .h5md import H5mdFile
from .mdcrd import MdcrdFile
from .netcdf import NetcdfFile
from .trr import TrrFile

#: Names of formats that can be given.
FORMATS = ("trr", "netcdf", "h5md", "lammps", "mdcrd")
_SUFFIXES = {
    ".trr": "trr",
    ".nc": "netcdf",
    ".ncdf": "netcdf",
    ".h5md": "h5md",
    ".h5": "h5md",
    ".dump": "lammps",
    ".lammpsdump": "lammps",
    ".lammpstrj": "lammps",
}
#: Suffixes of formats that never hold forces.
_FORCELESS = {".dcd", ".xtc", ".pdb", ".gro", ".xyz", ".tng", ".rst7"}
#: First bytes of formats. AMBER uses any suffix, LAMMPS what the user writes.
_STARTS = {b"CDF": "netcdf", b"\x89HDF": "h5md", b"ITEM: ": "lammps", b"\x00\x00\x07\xc9\x00\x00\x00\x0d": "trr"}


def open_trajectory(
    path: Path, form: str | None = None, n_atoms: int | None = None, of_forces: bool = False
) -> TrajectoryFile:
    """Open a file and read its head.

    Parameters
    ----------
    path
        The file.
    form
        One of :data:`FORMATS`; None: by suffix, else by the first bytes.
    n_atoms
        Number of atoms of the topology, for files that do not state it.
    of_forces
        The file is one of forces next to another of coordinates.

    Raises
    ------
    DataError
        If the format is unknown or holds no forces, or the head is damaged, or declares more than the file can hold.
    """
    form = _format(path, form, of_forces)
    binary = form in ("trr", "netcdf", "h5md")
    require(
        not (binary and is_compressed(path)), f"{path.name} is compressed: unpack it first; only text is read packed"
    )
    if form == "mdcrd":
        return MdcrdFile(path, n_atoms, of_forces)
    files: dict[str, type[TrajectoryFile]] = {
        "trr": TrrFile,
        "netcdf": NetcdfFile,
        "h5md": H5mdFile,
        "lammps": DumpFile,
    }
    return files[form](path)  # type: ignore[call-arg]


def by_suffix(path: Path) -> str | None:
    """Name of the format that a suffix stands for; None for suffixes that say nothing."""
    return _SUFFIXES.get(plain_suffix(path))


def _format(path: Path, given: str | None, of_forces: bool) -> str:
    if given is not None:
        require(given in FORMATS, f"unknown format={given!r}; known: {', '.join(FORMATS)}")
        return given
    suffix = plain_suffix(path)
    if suffix in _FORCELESS and not of_forces:
        raise DataError(
            f"{path.name}: {suffix[1:].upper()} files hold no forces; run again writing TRR (GROMACS: nstfout), NetCDF "
            "(AMBER: ntwf = -1), a LAMMPS dump with fx fy fz, or with kernelfe.allatom.ForceReporter (OpenMM)"
        )
    start = first_bytes(path, 200)
    found = next((form for bytes_, form in _STARTS.items() if start.startswith(bytes_)), None)
    if found is not None and suffix not in (".h5", ".h5md"):
        return found
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix]
    second = start.partition(b"\n")[2][:80].decode("ascii", "replace")
    if re.fullmatch(r"([ -]*\d+\.\d{3}){3,10}\s*", second.partition("\n")[0]):
        return "mdcrd"
    raise DataError(
        f"{path.name}: unknown format; with forces there are {', '.join(_SUFFIXES)} and AMBER's mdcrd with mdfrc; pass "
        f"format= ({', '.join(FORMATS)}) if it is one of them"
    )
