"""Bond lengths, angles, dihedrals and impropers: one environment per molecule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import require
from ..geometry import internal as geometry
from ..specs import Bound
from .base import Beads, Descriptor, Environments, Pullback, check_beads


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
