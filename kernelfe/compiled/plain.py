"""The loops of :mod:`kernelfe.compiled.loops` in NumPy, for installations without numba. Same arguments and results."""

from __future__ import annotations

import numpy as np

from .grid import PIECES

TINY = 1e-12
#: Triplets taken at a time: bounds the memory of the features.
BLOCK = 4096


def find_pairs(scaled, cell, reach, bins, steps, most, wanted, out_i, out_j, out_code):
    """Half list of pairs and images within reach: every image that can be, one after the other."""
    first, second = np.triu_indices(len(scaled))
    if wanted.size:
        keep = wanted[first, second]
        first, second = first[keep], second[keep]
    f, found = scaled[second] - scaled[first], []
    for number, image in enumerate(np.indices(2 * most + 1).reshape(3, -1).T - most):
        v = (f + image) @ cell
        near = (v * v).sum(1) < reach * reach
        if tuple(image) <= (0, 0, 0):  # of a bead and its own images, one of each two
            near &= first != second
        e = np.flatnonzero(near)
        found.append((first[e], second[e], np.full(len(e), number)))
    i, j, code = (np.concatenate(parts) for parts in zip(*found, strict=True))
    room = min(len(i), len(out_i))
    out_i[:room], out_j[:room], out_code[:room] = i[:room], j[:room], code[:room]
    return len(i)


def pairs_within(x, i, j, code, shifts, cutoff, out_i, out_j, out_v):
    """Pairs of a list that are closer than ``cutoff`` now."""
    v = x[j] - x[i] + shifts[code]
    near = np.flatnonzero((v * v).sum(1) < cutoff * cutoff)
    n = len(near)
    out_i[:n], out_j[:n], out_v[:n] = i[near], j[near], v[near]
    return n


def _add_pairs(i, j, v, g, forces, strain):
    """Add forces and strain of gradients g (E, 3) by v."""
    np.add.at(forces, i, g)
    np.add.at(forces, j, -g)
    strain[:3] += (g * v).sum(0)
    strain[3:] += [(g[:, 1] * v[:, 2]).sum(), (g[:, 0] * v[:, 2]).sum(), (g[:, 0] * v[:, 1]).sum()]


def pair_sum(i, j, v, kinds, which, start, inverse, size, offset, polynomials, forces, strain):
    """Energy of tabulated pair functions; adds forces and derivatives by strain."""
    r, energy = np.maximum(np.linalg.norm(v, axis=1), TINY), 0.0
    slope = np.zeros(len(r))
    for t in range(len(start)):
        u = (r - start[t]) * inverse[t]
        row = which[t, kinds[i], kinds[j]]
        e = np.flatnonzero((u < size[t]) & (row >= 0))
        m = np.maximum(u[e], 0.0).astype(int)
        c = polynomials[(offset[t] + 4 * (row[e] * size[t] + m))[:, None] + np.arange(4)]
        line = u[e] <= 0.0
        s = u[e] - m
        c[line, 2:] = 0.0
        energy += (c[:, 0] + s * (c[:, 1] + s * (c[:, 2] + s * c[:, 3]))).sum()
        slope[e] += (c[:, 1] + s * (2.0 * c[:, 2] + 3.0 * s * c[:, 3])) * inverse[t]
    _add_pairs(i, j, v, v * (slope / r)[:, None], forces, strain)
    return energy


def close_beads(i, j, v, cutoff, number, other, vector):
    """Full list within a short cutoff."""
    near = (v * v).sum(1) < cutoff * cutoff
    a, b = np.concatenate([i[near], j[near]]), np.concatenate([j[near], i[near]])
    d = np.concatenate([v[near], -v[near]])
    order = np.argsort(a, kind="stable")
    a, b, d = a[order], b[order], d[order]
    number[:] = np.bincount(a, minlength=len(number))
    place = np.arange(len(a)) - np.concatenate([[0], np.cumsum(number)[:-1]])[a]
    fits = place < other.shape[1]
    other[a[fits], place[fits]], vector[a[fits], place[fits]] = b[fits], d[fits]
    return int(number.max(initial=0))


def _radial(r, start, inverse, size):
    """Values and slopes (E, size) of the splines."""
    u = (r - start) * inverse
    inside = (u >= 0.0) & (u < size + 3)
    m = np.where(inside, u, 0.0).astype(int)
    t = np.where(inside, u - m, 0.0)
    powers = np.stack([np.ones_like(t), t, t * t, t * t * t], 1) * inside[:, None]
    slopes = np.stack([np.zeros_like(t), np.ones_like(t), 2 * t, 3 * t * t], 1) * (inverse * inside)[:, None]
    full = np.zeros((2, len(r), size + 6))
    rows, columns = np.arange(len(r))[:, None], m[:, None] + np.arange(4)
    full[0][rows, columns], full[1][rows, columns] = powers @ PIECES.T, slopes @ PIECES.T
    return full[:, :, 3 : size + 3]


def _legendre(c, top):
    """Values and slopes (E, top)."""
    value, slope = np.ones((len(c), top)), np.zeros((len(c), top))
    if top > 1:
        value[:, 1], slope[:, 1] = c, 1.0
    for k in range(2, top):
        value[:, k] = ((2 * k - 1) * c * value[:, k - 1] - (k - 1) * value[:, k - 2]) / k
        slope[:, k] = slope[:, k - 2] + (2 * k - 1) * value[:, k - 1]
    return value, slope


