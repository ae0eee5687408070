"""A molecule as models of several see it: the kinds of its beads and its bonds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..descriptors import Descriptor
from ..descriptors.absent import Absent


@dataclass(frozen=True)
class Molecule:
    """One molecule (or one periodic system) of a fit.

    Parameters
    ----------
    kinds
        Kind of every bead.
    bonds
        Bonded beads, sorted; None: not known.
    periodic
        Whether its frames have a cell.
    """

    kinds: tuple[str, ...]
    bonds: tuple[tuple[int, int], ...] | None = None
    periodic: bool = False

    @classmethod
    def of(cls, frames) -> Molecule:
        """The molecule of Frames with kinds."""
        bonds = None if frames.bonds is None else tuple(sorted({(min(b), max(b)) for b in frames.bonds}))
        return cls(tuple(frames.kinds), bonds, frames.cell is not None)

    def counts(self, kinds: tuple[str, ...]) -> tuple[float, ...]:
        """Number of beads of each of ``kinds``."""
        found = Counter(self.kinds)
        return tuple(float(found[kind]) for kind in kinds)

    def bound(self, descriptor: Any) -> Any:
        """The descriptor with kinds and bonds of this molecule; :class:`Absent` where it has no environments."""
        return _bound(self, descriptor)

    def __str__(self) -> str:
        found = Counter(self.kinds)
        return "".join(f"{kind}{count if count > 1 else ''}" for kind, count in sorted(found.items()))


@lru_cache(maxsize=512)  # a memo of a pure function: asked for with every batch
def _bound(molecule: Molecule, descriptor: Descriptor) -> Any:
    if not descriptor.occurs_in(molecule.kinds):
        return Absent(descriptor.dimension((len(molecule.kinds), 3)))
    return descriptor.for_molecule(molecule.kinds, molecule.bonds)
