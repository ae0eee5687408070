"""Beads by name: a preset or a selection of atoms becomes a map from atoms to beads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ...errors import DataError, require
from ..atoms import BeadMap, tied_atoms
from ..trajectory import Trajectory

Pair = tuple[int, int]

_PEPTIDE = "(protein or resname ACE NME NMA NHE)"
#: Presets: one atom per bead by a selection of MDAnalysis, or None for those that are made otherwise.
PRESETS: dict[str, str | None] = {
    "backbone": f"{_PEPTIDE} and name N CA C",
    "backbone+cb": f"{_PEPTIDE} and name N CA C CB",
    "ca": f"{_PEPTIDE} and name CA",
    "heavy": None,
    "molecules": None,
}
#: Heavier than hydrogen with a repartitioned mass, lighter than any other element but helium, u.
_HYDROGEN = 4.5


@dataclass(frozen=True)
class Beads:
    """Beads of a system, in the numbers of its atoms.

    Attributes
    ----------
    groups
        For each bead its atoms: one, or all of a molecule.
    kinds
        One name per bead.
    bonds
        Pairs of bonded beads.
    weights
        (atoms,), weights of the centres: masses, u; None for beads of one atom each.
    masses
        (beads,), u; None where the masses of atoms are not known.
    """

    groups: tuple[tuple[int, ...], ...]
    kinds: tuple[str, ...]
    bonds: tuple[Pair, ...]
    weights: np.ndarray | None = None
    masses: np.ndarray | None = None

    @property
    def atoms(self) -> list[int] | None:
        """The atom of each bead; None if beads are centres of several atoms."""
        return [group[0] for group in self.groups] if self.weights is None else None

    def tied_map(self, n_atoms: int, constraints: Sequence[Pair]) -> BeadMap:
        """Map whose bead forces sum over the atoms that constraints tie to a bead, or over the atoms of a centre.

        Raises
        ------
        DataError
            If constraints tie two beads together.
        """
        options: dict[str, Any] = {"kinds": self.kinds, "bonds": self.bonds, "constraints": constraints}
        if self.weights is not None:
            return BeadMap.of_groups(n_atoms, self.groups, self.weights, **options)
        atoms = self.atoms or []
        group = tied_atoms(n_atoms, constraints)
        held: dict[int, int] = {}
        for bead, atom in enumerate(atoms):
            other = held.setdefault(int(group[atom]), bead)
            if other != bead:
                raise DataError(
                    f"constraints tie beads {other} ({self.kinds[other]}) and {bead} ({self.kinds[bead]}) together: no "
                    "mean force on either of them is known; choose other beads, or run with bonds to hydrogen "
                    "constrained only"
                )
        return BeadMap.of_atoms(n_atoms, atoms, masses=self.masses, **options)


def choose_beads(trajectory: Trajectory, what: str, bonds: Iterable[Pair] | None = None) -> Beads:
    """Beads of a trajectory.

    Parameters
    ----------
    trajectory
        With a topology, or of a folder of a :class:`~kernelfe.allatom.ForceReporter`.
    what
        "backbone" (N, CA, C), "backbone+cb", "ca", "heavy" (all atoms but hydrogens), "molecules" (a centre of mass of
        each), or a selection of MDAnalysis of one atom per bead.
    bonds
        Bonds of the atoms; None: those of the topology.

    Raises
    ------
    DataError
        If the selection cannot be read or takes nothing, or the preset needs what the topology does not state.
    """
    name, bonds = what.strip().lower(), trajectory.bonds if bonds is None else list(bonds)
    if name == "molecules":
        return _centres(trajectory, bonds)
    if name == "heavy":
        heavy = heavy_atoms(trajectory.masses, trajectory.names)
        if heavy is None:
            raise DataError("the preset heavy needs masses or names of the atoms: pass topology= (--topology)")
        chosen = np.flatnonzero(heavy).tolist()
        require(chosen, "no atom is heavier than hydrogen")
    else:
        try:
            chosen = trajectory.select(PRESETS.get(name) or what)
        except DataError as error:
            if name in PRESETS:
                raise DataError(
                    f"no beads {name!r} here ({error}): it needs the names of atoms and residues of a protein, from "
                    "topology= (--topology)"
                ) from None
            error.add_note(f"Beads are a selection of MDAnalysis, or one of {', '.join(PRESETS)}.")
            raise
    names = trajectory.names
    kinds = tuple("C" if names is None else names[atom].rpartition(":")[2] or "C" for atom in chosen)
    masses = None if trajectory.masses is None else np.asarray(trajectory.masses, float)[chosen]
    if masses is not None and not (masses > 0.0).all():
        masses = None
    joined = contracted_bonds(bonds or (), chosen, trajectory.n_atoms)
    return Beads(tuple((atom,) for atom in chosen), kinds, joined, None, masses)


def contracted_bonds(bonds: Iterable[Pair], beads: Sequence[int], n_atoms: int) -> tuple[Pair, ...]:
    """Bonds between beads: those of their atoms, and those by way of atoms that are not beads."""
    place = {int(atom): bead for bead, atom in enumerate(beads)}
    pairs = [(int(a), int(b)) for a, b in bonds]
    inner = np.array([p for p in pairs if p[0] not in place and p[1] not in place], int).reshape(-1, 2)
    graph = coo_array((np.ones(len(inner)), (inner[:, 0], inner[:, 1])), shape=(n_atoms, n_atoms))
    piece = connected_components(graph, directed=False)[1]
    found = {(min(place[a], place[b]), max(place[a], place[b])) for a, b in pairs if a in place and b in place}
    ends: dict[int, set[int]] = {}
    for a, b in pairs:
        for atom, other in ((a, b), (b, a)):
            if atom in place and other not in place:
                ends.setdefault(int(piece[other]), set()).add(place[atom])
    for around in ends.values():
        found |= {(i, j) for i in around for j in around if i < j}
    return tuple(sorted(found))


def molecules(bonds: Iterable[Pair], n_atoms: int) -> tuple[tuple[int, ...], ...]:
    """Atoms of each molecule, in the order of their first atoms; an atom without bonds is one of its own."""
    label = tied_atoms(n_atoms, bonds)
    order = np.argsort(label, kind="stable")
    pieces = np.split(order, np.flatnonzero(np.diff(label[order])) + 1)
    return tuple(sorted(tuple(piece.tolist()) for piece in pieces))


def heavy_atoms(masses: np.ndarray | None, names: Sequence[str] | None) -> np.ndarray | None:
    """Mask (atoms,) of the atoms heavier than hydrogen, from masses or else from names; None where both are unknown."""
    if masses is not None and (np.asarray(masses) > 0.0).any():
        return np.asarray(masses) > _HYDROGEN
    if names is None:
        return None
    plain = [name.rpartition(":")[2].lstrip("0123456789").upper() for name in names]
    return np.array([not name.startswith("H") for name in plain])


def _centres(trajectory: Trajectory, bonds: Sequence[Pair] | None) -> Beads:
    masses, names = trajectory.masses, trajectory.names
    require(
        masses is not None and bonds is not None,
        "centres of mass of molecules need masses and bonds of the atoms: pass a topology= (--topology) that states "
        "both (TPR, PRMTOP, PSF, LAMMPS data)",
    )
    weights = np.asarray(masses, float)
    groups = molecules(bonds or (), trajectory.n_atoms)
    kinds: list[str] = []
    seen: dict[tuple, str] = {}
    for group in groups:
        residue = "" if names is None else names[group[0]].partition(":")[0]
        alike = seen.setdefault(tuple(np.round(weights[list(group)], 3).tolist()), f"M{len(seen) + 1}")
        kinds.append(residue or alike)
    total = np.array([weights[list(group)].sum() for group in groups])
    return Beads(groups, tuple(kinds), (), weights, total)
