"""All-atom frames in internal units, and the linear map that makes labelled Frames of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..arrays import real_array
from ..errors import DataError, require
from ..frames import Frames
from ..geometry.cell import image_shifts
from ..statistics import check_force_map, group_force_map, map_forces, map_positions, slice_map

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class AtomFrames:
    """All-atom frames in eV, Å, u and ps: what the functions of :mod:`kernelfe.statistics` take.

    Attributes
    ----------
    positions, forces
        (n, atoms, 3), Å and eV/Å.
    energies
        (n,), potential energies in eV; NaN where unknown. None: unknown for all.
    cell
        (n, 3, 3), cell vectors in rows, Å. None: not periodic.
    times, steps
        (n,), ps and steps of integration, where the file has them.
    """

    positions: FloatArray
    forces: FloatArray
    energies: FloatArray | None = None
    cell: FloatArray | None = None
    times: FloatArray | None = None
    steps: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.positions)

    @staticmethod
    def concatenate(parts: Iterable[AtomFrames]) -> AtomFrames:
        """All frames of ``parts`` in order.

        Raises
        ------
        DataError
            If ``parts`` is empty, or parts hold different arrays.
        """
        parts = list(parts)
        require(parts, "no frames to join")
        joined: dict[str, Any] = {}
        for name in AtomFrames.__dataclass_fields__:
            values = [getattr(part, name) for part in parts]
            if any(v is None for v in values) and not all(v is None for v in values):
                raise DataError(f"some parts have {name} and others lack them; read them one by one")
            joined[name] = None if values[0] is None else np.concatenate(values)
        return AtomFrames(**joined)


class BeadMap:
    """A linear map from atoms to beads, for positions and for forces.

    Parameters
    ----------
    position_map
        (beads, atoms), R = M x.
    force_map
        (beads, atoms), f = F f_atoms; for example of :func:`kernelfe.statistics.optimal_force_map`.
    kinds
        One name per bead.
    masses
        (beads,), u: masses of the beads. None: none; averages do not depend on them.
    bonds
        Pairs of bonded beads.
    constraints
        Pairs of atoms at a constrained distance, for the check of the force map.

    Raises
    ------
    DataError
        If the mapped force would not average to −∇A (:func:`kernelfe.statistics.check_force_map`), or shapes differ.
    """

    def __init__(
        self,
        position_map: ArrayLike,
        force_map: ArrayLike,
        *,
        kinds: Sequence[str] | None = None,
        masses: ArrayLike | None = None,
        bonds: Iterable[tuple[int, int]] | None = None,
        constraints: Iterable[tuple[int, int]] = (),
    ):
        self.position_map = np.array(real_array(position_map, "position_map"))
        self.force_map = np.array(real_array(force_map, "force_map"))
        check_force_map(self.position_map, self.force_map, constraints)
        self.kinds, self.masses = kinds, None if masses is None else np.array(real_array(masses, "masses", "u"))
        self.bonds = None if bonds is None else list(bonds)

    @classmethod
    def of_atoms(
        cls,
        n_atoms: int,
        bead_atoms: Sequence[int],
        groups: Sequence[Sequence[int]] | None = None,
        *,
        constraints: Iterable[tuple[int, int]] = (),
        **options: Any,
    ) -> BeadMap:
        """One atom per bead; the force on a bead sums over its group of atoms.

        Parameters
        ----------
        n_atoms
            Number of atoms.
        bead_atoms
            (beads,), the atom each bead stands for.
        groups
            Per bead the atoms whose forces are summed. None: the bead's own atom and all that constraints tie to it.
        constraints
            Pairs of atoms at a constrained distance.
        **options
            ``kinds``, ``masses``, ``bonds`` of the constructor.

        Raises
        ------
        DataError
            As in :func:`kernelfe.statistics.group_force_map`.
        """
        pairs = [(int(a), int(b)) for a, b in constraints]
        if groups is None:
            slice_map(n_atoms, bead_atoms)  # checks the numbers of the atoms
            label = tied_atoms(n_atoms, pairs)
            groups = [np.flatnonzero(label == label[int(atom)]).tolist() for atom in bead_atoms]
        forces = group_force_map(n_atoms, bead_atoms, groups, pairs)
        return cls(slice_map(n_atoms, bead_atoms), forces, constraints=pairs, **options)

    @classmethod
    def of_groups(
        cls,
        n_atoms: int,
        groups: Sequence[Sequence[int]],
        weights: ArrayLike,
        *,
        constraints: Iterable[tuple[int, int]] = (),
        **options: Any,
    ) -> BeadMap:
        """Beads at the centres of groups of atoms, R = Σ w_a x_a / Σ w_a; the force is the sum over the group.

        With the masses of the atoms as weights the beads are centres of mass, for example of whole molecules.

        Parameters
        ----------
        n_atoms
            Number of atoms.
        groups
            Per bead its atoms; no atom belongs to two beads.
        weights
            (n_atoms,), not negative: masses, u.
        constraints
            Pairs of atoms at a constrained distance; each pair must lie within one group.
        **options
            ``kinds``, ``bonds`` of the constructor, and ``masses`` if they are not the sums of the weights.

        Raises
        ------
        DataError
            If an atom is used twice, weights do not fit, or a constraint joins two groups.
        """
        w = real_array(weights, "weights")
        require(
            w.shape == (n_atoms,) and bool((np.isfinite(w) & (w >= 0.0)).all()),
            f"weights must be {n_atoms} numbers that are not negative, one per atom; they have shape {w.shape}",
        )
        forces = np.zeros((len(groups), n_atoms))
        for bead, group in enumerate(groups):
            forces[bead, np.asarray(group, int)] = 1.0
            require(w[np.asarray(group, int)].sum() > 0.0, f"the weights of bead {bead} sum to zero")
        shared = np.flatnonzero(forces.sum(0) > 1.0)
        require(not shared.size, f"atom {shared[:1].tolist()} belongs to two groups")
        total = forces @ w
        options.setdefault("masses", total)
        return cls(forces * w / total[:, None], forces, constraints=list(constraints), **options)

    def frames(self, atoms: AtomFrames, temperature: Any) -> Frames:
        """Frames with labels ``mean_force`` and, where there are energies, ``mean_energy``.

        Parameters
        ----------
        atoms
            All-atom frames.
        temperature
            K, a number or (n,).

        Raises
        ------
        DataError
            If shapes do not fit, a number is not finite, or a periodic boundary cuts a bead of several atoms.
        """
        self.require_whole(atoms)
        labels: dict[str, Any] = {"mean_force": map_forces(self.force_map, atoms.forces)}
        present: dict[str, Any] = {}
        if atoms.energies is not None and np.isfinite(atoms.energies).any():
            labels["mean_energy"], present["mean_energy"] = atoms.energies, np.isfinite(atoms.energies)
        return Frames.from_arrays(
            map_positions(self.position_map, atoms.positions),
            temperature=temperature,
            labels=labels,
            present=present,
            kinds=self.kinds,
            masses=self.masses,
            bonds=self.bonds,
            cell=atoms.cell,
        )

    def require_whole(self, atoms: AtomFrames) -> None:
        """Check that no periodic boundary cuts a bead of several atoms.

        Raises
        ------
        DataError
            If one does.
        """
        if atoms.cell is None:
            return
        for bead, weights in enumerate(self.position_map):
            members = np.flatnonzero(weights)
            apart = atoms.positions[:, members[1:]] - atoms.positions[:, members[:1]]
            cut = _shifts(apart, atoms.cell).any(axis=(1, 2))
            if cut.any():
                raise DataError(
                    f"a periodic boundary cuts bead {bead} in frame {int(np.argmax(cut))}: other images of its atoms "
                    "are closer together; make molecules whole first (kernelfe.allatom.make_whole, or whole=True)"
                )


def tied_atoms(n_atoms: int, pairs: Iterable[tuple[int, int]]) -> NDArray[np.int32]:
    """Label (atoms,) of the set of atoms that pairs, constraints or bonds, join directly or by way of others."""
    joined = np.array([(int(a), int(b)) for a, b in pairs], int).reshape(-1, 2)
    require(
        not joined.size or (joined.min() >= 0 and joined.max() < n_atoms),
        f"pairs name atom {joined.max(initial=0)} or a negative one, outside 0…{n_atoms - 1}",
    )
    graph = coo_array((np.ones(len(joined)), (joined[:, 0], joined[:, 1])), shape=(n_atoms, n_atoms))
    return connected_components(graph, directed=False)[1]


def _shifts(v: FloatArray, cell: FloatArray) -> FloatArray:
    """Whole numbers (n, m, 3) of lattice vectors between vectors and their shortest images."""
    shifts: FloatArray = image_shifts(torch.tensor(v), torch.tensor(cell)).numpy()
    return shifts


def make_whole(positions: ArrayLike, cell: ArrayLike, bonds: Iterable[tuple[int, int]]) -> FloatArray:
    """Positions with every bonded molecule in one piece: along its bonds, each atom next to its neighbour.

    Parameters
    ----------
    positions
        (n, atoms, 3).
    cell
        (n, 3, 3), vectors in rows.
    bonds
        Pairs of bonded atoms, closer together than other images of them.

    Returns
    -------
    numpy.ndarray
        (n, atoms, 3); atoms move by whole cell vectors only.
    """
    out, box = np.array(real_array(positions, "positions", "Å")), real_array(cell, "cell", "Å")
    neighbours: dict[int, list[int]] = {}
    for a, b in bonds:
        neighbours.setdefault(int(a), []).append(int(b))
        neighbours.setdefault(int(b), []).append(int(a))
    placed: set[int] = set()
    for root in sorted(neighbours):
        todo = [] if root in placed else [root]
        placed.add(root)
        while todo:
            at = todo.pop()
            for other in neighbours[at]:
                if other not in placed:
                    shift = _shifts((out[:, other] - out[:, at])[:, None], box)[:, 0]
                    out[:, other] -= np.einsum("ni,nij->nj", shift, box)
                    placed.add(other)
                    todo.append(other)
    return out
