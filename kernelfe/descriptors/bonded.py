"""Bond lengths, angles, dihedrals and impropers by the kinds of their beads: one environment per bonded fragment."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import DataError, require
from ..geometry.topology import _neighbours
from ..specs import Bound, Each, Flag, OrNone, Text
from .base import Beads, Descriptor, Environments, Pullback, check_beads
from .internal import InternalCoordinates

#: Coordinate of a fragment of so many beads: its bond length, angle, dihedral.
_USUAL = {
    2: InternalCoordinates(bonds=((0, 1),)),
    3: InternalCoordinates(angles=((0, 1, 2),)),
    4: InternalCoordinates(dihedrals=((0, 1, 2, 3),)),
}
#: The same of a centre and its three neighbours.
_IMPROPER = InternalCoordinates(impropers=((0, 1, 2, 3),))


@dataclass(frozen=True)
class Bonded(Descriptor):
    """z = coordinates of every chain of bonded beads of given kinds: one environment per such fragment.

    The same function of z serves every fragment of every molecule, whatever its size: with two kinds z = r (Å), with
    three the angle θ, with four (sin φ, cos φ).

    Parameters
    ----------
    kinds
        Kinds of the beads along the chain; a chain read backwards is the same fragment.
    descriptor
        What is read of a fragment, its beads numbered along the chain: a descriptor with one environment per frame,
        such as ``InternalCoordinates(angles=((0, 1, 2),), dihedrals=((0, 1, 2, 3),))``. None: bond length, angle or
        dihedral. With a descriptor of your own, fragments whose kinds read the same backwards are read both ways, so
        that the sum does not depend on how beads are numbered.
    centre
        Whether fragments are a bead and some of its neighbours, instead of a chain: ``kinds`` are then those of the
        centre and of its neighbours. With three neighbours z = (sin χ, cos χ) of the improper. Neighbours of one kind
        are read in every order, so that only neighbours of different kinds tell left from right.
    bead_kinds, bonds
        Kind of every bead of a frame, and bonded beads; filled in from the data by :meth:`for_molecule`.

    Raises
    ------
    DataError
        If fewer than two kinds are named, or more than bond lengths, angles and dihedrals have beads; when read, if
        kinds or bonds are not known.
    """

    kinds: tuple[str, ...]
    descriptor: Any = None
    bead_kinds: tuple[str, ...] | None = None
    bonds: tuple[tuple[int, int], ...] | None = None
    centre: bool = False

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        "kinds": Each(Text(), least=2),
        "bead_kinds": OrNone(Each(Text())),
        "bonds": OrNone(Beads(2)),
        "centre": Flag(),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.descriptor is not None or len(self.kinds) in ((4,) if self.centre else _USUAL),
            f"Bonded(kinds={self.kinds!r}): give descriptor= for fragments of more than four beads"
            + (" or, of a centre, fewer" if self.centre else ""),
        )

    def bind(self, kinds: Sequence[str] | None) -> Bonded:
        """This descriptor with ``bead_kinds`` = ``kinds``, if not given yet."""
        return self if kinds is None or self.bead_kinds is not None else replace(self, bead_kinds=tuple(kinds))

    def for_molecule(self, kinds, bonds) -> Bonded:
        """See :meth:`Descriptor.for_molecule`."""
        out = self.bind(kinds)
        return out if bonds is None or out.bonds is not None else replace(out, bonds=tuple(map(tuple, bonds)))

    def dimension(self, coordinate_shape: tuple[int, ...]) -> int:
        """Columns of a fragment."""
        check_beads("Bonded", coordinate_shape)
        return self._inner.dimension((len(self.kinds), 3))

    def environments(self, coordinates: Tensor, cell: Tensor | None = None) -> Environments:
        """See :meth:`Descriptor.environments`; ``strain`` is given where there is a cell."""
        beads, frame, parts, cells = self._fragments(coordinates, cell)
        inner = self._inner.environments(parts, cell=cells)
        xyz = torch.arange(3, device=beads.device)
        columns = (3 * beads[:, :, None] + xyz).flatten(1).repeat(len(coordinates), 1)
        if inner.columns is not None:
            columns = torch.gather(columns, 1, inner.columns)
        return Environments(inner.z, inner.jacobian, columns, frame, inner.strain)

    def values_and_pullback(self, coordinates: Tensor, cell: Tensor | None = None) -> tuple[Tensor, Tensor, Pullback]:
        """See :meth:`Descriptor.values_and_pullback`."""
        beads, frame, parts, cells = self._fragments(coordinates, cell)
        z, _, inner = self._inner.values_and_pullback(parts, cell=cells)

        def pullback(g: Tensor) -> Tensor:
            out = torch.zeros_like(coordinates)
            return out.index_add_(1, beads.flatten(), inner(g).reshape(len(coordinates), -1, 3))

        return z, frame, pullback

    @property
    def _inner(self) -> Any:
        usual = _IMPROPER if self.centre else _USUAL.get(len(self.kinds))
        return usual if self.descriptor is None else self.descriptor

    def _fragments(self, x: Tensor, cell: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Beads of the fragments (Q, k), frame of each environment, positions (n Q, k, 3) and cells."""
        size = check_beads("Bonded", tuple(x.shape[1:]))
        if self.bead_kinds is None or self.bonds is None or len(self.bead_kinds) != size:
            missing = (
                "kinds" if self.bead_kinds is None else "bonds" if self.bonds is None else f"kinds of {size} beads"
            )
            raise DataError(f"Bonded(kinds={self.kinds}) lacks the {missing}: give {missing}= when building the Frames")
        if self.centre:
            found = centred(self.kinds, self.bead_kinds, self.bonds)
        else:
            found = fragments(self.kinds, self.bead_kinds, self.bonds, self.descriptor is not None)
        beads = torch.tensor(found, dtype=torch.long, device=x.device).reshape(-1, len(self.kinds))
        frame = torch.arange(len(x), device=x.device).repeat_interleave(len(beads))
        cells = cell if cell is None or cell.ndim == 2 else cell.repeat_interleave(len(beads), 0)
        return beads, frame, x[:, beads].flatten(0, 1), cells


