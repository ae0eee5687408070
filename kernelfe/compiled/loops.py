"""Loops over pairs and triplets, compiled by numba; imported by :mod:`kernelfe.compiled.loading` only.

All arrays are C-contiguous float64 or int32 and are checked by the callers. Functions that add to their arguments
return what has no array. The other file with the same functions is :mod:`kernelfe.compiled.plain`, in NumPy.
"""

from __future__ import annotations

import math

import numpy as np

from .machine_code import compiled

#: Least distance by which is divided, Å: beads on top of each other have finite forces of arbitrary direction.
TINY = 1e-12


@compiled
def find_pairs(scaled, cell, reach, bins, steps, most, wanted, out_i, out_j, out_code):
    """Half list of all pairs and images closer than ``reach``; the number found, which may exceed the space given.

    ``scaled`` (N, 3) within [0, 1). Beads are sorted into ``bins`` (3,) along the lattice vectors. Around every bin,
    bins up to ``steps`` away are visited, as often as their images lie there; of two bins, from one of them only.
    Images n of up to ``most`` cells are coded as numbers of a table with 2·most + 1 entries along each axis.
    """
    beads = len(scaled)
    total = bins[0] * bins[1] * bins[2]
    home = np.empty(beads, np.int64)
    first = np.zeros(total + 1, np.int64)
    for i in range(beads):
        b = 0
        for k in range(3):
            b = b * bins[k] + min(int(scaled[i, k] * bins[k]), bins[k] - 1)
        home[i] = b
        first[b + 1] += 1
    for b in range(total):
        first[b + 1] += first[b]
    place, members, x = first[:-1].copy(), np.empty(beads, np.int32), np.empty((beads, 3))
    for i in range(beads):
        m = place[home[i]]
        place[home[i]] += 1
        members[m] = i
        for k in range(3):
            x[m, k] = scaled[i, 0] * cell[0, k] + scaled[i, 1] * cell[1, k] + scaled[i, 2] * cell[2, k]
    masked, square, count, last = wanted.size > 0, reach * reach, 0, len(out_i) - 1
    for b in range(total):
        if first[b] == first[b + 1]:
            continue
        bx, by, bz = b // (bins[1] * bins[2]), b // bins[2] % bins[1], b % bins[2]
        for dx in range(steps[0] + 1):
            ix = (bx + dx) // bins[0]
            for dy in range(-steps[1] if dx > 0 else 0, steps[1] + 1):
                iy = (by + dy) // bins[1]
                for dz in range(-steps[2] if dx > 0 or dy > 0 else 0, steps[2] + 1):
                    iz = (bz + dz) // bins[2]
                    other = (bx + dx - ix * bins[0]) * bins[1] + by + dy - iy * bins[1]
                    other = other * bins[2] + bz + dz - iz * bins[2]
                    code = ((ix + most[0]) * (2 * most[1] + 1) + iy + most[1]) * (2 * most[2] + 1) + iz + most[2]
                    sx = ix * cell[0, 0] + iy * cell[1, 0] + iz * cell[2, 0]
                    sy = ix * cell[0, 1] + iy * cell[1, 1] + iz * cell[2, 1]
                    sz = ix * cell[0, 2] + iy * cell[1, 2] + iz * cell[2, 2]
                    own = dx == 0 and dy == 0 and dz == 0
                    for m in range(first[b], first[b + 1]):
                        px, py, pz, i = x[m, 0] - sx, x[m, 1] - sy, x[m, 2] - sz, members[m]
                        for n in range(m + 1 if own else first[other], first[other + 1]):
                            vx, vy, vz = x[n, 0] - px, x[n, 1] - py, x[n, 2] - pz
                            near = vx * vx + vy * vy + vz * vz < square
                            if masked:
                                near = near and wanted[i, members[n]]
                            # written in any case: a branch that the processor cannot predict takes longer
                            e = min(count, last)
                            out_i[e], out_j[e], out_code[e] = i, members[n], code
                            count += near
    return count


@compiled
def pairs_within(x, i, j, code, shifts, cutoff, out_i, out_j, out_v):
    """Pairs of a list that are closer than ``cutoff`` now: v = x_j − x_i + shift; their number."""
    square, count = cutoff * cutoff, 0
    for e in range(len(i)):
        a, b, s = i[e], j[e], code[e]
        vx = x[b, 0] - x[a, 0] + shifts[s, 0]
        vy = x[b, 1] - x[a, 1] + shifts[s, 1]
        vz = x[b, 2] - x[a, 2] + shifts[s, 2]
        out_i[count], out_j[count] = a, b  # in any case, as above
        out_v[count, 0], out_v[count, 1], out_v[count, 2] = vx, vy, vz
        count += vx * vx + vy * vy + vz * vz < square
    return count


