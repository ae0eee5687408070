"""Distances and signed volumes: what distances alone cannot tell, left from right, is told by the sign."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, require
from ..geometry import internal as geometry
from ..geometry.single import Gradient, signed_volume
from ..specs import Bound, Each, OrNone, Real
from .base import Beads, Environments, Pullback, Single
from .distances import Distances


@dataclass(frozen=True)
class HandedDistances(Distances):
    """z = (r …, h …): distances between beads and signed volumes of quadruples, all in Å; one environment per frame.

        h = a · (b × c)/S,   a, b, c the edges i → j → k → l of a quadruple (i, j, k, l)

    h is odd under reflection, the distances are even: a molecule and its mirror image differ in h alone. With S near
    |a × b|, h is the distance of bead l from the plane of i, j and k. The volume is a polynomial of the positions, so
    that it is smooth also where three beads are collinear and a torsion has no value. An even permutation of the beads
    of a quadruple leaves h as it is, an odd one (the exchange of two like beads) reverses its sign. With a cell, edges
    are nearest images.

    Parameters
    ----------
    pairs
        As of :class:`Distances`.
    quadruples
        Four different beads each, at least one: a dihedral, or a bead and three of its neighbours.
    areas
        S of each quadruple, Å²: the larger, the less the column counts beside the distances. None: 1 Å² each.

    Raises
    ------
    DataError
        If a quadruple does not name four different beads, or areas are not one positive number each.
    """

    quadruples: tuple[tuple[int, int, int, int], ...] = ()
    areas: tuple[float, ...] | None = None

    BOUNDS: ClassVar[Mapping[str, Bound]] = {"quadruples": Beads(4), "areas": OrNone(Each(Real(above=0.0)))}

    #: Quadruples up to which plain numbers are faster than arrays.
    PLAIN: ClassVar[int] = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.quadruples, "HandedDistances() names no quadruple: give some, or use Distances()")
        if self.areas is not None and len(self.areas) != len(self.quadruples):
            raise DataError(
                f"HandedDistances has {len(self.areas)} areas for {len(self.quadruples)} quadruples: give one each"
            )

    def dimension(self, coordinate_shape: tuple[int, ...]) -> int:
        """Number of pairs and quadruples."""
        return super().dimension(coordinate_shape) + len(self.quadruples)

    def environments(self, coordinates: Tensor, cell: Tensor | None = None) -> Environments:
        """See :meth:`Descriptor.environments`; ``strain`` is given where there is a cell."""
        stencil, v, z, slopes = self._measured(coordinates, cell)
        strain = None if cell is None else geometry.strain(stencil, slopes, v)
        return Environments(z.T.contiguous(), geometry.jacobian(stencil, slopes), strain=strain)

    def values_and_pullback(self, coordinates: Tensor, cell: Tensor | None = None) -> tuple[Tensor, None, Pullback]:
        """See :meth:`Descriptor.values_and_pullback`."""
        stencil, _, z, slopes = self._measured(coordinates, cell)

        def pullback(g: Tensor) -> Tensor:
            return geometry.scatter(stencil, geometry.edge_gradients(stencil, slopes, g.T))

        return z.T.contiguous(), None, pullback

    def single(self, coordinate_shape: tuple[int, ...]) -> Single | None:
        """See :meth:`Descriptor.single`; None for many pairs or quadruples, of which batches are as fast."""
        distances = super().single(coordinate_shape)
        geometry.stencil((), (), self.quadruples, coordinate_shape[0], (torch.float64, torch.device("cpu")))  # checks
        if distances is None or len(self.quadruples) > self.PLAIN:
            return None
        factors = [1.0 / area for area in self.areas or (1.0,) * len(self.quadruples)]

        def read(x):
            r, pull = distances(x)
            beads = x.tolist()
            found = [signed_volume(beads, *quadruple) for quadruple in self.quadruples]

            def pullback(g):
                out = Gradient(len(beads))
                for one, factor, quadruple, (_, slopes) in zip(
                    g[len(r) :].tolist(), factors, self.quadruples, found, strict=True
                ):
                    out.add_torsion(one * factor, *quadruple, slopes)
                return pull(g[: len(r)]) + out.array()

            volumes = [volume * factor for (volume, _), factor in zip(found, factors, strict=True)]
            return np.concatenate((r, volumes)), pullback

        return read

    def _measured(self, x: Tensor, cell: Tensor | None) -> tuple[geometry.Stencil, Tensor, Tensor, Tensor]:
        """Stencil, edge vectors, z (D, n) and ∂z/∂(edge vectors)."""
        pairs, quads = self._pairs(tuple(x.shape[1:])), len(self.quadruples)
        stencil = geometry.stencil(pairs, (), self.quadruples, x.shape[1], (x.dtype, x.device))
        v = geometry.edge_vectors(stencil, x, cell)
        size = len(pairs)
        r = geometry.length(v[:size])
        volumes, slopes = geometry.triple_products(v[size:])
        inverse = _inverse((1.0,) * quads if self.areas is None else self.areas, x.dtype, x.device)
        z = torch.cat((r, volumes * inverse[:quads]))
        return stencil, v, z, torch.cat((v[:size] * r.reciprocal()[:, None], slopes * inverse[..., None]))


@lru_cache(maxsize=32)  # a memo of a pure function: samplers call at every step
def _inverse(areas: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """1/S of the three edges of each quadruple, shape (3 · quadruples, 1)."""
    with torch.inference_mode(False):
        return 1.0 / torch.tensor(3 * areas, dtype=dtype, device=device)[:, None]
