"""Starts of restrained runs: the all-atom structure whose beads lie nearest, turned onto the wanted beads."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arrays import real_array
from ..errors import DataError, require

FloatArray = NDArray[np.float64]


def superpose(beads: ArrayLike, target: ArrayLike) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Rotation and translation that bring beads onto a target with the least mean square distance.

    A proper rotation from the singular value decomposition (Kabsch, Acta Cryst. A 32, 922 (1976)): mirror images stay
    apart.

    Parameters
    ----------
    beads
        (n, beads, 3) or (beads, 3), Å.
    target
        (beads, 3), Å.

    Returns
    -------
    rotation : numpy.ndarray
        (n, 3, 3) or (3, 3), to be used as ``x @ rotation + translation``.
    translation : numpy.ndarray
        (n, 1, 3) or (1, 3), Å.
    rmsd : numpy.ndarray
        (n,) or (), root mean square distance of the beads that is left, Å.

    Raises
    ------
    DataError
        If shapes do not fit or a number is not finite.
    """
    x, y = real_array(beads, "beads", "Å"), real_array(target, "target", "Å")
    require(
        x.ndim in (2, 3) and y.ndim == 2 and x.shape[-2:] == y.shape and y.shape[1] == 3,
        f"cannot superpose beads {x.shape} on a target {y.shape}: give (n, beads, 3) and (beads, 3)",
    )
    require(np.isfinite(x).all() and np.isfinite(y).all(), "superpose: a position is not finite")
    centre, goal = x.mean(axis=-2, keepdims=True), y.mean(axis=0)
    covariance = np.swapaxes(x - centre, -1, -2) @ (y - goal)
    u, _, vt = np.linalg.svd(covariance)
    flip = np.ones((*u.shape[:-2], 3))
    flip[..., 2] = np.sign(np.linalg.det(u @ vt))
    rotation = (u * flip[..., None, :]) @ vt
    translation = goal - centre @ rotation
    rmsd = np.sqrt(((x @ rotation + translation - y) ** 2).sum(-1).mean(-1))
    return rotation, translation, rmsd


def nearest_starts(
    targets: ArrayLike, atoms: ArrayLike, position_map: ArrayLike, periodic: bool = False
) -> tuple[FloatArray, NDArray[np.intp], FloatArray]:
    """For each wanted bead configuration the all-atom structure that is nearest, moved onto it.

    Parameters
    ----------
    targets
        Wanted beads (n, beads, 3), Å.
    atoms
        All-atom structures to choose from (m, atoms, 3), Å, of whole molecules.
    position_map
        (beads, atoms).
    periodic
        True for periodic systems: structures are taken as they are, without translation or rotation.

    Returns
    -------
    starts : numpy.ndarray
        (n, atoms, 3), Å.
    chosen : numpy.ndarray of int
        (n,), which structure each one is.
    rmsd : numpy.ndarray
        (n,), distance of its beads from the wanted ones, root mean square over beads, Å.

    Raises
    ------
    DataError
        If shapes do not fit or a number is not finite.
    """
    wanted, x = (real_array(a, name, "Å") for a, name in ((targets, "targets"), (atoms, "atoms")))
    m = real_array(position_map, "position_map")
    if x.ndim == 2:
        x = x[None]
    if x.ndim != 3 or not len(x) or x.shape[1:] != (m.shape[-1], 3) or not np.isfinite(x).all():
        raise DataError(f"start structures must be finite and (m, {m.shape[-1]}, 3), they have shape {x.shape}")
    require(
        wanted.ndim == 3 and wanted.shape[1:] == (len(m), 3) and np.isfinite(wanted).all(),
        f"targets must be finite and (n, {len(m)}, 3), they have shape {wanted.shape}",
    )
    beads = m @ x
    out, chosen, rmsd = np.empty((len(wanted), *x.shape[1:])), np.empty(len(wanted), dtype=np.intp), []
    for row, target in enumerate(wanted):
        if periodic:
            distance = np.sqrt(((beads - target) ** 2).sum(-1).mean(-1))
        else:
            rotation, translation, distance = superpose(beads, target)
        k = chosen[row] = int(distance.argmin())
        rmsd.append(distance[k])
        out[row] = x[k] if periodic else x[k] @ rotation[k] + translation[k]
    return out, chosen, np.array(rmsd)