@compiled
def pair_sum(i, j, v, kinds, which, start, inverse, size, offset, polynomials, forces, strain):
    """Energy of tabulated pair functions; adds forces (N, 3) and derivatives by strain (6,).

    Table t has ``size[t]`` intervals of width 1/inverse[t] from start[t]; ``which[t, kind, kind]`` is its row, or −1.
    Below the start it continues as a straight line, beyond the last interval it is zero.
    """
    energy = 0.0
    for e in range(len(i)):
        a, b = i[e], j[e]
        vx, vy, vz = v[e, 0], v[e, 1], v[e, 2]
        r = math.sqrt(vx * vx + vy * vy + vz * vz)
        slope = 0.0
        for t in range(len(start)):
            u = (r - start[t]) * inverse[t]
            row = which[t, kinds[a], kinds[b]]
            if not u < size[t] or row < 0:
                continue
            p = offset[t] + 4 * row * size[t]
            if u <= 0.0:
                energy += polynomials[p] + polynomials[p + 1] * u
                slope += polynomials[p + 1] * inverse[t]
                continue
            m = int(u)
            u -= m
            p += 4 * m
            c1, c2, c3 = polynomials[p + 1], polynomials[p + 2], polynomials[p + 3]
            energy += polynomials[p] + u * (c1 + u * (c2 + u * c3))
            slope += (c1 + u * (2.0 * c2 + 3.0 * u * c3)) * inverse[t]
        if slope == 0.0:
            continue
        slope /= max(r, TINY)
        gx, gy, gz = slope * vx, slope * vy, slope * vz
        forces[a, 0] += gx
        forces[a, 1] += gy
        forces[a, 2] += gz
        forces[b, 0] -= gx
        forces[b, 1] -= gy
        forces[b, 2] -= gz
        strain[0] += gx * vx
        strain[1] += gy * vy
        strain[2] += gz * vz
        strain[3] += gy * vz
        strain[4] += gx * vz
        strain[5] += gx * vy
    return energy


@compiled
def close_beads(i, j, v, cutoff, number, other, vector):
    """Full list within a short cutoff: ``number`` (N,), ``other`` (N, most), ``vector`` (N, most, 3); the largest
    number of neighbours, which may exceed the space given."""
    square, most = cutoff * cutoff, 0
    number[:] = 0
    for e in range(len(i)):
        if v[e, 0] * v[e, 0] + v[e, 1] * v[e, 1] + v[e, 2] * v[e, 2] >= square:
            continue
        a, b = i[e], j[e]
        na = number[a]
        number[a] = na + 1
        nb = number[b]  # after the line above: a may be an image of b
        number[b] = nb + 1
        most = max(most, number[a], number[b])
        if na < other.shape[1]:
            other[a, na] = b
            for k in range(3):
                vector[a, na, k] = v[e, k]
        if nb < other.shape[1]:
            other[b, nb] = a
            for k in range(3):
                vector[b, nb, k] = -v[e, k]
    return most


@compiled
def radial(r, start, inverse, size, value, slope):
    """Cubic B-splines at r with their slopes; the range [low, high) of those that are not zero.

    The spline q = 0 … size − 1 lives on the intervals q … q + 3 of the grid.
    """
    u = (r - start) * inverse
    if not 0.0 <= u < size + 3:
        return 0, 0
    m = int(u)
    u -= m
    w = 1.0 - u
    low, high = max(m - 3, 0), min(m + 1, size)
    for q in range(low, high):
        k = m - q
        if k == 3:
            value[q], slope[q] = w * w * w / 6.0, -0.5 * w * w * inverse
        elif k == 2:
            value[q], slope[q] = (4.0 + u * u * (3.0 * u - 6.0)) / 6.0, u * (1.5 * u - 2.0) * inverse
        elif k == 1:
            value[q], slope[q] = (1.0 + 3.0 * u * (1.0 + u * w)) / 6.0, (0.5 + u - 1.5 * u * u) * inverse
        else:
            value[q], slope[q] = u * u * u / 6.0, 0.5 * u * u * inverse
    return low, high


@compiled
def recurrence(top):
    """Factors (2k − 1)/k and (k − 1)/k of the recurrence of Legendre polynomials, made once: divisions are slow."""
    out = np.zeros((top, 2))
    for k in range(1, top):
        out[k, 0], out[k, 1] = (2.0 * k - 1.0) / k, (k - 1.0) / k
    return out


