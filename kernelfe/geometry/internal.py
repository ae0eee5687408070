"""Distances, angles and torsions of many molecules at once, and their derivatives.

Every geometric coordinate q is a function of **edge vectors** v = R_head − R_tail: one for a distance, two for an
angle, three for a torsion. :class:`Stencil` lists the edges of all coordinates; :func:`measure` returns q and the
slopes ∂q/∂v, and four small functions turn slopes into what is wanted: products with Jᵀ, dense Jacobians, strain
derivatives. Arrays are laid out (edges, 3, frames), so that every operation runs over contiguous frames.

Derivatives of the torsion follow Blondel and Karplus, J. Comput. Chem. 17, 1132 (1996). Directions that a degenerate
geometry leaves undefined (coincident beads, collinear angles) get finite slopes: lengths and sines are floored at
``TINY``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ..errors import DataError
from .cell import minimum_image

#: Floor of lengths (Å) in denominators; its square floors squared lengths and cross products.
TINY = 1e-12
_TINY2 = TINY * TINY
#: Largest number of entries of a dense incidence matrix; larger stencils gather and scatter by index.
_DENSE = 1 << 15
#: Voigt order xx, yy, zz, yz, xz, xy.
_VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


@dataclass(frozen=True)
class Stencil:
    """Index tensors of a set of coordinates; see :func:`stencil`.

    Parameters
    ----------
    beads
        Beads of a frame.
    counts
        Numbers of distances, angles, torsions: the order of the coordinates q.
    tail, head
        Beads of each edge, shape (m,). Edges are ordered: distances; first, second vectors of the angles; first,
        second, third vectors of the torsions.
    rows
        Coordinate q that each edge belongs to, shape (m,), or None when edges and coordinates coincide.
    incidence
        v = incidence · R, shape (m, beads), and its transpose; None for large systems.
    """

    beads: int
    counts: tuple[int, int, int]
    tail: Tensor
    head: Tensor
    rows: Tensor | None
    incidence: tuple[Tensor, Tensor] | None


@lru_cache(maxsize=128)  # a memo of a pure function: specs hold plain tuples, samplers call at every step
def stencil(
    distances: tuple[tuple[int, ...], ...],
    angles: tuple[tuple[int, ...], ...],
    torsions: tuple[tuple[int, ...], ...],
    beads: int,
    like: tuple[torch.dtype, torch.device],
) -> Stencil:
    """Index tensors for distances (i, j), angles (i, j, k) at j and torsions (i, j, k, l) about j–k.

    Parameters
    ----------
    distances, angles, torsions
        Bead indices.
    beads
        Beads of a frame.
    like
        Floating type and device.

    Raises
    ------
    DataError
        If an index exceeds the beads.
    """
    for entry in (*distances, *angles, *torsions):
        if max(entry) >= beads:
            raise DataError(f"the coordinate {entry} names bead {max(entry)}, the frames have {beads} beads (from 0)")
    dtype, device = like
    edges = list(distances)
    edges += [(j, i) for i, j, _ in angles] + [(j, k) for _, j, k in angles]
    for first in range(3):
        edges += [(torsion[first], torsion[first + 1]) for torsion in torsions]
    nd, na, nt = len(distances), len(angles), len(torsions)
    rows = list(range(nd)) + 2 * list(range(nd, nd + na)) + 3 * list(range(nd + na, nd + na + nt))
    with torch.inference_mode(False):  # the memo may be filled inside inference mode and used outside
        pairs = torch.tensor(edges, dtype=torch.long, device=device).reshape(-1, 2)
        tail, head = pairs[:, 0].contiguous(), pairs[:, 1].contiguous()
        incidence = None
        if len(edges) * beads <= _DENSE:
            order = torch.arange(len(edges), device=device)
            matrix = torch.zeros(len(edges), beads, dtype=dtype, device=device)
            matrix[order, tail], matrix[order, head] = -1.0, 1.0
            incidence = (matrix, matrix.T.contiguous())
        index = torch.tensor(rows, dtype=torch.long, device=device) if na or nt else None
    return Stencil(beads, (nd, na, nt), tail, head, index, incidence)


def edge_vectors(stencil: Stencil, positions: Tensor, cell: Tensor | None = None) -> Tensor:
    """Edge vectors, shape (m, 3, n), of positions (n, beads, 3); nearest images where there is a cell."""
    by_bead = positions.permute(1, 2, 0).reshape(stencil.beads, 3 * len(positions))
    if stencil.incidence is not None:
        v = stencil.incidence[0] @ by_bead
    else:
        v = by_bead.index_select(0, stencil.head) - by_bead.index_select(0, stencil.tail)
    v = v.view(len(stencil.tail), 3, len(positions))
    return v if cell is None else minimum_image(v.permute(2, 0, 1), cell).permute(1, 2, 0).contiguous()


def measure(stencil: Stencil, v: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates q, shape (Q, n), and slopes ∂q/∂v, shape (m, 3, n).

    q = |v| for distances (Å), the angle in [0, π], the torsion in (−π, π] with trans = π (IUPAC sign).
    """
    nd, na, nt = stencil.counts
    q, slopes = [], []
    if nd:
        value, slope = _distance(v[:nd])
        q, slopes = [value], [slope]
    if na:
        value, *slope_pair = _angle(v[nd : nd + na], v[nd + na : nd + 2 * na])
        q.append(value)
        slopes += slope_pair
    if nt:
        first = nd + 2 * na
        value, *slope_triple = _torsion(v[first : first + nt], v[first + nt : first + 2 * nt], v[first + 2 * nt :])
        q.append(value)
        slopes += slope_triple
    if len(q) == 1 and len(slopes) == 1:
        return q[0], slopes[0]
    return torch.cat(q), torch.cat(slopes)


