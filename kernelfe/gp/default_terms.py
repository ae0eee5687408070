"""Terms that the user left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..descriptors import Bonded, HandedDistances, PairDistances
from ..errors import DataError
from ..frames import Frames
from ..geometry.topology import angles_of, dihedrals_of, impropers_of
from .handedness import Handedness
from .molecules import Molecule
from .observations.molecules import MoleculeSet
from .prior.term import Term


def local_terms(
    parts: Frames | Sequence[Frames], cutoff: float | None = None, reach: float = 2.0, impropers: bool = False
) -> list[tuple[str, Term]]:
    """Terms by the kinds of beads that molecules of different sizes can share.

    One for the bonds, the angles and the dihedrals of each combination of kinds that occurs, and one for the distances
    of each two kinds: of all pairs three or more bonds apart where bonds are known, else of all pairs.

    Parameters
    ----------
    parts
        Frames of one or several molecules, with kinds.
    cutoff
        Of the pair distances, Å; None: ``reach`` times the largest distance in the frames (not for periodic frames).
    reach
        Cutoff in units of the largest distance, where ``cutoff`` is left out.
    impropers
        Add a term for each combination of a bead and three bonded neighbours of different kinds, which tells left from
        right there. (Dihedrals do, along a chain; an improper that does not flip is kept by the baseline.)

    Returns
    -------
    list of (str, Term)
        ``terms`` of the regressor; numbers are left to the data.

    Raises
    ------
    DataError
        If kinds are missing, or a cutoff is needed.
    """
    cast = MoleculeSet([parts] if isinstance(parts, Frames) else list(parts))
    if not cast.kinds:
        raise DataError("local_terms: the Frames lack kinds of their beads (kinds=), by which terms are made")
    if cutoff is None:
        if any(molecule.periodic for molecule in cast.molecules):
            raise DataError("local_terms of periodic frames needs cutoff=, in Å")
        cutoff = reach * max(_extent(part.positions) for part in cast.parts if len(part))
    out, bonded = [], all(molecule.bonds is not None for molecule in cast.molecules)
    if bonded:
        for beads, name in ((2, "bond"), (3, "angle"), (4, "dihedral")):
            found = sorted({kinds for molecule in cast.molecules for kinds in _chains(molecule, beads)})
            out += [(f"{name} {'-'.join(kinds)}", Term(Bonded(kinds))) for kinds in found]
        found = sorted({kinds for molecule in cast.molecules for kinds in _centres(molecule)}) if impropers else []
        out += [(f"improper {'-'.join(kinds)}", Term(Bonded(kinds, centre=True))) for kinds in found]
    apart = 3 if bonded else 0
    for first, kind in enumerate(cast.kinds):
        for other in cast.kinds[first:]:
            descriptor = PairDistances(float(cutoff), (kind, other), apart=apart)
            if any(_pairs_exist(molecule, descriptor) for molecule in cast.molecules):
                out.append((f"pair {kind}-{other}", Term(descriptor)))
    return out


def default_terms(data: MoleculeSet, handed: Sequence[Handedness] = ()) -> list[tuple[str, Term]]:
    """Terms of a fit that states none: all distances (or variables) where beads are the same, else terms by kinds.

    Parameters
    ----------
    data
        The training data.
    handed
        Handedness of each molecule. Where left and right differ and the baseline does not keep them apart, signed
        volumes are added to the distances.
    """
    if data.parts[0].positions is None:
        return [("variables", Term())]
    if not same_beads(data):
        return local_terms(data.parts, impropers=any(one.open for one in handed))
    areas = {quad: area for one in handed if one.open for quad, area in zip(one.quadruples, one.areas, strict=True)}
    if not areas:
        return [("distances", Term())]
    return [("distances", Term(HandedDistances(quadruples=tuple(areas), areas=tuple(areas.values()))))]


def same_beads(data: MoleculeSet) -> bool:
    """True if all molecules have the same beads in the same order, so that they can share terms of distances."""
    return len({molecule.kinds for molecule in data.molecules}) == 1


def _extent(positions: Any) -> float:
    """No distance between beads exceeds it: the largest diagonal of the boxes around the frames, Å."""
    return float(np.linalg.norm(np.ptp(positions, axis=1), axis=-1).max())


def _chains(molecule: Molecule, beads: int) -> set[tuple[str, ...]]:
    bonds, names = molecule.bonds or (), molecule.kinds or ()
    entries: Any = bonds if beads == 2 else angles_of(bonds) if beads == 3 else dihedrals_of(bonds)
    kinds = {tuple(names[bead] for bead in entry) for entry in entries}
    return {min(kind, kind[::-1]) for kind in kinds}


def _centres(molecule: Molecule) -> set[tuple[str, ...]]:
    """Kinds of beads and of three of their neighbours, where these differ."""
    names = molecule.kinds or ()
    found = [(names[centre], *sorted(names[b] for b in near)) for centre, *near in impropers_of(molecule.bonds or ())]
    return {kinds for kinds in found if len(set(kinds[1:])) == 3}


def _pairs_exist(molecule: Molecule, descriptor: PairDistances) -> bool:
    bound = molecule.bound(descriptor)
    if not isinstance(bound, PairDistances):
        return False
    mask = bound._wanted(molecule.shape[0])
    return molecule.periodic or mask is None or bool(np.triu(mask, 1).any())
