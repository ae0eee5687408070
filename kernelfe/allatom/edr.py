"""Energies of GROMACS's binary ``.edr``, read by pyedr."""

from __future__ import annotations

import struct
import tempfile
import warnings
from pathlib import Path

import numpy as np

from ..errors import DataError, MissingDependencyError, UnitsError, require
from ..units import factor
from .energies import EnergyTable

#: First bytes of an ``.edr`` of GROMACS 4 and later.
MAGIC = struct.pack(">i", -55555)
_FRAME = struct.pack(">i", -7777777)


def read_edr(path: Path, content: bytes, wanted: str = "Potential") -> EnergyTable:
    """Energies by time.

    Parameters
    ----------
    path
        The file, for messages, and for pyedr where it is not compressed.
    content
        Its bytes, uncompressed.
    wanted
        Name of the term.

    Raises
    ------
    MissingDependencyError
        If pyedr is not installed.
    DataError
        If the file is damaged, declares more than it can hold, or lacks the term.
    """
    try:
        import pyedr
    except ImportError:
        raise MissingDependencyError(
            f"reading {path.name} needs pyedr; install kernelfe[gromacs], or write an .xvg with gmx energy"
        ) from None
    _check_sizes(path.name, content)
    try:
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore")
            file = path
            if path.read_bytes()[:4] != MAGIC:  # compressed
                file = Path(folder) / "energies.edr"
                file.write_bytes(content)
            units, terms = pyedr.get_unit_dictionary(str(file)), pyedr.edr_to_dict(str(file))
    except (Exception, MemoryError) as error:  # its unpacker raises many kinds
        raise DataError(f"{path.name} is not readable as EDR ({error}); is it damaged?") from error
    names = [name for name in terms if name != "Time"]
    require(wanted in names, f"{path.name} has no term {wanted!r}; it has {', '.join(names)}")
    require("/mol" in units[wanted], f"{path.name} does not state the unit of {wanted!r}", UnitsError)
    energies = np.asarray(terms[wanted], float)
    require(
        np.isfinite(energies).all(),
        f"{path.name} holds an energy that is not finite; the run has blown up, or the file is damaged",
    )
    return EnergyTable(energies * factor(units[wanted], "energy"), None, np.asarray(terms["Time"], float), path.name)


def _check_sizes(name: str, content: bytes) -> None:
    """Check the counts of every frame, by which pyedr makes lists, against the size of the file."""
    count = struct.unpack_from(">i", content, 8)[0] if len(content) >= 12 else -1
    require(0 < 8 * count <= len(content), f"{name} declares {count} terms in {len(content)} bytes; is it damaged?")
    at = content.find(_FRAME)
    while at >= 0:
        # after the magic number: version, time (8), step (8), sums, steps (8), dt (8), terms, reserved, blocks
        head = content[at + 4 : at + 56]
        if len(head) < 52:
            return  # a run that was killed
        version, terms, blocks = *struct.unpack_from(">i", head, 0), *struct.unpack_from(">i4xi", head, 40)
        good = version == 5 and 0 <= terms <= count and 0 <= 8 * blocks <= len(content)
        place = at + 56
        for _ in range(blocks if good else 0):
            subblocks = struct.unpack_from(">i", content, place + 4)[0] if place + 8 <= len(content) else 0
            good = good and 0 <= 8 * subblocks <= len(content)
            place += 8 + 8 * subblocks if good else 0
        require(good, f"{name} has a frame of version {version} with impossible counts at byte {at}; is it damaged?")
        at = content.find(_FRAME, at + 4)
