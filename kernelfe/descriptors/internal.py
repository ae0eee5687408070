"""Bond lengths, angles, dihedrals and impropers: one environment per molecule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..errors import require
from ..geometry import internal as geometry
from ..geometry.single import Gradient, angle, distance, torsion
from ..specs import Bound
from .base import Beads, Descriptor, Environments, Pullback, Single, check_beads


@dataclass(frozen=True)
class InternalCoordinates(Descriptor):
    """z = (r …, θ …, sin φ, cos φ …, sin χ, cos χ …); one environment per frame.

    Invariant under rotation and translation; torsions tell mirror images apart. With a cell, edge vectors are
    nearest images. At a collinear triple torsions are undefined and the slopes of angles have no direction: values
    and slopes stay finite there.

    Parameters
    ----------
    bonds
        Pairs (i, j): length r in Å, one column each.
    angles
        Triples (i, j, k): angle θ at j in [0, π], one column each.
    dihedrals
        Quadruples (i, j, k, l): dihedral φ about j–k (IUPAC sign, trans = π), two columns each.
    impropers
        Quadruples (centre, a, b, c), measured as the dihedral of the four beads in this order, two columns each.

    Raises
    ------
    DataError
        If an entry does not name different beads, or nothing is named.
    """

    bonds: tuple[tuple[int, int], ...] = ()
    angles: tuple[tuple[int, int, int], ...] = ()
    dihedrals: tuple[tuple[int, int, int, int], ...] = ()
    impropers: tuple[tuple[int, int, int, int], ...] = ()

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        "bonds": Beads(2),
        "angles": Beads(3),
        "dihedrals": Beads(4),
        "impropers": Beads(4),
    }

    #: Coordinates, angles counting twice and torsions four times, up to which plain numbers are faster than arrays.
    PLAIN: ClassVar[int] = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.bonds or self.angles or self.dihedrals or self.impropers,
            "InternalCoordinates() names no coordinate: give bonds, angles, dihedrals or impropers",
        )

    def dimension(self, coordinate_shape: tuple[int, ...]) -> int:
        """One column per bond and angle, two per dihedral and improper."""
        check_beads("InternalCoordinates", coordinate_shape)
        return len(self.bonds) + len(self.angles) + 2 * (len(self.dihedrals) + len(self.impropers))

    def environments(self, coordinates: Tensor, cell: Tensor | None = None) -> Environments:
        """See :meth:`Descriptor.environments`; ``strain`` is given where there is a cell."""
        stencil, v, q, slopes = self._read(coordinates, cell)
        sine, cosine = self._torsions(q)
        jacobian = self._expand(geometry.jacobian(stencil, slopes), sine, cosine)
        strain = None if cell is None else self._expand(geometry.strain(stencil, slopes, v), sine, cosine)
        return Environments(self._columns(q, sine, cosine), jacobian, strain=strain)

    def values_and_pullback(self, coordinates: Tensor, cell: Tensor | None = None) -> tuple[Tensor, None, Pullback]:
        """See :meth:`Descriptor.values_and_pullback`."""
        stencil, _, q, slopes = self._read(coordinates, cell)
        sine, cosine = self._torsions(q)

        def pullback(g: Tensor) -> Tensor:
            g = g.T
            if len(sine):
                plain = len(q) - len(sine)
                g = torch.cat((g[:plain], g[plain::2] * cosine - g[plain + 1 :: 2] * sine))
            return geometry.scatter(stencil, geometry.edge_gradients(stencil, slopes, g))

        return self._columns(q, sine, cosine), None, pullback

    def single(self, coordinate_shape: tuple[int, ...]) -> Single | None:
        """See :meth:`Descriptor.single`; None for many coordinates, of which batches are as fast."""
        torsions, beads = self.dihedrals + self.impropers, self.dimension(coordinate_shape) and coordinate_shape[0]
        geometry.stencil(self.bonds, self.angles, torsions, beads, (torch.float64, torch.device("cpu")))  # checks beads
        if len(self.bonds) + 2 * len(self.angles) + 4 * len(torsions) > self.PLAIN:
            return None

        def read(x):
            x = x.tolist()
            bonds, angles = [distance(x, *b) for b in self.bonds], [angle(x, *a) for a in self.angles]
            turns = [torsion(x, *t) for t in torsions]
            waves = [(math.sin(value), math.cos(value)) for value, _ in turns]
            z = [found[0] for found in (*bonds, *angles)]

            def pullback(g):
                out, g = Gradient(beads), g.tolist()
                for one, bond, (_, *slope) in zip(g, self.bonds, bonds, strict=False):
                    out.add_distance(one, *bond, slope)
                for one, bent, (_, slopes) in zip(g[len(bonds) :], self.angles, angles, strict=False):
                    out.add_angle(one, *bent, slopes)
                by_sine, by_cosine = g[len(z) :: 2], g[len(z) + 1 :: 2]
                for one, two, (s, c), turned, (_, slopes) in zip(
                    by_sine, by_cosine, waves, torsions, turns, strict=True
                ):
                    out.add_torsion(one * c - two * s, *turned, slopes)
                return out.array()

            return np.array([*z, *chain.from_iterable(waves)]), pullback

        return read

    def _read(self, x: Tensor, cell: Tensor | None) -> tuple[geometry.Stencil, Tensor, Tensor, Tensor]:
        beads = check_beads("InternalCoordinates", tuple(x.shape[1:]))
        torsions = self.dihedrals + self.impropers
        stencil = geometry.stencil(self.bonds, self.angles, torsions, beads, (x.dtype, x.device))
        v = geometry.edge_vectors(stencil, x, cell)
        return stencil, v, *geometry.measure(stencil, v)

    def _torsions(self, q: Tensor) -> tuple[Tensor, Tensor]:
        torsions = q[len(self.bonds) + len(self.angles) :]
        return torsions.sin(), torsions.cos()

    @staticmethod
    def _columns(q: Tensor, sine: Tensor, cosine: Tensor) -> Tensor:
        # (Q, n) → (n, D)
        if not len(sine):
            return q.T.contiguous()
        plain = q[: len(q) - len(sine)]
        return torch.cat((plain, torch.stack((sine, cosine), 1).flatten(0, 1))).T.contiguous()

    @staticmethod
    def _expand(derivative: Tensor, sine: Tensor, cosine: Tensor) -> Tensor:
        # ∂q (n, Q, k) → ∂z (n, D, k): d sin φ = cos φ dφ, d cos φ = −sin φ dφ
        plain = derivative.shape[1] - len(sine)
        torsion = derivative[:, plain:]
        pair = torch.stack((cosine.T[..., None] * torsion, -sine.T[..., None] * torsion), 2).flatten(1, 2)
        return torch.cat((derivative[:, :plain], pair), 1)
