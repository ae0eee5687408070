"""Geometric coordinates of a single configuration: for steps of dynamics with one molecule.

The formulas are those of :mod:`kernelfe.geometry.internal`. For one molecule the time is that of the calls, not of the
arithmetic: many distances take a few calls of NumPy here, and the few angles and torsions are made of plain numbers,
of which fifty operations take as long as one call of torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from .internal import TINY

FloatArray = NDArray[np.float64]
#: Positions of the beads as plain numbers.
Beads = Sequence[Sequence[float]]

_TINY2 = TINY * TINY


class SingleDistances:
    """Distances between pairs of beads of one configuration.

    Parameters
    ----------
    pairs
        Pairs of bead indices, not empty.
    beads
        Number of beads.
    """

    def __init__(self, pairs: Sequence[tuple[int, int]], beads: int):
        order, (tail, head) = np.arange(len(pairs)), np.array(pairs, dtype=int).T
        self._edges = np.zeros((len(pairs), beads))
        self._edges[order, tail], self._edges[order, head] = -1.0, 1.0
        self._back = np.ascontiguousarray(self._edges.T)

    @staticmethod
    def suits(pairs: int, beads: int) -> bool:
        """True if there are few enough for a dense matrix of pairs and beads."""
        return 0 < pairs * beads <= 1 << 15

    def __call__(self, x: FloatArray) -> tuple[FloatArray, Callable[[FloatArray], FloatArray]]:
        """Distances r, shape (pairs,), at least ``TINY``, and the product with Jᵀ, from (pairs,) to (beads, 3)."""
        v = self._edges @ x
        r = np.sqrt(np.einsum("ij,ij->i", v, v))
        np.maximum(r, TINY, out=r)
        return r, lambda g: self._back @ (v * (g / r)[:, None])


def distance(x: Beads, i: int, j: int) -> tuple[float, float, float, float]:
    """The distance between two beads, at least ``TINY``, and its gradient by the second."""
    (ax, ay, az), (bx, by, bz) = x[i], x[j]
    vx, vy, vz = bx - ax, by - ay, bz - az
    r = max(math.sqrt(vx * vx + vy * vy + vz * vz), TINY)
    return r, vx / r, vy / r, vz / r


def angle(x: Beads, i: int, j: int, k: int) -> tuple[float, tuple[float, ...]]:
    """The angle i–j–k at j, and its gradients by the beads i and k, six numbers."""
    (ix, iy, iz), (jx, jy, jz), (kx, ky, kz) = x[i], x[j], x[k]
    ax, ay, az, cx, cy, cz = ix - jx, iy - jy, iz - jz, kx - jx, ky - jy, kz - jz
    nx, ny, nz = ay * cz - az * cy, az * cx - ax * cz, ax * cy - ay * cx
    size = math.sqrt(nx * nx + ny * ny + nz * nz)
    floored = max(size, _TINY2)
    p = 1.0 / (max(ax * ax + ay * ay + az * az, _TINY2) * floored)
    s = 1.0 / (max(cx * cx + cy * cy + cz * cz, _TINY2) * floored)
    return math.atan2(size, ax * cx + ay * cy + az * cz), (
        *((ay * nz - az * ny) * p, (az * nx - ax * nz) * p, (ax * ny - ay * nx) * p),
        *((ny * cz - nz * cy) * s, (nz * cx - nx * cz) * s, (nx * cy - ny * cx) * s),
    )


def torsion(x: Beads, i: int, j: int, k: int, m: int) -> tuple[float, tuple[float, ...]]:
    """The torsion i–j–k–m, and its gradients by the three vectors j − i, k − j and m − k, nine numbers."""
    (ix, iy, iz), (jx, jy, jz), (kx, ky, kz), (mx, my, mz) = x[i], x[j], x[k], x[m]
    ax, ay, az, bx, by, bz = jx - ix, jy - iy, jz - iz, kx - jx, ky - jy, kz - jz
    cx, cy, cz = mx - kx, my - ky, mz - kz
    ux, uy, uz = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
    wx, wy, wz = by * cz - bz * cy, bz * cx - bx * cz, bx * cy - by * cx
    axis = max(math.sqrt(bx * bx + by * by + bz * bz), TINY)
    value = math.atan2(axis * (ax * wx + ay * wy + az * wz), ux * wx + uy * wy + uz * wz)
    p = axis / max(ux * ux + uy * uy + uz * uz, _TINY2)
    s = axis / max(wx * wx + wy * wy + wz * wz, _TINY2)
    ux, uy, uz, wx, wy, wz = ux * p, uy * p, uz * p, wx * s, wy * s, wz * s
    per = -1.0 / (axis * axis)
    p, s = (ax * bx + ay * by + az * bz) * per, (cx * bx + cy * by + cz * bz) * per
    return value, (ux, uy, uz, ux * p + wx * s, uy * p + wy * s, uz * p + wz * s, wx, wy, wz)


def signed_volume(x: Beads, i: int, j: int, k: int, m: int) -> tuple[float, tuple[float, ...]]:
    """a · (b × c) of a = j − i, b = k − j and c = m − k, and its gradients by the three, nine numbers."""
    (ix, iy, iz), (jx, jy, jz), (kx, ky, kz), (mx, my, mz) = x[i], x[j], x[k], x[m]
    ax, ay, az, bx, by, bz = jx - ix, jy - iy, jz - iz, kx - jx, ky - jy, kz - jz
    cx, cy, cz = mx - kx, my - ky, mz - kz
    wx, wy, wz = by * cz - bz * cy, bz * cx - bx * cz, bx * cy - by * cx
    return ax * wx + ay * wy + az * wz, (
        *(wx, wy, wz, cy * az - cz * ay, cz * ax - cx * az, cx * ay - cy * ax),
        *(ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx),
    )


class Gradient:
    """A gradient by the positions of beads, as plain numbers, to which those of coordinates are added.

    Parameters
    ----------
    beads
        Number of beads.
    """

    def __init__(self, beads: int):
        self.flat = [0.0] * (3 * beads)

    def add_distance(self, g: float, i: int, j: int, slope: Sequence[float]) -> None:
        """Add g times the gradient of a distance."""
        f, i, j = self.flat, 3 * i, 3 * j
        x, y, z = g * slope[0], g * slope[1], g * slope[2]
        f[i] -= x
        f[i + 1] -= y
        f[i + 2] -= z
        f[j] += x
        f[j + 1] += y
        f[j + 2] += z

    def add_angle(self, g: float, i: int, j: int, k: int, slopes: Sequence[float]) -> None:
        """Add g times the gradient of an angle."""
        f, at = self.flat, (3 * i, 3 * k)
        middle, (ax, ay, az, cx, cy, cz) = 3 * j, slopes
        f[at[0]] += g * ax
        f[at[0] + 1] += g * ay
        f[at[0] + 2] += g * az
        f[at[1]] += g * cx
        f[at[1] + 1] += g * cy
        f[at[1] + 2] += g * cz
        f[middle] -= g * (ax + cx)
        f[middle + 1] -= g * (ay + cy)
        f[middle + 2] -= g * (az + cz)

    def add_torsion(self, g: float, i: int, j: int, k: int, m: int, slopes: Sequence[float]) -> None:
        """Add g times the gradient of a torsion or a signed volume."""
        ends = ((i, j, slopes[:3]), (j, k, slopes[3:6]), (k, m, slopes[6:]))
        for tail, head, slope in ends:
            self.add_distance(g, tail, head, slope)

    def array(self) -> FloatArray:
        """The gradient, shape (beads, 3)."""
        return np.array(self.flat).reshape(-1, 3)