@compiled
def legendre(c, factors, value, slope):
    """Legendre polynomials P_0 … and their derivatives at c, by recurrence."""
    value[0], slope[0] = 1.0, 0.0
    if len(value) > 1:
        value[1], slope[1] = c, 1.0
    for k in range(2, len(value)):
        value[k] = factors[k, 0] * c * value[k - 1] - factors[k, 1] * value[k - 2]
        slope[k] = slope[k - 2] + (2 * k - 1) * value[k - 1]


@compiled
def triplet_sum(number, other, vector, kinds, start, inverse, coefficients, forces, strain):
    """Energy of Σ_i Σ_{j<k} Σ_{l,a,b} c[kinds of i, j, k; l, a, b] P_l(cos) B_a(r_ij) B_b(r_ik); adds derivatives.

    The coefficients, (K, K, K, L, n, n), do not change if j and k are exchanged together with a and b. For each j and
    each kind of k, the sums over a are made once.
    """
    top, size = coefficients.shape[3], coefficients.shape[4]
    most, count = other.shape[1], coefficients.shape[0]
    value, slope, unit, r = np.zeros((most, size)), np.zeros((most, size)), np.empty((most, 3)), np.empty(most)
    low, high = np.empty(most, np.int64), np.empty(most, np.int64)
    sums, slopes = np.empty((most, top, size)), np.empty((most, top, size))
    factors, angle, turn, pull = recurrence(top), np.empty(top), np.empty(top), np.empty((most, 3))
    energy = 0.0
    for i in range(len(number)):
        n = number[i]
        if n < 2:
            continue
        for j in range(n):
            x, y, z = vector[i, j, 0], vector[i, j, 1], vector[i, j, 2]
            r[j] = max(math.sqrt(x * x + y * y + z * z), TINY)
            unit[j, 0], unit[j, 1], unit[j, 2] = x / r[j], y / r[j], z / r[j]
            pull[j, 0] = pull[j, 1] = pull[j, 2] = 0.0
            low[j], high[j] = radial(r[j], start, inverse, size, value[j], slope[j])
        for kind in range(count):
            for j in range(n - 1):
                table = coefficients[kinds[i], kinds[other[i, j]], kind]
                ready = False
                for k in range(j + 1, n):
                    if kinds[other[i, k]] != kind:
                        continue
                    if not ready:
                        ready = True
                        for p in range(top):
                            for b in range(size):
                                s = d = 0.0
                                for a in range(low[j], high[j]):
                                    s += table[p, a, b] * value[j, a]
                                    d += table[p, a, b] * slope[j, a]
                                sums[j, p, b], slopes[j, p, b] = s, d
                    c = unit[j, 0] * unit[k, 0] + unit[j, 1] * unit[k, 1] + unit[j, 2] * unit[k, 2]
                    legendre(c, factors, angle, turn)
                    by_j = by_k = by_c = 0.0
                    for p in range(top):
                        s = dj = dk = 0.0
                        for b in range(low[k], high[k]):
                            s += sums[j, p, b] * value[k, b]
                            dj += slopes[j, p, b] * value[k, b]
                            dk += sums[j, p, b] * slope[k, b]
                        energy += s * angle[p]
                        by_j += dj * angle[p]
                        by_k += dk * angle[p]
                        by_c += s * turn[p]
                    cj, ck = by_c / r[j], by_c / r[k]
                    for d3 in range(3):
                        pull[j, d3] += by_j * unit[j, d3] + cj * (unit[k, d3] - c * unit[j, d3])
                        pull[k, d3] += by_k * unit[k, d3] + ck * (unit[j, d3] - c * unit[k, d3])
        for j in range(n):
            g, v, b = pull[j], vector[i, j], other[i, j]
            for d3 in range(3):
                forces[b, d3] -= g[d3]
                forces[i, d3] += g[d3]
                strain[d3] += g[d3] * v[d3]
            strain[3] += 0.5 * (g[1] * v[2] + g[2] * v[1])
            strain[4] += 0.5 * (g[0] * v[2] + g[2] * v[0])
            strain[5] += 0.5 * (g[0] * v[1] + g[1] * v[0])
    return energy


