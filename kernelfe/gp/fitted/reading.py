"""Configurations as users pass them to predictions, as Frames of the one molecule of a model."""

from __future__ import annotations

import numpy as np

from ...arrays import real_array
from ...errors import DataError, require
from ...frames import Frames
from ..molecules import Molecules
from ..observations.inputs import plain_array


def frames_of(molecules: Molecules, X, temperature, parameters) -> Frames:
    """Frames of configurations without a given cell.

    Parameters
    ----------
    molecules
        Of the model; one.
    X
        Frames, or array of shape (n, beads, 3), (beads, 3) or (n, d).
    temperature
        Of arrays, K.
    parameters
        λ of arrays; Frames carry their own.

    Raises
    ------
    DataError
        If they are not configurations of the molecule.
    """
    if isinstance(X, Frames):
        molecules.check(X)
        if parameters:
            raise DataError("Frames carry their parameters: use frames.replace(parameters=…) to change them")
        return X
    molecule = molecules.one("predict").molecule
    if molecule.periodic:
        raise DataError(
            "the model was fitted to frames with a cell: pass cell= as well, (3, 3) or one per row, or Frames"
        )
    X, shape = plain_array(X), molecule.shape
    beads = len(shape) == 2
    if beads and X.ndim == 2:
        X = X[None]
    if X.ndim != len(shape) + 1 or X.shape[1:] != shape:
        what, wanted = ("positions", f"(n, {shape[0]}, 3)") if beads else ("variables", f"(n, {shape[0]})")
        raise DataError(f"{what} must have shape {wanted}, these have {X.shape}")
    name = "positions" if beads else "variables"
    return Frames.from_arrays(**{name: X}, temperature=temperature, parameters=parameters or {})


def frames_in_cell(molecules: Molecules, X, temperature, parameters, cell) -> Frames:
    """Positions of a periodic model in a cell as Frames; arguments as in :func:`frames_of`."""
    molecule = molecules.one("predict").molecule
    require(molecule.periodic, "cell= belongs to positions of a model that was fitted to frames with a cell")
    require(not isinstance(X, Frames), "Frames carry their cell: leave out cell=")
    X = plain_array(X)
    X = X[None] if X.ndim == 2 else X
    box = np.broadcast_to(real_array(cell, "cell", "Å"), (len(X), 3, 3))
    return Frames.from_arrays(
        X, temperature=temperature, cell=box, parameters=parameters or {}, kinds=molecule.kinds, bonds=molecule.bonds
    )