def coordinates(stencil: Stencil, v: Tensor) -> Tensor:
    """Coordinates q of :func:`measure`, shape (Q, n), without slopes."""
    nd, na, nt = stencil.counts
    q = [length(v[:nd])]
    if na:
        q.append(_angle_value(v[nd : nd + na], v[nd + na : nd + 2 * na]))
    if nt:
        first = nd + 2 * na
        a, b, c = v[first : first + nt], v[first + nt : first + 2 * nt], v[first + 2 * nt :]
        q.append(_torsion_value(a, _cross(a, b), _cross(b, c), length(b)))
    return q[0] if len(q) == 1 else torch.cat(q)


def scatter(stencil: Stencil, w: Tensor) -> Tensor:
    """Pull gradients with respect to edge vectors (m, 3, n) back to the beads, shape (n, beads, 3)."""
    flat = w.reshape(len(w), 3 * w.shape[-1])
    if stencil.incidence is not None:
        out = stencil.incidence[1] @ flat
    else:
        out = flat.new_zeros(stencil.beads, flat.shape[1])
        out = out.index_add_(0, stencil.head, flat).index_add_(0, stencil.tail, flat, alpha=-1.0)
    return out.view(stencil.beads, 3, w.shape[-1]).permute(2, 0, 1).contiguous()


def edge_gradients(stencil: Stencil, slopes: Tensor, g: Tensor) -> Tensor:
    """Gradients with respect to edge vectors, shape (m, 3, n), from those with respect to q, g (Q, n)."""
    if stencil.rows is not None:
        g = g.index_select(0, stencil.rows)
    return slopes * g[:, None]


def jacobian(stencil: Stencil, slopes: Tensor) -> Tensor:
    """Dense ∂q/∂R, shape (n, Q, 3·beads)."""
    n, size = slopes.shape[-1], sum(stencil.counts)
    rows = torch.arange(size, device=slopes.device) if stencil.rows is None else stencil.rows
    out = slopes.new_zeros(size, stencil.beads, 3, n)
    out.index_put_((rows, stencil.head), slopes, accumulate=True)
    out.index_put_((rows, stencil.tail), -slopes, accumulate=True)
    return out.permute(3, 0, 1, 2).reshape(n, size, 3 * stencil.beads)


def strain(stencil: Stencil, slopes: Tensor, v: Tensor) -> Tensor:
    """∂q/∂strain, shape (n, Q, 6), for edge vectors that deform as v → (1 + ε) v."""
    rows = torch.arange(len(v), device=v.device) if stencil.rows is None else stencil.rows
    per_edge = voigt(slopes.permute(0, 2, 1), v.permute(0, 2, 1))
    out = per_edge.new_zeros(sum(stencil.counts), *per_edge.shape[1:]).index_add_(0, rows, per_edge)
    return out.permute(1, 0, 2).contiguous()