@compiled
def pair_features(i, j, v, kinds, column, start, inverse, size, z, jacobian, strain):
    """Adds Σ B_a(r) to z (W,), its Jacobian (3N, W) and derivative by strain (6, W)."""
    value, slope, dense = np.zeros(size), np.zeros(size), jacobian.size > 0
    for e in range(len(i)):
        a, b = i[e], j[e]
        base = column[kinds[a], kinds[b]]
        vx, vy, vz = v[e, 0], v[e, 1], v[e, 2]
        r = max(math.sqrt(vx * vx + vy * vy + vz * vz), TINY)
        if base < 0:
            continue
        low, high = radial(r, start, inverse, size, value, slope)
        for q in range(low, high):
            w = base + q
            z[w] += value[q]
            if not dense:
                continue
            s = slope[q] / r
            gx, gy, gz = s * vx, s * vy, s * vz
            jacobian[3 * a, w] -= gx
            jacobian[3 * a + 1, w] -= gy
            jacobian[3 * a + 2, w] -= gz
            jacobian[3 * b, w] += gx
            jacobian[3 * b + 1, w] += gy
            jacobian[3 * b + 2, w] += gz
            strain[0, w] += gx * vx
            strain[1, w] += gy * vy
            strain[2, w] += gz * vz
            strain[3, w] += gy * vz
            strain[4, w] += gx * vz
            strain[5, w] += gx * vy


@compiled
def triplet_features(number, other, vector, kinds, base, local, width, start, inverse, top, z, jacobian, strain):
    """Adds Σ_i Σ_{j<k} P_l B_a B_b to z (W,), its Jacobian (3N, W) and derivative by strain (6, W).

    The product of kinds (i, j, k) and splines (a, b) adds to the columns base[i, j, k] + local[i, j, k, a, b] + l, of
    which there are ``width[i, j, k]``.
    """
    size, most, dense = local.shape[3], other.shape[1], jacobian.size > 0
    value, slope, unit, r = np.zeros((most, size)), np.zeros((most, size)), np.empty((most, 3)), np.empty(most)
    low, high = np.empty(most, np.int64), np.empty(most, np.int64)
    factors, angle, turn = recurrence(top), np.empty(top), np.empty(top)
    widest = width.max()
    whole, by_j, by_k, by_c = np.empty(widest), np.empty(widest), np.empty(widest), np.empty(widest)
    for i in range(len(number)):
        n = number[i]
        for j in range(n):
            x, y, w = vector[i, j, 0], vector[i, j, 1], vector[i, j, 2]
            r[j] = max(math.sqrt(x * x + y * y + w * w), TINY)
            unit[j, 0], unit[j, 1], unit[j, 2] = x / r[j], y / r[j], w / r[j]
            low[j], high[j] = radial(r[j], start, inverse, size, value[j], slope[j])
        for j in range(n - 1):
            for k in range(j + 1, n):
                ki, kj, kk = kinds[i], kinds[other[i, j]], kinds[other[i, k]]
                column, columns = base[ki, kj, kk], width[ki, kj, kk]
                if column < 0:
                    continue
                c = unit[j, 0] * unit[k, 0] + unit[j, 1] * unit[k, 1] + unit[j, 2] * unit[k, 2]
                legendre(c, factors, angle, turn)
                for m in range(columns):
                    whole[m] = by_j[m] = by_k[m] = by_c[m] = 0.0
                for a in range(low[j], high[j]):
                    for b in range(low[k], high[k]):
                        m = local[ki, kj, kk, a, b]
                        s, dj, dk = value[j, a] * value[k, b], slope[j, a] * value[k, b], value[j, a] * slope[k, b]
                        for p in range(top):
                            whole[m + p] += s * angle[p]
                            by_j[m + p] += dj * angle[p]
                            by_k[m + p] += dk * angle[p]
                            by_c[m + p] += s * turn[p]
                for m in range(columns):
                    z[column + m] += whole[m]
                if not dense:
                    continue
                vj, vk = vector[i, j], vector[i, k]
                for d3 in range(3):
                    rest, away = (unit[k, d3] - c * unit[j, d3]) / r[j], (unit[j, d3] - c * unit[k, d3]) / r[k]
                    uj, uk = unit[j, d3], unit[k, d3]
                    at_i = jacobian[3 * i + d3, column : column + columns]
                    at_j = jacobian[3 * other[i, j] + d3, column : column + columns]
                    at_k = jacobian[3 * other[i, k] + d3, column : column + columns]
                    one = strain[d3, column : column + columns]
                    x2, y2 = (5, 4) if d3 == 0 else ((5, 3) if d3 == 1 else (4, 3))
                    o1, o2 = (1, 2) if d3 == 0 else ((0, 2) if d3 == 1 else (0, 1))
                    two, three = strain[x2, column : column + columns], strain[y2, column : column + columns]
                    for m in range(columns):
                        gj = by_j[m] * uj + by_c[m] * rest
                        gk = by_k[m] * uk + by_c[m] * away
                        at_j[m] += gj
                        at_k[m] += gk
                        at_i[m] -= gj + gk
                        one[m] += gj * vj[d3] + gk * vk[d3]
                        two[m] += 0.5 * (gj * vj[o1] + gk * vk[o1])
                        three[m] += 0.5 * (gj * vj[o2] + gk * vk[o2])
