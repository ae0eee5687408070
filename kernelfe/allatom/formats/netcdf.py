"""AMBER NetCDF, read by SciPy: coordinates with or without forces (``mdcrd``), or forces alone (``mdfrc``).

A file without the variable ``time`` states no times: readers that count frames instead invent them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .base import Head, Row, reading, require_bytes, require_in

#: Units by variable, as the AMBER convention has them.
_UNITS = {
    "coordinates": "angstrom",
    "forces": "kilocalorie/mole/angstrom",
    "cell_lengths": "angstrom",
    "cell_angles": "degree",
    "time": "picosecond",
}


class NetcdfFile:
    """An AMBER NetCDF trajectory."""

    def __init__(self, path: Path):
        self.path = path
        with reading(path, "NetCDF"), open(path, "rb") as handle:
            later = handle.read(4) == b"\x89HDF"
            require_in(path, not later, "is NetCDF 4, based on HDF5; convert it with `nccopy -k cdf2` or cpptraj")
        with reading(path, "NetCDF"), self._open() as file:
            conventions = getattr(file, "Conventions", b"").decode().replace(",", " ").split()
            require_in(path, "AMBER" in conventions, "does not state the convention AMBER of trajectories")
            have = set(file.variables)
            require_in(path, have & {"coordinates", "forces"}, "holds neither coordinates nor forces")
            for name, unit in _UNITS.items():
                if name in have:
                    stated = getattr(file.variables[name], "units", b"").decode()
                    # some programs write the plural, as AMBER itself did
                    known = stated in (unit, unit + "s")
                    require_in(path, known, f"states {name} in {stated or 'no unit'!r}; only {unit} is known")
            self.head = Head(
                require_bytes(path, int(file.dimensions["atom"])),
                {"length": "Å", "energy": "kcal/mol"},
                "forces" in have,
                "run AMBER with ntwf = -1, which writes forces to the same file, or pass a dict with its file of "
                f"forces, {{'{path.name}': 'mdfrc'}}",
            )

    def _open(self) -> Any:
        from scipy.io import netcdf_file

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of a map that is closed while arrays refer to it
            return netcdf_file(self.path, "r", mmap=True, maskandscale=False)

    def rows(self) -> Iterator[Row]:
        """All frames in order; only forces if the file has no coordinates."""
        from ase.geometry import cellpar_to_cell

        with reading(self.path, "NetCDF"):
            file, have = self._open(), {}
            try:
                have = {name: file.variables[name] for name in _UNITS if name in file.variables}
                frames = min(len(variable.data) for variable in have.values())
                for k in range(frames):
                    part = {
                        name: np.array(variable.data[k], float) * getattr(variable, "scale_factor", 1.0)
                        for name, variable in have.items()
                    }
                    cell = None
                    if "cell_lengths" in part and part["cell_lengths"].any():
                        cell = cellpar_to_cell(np.concatenate([part["cell_lengths"], part["cell_angles"]]))
                    time = float(part["time"]) if "time" in part else None
                    yield Row(part.get("coordinates"), part.get("forces"), cell, None, time)
            finally:
                have.clear()  # arrays of the map
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", RuntimeWarning)
                    file.close()