def voigt(g: Tensor, v: Tensor) -> Tensor:
    """Derivative by symmetric strain of a function of v with gradient g, both (..., 3), shape (..., 6).

    Engineering shear: the off-diagonal components are ½ (g_a v_b + g_b v_a).
    """
    return torch.stack([0.5 * (g[..., a] * v[..., b] + g[..., b] * v[..., a]) for a, b in _VOIGT], dim=-1)


def symmetrized(gradient: Tensor) -> Tensor:
    """Derivative by symmetric strain from ∂/∂(deformation gradient), (..., 3, 3), in Voigt order, (..., 6)."""
    return torch.stack([0.5 * (gradient[..., a, b] + gradient[..., b, a]) for a, b in _VOIGT], dim=-1)


def torsion_angle(b1: Tensor, b2: Tensor, b3: Tensor) -> Tensor:
    """Torsion, rad, in (−π, π], IUPAC sign, of three bond vectors in a row, each (..., 3); differentiable by autograd.

    :func:`measure` has the same angle with its slopes, in the layout of a stencil.
    """
    n1, n2 = torch.linalg.cross(b1, b2), torch.linalg.cross(b2, b3)
    return torch.atan2(torch.linalg.vector_norm(b2, dim=-1) * (b1 * n2).sum(-1), (n1 * n2).sum(-1))


def triple_products(edges: Tensor) -> tuple[Tensor, Tensor]:
    """a · (b × c), shape (m, n), and its slopes by the edges, of edges (a …, b …, c …), shape (3 m, 3, n)."""
    size = len(edges) // 3
    slopes = _cross(edges.roll(-size, 0), edges.roll(size, 0))  # b × c, c × a, a × b
    return _dot(edges[:size], slopes[:size]), slopes


def _distance(v: Tensor) -> tuple[Tensor, Tensor]:
    r = length(v)
    return r, v * r.reciprocal()[:, None]


def length(v: Tensor) -> Tensor:
    """Lengths, at least ``TINY``, of vectors (m, 3, n), shape (m, n)."""
    return _dot(v, v).sqrt().clamp_min(TINY)


def _angle(a: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    # θ = atan2(|a × c|, a·c); ∂θ/∂a = a × n̂ / a², ∂θ/∂c = n̂ × c / c² with n̂ the unit normal
    normal = _cross(a, c)
    size = _dot(normal, normal).sqrt()
    floored = size.clamp_min(_TINY2)
    scale_a = (_dot(a, a).clamp_min(_TINY2) * floored).reciprocal()[:, None]
    scale_c = (_dot(c, c).clamp_min(_TINY2) * floored).reciprocal()[:, None]
    return torch.atan2(size, _dot(a, c)), _cross(a, normal) * scale_a, _cross(normal, c) * scale_c


def _angle_value(a: Tensor, c: Tensor) -> Tensor:
    # without putting the normal a × c together
    (ax, ay, az), (cx, cy, cz) = a.unbind(1), c.unbind(1)
    size = (ay * cz - az * cy).square_()
    size += (az * cx - ax * cz).square_()
    size += (ax * cy - ay * cx).square_()
    return torch.atan2(size.sqrt_(), _dot(a, c))


def _torsion_value(a: Tensor, m: Tensor, k: Tensor, axis: Tensor) -> Tensor:
    # φ = atan2(|b| a·(b × c), (a × b)·(b × c)), with m = a × b, k = b × c
    return torch.atan2(axis * _dot(a, k), _dot(m, k))


def _torsion(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    m, k = _cross(a, b), _cross(b, c)
    axis = length(b)
    value = _torsion_value(a, m, k, axis)
    slope_a = m * (axis / _dot(m, m).clamp_min(_TINY2))[:, None]
    slope_c = k * (axis / _dot(k, k).clamp_min(_TINY2))[:, None]
    per_length = -(axis * axis).reciprocal()
    slope_b = slope_a * (_dot(a, b) * per_length)[:, None] + slope_c * (_dot(c, b) * per_length)[:, None]
    return value, slope_a, slope_b, slope_c


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    # twice as fast as torch.linalg.cross in this layout
    ax, ay, az = a.unbind(1)
    bx, by, bz = b.unbind(1)
    return torch.stack((ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx), 1)
