"""Low-noise force labels from moving whole fragments of a bonded molecule.

For ANY all-atom vector field w that moves the beads by t(R), keeps constrained distances and leaves the
measure on the constraint surface alone (rigid motions of fragments do both),

    ⟨f·w + kT (div w − div_R t)⟩_R = −t(R)·∇A(R)

exactly (integration by parts; Ciccotti, Kapral and Vanden-Eijnden, ChemPhysChem 6, 1809 (2005)), where div w
runs over all atoms and div_R t over the beads (∫ ∇·(w δ(R − Mx) e^{−bU}) dx = 0 leaves ∇_R·(t P), which holds
P div_R t as well; for a slice map the difference is the divergence over the eliminated atoms). Rotating
everything on one side of a bond about that bond leaves all bonds and angles at rest, so the stiff forces,
which make up most of the noise of Cartesian mapped forces, drop out. The field is

    w_a = n̂ × (x_a − x_j) for atoms a on j's side, else 0,     n̂ = (x_j − x_i)/|x_j − x_i|,

whose divergence vanishes, all-atom and of the beads: no w_a depends on x_a except through n̂ × x_a, and w_j = 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...arrays import real_array
from ...errors import DataError, require
from ...frames.checks import require_finite_frames
from ...geometry.topology import fragment
from ...units import BOLTZMANN

FloatArray = NDArray[np.float64]


@runtime_checkable
class Field(Protocol):
    """An all-atom vector field w(x). Its values at the bead atoms must depend on bead positions only.

    A field with a constrained pair in it must keep that distance, w_a·(x_a − x_c) = w_c·(x_a − x_c). With
    rigid bonds that share an atom (CH3, water) the sampled measure also holds the factor √det Z of the
    constraints, Z_st = Σ_a ∇_aσ_s·∇_aσ_t/m_a; a field that changes it (bending two constrained hydrogens
    against each other) must add w·∇ ln √det Z to its divergence.

    A field whose motion t(R) of the beads changes volumes in the space of the beads also has a method
    ``bead_divergence(positions)`` that returns div_R t, shape (n,). Without it div_R t is zero, which holds for
    rigid rotations, for constant motions of the beads and where the beads rest.
    """

    def displacements(self, positions: FloatArray) -> FloatArray:
        """w at every atom, (n, atoms, 3), for positions (n, atoms, 3) in Å."""
        ...

    def divergence(self, positions: FloatArray) -> FloatArray:
        """Divergence over all atoms, Σ_a ∇_a·w_a, (n,)."""
        ...


class TorsionField:
    """Rigid rotation, by one radian per unit, of the atoms on j's side of the bond (i, j) about that bond.

    It raises every dihedral angle about the bond at rate 1 (IUPAC sign) and leaves all other bonds, angles
    and proper dihedrals at rest. The opposite choice (j, i) differs by a rotation of the whole molecule,
    so it gives the same label. The class works on atoms and on the graph of the beads alike.

    Parameters
    ----------
    bonds
        Pairs of bonded atoms.
    i, j
        The atoms of the bond.

    Raises
    ------
    DataError
        If (i, j) is not a bond or lies in a ring.
    """

    def __init__(self, bonds: Iterable[tuple[int, int]], i: int, j: int):
        self.i, self.j = int(i), int(j)
        #: Atoms that move: those on j's side, without j, which lies on the axis.
        self.moving = tuple(sorted({int(a) for a in fragment(tuple(bonds), self.i, self.j)} - {self.j}))

    def __repr__(self) -> str:
        return f"TorsionField(i={self.i}, j={self.j}, moving={self.moving})"

    def displacements(self, positions: ArrayLike) -> FloatArray:
        """w_a = n̂ × (x_a − x_j) on the moving atoms.

        Parameters
        ----------
        positions
            (n, atoms, 3), Å.

        Returns
        -------
        numpy.ndarray
            (n, atoms, 3), Å/rad.

        Raises
        ------
        DataError
            If the positions are not (n, atoms, 3) or the bond has no length.
        """
        x = real_array(positions, "positions", "Å")
        last = max((self.i, self.j, *self.moving))
        require(
            x.ndim == 3 and x.shape[2] == 3 and x.shape[1] > last,
            f"positions of shape {x.shape} do not fit {self!r}: expected (frames, > {last}, 3)",
        )
        axis = x[:, self.j] - x[:, self.i]
        length = np.linalg.norm(axis, axis=-1, keepdims=True)
        if not (length > 0.0).all():
            raise DataError(f"atoms {self.i} and {self.j} coincide in frame {int(np.argmin(length))}: no rotation axis")
        moving = list(self.moving)
        w = np.zeros(x.shape)
        w[:, moving] = np.cross((axis / length)[:, None], x[:, moving] - x[:, self.j : self.j + 1])
        return w

    def divergence(self, positions: ArrayLike) -> FloatArray:
        """Zero, (n,): a rigid rotation keeps volumes."""
        return np.zeros(len(real_array(positions, "positions", "Å")))


def generalized_forces(
    positions: ArrayLike,
    forces: ArrayLike,
    fields: Sequence[Field],
    bead_atoms: Sequence[int],
    temperature: float | ArrayLike,
) -> tuple[FloatArray, FloatArray]:
    """Labels f·w + kT (div w − div_R t) of the ``generalized_force`` observable, and the displacements of the beads.

    Parameters
    ----------
    positions
        All-atom positions (n, atoms, 3), Å.
    forces
        All-atom forces (n, atoms, 3), eV/Å, without constraint and restraint forces.
    fields
        k fields, for example :class:`TorsionField`; their ``bead_divergence``, if they have one, is div_R t.
    bead_atoms
        Index of the atom each bead stands for.
    temperature
        K, one number or (n,).

    Returns
    -------
    values : numpy.ndarray
        (n, k), eV per unit of the field (eV/rad for rotations).
    displacements : numpy.ndarray
        t = w at the bead atoms, (n, k, beads, 3), Å per unit of the field (Å/rad). Where it vanishes at all
        beads the label has zero mean at every R: a variate to reduce the noise of other labels.

    Raises
    ------
    DataError
        If shapes do not fit, a value is not finite, a temperature is not positive, or a rotation about a bond
        between atoms that are not both beads moves beads: t would then not be a function of the beads.
    """
    x, f = real_array(positions, "positions", "Å"), real_array(forces, "forces", "eV/Å")
    require(
        x.ndim == 3 and x.shape[2] == 3 and x.shape == f.shape,
        f"positions {x.shape} and forces {f.shape} must both be (frames, atoms, 3)",
    )
    for name, array in (("positions", x), ("forces", f)):
        require_finite_frames(array, name)
    t = np.broadcast_to(real_array(temperature, "temperature", "K"), len(x))
    require((np.isfinite(t) & (t > 0.0)).all(), "temperature must be positive and finite (K) in every frame")
    beads = [int(a) for a in bead_atoms]
    values = np.empty((len(x), len(fields)))
    shifts = np.empty((len(x), len(fields), len(beads), 3))
    for k, field in enumerate(fields):
        if isinstance(field, TorsionField):
            _check_axis(field, beads)
        w = field.displacements(x)
        bead_divergence = getattr(field, "bead_divergence", None)
        divergence = field.divergence(x) - (0.0 if bead_divergence is None else bead_divergence(x))
        values[:, k] = np.einsum("nax,nax->n", f, w) + BOLTZMANN * t * divergence
        shifts[:, k] = w[:, beads]
    return values, shifts


def rotatable_bonds(bonds: Iterable[tuple[int, int]], bead_atoms: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Bonds whose rotation changes the shape of the bead configuration.

    These are the bonds between two bead atoms, outside rings, with at least one further bead on either side.

    Parameters
    ----------
    bonds
        Pairs of bonded atoms, all atoms of the molecule.
    bead_atoms
        Index of the atom each bead stands for.

    Returns
    -------
    tuple of pairs
        In the order and orientation of ``bonds``; one :class:`TorsionField` each.
    """
    bonds = tuple((int(i), int(j)) for i, j in bonds)
    beads = {int(a) for a in bead_atoms}
    found = []
    for i, j in bonds:
        if i not in beads or j not in beads:
            continue
        try:
            sides = set(fragment(bonds, i, j)), set(fragment(bonds, j, i))
        except DataError:  # the bond lies in a ring: nothing to rotate
            continue
        if all(side & beads - {i, j} for side in sides):
            found.append((i, j))
    return tuple(found)


def _check_axis(field: TorsionField, beads: Sequence[int]) -> None:
    missing = [a for a in (field.i, field.j) if a not in beads]
    moved = sorted(set(field.moving) & set(beads))
    if missing and moved:
        raise DataError(
            f"rotation about the bond ({field.i}, {field.j}) moves the beads at atoms {moved}, but atom "
            f"{missing[0]} of its axis is not a bead, so the displacement is not a function of the beads: "
            "rotate about a bond between two beads (see rotatable_bonds)"
        )
