"""Terms of liquids that the user left out: splines of pairs and triplets, with their ranges from the data.

Ranges follow from the distribution of distances g(r) of each two kinds of beads, over up to 100 frames and all
temperatures, smoothed over 0.1 Å (less in liquids of small beads):

* contact: the least distance with g > 0.1; peak: the largest g; shell: the least g between the peak and 1.75 times its
  distance, which is the first minimum (without a minimum there, 1.4 times the peak).
* pairs: from the smallest distance of all frames less three knots, so that functions have all their freedom where there
  are data, to the cutoff. Knots are 1/36 of the peak apart, 0.1 Å at most.
* triplets: to 1.1 times the shell, the larger one of both neighbours.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ...descriptors import PairSplines, TripletSplines
from ...errors import DataError
from ...frames import Frames
from ...geometry.cell import heights
from ...specs import OrNone, Real, checked
from ..default_terms import local_terms
from ..molecules import Molecule
from ..observations.molecules import MoleculeSet
from ..prior.term import Term
from .shells import APART, Shell, shells_of

logger = logging.getLogger(__name__)

#: Separate molecules, or single beads, from which on periodic frames are those of a liquid.
MANY = 32
#: Weights of all terms up to which triplets are in the default terms: the evidence of more takes minutes.
MOST_WEIGHTS = 500


def liquid_terms(
    frames: Frames | Sequence[Frames],
    cutoff: float | None = None,
    triplets: bool | float | None = None,
) -> list[tuple[str, Term]]:
    """Terms of a periodic liquid of one or several kinds of beads.

    One term on :class:`~kernelfe.descriptors.PairSplines` for each two kinds, and one on
    :class:`~kernelfe.descriptors.TripletSplines` for each kind of centre and two kinds of neighbours; where bonds are
    known, also one for the bonds, angles and dihedrals of each combination of kinds, and pairs are those of beads
    three or more bonds apart. All energies and forces are continuous at the cutoffs. Ranges are read from the frames by
    the rules of :mod:`kernelfe.gp.liquids.terms`.

    Parameters
    ----------
    frames
        Frames with a cell; several Frames for boxes of different beads, which then need kinds.
    cutoff
        Of the pairs, Å; None: the larger of 9 Å and 2.5 times the distance of the largest g(r), but at most half the
        least height of the cells.
    triplets
        True, False, or their cutoff in Å. None: unless all terms together would have more than 500 weights, as those
        of two kinds of beads mostly do.

    Returns
    -------
    list of (str, Term)
        ``terms`` of the regressor; scales are left to the data.

    Raises
    ------
    DataError
        If frames have no cell, or one that is too small; if beads overlap; if kinds are missing, or a number is out of
        bounds. The message names the frame.

    Warns
    -----
    UserWarning
        If the cutoff is larger than half the least height of a cell.
    """
    cutoff = checked("cutoff", cutoff, OrNone(Real(above=0.0)), "liquid_terms")
    reach = None if triplets is None or isinstance(triplets, bool) else triplets
    reach = checked("triplets", reach, OrNone(Real(above=0.0)), "liquid_terms")
    cast = MoleculeSet([frames] if isinstance(frames, Frames) else list(frames))
    height = _least_height(cast, cutoff)
    shells = shells_of(cast, 0.5 * height)
    first = max(shell.peak for shell in shells.values())
    if cutoff is None:
        cutoff = min(max(9.0, 2.5 * first), 0.5 * height)
    bonded = all(molecule.bonds is not None for molecule in cast.molecules)
    out = list(_bonded_terms(cast, bonded, cutoff))
    for (one, other), shell in shells.items():
        spacing = min(0.1, shell.peak / 36.0)
        start = max(0.0, shell.least - 3.0 * spacing)
        if start + 4.0 * spacing >= cutoff:
            raise DataError(
                f"liquid_terms: the nearest beads ({_name(one, other)}) are {shell.least:.2f} Å apart, so that a "
                f"cutoff of {cutoff:.2f} Å (half the least height is {0.5 * height:.2f} Å) leaves no range for a "
                "pair function: give a larger cutoff=, with which periodic images count, or use larger cells"
            )
        kinds = None if one == "*" else (one, other)
        descriptor = PairSplines(float(cutoff), kinds, apart=APART * bonded, start=float(start), spacing=float(spacing))
        out.append((f"pair {_name(one, other)}", Term(descriptor)))
    three = [] if triplets is False else _triplets(shells, reach, cutoff)
    weights = sum(_weights(term.descriptor) for _, term in [*out, *three])
    if triplets is None and weights > MOST_WEIGHTS:
        logger.info("no triplets: they would make %d weights, more than %d; triplets=True", weights, MOST_WEIGHTS)
        three = []
    for name, term in [*out, *three]:
        logger.info("default term of a liquid: %s, %s", name, _described(term.descriptor))
    return out + three


def is_liquid(data: MoleculeSet) -> bool:
    """True for periodic frames of many molecules, or of many beads that no bonds are known of."""
    return all(_is_liquid(molecule) for molecule in data.molecules)


def _is_liquid(molecule: Molecule) -> bool:
    if not molecule.periodic or len(molecule.shape) != 2:
        return False
    root = list(range(molecule.shape[0]))

    def top(bead: int) -> int:
        while root[bead] != bead:
            root[bead] = bead = root[root[bead]]
        return bead

    for one, other in molecule.bonds or ():
        root[top(one)] = top(other)
    return sum(bead == top(bead) for bead in range(len(root))) >= MANY


def _least_height(cast: MoleculeSet, cutoff: float | None) -> float:
    """Least distance of opposite faces of all cells, Å."""
    least = np.inf
    for molecule, part in zip(cast.molecules, cast.parts, strict=True):
        if part.positions is None:
            raise DataError("liquid_terms reads positions of beads, and these Frames hold variables")
        if part.cell is None:
            raise DataError(
                f"liquid_terms: the frames of {molecule} have no cell: give cell= when building the Frames, or use "
                "local_terms(...) for molecules that are not periodic"
            )
        high = heights(torch.from_numpy(np.array(part.cell, dtype=float)).reshape(-1, 3, 3), len(part)).amin(1).numpy()
        frame = int(high.argmin())
        if cutoff is not None and cutoff > 0.5 * high[frame] and high[frame] < least:
            warnings.warn(
                f"cutoff={cutoff:g} Å is more than half the least height of the cell of frame {frame}, "
                f"{high[frame]:.4g} Å: several images of a bead are then neighbours of another. All of "
                "them count, but their distances depend on each other; larger cells, or a cutoff of at most "
                f"{0.5 * high[frame]:.4g} Å, avoid it",
                stacklevel=3,
            )
        least = min(least, float(high[frame]))
    return least


def _bonded_terms(cast: MoleculeSet, bonded: bool, cutoff: float) -> list[tuple[str, Term]]:
    if not bonded or not cast.kinds:
        return []
    return [(name, term) for name, term in local_terms(cast.parts, cutoff) if not name.startswith("pair ")]


def _triplets(shells: dict[tuple[str, str], Shell], reach: float | None, cutoff: float) -> list[tuple[str, Term]]:
    kinds, out = sorted({kind for pair in shells for kind in pair}), []
    for centre in kinds:
        near = [other for other in kinds if tuple(sorted((centre, other))) in shells]
        for a, first in enumerate(near):
            for second in near[a:]:
                both = [shells[(min(centre, k), max(centre, k))] for k in (first, second)]
                stop = min(1.1 * max(shell.end for shell in both), cutoff) if reach is None else reach
                start = 0.95 * min(shell.least for shell in both)
                if start >= stop:
                    raise DataError(
                        f"liquid_terms: triplets={stop:g} Å ends before the nearest neighbours of {centre}, at "
                        f"{start / 0.95:.2f} Å"
                    )
                named = None if centre == "*" else (centre, first, second)
                descriptor = TripletSplines(float(stop), float(start), float((stop - start) / 4.0), kinds=named)
                out.append((f"triplet {_name(centre, first, second)}", Term(descriptor)))
    return out


def _weights(descriptor: Any) -> int:
    nodes = getattr(descriptor, "weight_nodes", None)
    return 0 if nodes is None else len(nodes.nodes)


def _name(*kinds: str) -> str:
    return "-".join(kinds) if kinds[0] != "*" else "all"


def _described(descriptor: Any) -> str:
    if not _weights(descriptor):
        return str(descriptor)
    return (
        f"{_weights(descriptor)} weights, {descriptor.start:.2f} to {descriptor.cutoff:.2f} Å by "
        f"{descriptor.splines.step:.3f} Å"
    )
