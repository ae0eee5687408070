"""Linear maps from atoms to beads: positions R = M x, forces f = F f_atoms, as plain matrices.

The mean of the mapped force at fixed R is −∇A when (Noid et al., J. Chem. Phys. 128, 244114 (2008);
Ciccotti, Kapral and Vanden-Eijnden, ChemPhysChem 6, 1809 (2005))

* moving the atoms by the rows of F moves each bead by itself only:  Σ_a F_Ba M_Ca = δ_BC;
* the motion leaves constrained distances at rest:  F_Ba = F_Bc for every constrained pair (a, c).

All such maps have the same mean force and the same response Cov(f, U), but very different noise.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ...arrays import real_array
from ...errors import DataError, require
from ...frames.checks import require_finite_frames

FloatArray = NDArray[np.float64]


def slice_map(n_atoms: int, bead_atoms: Sequence[int]) -> FloatArray:
    """Position map that keeps one atom per bead.

    Parameters
    ----------
    n_atoms
        Number of atoms.
    bead_atoms
        Index of the atom each bead stands for.

    Returns
    -------
    numpy.ndarray
        (beads, n_atoms), one 1 per row.

    Raises
    ------
    DataError
        If an index is out of range or an atom is used twice.
    """
    beads = _atom_indices(bead_atoms, n_atoms, "bead_atoms")
    matrix = np.zeros((len(beads), n_atoms))
    matrix[np.arange(len(beads)), beads] = 1.0
    return matrix


def group_force_map(
    n_atoms: int,
    bead_atoms: Sequence[int],
    groups: Sequence[Sequence[int]],
    constraints: Iterable[tuple[int, int]] = (),
) -> FloatArray:
    """Force map of a slice map: the force on a bead is the sum over its group of atoms.

    Parameters
    ----------
    n_atoms
        Number of atoms.
    bead_atoms
        Index of the atom each bead stands for.
    groups
        Per bead the atoms whose forces are summed; atoms may belong to no group.
    constraints
        Pairs of atoms at a constrained distance.

    Returns
    -------
    numpy.ndarray
        (beads, n_atoms) of zeros and ones.

    Raises
    ------
    DataError
        If a group lacks its own bead atom, holds the atom of another bead, or holds only one atom of a
        constrained pair: the mapped force would then not average to −∇A. The message names the pair.
    """
    beads = _atom_indices(bead_atoms, n_atoms, "bead_atoms")
    require(
        len(groups) == len(beads),
        f"{len(groups)} force groups for {len(beads)} beads: give one group of atoms per bead",
    )
    matrix = np.zeros((len(beads), n_atoms))
    for bead, group in enumerate(groups):
        matrix[bead, _atom_indices(group, n_atoms, f"force group {bead}")] = 1.0
    check_force_map(slice_map(n_atoms, bead_atoms), matrix, constraints)
    return matrix


def optimal_force_map(
    forces: ArrayLike, position_map: ArrayLike, constraints: Iterable[tuple[int, int]] = (), ridge: float = 1e-3
) -> FloatArray:
    """The admissible linear map whose forces have the least mean square: aggforce's idea.

    For each bead B it minimises ⟨|Σ_a F_Ba f_a|²⟩ + ridge·⟨f²⟩ Σ_a F_Ba² under the two conditions of the module, by one
    linear system (Krämer et al., J. Phys. Chem. Lett. 14, 3970 (2023)). All admissible maps have the same mean at fixed
    R, so the least mean square is the least noise. Fit it to other frames than those it is applied to, or to many: the
    coefficients know the noise of the frames they are fitted to.

    Parameters
    ----------
    forces
        All-atom forces (n, atoms, 3), without constraint and restraint forces.
    position_map
        (beads, atoms), M.
    constraints
        Pairs of atoms at a constrained distance.
    ridge
        Relative penalty, which keeps weights bounded where frames are few.

    Returns
    -------
    numpy.ndarray
        (beads, atoms), F.

    Raises
    ------
    DataError
        If shapes do not fit, a force is not finite, or no map is admissible (two beads tied by constraints).
    """
    f, m = real_array(forces, "forces", "eV/Å"), real_array(position_map, "position_map")
    require(
        f.ndim == 3 and m.ndim == 2 and (f.shape[1:] == (m.shape[1], 3)) and len(f) and np.isfinite(f).all(),
        f"forces {f.shape} must be finite and (frames, atoms, 3) for a map of shape {m.shape}",
    )
    require(np.isfinite(m).all(), "the position map holds a value that is not finite")
    require(np.isfinite(ridge) and ridge >= 0.0, f"ridge={ridge} must not be negative")
    atoms = m.shape[1]
    pairs = [_atom_indices(pair, atoms, f"constrained pair {pair}") for pair in _listed(constraints)]
    tied = coo_array((np.ones(len(pairs)), tuple(np.array(pairs, int).reshape(-1, 2).T)), shape=(atoms, atoms))
    count, of = connected_components(tied, directed=False)
    spread = np.zeros((atoms, count))  # one weight per rigid group
    spread[np.arange(atoms), of] = 1.0
    flat = np.moveaxis(f, 2, 1).reshape(-1, atoms) @ spread
    size = np.maximum(spread.sum(0), 1.0)
    gram = flat.T @ flat / len(f) + ridge * (f**2).mean() * np.diag(size)
    condition = m @ spread  # (beads, groups): Σ_g C_Bg F_B'g = δ
    require(
        np.linalg.matrix_rank(condition) >= len(m),
        "no force map is admissible: constraints tie two beads together, or beads share all atoms",
    )
    beads = len(m)
    system = np.block([[gram, condition.T], [condition, np.zeros((beads, beads))]])
    try:
        solution = np.linalg.solve(system, np.concatenate([np.zeros((count, beads)), np.eye(beads)]))
    except np.linalg.LinAlgError:
        raise DataError("forces vanish or depend on one another, so the best map is not unique: raise ridge") from None
    return (spread @ solution[:count]).T


def check_force_map(position_map: ArrayLike, force_map: ArrayLike, constraints: Iterable[tuple[int, int]] = ()) -> None:
    """Raise unless the mapped force averages to −∇A (the two conditions in the module's docstring).

    Parameters
    ----------
    position_map
        (beads, atoms), M.
    force_map
        (beads, atoms), F.
    constraints
        Pairs of atoms at a constrained distance.

    Raises
    ------
    DataError
        Naming the pair of beads, or the constrained pair of atoms, that breaks a condition.
    """
    positions, forces = real_array(position_map, "position_map"), real_array(force_map, "force_map")
    require(
        positions.ndim == 2 and positions.shape == forces.shape,
        f"position map {positions.shape} and force map {forces.shape} must both be (beads, atoms) matrices",
    )
    overlap = forces @ positions.T
    for bead, other in np.argwhere(np.abs(overlap - np.eye(len(overlap))) > 1e-9):
        value = overlap[bead, other]
        require(
            bead != other,
            f"force map of bead {bead} moves its own bead by {value:g} instead of 1: "
            "include the bead's own atom with weight 1",
        )
        raise DataError(
            f"force map of bead {bead} also moves bead {other} (by {value:g} instead of 0): "
            f"take the atom of bead {other} out of the group of bead {bead}"
        )
    for a, c in constraints:
        a, c = _atom_indices((a, c), positions.shape[1], f"constrained pair ({a}, {c})")
        for bead in np.flatnonzero(np.abs(forces[:, a] - forces[:, c]) > 1e-9):
            raise DataError(
                f"force map of bead {bead} has weights {forces[bead, a]:g} and {forces[bead, c]:g} "
                f"on the constrained pair of atoms ({a}, {c}): put both atoms into the same group"
            )


def map_positions(position_map: ArrayLike, positions: ArrayLike) -> FloatArray:
    """Bead positions (n, beads, 3) in the unit of ``positions`` (n, atoms, 3).

    Raises
    ------
    DataError
        If the shapes do not fit or a position is not finite.
    """
    return _apply(position_map, positions, "positions")


def map_forces(force_map: ArrayLike, forces: ArrayLike) -> FloatArray:
    """Mapped forces (n, beads, 3) in the unit of the all-atom ``forces`` (n, atoms, 3).

    Leave restraint forces on the beads out of ``forces``: with them the sum vanishes identically.

    Raises
    ------
    DataError
        If the shapes do not fit or a force is not finite.
    """
    return _apply(force_map, forces, "forces")


def _apply(matrix: ArrayLike, values: ArrayLike, name: str) -> FloatArray:
    matrix, values = real_array(matrix, "matrix"), real_array(values, "values")
    require(
        values.ndim == 3 and values.shape[1:] == (matrix.shape[-1], 3),
        f"{name} of shape {values.shape} do not fit a map of {matrix.shape[-1]} atoms: "
        f"expected (frames, {matrix.shape[-1]}, 3)",
    )
    require_finite_frames(values, name)
    return np.matmul(matrix, values)


def _listed(constraints: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Constraints as lists of two atoms."""
    try:
        out = [list(pair) for pair in constraints]
    except TypeError:
        raise DataError("constraints must be pairs of atoms") from None
    require(not any(len(pair) != 2 for pair in out), "constraints must be pairs of atoms")
    return out


def _atom_indices(atoms: Sequence[int], n_atoms: int, name: str) -> NDArray[np.intp]:
    indices = np.asarray(list(atoms))
    require(
        indices.ndim == 1 and indices.size and np.issubdtype(indices.dtype, np.integer),
        f"{name} must be a list of atom indices, got {atoms!r}",
    )
    outside = indices[(indices < 0) | (indices >= n_atoms)]
    if outside.size:
        raise DataError(f"{name} holds atom {outside[0]}, outside 0…{n_atoms - 1}")
    require(len(set(indices.tolist())) == len(indices), f"{name} holds an atom twice: {atoms!r}")
    return indices
