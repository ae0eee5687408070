"""Distances of all pairs within a cutoff: one environment per pair, for liquids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from ..geometry import internal as geometry
from ..geometry.neighbours import Neighbours, neighbours
from ..geometry.topology import separation
from ..specs import Bound, Each, OrNone, Real, Text, Whole
from .base import Beads, Descriptor, Environments, Pullback, check_beads


@dataclass(frozen=True)
class PairDistances(Descriptor):
    """z = distance r of each pair of beads within a cutoff, Å; D = 1, the number of environments varies.

    With a cell every periodic image within the cutoff counts, images of a bead with itself included; each
    unordered pair once. r enters as it is: a kernel on r gives an energy that is not zero at the cutoff, so that
    pairs crossing it change the energy. For liquids use :class:`~kernelfe.descriptors.PairSplines`, which ends smoothly
    and is fitted exactly; here a fit warns where pairs cross the cutoff.

    Parameters
    ----------
    cutoff
        Å.
    kinds
        Two kinds of beads, for example ``("O", "H")``: only pairs of these kinds; None for all pairs.
    bead_kinds
        Kind of every bead of a frame; needed with ``kinds``, filled in from the data by :meth:`bind`.
    apart
        Least number of bonds between the beads of a pair, 3 to leave out bonds and angles; 0 for all pairs. Beads that
        no bonds connect are infinitely far apart. All periodic images of a pair are left out with it.
    bonds
        Bonded beads; needed with ``apart``, filled in from the data by :meth:`for_molecule`.

    Raises
    ------
    DataError
        If the cutoff is not positive and finite, or kinds are not two names.
    """

    cutoff: float
    kinds: tuple[str, str] | None = None
    bead_kinds: tuple[str, ...] | None = None
    apart: int = 0
    bonds: tuple[tuple[int, int], ...] | None = None

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        "cutoff": Real(above=0.0),
        "kinds": OrNone(Each(Text(), count=2)),
        "bead_kinds": OrNone(Each(Text())),
        "apart": Whole(least=0),
        "bonds": OrNone(Beads(2)),
    }

    def bind(self, kinds: Sequence[str] | None) -> PairDistances:
        """This descriptor with ``bead_kinds`` = ``kinds``, where they matter and are not given yet."""
        if self.kinds is None or self.bead_kinds is not None or kinds is None:
            return self
        return replace(self, bead_kinds=tuple(kinds))

    def for_molecule(self, kinds, bonds) -> PairDistances:
        """See :meth:`Descriptor.for_molecule`."""
        out = self.bind(kinds)
        wanted = self.apart and self.bonds is None and bonds is not None
        return replace(out, bonds=tuple(map(tuple, bonds))) if wanted else out

    def occurs_in(self, kinds: Sequence[str]) -> bool:
        """True if both kinds are among those of a molecule."""
        return self.kinds is None or set(self.kinds) <= set(kinds)

    def dimension(self, coordinate_shape: tuple[int, ...]) -> int:
        """One."""
        check_beads("PairDistances", coordinate_shape)
        return 1

    def environments(self, coordinates: Tensor, cell: Tensor | None = None) -> Environments:
        """See :meth:`Descriptor.environments`; ``strain`` is given where there is a cell."""
        frame, i, j, v = self._neighbours(coordinates, cell)
        r = v.norm(dim=-1, keepdim=True).clamp_min(geometry.TINY)
        unit = v / r
        jacobian = torch.cat((-unit, unit), -1)[:, None]
        xyz = torch.arange(3, device=v.device)
        columns = torch.cat((3 * i[:, None] + xyz, 3 * j[:, None] + xyz), -1)
        strain = None if cell is None else geometry.voigt(unit, v)[:, None]
        return Environments(r, jacobian, columns, frame, strain)

    def values_and_pullback(self, coordinates: Tensor, cell: Tensor | None = None) -> tuple[Tensor, Tensor, Pullback]:
        """See :meth:`Descriptor.values_and_pullback`."""
        frame, i, j, v = self._neighbours(coordinates, cell)
        r = v.norm(dim=-1, keepdim=True).clamp_min(geometry.TINY)
        shape, first = coordinates.shape, frame * coordinates.shape[1]

        def pullback(g: Tensor) -> Tensor:
            w = v * (g / r)
            out = w.new_zeros(shape[0] * shape[1], 3)
            return out.index_add_(0, first + j, w).index_add_(0, first + i, w, alpha=-1.0).view(shape)

        return r, frame, pullback

    def _neighbours(self, x: Tensor, cell: Tensor | None) -> Neighbours:
        beads = check_beads("PairDistances", tuple(x.shape[1:]))
        return neighbours(x, cell, self.cutoff, self._wanted(beads))

    def _wanted(self, beads: int) -> np.ndarray | None:
        # (beads, beads) mask of the pairs of the wanted kinds, far enough apart along bonds
        far = self.far(beads)
        if self.kinds is None:
            return far
        if self.bead_kinds is None or len(self.bead_kinds) != beads:
            known = "no" if self.bead_kinds is None else str(len(self.bead_kinds))
            raise DataError(
                f"PairDistances(kinds={self.kinds}) knows {known} bead kinds for frames of {beads} beads: "
                "give kinds= when building the Frames, or bead_kinds="
            )
        if missing := set(self.kinds) - set(self.bead_kinds):
            raise DataError(f"PairDistances(kinds={self.kinds}): no bead is of kind {sorted(missing)}")
        first, second = (np.array([kind == wanted for kind in self.bead_kinds]) for wanted in self.kinds)
        both = (first[:, None] & second) | (second[:, None] & first)
        return both if far is None else both & far

    def far(self, beads: int) -> np.ndarray | None:
        """Mask (beads, beads) of the pairs that are far enough apart along bonds; None if all are.

        Raises
        ------
        DataError
            If bonds are needed and not known.
        """
        if not self.apart:
            return None
        if self.bonds is None:
            raise DataError(f"PairDistances(apart={self.apart}) knows no bonds: give bonds= when building the Frames")
        return _apart(self.bonds, beads, self.apart)


@lru_cache(maxsize=128)  # a memo of a pure function: samplers call at every step
def _apart(bonds: tuple[tuple[int, int], ...], beads: int, least: int) -> np.ndarray:
    return separation(bonds, beads) >= least
