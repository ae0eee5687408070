"""Functions of three beads in a basis of splines and Legendre polynomials, summed over all triplets of a frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...errors import DataError, require
from ...geometry import internal as geometry
from ...geometry.neighbours import neighbours
from ...specs import Bound, Each, OrNone, Real, Text, Whole
from ..base import Descriptor, Environments, Pullback, WeightNodes, check_beads
from . import fast
from .splines import UniformSplines

#: Frames whose triplets are in memory together.
_FRAMES_AT_ONCE = 8


class Triplets(NamedTuple):
    """Two edges that share a centre, for every triplet.

    Attributes
    ----------
    frame, i, j, k
        Frame, centre and neighbours, shape (T,).
    v, u
        Vectors from the centre to j and to k, (T, 3).
    """

    frame: Tensor
    i: Tensor
    j: Tensor
    k: Tensor
    v: Tensor
    u: Tensor


@dataclass(frozen=True)
class TripletSplines(Descriptor):
    """z_abl = Σ_i Σ_{j<k} [B_a(r_ij) B_b(r_ik) + B_b(r_ij) B_a(r_ik)] P_l(cos θ_jik), one environment per frame.

    Sums over beads i and pairs of their neighbours within a cutoff, with cubic B-splines B_a, a ≤ b, and Legendre
    polynomials P_l, l = 0 … degree; where a = b the product is counted once. With neighbours of two different kinds, a
    belongs to the first kind and b to the second, and all pairs (a, b) count. z, and a free energy linear in it, has
    two continuous derivatives at the cutoff.

    Parameters
    ----------
    cutoff
        Å; of both distances.
    start
        Least distance from which on functions of a distance have all freedom, Å. The splines that begin before it decay
        to zero within three further intervals.
    spacing
        Distance of knots, Å.
    degree
        Largest l.
    kinds
        Kinds of the centre and of its two neighbours, for example ``("O", "H", "H")``; None for all beads.
    bead_kinds
        Kind of every bead of a frame; needed with ``kinds``, filled in from the data by :meth:`bind`.
    """

    cutoff: float = 3.7
    start: float = 2.3
    spacing: float = 0.35
    degree: int = 5
    kinds: tuple[str, str, str] | None = None
    bead_kinds: tuple[str, ...] | None = None

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        "cutoff": Real(above=0.0),
        "start": Real(least=0.0),
        "spacing": Real(above=0.0),
        "degree": Whole(least=0, most=20),
        "kinds": OrNone(Each(Text(), count=3)),
        "bead_kinds": OrNone(Each(Text())),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.start < self.cutoff, f"TripletSplines: start={self.start:g} lies beyond cutoff={self.cutoff:g} Å")

    @property
    def splines(self) -> UniformSplines:
        """The splines of both distances."""
        return UniformSplines.between(self.start, self.cutoff, self.spacing, open_start=True)

    @property
    def symmetric(self) -> bool:
        """True if both neighbours are of the same kind."""
        return self.kinds is None or self.kinds[1] == self.kinds[2]

    @property
    def products(self) -> tuple[tuple[int, int], ...]:
        """Pairs (a, b) of splines, in order."""
        count = self.splines.count
        return tuple((a, b) for a in range(count) for b in range(a if self.symmetric else 0, count))

    @property
    def weight_nodes(self) -> WeightNodes:
        """Both distances to which each weight belongs; weights of different l are unrelated."""
        centres, each = self.splines.centres, self.degree + 1
        nodes = tuple((centres[a], centres[b]) for a, b in self.products for _ in range(each))
        return WeightNodes(nodes, tuple(k % each for k in range(len(nodes))), self.symmetric, self.splines.step)

    def bind(self, kinds: Sequence[str] | None) -> TripletSplines:
        """This descriptor with ``bead_kinds`` = ``kinds``, where they matter and are not given yet."""
        if self.kinds is None or self.bead_kinds is not None or kinds is None:
            return self
        return replace(self, bead_kinds=tuple(kinds))

    def occurs_in(self, kinds: Sequence[str]) -> bool:
        """True if all kinds are among those of a molecule."""
        return self.kinds is None or set(self.kinds) <= set(kinds)

    def dimension(self, coordinate_shape: tuple[int, ...]) -> int:
        """Number of products of two splines and a polynomial."""
        check_beads("TripletSplines", coordinate_shape)
        return len(self.products) * (self.degree + 1)

    def environments(self, coordinates: Tensor, cell: Tensor | None = None) -> Environments:
        """See :meth:`Descriptor.environments`; ``strain`` is given where there is a cell."""
        beads = check_beads("TripletSplines", tuple(coordinates.shape[1:]))
        if fast.compiled_for(coordinates, cell):
            return fast.environments(self._compiled(beads), coordinates, cell, self._wanted(beads))
        size, parts = self.dimension(tuple(coordinates.shape[1:])), []
        for start in range(0, len(coordinates), _FRAMES_AT_ONCE):
            x = coordinates[start : start + _FRAMES_AT_ONCE]
            t = self._triplets(x, cell if cell is None or cell.ndim == 2 else cell[start : start + _FRAMES_AT_ONCE])
            z, by_v, by_u = self._functions(t)
            jacobian = z.new_zeros(len(x) * beads, 3 * size)
            for bead, rows in ((t.j, by_v), (t.k, by_u), (t.i, -(by_v + by_u))):
                jacobian.index_add_(0, t.frame * beads + bead, rows.flatten(1))
            jacobian = jacobian.view(len(x), beads, size, 3).transpose(1, 2).reshape(len(x), size, 3 * beads)
            strain = z.new_zeros(len(x), size, 6)
            if cell is not None:
                ends = torch.bincount(t.frame, minlength=len(x)).tolist()
                rows = zip(*(part.split(ends) for part in (by_v, t.v, by_u, t.u)), strict=True)
                for k, (f, v, g, u) in enumerate(rows):
                    # Σ_t f_tda v_tb of each frame as one product of matrices
                    both = (f.flatten(1).T @ v + g.flatten(1).T @ u).view(size, 3, 3)
                    strain[k] = geometry.symmetrized(both)
            parts.append((z.new_zeros(len(x), size).index_add_(0, t.frame, z), jacobian, strain))
        if not parts:
            return Environments(coordinates.new_zeros(0, size), coordinates.new_zeros(0, size, 3 * beads))
        z, jacobian, strain = (torch.cat(arrays) for arrays in zip(*parts, strict=True))
        return Environments(z, jacobian, strain=None if cell is None else strain)

    def values_and_pullback(self, coordinates: Tensor, cell: Tensor | None = None) -> tuple[Tensor, None, Pullback]:
        """See :meth:`Descriptor.values_and_pullback`."""
        n, beads = len(coordinates), check_beads("TripletSplines", tuple(coordinates.shape[1:]))
        if fast.compiled_for(coordinates, cell):
            return fast.values_and_pullback(self._compiled(beads), coordinates, cell, self._wanted(beads))
        t = self._triplets(coordinates, cell)
        products, polynomials, *slopes = self._parts(t)
        z = (products[:, :, None] * polynomials[:, None]).flatten(1)
        z = z.new_zeros(n, z.shape[1]).index_add(0, t.frame, z)

        def pullback(g: Tensor) -> Tensor:
            w = g.view(n, products.shape[1], polynomials.shape[1])[t.frame]
            by_v, by_u = self._gradients(t, products, polynomials, slopes, w)
            out = by_v.new_zeros(n * beads, 3)
            for bead, rows in ((t.j, by_v), (t.k, by_u), (t.i, -(by_v + by_u))):
                out.index_add_(0, t.frame * beads + bead, rows)
            return out.view(coordinates.shape)

        return z, None, pullback

    # ------------------------------------------------------------------ triplets and their functions

    def _compiled(self, beads: int) -> fast.TripletSums:
        """Compiled sums for frames of so many beads, whose kinds are checked."""
        self._wanted(beads)
        return fast.triplet_sums(self.splines, self.products, self.degree, self.kinds, self.bead_kinds)

    def _triplets(self, x: Tensor, cell: Tensor | None) -> Triplets:
        frame, i, j, v = neighbours(x, cell, self.cutoff, self._wanted(x.shape[1]))
        beads = x.shape[1]
        ends = torch.cat([frame * beads + i, frame * beads + j])  # both directions of every pair
        others, vectors = torch.cat([j, i]), torch.cat([v, -v])
        order = torch.argsort(ends, stable=True)
        ends, others, vectors = ends[order], others[order], vectors[order]
        counts = torch.bincount(ends, minlength=len(x) * beads)
        place = torch.arange(len(ends), device=x.device) - (counts.cumsum(0) - counts)[ends]
        later = counts[ends] - 1 - place  # edges of the same centre that come after this one
        first = torch.repeat_interleave(later)
        second = first + 1 + torch.arange(len(first), device=x.device) - (later.cumsum(0) - later)[first]
        if self.kinds is not None:
            first, second = self._of_kinds(ends % beads, others, first, second)
        centre = ends[first]
        return Triplets(centre // beads, centre % beads, others[first], others[second], vectors[first], vectors[second])

    def _of_kinds(self, centre: Tensor, other: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """The pairs of edges of the wanted kinds, an edge to the first kind of neighbour first."""
        assert self.kinds is not None and self.bead_kinds is not None
        c, a, b = (torch.tensor([kind == own for own in self.bead_kinds], device=other.device) for kind in self.kinds)
        right = c[centre[first]] & a[other[first]] & b[other[second]]
        if self.symmetric:
            return first[right], second[right]
        turned = c[centre[first]] & b[other[first]] & a[other[second]]
        one, two = torch.cat([first[right], second[turned]]), torch.cat([second[right], first[turned]])
        order = torch.argsort(one, stable=True)  # frame by frame
        return one[order], two[order]

    def _wanted(self, beads: int) -> np.ndarray | None:
        """(beads, beads) mask of the pairs that may be an edge of a triplet."""
        if self.kinds is None:
            return None
        if self.bead_kinds is None or len(self.bead_kinds) != beads:
            known = "no" if self.bead_kinds is None else str(len(self.bead_kinds))
            raise DataError(
                f"TripletSplines(kinds={self.kinds}) knows {known} bead kinds for frames of {beads} beads: "
                "give kinds= when building the Frames, or bead_kinds="
            )
        if missing := set(self.kinds) - set(self.bead_kinds):
            raise DataError(f"TripletSplines(kinds={self.kinds}): no bead is of kind {sorted(missing)}")
        centre = np.array([kind == self.kinds[0] for kind in self.bead_kinds])
        outer = np.array([kind in self.kinds[1:] for kind in self.bead_kinds])
        return (centre[:, None] & outer) | (outer[:, None] & centre)

    def _parts(self, t: Triplets) -> tuple[Tensor, ...]:
        """Products (T, P), polynomials (T, L), slopes of these by the cosine and of products by both distances."""
        r, s = (v.norm(dim=-1).clamp_min(geometry.TINY) for v in (t.v, t.u))
        cos = (t.v * t.u).sum(-1) / (r * s)
        (f, df), (g, dg) = self.splines.dense(r), self.splines.dense(s)
        a, b = (torch.tensor(index, device=r.device) for index in zip(*self.products, strict=True))
        products, by_r, by_s = f[:, a] * g[:, b], df[:, a] * g[:, b], f[:, a] * dg[:, b]
        if self.symmetric:
            both = (a != b).to(r)
            products = products + both * f[:, b] * g[:, a]
            by_r, by_s = by_r + both * df[:, b] * g[:, a], by_s + both * f[:, b] * dg[:, a]
        return products, *_legendre(cos, self.degree), by_r, by_s

    def _functions(self, t: Triplets) -> tuple[Tensor, Tensor, Tensor]:
        """z of every triplet, (T, D), and its gradients by both vectors, (T, D, 3)."""
        products, polynomials, slope, by_r, by_s = self._parts(t)
        r, s = (v.norm(dim=-1, keepdim=True).clamp_min(geometry.TINY) for v in (t.v, t.u))
        e, o = t.v / r, t.u / s
        cos = (e * o).sum(-1, keepdim=True)
        z, turning = ((products[:, :, None] * p[:, None]).flatten(1) for p in (polynomials, slope))
        radial_v, radial_u = ((d[:, :, None] * polynomials[:, None]).flatten(1) for d in (by_r, by_s))
        by_v = radial_v[:, :, None] * e[:, None] + turning[:, :, None] * ((o - cos * e) / r)[:, None]
        by_u = radial_u[:, :, None] * o[:, None] + turning[:, :, None] * ((e - cos * o) / s)[:, None]
        return z, by_v, by_u

    def _gradients(self, t: Triplets, products, polynomials, slopes, w: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients by both vectors, (T, 3), of Σ w z with w (T, P, L)."""
        slope, by_r, by_s = slopes
        r, s = (v.norm(dim=-1, keepdim=True).clamp_min(geometry.TINY) for v in (t.v, t.u))
        e, o = t.v / r, t.u / s
        cos = (e * o).sum(-1, keepdim=True)
        along = (w * polynomials[:, None]).sum(2)
        radial_v, radial_u = ((along * d).sum(1, keepdim=True) for d in (by_r, by_s))
        turning = ((w * slope[:, None]).sum(2) * products).sum(1, keepdim=True)
        return radial_v * e + turning * (o - cos * e) / r, radial_u * o + turning * (e - cos * o) / s


def _legendre(x: Tensor, degree: int) -> tuple[Tensor, Tensor]:
    """P_l(x) and P_l'(x), l = 0 … degree, each (T, degree + 1)."""
    p, d = [torch.ones_like(x), x], [torch.zeros_like(x), torch.ones_like(x)]
    for n in range(1, degree):
        p.append(((2 * n + 1) * x * p[n] - n * p[n - 1]) / (n + 1))
        d.append(d[n - 1] + (2 * n + 1) * p[n])
    return torch.stack(p[: degree + 1], 1), torch.stack(d[: degree + 1], 1)