def _triplets(number, other, vector):
    """Blocks of (i, j, k, v_ij, v_ik) of all triplets with j before k in the list of i."""
    j, k = np.triu_indices(other.shape[1], 1)
    i, pair = np.nonzero(k[None] < number[:, None])
    for begin in range(0, len(i), BLOCK):
        a, p = i[begin : begin + BLOCK], pair[begin : begin + BLOCK]
        yield a, other[a, j[p]], other[a, k[p]], vector[a, j[p]], vector[a, k[p]]


def _angles(vj, vk):
    rj, rk = np.maximum(np.linalg.norm(vj, axis=1), TINY), np.maximum(np.linalg.norm(vk, axis=1), TINY)
    uj, uk = vj / rj[:, None], vk / rk[:, None]
    c = (uj * uk).sum(1)
    cj, ck = (uk - c[:, None] * uj) / rj[:, None], (uj - c[:, None] * uk) / rk[:, None]
    return rj, rk, uj, uk, c, cj, ck


def _voigt(g, v):
    """Products of g (..., 3) and v (E, 3) by strain, first axis E."""
    yz, xz, xy = (0.5 * (g[..., a] * v[..., b] + g[..., b] * v[..., a]) for a, b in ((1, 2), (0, 2), (0, 1)))
    return np.stack([g[..., 0] * v[..., 0], g[..., 1] * v[..., 1], g[..., 2] * v[..., 2], yz, xz, xy], -1)


def triplet_sum(number, other, vector, kinds, start, inverse, coefficients, forces, strain):
    """Energy of triplets; adds forces and derivatives by strain."""
    top, size, energy = coefficients.shape[3], coefficients.shape[4], 0.0
    for i, j, k, vj, vk in _triplets(number, other, vector):
        rj, rk, uj, uk, c, cj, ck = _angles(vj, vk)
        (bj, dj), (bk, dk) = (_radial(r, start, inverse, size) for r in (rj, rk))
        angle, turn = _legendre(c, top)
        table = coefficients[kinds[i], kinds[j], kinds[k]]
        whole = np.einsum("elab,ea,eb->el", table, bj, bk)
        energy += (whole * angle).sum()
        by_j = (np.einsum("elab,ea,eb->el", table, dj, bk) * angle).sum(1)
        by_k = (np.einsum("elab,ea,eb->el", table, bj, dk) * angle).sum(1)
        by_c = (whole * turn).sum(1)
        gj = by_j[:, None] * uj + by_c[:, None] * cj
        gk = by_k[:, None] * uk + by_c[:, None] * ck
        np.add.at(forces, j, -gj)
        np.add.at(forces, k, -gk)
        np.add.at(forces, i, gj + gk)
        strain += (_voigt(gj, vj) + _voigt(gk, vk)).sum(0)
    return energy


def pair_features(i, j, v, kinds, column, start, inverse, size, z, jacobian, strain):
    """Adds Σ B_a(r) to z, its Jacobian and derivative by strain."""
    r, base = np.maximum(np.linalg.norm(v, axis=1), TINY), column[kinds[i], kinds[j]]
    e = np.flatnonzero(base >= 0)
    i, j, v, r, base = i[e], j[e], v[e], r[e], base[e]
    value, slope = _radial(r, start, inverse, size)
    e, q = np.nonzero((value != 0.0) | (slope != 0.0))
    w = base[e] + q
    np.add.at(z, w, value[e, q])
    if jacobian.size:
        g = (slope[e, q] / r[e])[:, None] * v[e]
        for k in range(3):
            np.add.at(jacobian, (3 * i[e] + k, w), -g[:, k])
            np.add.at(jacobian, (3 * j[e] + k, w), g[:, k])
        np.add.at(strain.T, w, _voigt(g, v[e]))


def triplet_features(number, other, vector, kinds, base, local, width, start, inverse, top, z, jacobian, strain):
    """Adds Σ_i Σ_{j<k} P_l B_a B_b to z, its Jacobian and derivative by strain."""
    size = local.shape[3]
    for i, j, k, vj, vk in _triplets(number, other, vector):
        column = base[kinds[i], kinds[j], kinds[k]]
        keep = column >= 0
        i, j, k, vj, vk, column = i[keep], j[keep], k[keep], vj[keep], vk[keep], column[keep]
        rj, rk, uj, uk, c, cj, ck = _angles(vj, vk)
        (bj, dj), (bk, dk) = (_radial(r, start, inverse, size) for r in (rj, rk))
        angle, turn = _legendre(c, top)
        w = column[:, None, None] + local[kinds[i], kinds[j], kinds[k]]
        for p in range(top):
            product = bj[:, :, None] * bk[:, None] * angle[:, p, None, None]
            np.add.at(z, w + p, product)
            if not jacobian.size:
                continue
            by_j = dj[:, :, None] * bk[:, None] * angle[:, p, None, None]
            by_k = bj[:, :, None] * dk[:, None] * angle[:, p, None, None]
            by_c = bj[:, :, None] * bk[:, None] * turn[:, p, None, None]
            gj = by_j[..., None] * uj[:, None, None] + by_c[..., None] * cj[:, None, None]
            gk = by_k[..., None] * uk[:, None, None] + by_c[..., None] * ck[:, None, None]
            for d in range(3):
                for bead, g in ((j, gj), (k, gk), (i, -(gj + gk))):
                    np.add.at(jacobian, (3 * bead[:, None, None] + d, w + p), g[..., d])
            along = _voigt(gj, vj[:, None, None]) + _voigt(gk, vk[:, None, None])
            np.add.at(strain.T, w + p, along)