@lru_cache(maxsize=128)  # a memo of a pure function: samplers call at every step
def fragments(
    kinds: tuple[str, ...], bead_kinds: tuple[str, ...], bonds: tuple[tuple[int, int], ...], both: bool = False
) -> tuple[tuple[int, ...], ...]:
    """Chains of different, successively bonded beads of the given kinds.

    Each once, in the direction of ``kinds``; of those that read the same backwards the direction that begins at the
    lower bead, or with ``both`` each direction.
    """
    near = _neighbours(bonds)
    chains: list[tuple[int, ...]] = [(bead,) for bead, kind in enumerate(bead_kinds) if kind == kinds[0]]
    for kind in kinds[1:]:
        chains = [
            (*chain, bead)
            for chain in chains
            for bead in near.get(chain[-1], ())
            if bead not in chain and bead_kinds[bead] == kind
        ]
    if kinds == kinds[::-1] and not both:
        chains = [chain for chain in chains if chain[0] < chain[-1]]
    return tuple(chains)


@lru_cache(maxsize=128)
def centred(
    kinds: tuple[str, ...], bead_kinds: tuple[str, ...], bonds: tuple[tuple[int, int], ...]
) -> tuple[tuple[int, ...], ...]:
    """Beads of the first kind with neighbours of the other kinds, those of one kind in every order."""
    return tuple(
        (bead, *around)
        for bead, near in _neighbours(bonds).items()
        if bead_kinds[bead] == kinds[0]
        for around in itertools.permutations(near, len(kinds) - 1)
        if tuple(bead_kinds[other] for other in around) == kinds[1:]
    )
