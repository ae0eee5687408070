"""Pair functions in a basis of splines, summed over all pairs of a frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...errors import require
from ...geometry import internal as geometry
from ...specs import Bound, Real
from ..base import Environments, Pullback, WeightNodes, check_beads
from ..pairs import PairDistances
from . import fast
from .splines import UniformSplines


@dataclass(frozen=True)
class PairSplines(PairDistances):
    """z_a = Σ_pairs B_a(r): cubic B-splines of the distance, summed over pairs; one environment per frame.

    A function u(r) = Σ_a w_a B_a(r) of all pairs is linear in z, and vanishes, with two derivatives, at ``start`` and
    at the cutoff: energies and forces are continuous when a pair crosses it. Its kernel is
    :class:`~kernelfe.kernels.SplineWeights`, the default of a term on it.

    Parameters
    ----------
    cutoff
        Å.
    kinds, bead_kinds, apart, bonds
        As of :class:`~kernelfe.descriptors.PairDistances`.
    start
        Distance below which the pair function is zero, Å: a little less than the smallest distance of the data, whose
        repulsion is left to the baseline. None: zero.
    spacing
        Distance of knots, Å.

    Raises
    ------
    DataError
        If a number is out of bounds, or fewer than four intervals lie between start and cutoff.
    """

    start: float = 2.1
    spacing: float = 0.15

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        **PairDistances.BOUNDS,
        "start": Real(least=0.0),
        "spacing": Real(above=0.0),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.splines.count >= 1,
            f"PairSplines: between start={self.start:g} and cutoff={self.cutoff:g} fit fewer than four intervals of "
            f"spacing={self.spacing:g} Å",
        )

    @property
    def splines(self) -> UniformSplines:
        """The splines of the distance."""
        return UniformSplines.between(self.start, self.cutoff, self.spacing)

    @property
    def weight_nodes(self) -> WeightNodes:
        """Distance to which each weight belongs."""
        return WeightNodes(tuple((r,) for r in self.splines.centres), spacing=self.splines.step)

    def dimension(self, coordinate_shape: tuple[int, ...]) -> int:
        """Number of splines."""
        check_beads("PairSplines", coordinate_shape)
        return self.splines.count

    def environments(self, coordinates: Tensor, cell: Tensor | None = None) -> Environments:
        """See :meth:`Descriptor.environments`; ``strain`` is given where there is a cell."""
        n, beads = coordinates.shape[:2]
        if fast.compiled_for(coordinates, cell):
            beads = check_beads("PairSplines", tuple(coordinates.shape[1:]))
            return fast.environments(fast.pair_sums(self.splines), coordinates, cell, self._wanted(beads))
        frame, i, j, v = self._neighbours(coordinates, cell)
        unit, index, value, slope = self._local(v)
        size = self.splines.count
        z = value.new_zeros(n * size)
        z.index_add_(0, (frame[:, None] * size + index).reshape(-1), value.reshape(-1))
        push = (slope[:, :, None] * unit[:, None]).reshape(-1, 3)  # ∂B_a/∂R_j
        jacobian = value.new_zeros(n * size * beads, 3)
        place = (frame[:, None] * size + index) * beads
        jacobian.index_add_(0, (place + j[:, None]).reshape(-1), push)
        jacobian.index_add_(0, (place + i[:, None]).reshape(-1), push, alpha=-1.0)
        strain = None
        if cell is not None:
            strain = value.new_zeros(n * size, 6)
            own = geometry.voigt(unit, v)
            strain.index_add_(
                0, (frame[:, None] * size + index).reshape(-1), (slope[:, :, None] * own[:, None]).reshape(-1, 6)
            )
            strain = strain.view(n, size, 6)
        return Environments(z.view(n, size), jacobian.view(n, size, 3 * beads), strain=strain)

    def values_and_pullback(  # type: ignore[override]
        self, coordinates: Tensor, cell: Tensor | None = None
    ) -> tuple[Tensor, None, Pullback]:
        """See :meth:`Descriptor.values_and_pullback`."""
        n, beads = coordinates.shape[:2]
        if fast.compiled_for(coordinates, cell):
            beads = check_beads("PairSplines", tuple(coordinates.shape[1:]))
            return fast.values_and_pullback(fast.pair_sums(self.splines), coordinates, cell, self._wanted(beads))
        frame, i, j, v = self._neighbours(coordinates, cell)
        unit, index, value, slope = self._local(v)
        size = self.splines.count
        place = frame[:, None] * size + index
        z = value.new_zeros(n * size).index_add(0, place.reshape(-1), value.reshape(-1)).view(n, size)

        def pullback(g: Tensor) -> Tensor:
            w = (slope * g.reshape(-1)[place]).sum(1, keepdim=True) * unit
            out = w.new_zeros(n * beads, 3)
            out.index_add_(0, frame * beads + j, w).index_add_(0, frame * beads + i, w, alpha=-1.0)
            return out.view(coordinates.shape)

        return z, None, pullback

    def _local(self, v: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        r = v.norm(dim=-1).clamp_min(geometry.TINY)
        return v / r[:, None], *self.splines.local(r)
