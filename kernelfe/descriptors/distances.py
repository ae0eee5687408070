"""Distances between the beads of a molecule: one environment per molecule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import DataError
from ..geometry import internal as geometry
from ..geometry.single import SingleDistances
from ..specs import Bound, OrNone
from .base import Beads, Descriptor, Environments, Pullback, Single, check_beads


@dataclass(frozen=True)
class Distances(Descriptor):
    """z = distances r between beads, Å; one environment per frame, one column per pair.

    Invariant under rotation, translation and reflection: a mirror image has the same distances. With a cell, r is
    the distance to the nearest image (:func:`kernelfe.geometry.cell.minimum_image`).

    Parameters
    ----------
    pairs
        Pairs of beads; None for all, ordered (0, 1), (0, 2), ….

    Raises
    ------
    DataError
        If a pair is not two different bead indices.
    """

    pairs: tuple[tuple[int, int], ...] | None = None

    BOUNDS: ClassVar[Mapping[str, Bound]] = {"pairs": OrNone(Beads(2))}

    def dimension(self, coordinate_shape: tuple[int, ...]) -> int:
        """Number of pairs."""
        return len(self._pairs(coordinate_shape))

    def environments(self, coordinates: Tensor, cell: Tensor | None = None) -> Environments:
        """See :meth:`Descriptor.environments`; ``strain`` is given where there is a cell."""
        stencil, v, r = self._read(coordinates, cell)
        z, slope = self._map(r)
        slopes = v * (slope * r.reciprocal())[:, None]
        strain = None if cell is None else geometry.strain(stencil, slopes, v)
        return Environments(z.T.contiguous(), geometry.jacobian(stencil, slopes), strain=strain)

    def values_and_pullback(self, coordinates: Tensor, cell: Tensor | None = None) -> tuple[Tensor, None, Pullback]:
        """See :meth:`Descriptor.values_and_pullback`."""
        stencil, v, r = self._read(coordinates, cell)
        z, slope = self._map(r)

        inverse = r.reciprocal()

        def pullback(g: Tensor) -> Tensor:
            return geometry.scatter(stencil, v * (g.T * (slope * inverse))[:, None])

        return z.T.contiguous(), None, pullback

    def single(self, coordinate_shape: tuple[int, ...]) -> Single | None:
        """See :meth:`Descriptor.single`; None for many pairs, of which batches are as fast."""
        pairs = self._pairs(coordinate_shape)
        geometry.stencil(pairs, (), (), coordinate_shape[0], (torch.float64, torch.device("cpu")))  # checks the beads
        if not SingleDistances.suits(len(pairs), coordinate_shape[0]):
            return None
        distances = SingleDistances(pairs, coordinate_shape[0])

        def read(x):
            r, pull = distances(x)
            z, slope = self._map(r)
            return z, lambda g: pull(g * slope)

        return read

    def _map(self, r: Any) -> tuple[Any, Any]:
        # z(r) and dz/dr, of a tensor or an array
        return r, 1.0

    def _pairs(self, coordinate_shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
        beads = check_beads(type(self).__name__, coordinate_shape)
        pairs = _all_pairs(beads) if self.pairs is None else self.pairs
        if not pairs:
            raise DataError(
                f"{type(self).__name__} has no pair to read in frames of {beads} beads: name pairs, or drop it"
            )
        return pairs

    def _read(self, x: Tensor, cell: Tensor | None) -> tuple[geometry.Stencil, Tensor, Tensor]:
        pairs = self._pairs(tuple(x.shape[1:]))
        stencil = geometry.stencil(pairs, (), (), x.shape[1], (x.dtype, x.device))
        v = geometry.edge_vectors(stencil, x, cell)
        return stencil, v, geometry.length(v)


@dataclass(frozen=True)
class InverseDistances(Distances):
    """z = 1/r, Å⁻¹, for pairs of beads; otherwise as :class:`Distances`.

    Resolves contacts and forgets far pairs; finite (1/``geometry.TINY``) for coincident beads.
    """

    def _map(self, r: Any) -> tuple[Any, Any]:
        z = 1.0 / r
        return z, -z * z


def _all_pairs(beads: int) -> tuple[tuple[int, int], ...]:
    return tuple((i, j) for i in range(beads) for j in range(i + 1, beads))
