"""The measure of rigid bonds, with free and with held bead atoms.

Dynamics with constraints σ samples √det Z e^{−bU}, Z_st = Σ_a ∇_aσ_s·∇_aσ_t/m_a (Ciccotti, Kapral and Vanden-Eijnden,
ChemPhysChem 6, 1809 (2005)). An atom that is held behaves as one of infinite mass and leaves Z. The ensemble of free
dynamics at fixed R therefore weights a frame of held dynamics by

    √(det Z / det Z_held),

which differs from a constant where a held atom has two or more rigid bonds (three hydrogens on one carbon: by
fractions of a per cent). The factor does not depend on the temperature.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arrays import real_array
from ..errors import DataError, require

FloatArray = NDArray[np.float64]


class HeldMeasure:
    """The acceptance √(det Z / Π_s Z_ss) ≤ 1 that turns frames with held atoms into frames of the free measure.

    Around one held atom with rigid bonds to atoms that have no other constraint, Z_held is diagonal and constant, and
    Hadamard's inequality bounds det Z by Π_s Z_ss, which is constant too: accepting a frame with this probability is
    exact. In a cluster of constraints that is rigid as a whole (water) both determinants are constants.

    Parameters
    ----------
    constraints
        Pairs of atoms at a constrained distance.
    masses
        (atoms,), u, of the free dynamics.
    held
        The held atoms.

    Raises
    ------
    DataError
        If a constraint ties two held atoms, or a held atom belongs to a flexible cluster other than such a star.
    """

    def __init__(self, constraints: Iterable[tuple[int, int]], masses: ArrayLike, held: Sequence[int]):
        m, pairs, kept = (
            real_array(masses, "masses", "u"),
            [(int(a), int(b)) for a, b in constraints],
            set(map(int, held)),
        )
        partners: dict[int, list[int]] = {}
        for a, b in pairs:
            require(
                not (a in kept and b in kept),
                f"atoms {a} and {b} are both held and at a constrained distance, for which no force follows: "
                "build the system without this constraint",
            )
            partners.setdefault(a, []).append(b)
            partners.setdefault(b, []).append(a)
        #: Per star: its held atom, the atoms around it, and the ratio (1/m_centre)/(1/m_centre + 1/m_atom) of each.
        self.stars: list[tuple[int, list[int], FloatArray]] = []
        for centre in sorted(kept & set(partners)):
            around = partners[centre]
            tied = cluster(partners, centre)
            if all(len(partners[a]) == 1 for a in around):
                if len(around) > 1:
                    share = (1.0 / m[centre]) / (1.0 / m[centre] + 1.0 / m[around])
                    self.stars.append((centre, around, share))
            elif any(b not in partners[a] for a, b in combinations(tied, 2)):
                raise DataError(
                    f"held atom {centre} is part of the flexible cluster of constraints {tied}, whose measure is not "
                    "constant: restrain the beads instead (RestrainedProtocol(stiffness=...))"
                )

    def acceptance(self, positions: ArrayLike) -> FloatArray:
        """Probability to keep each frame, (n,), for positions (n, atoms, 3) in any unit."""
        x = real_array(positions, "positions", "Å")
        p = np.ones(len(x))
        for centre, around, share in self.stars:
            u = x[:, around] - x[:, [centre]]
            u /= np.linalg.norm(u, axis=-1, keepdims=True)
            z = np.einsum("nsx,ntx->nst", u, u) * np.sqrt(np.outer(share, share))
            z[:, np.arange(len(around)), np.arange(len(around))] = 1.0
            p *= np.sqrt(np.linalg.det(z))
        return p


def cluster(partners: dict[int, list[int]], start: int) -> list[int]:
    """All atoms that constraints connect with ``start``."""
    found, ahead = {start}, [start]
    while ahead:
        for b in partners.get(ahead.pop(), ()):
            if b not in found:
                found.add(b)
                ahead.append(b)
    return sorted(found)
