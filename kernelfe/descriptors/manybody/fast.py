"""Compiled sums over pairs and triplets, for the descriptors of this folder.

They take over on the CPU in float64, where numba is installed and nobody asks torch for derivatives of the result.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...compiled import (
    CloseBeads,
    Features,
    Grid,
    PairTables,
    Table,
    TripletColumns,
    add_pairs,
    add_triplets,
    available,
    kind_numbers,
    pair_list,
    triplet_energy,
)
from ...compiled.pairs import Pairs
from ...geometry.neighbours import neighbours
from ...geometry.skin import SkinList
from ...runtime.threads import side_by_side
from ..base import Environments, Pullback
from .splines import UniformSplines

#: Skin of lists that serve one frame only, Å.
_THIN = 1e-3
_ALL = np.zeros((1, 1), np.int32)


def compiled_for(x: Tensor, cell: Tensor | None) -> bool:
    """True if compiled sums may be used for these positions and cells."""
    if not available() or x.dtype != torch.float64 or x.device.type != "cpu" or x.requires_grad:
        return False
    return not (cell is not None and cell.requires_grad) and bool(torch.isfinite(x).all())


def grid_of(splines: UniformSplines) -> Grid:
    """The splines of a descriptor as the compiled sums take them."""
    return Grid(splines.first, splines.step, splines.count)


class PairSums:
    """Sums of a :class:`PairSplines`.

    Parameters
    ----------
    splines
        Of the descriptor.
    """

    def __init__(self, splines: UniformSplines):
        self.grid = grid_of(splines)
        self.size, self.cutoff = self.grid.size, self.grid.stop

    def features(self, beads: int, pairs: Pairs, derivatives: bool) -> Features:
        """z of one frame."""
        out = Features(self.size, beads, derivatives)
        add_pairs(out, pairs, np.zeros(beads, np.int32), self.grid, _ALL)
        return out

    def forces(self, beads: int, pairs: Pairs, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """−Jᵀ weights of one frame, (beads, 3)."""
        out = np.zeros((beads, 3))
        table = Table(self.grid.start, self.grid.spacing, self.grid.polynomials(weights[None]), _ALL)
        PairTables([table]).add(pairs, np.zeros(beads, np.int32), out, np.zeros(6))
        return out


class TripletSums:
    """Sums of a :class:`TripletSplines`.

    Parameters
    ----------
    splines, products, degree, kinds, bead_kinds
        Of the descriptor.
    """

    def __init__(
        self,
        splines: UniformSplines,
        products: tuple[tuple[int, int], ...],
        degree: int,
        kinds: tuple[str, str, str] | None,
        bead_kinds: tuple[str, ...] | None,
    ):
        self.grid, self.top = grid_of(splines), degree + 1
        self.size, self.cutoff = len(products) * self.top, self.grid.stop
        names = sorted(set(bead_kinds or ())) if kinds else ["*"]
        self.kinds = None if kinds is None else kind_numbers([names.index(kind) for kind in bead_kinds or ()])
        i, j, k = (0, 0, 0) if kinds is None else (names.index(kind) for kind in kinds)
        base = np.full(3 * (len(names),), -1)
        local = np.zeros((*base.shape, self.grid.size, self.grid.size), int)
        base[i, j, k] = base[i, k, j] = 0
        for number, (a, b) in enumerate(products):
            local[i, j, k, a, b] = local[i, k, j, b, a] = number * self.top
        self.columns = TripletColumns(base, local, np.full(base.shape, self.size))

    def numbers(self, beads: int) -> NDArray[np.int32]:
        """Kinds of the beads as numbers."""
        return np.zeros(beads, np.int32) if self.kinds is None else self.kinds

    def features(self, beads: int, pairs: Pairs, derivatives: bool) -> Features:
        """z of one frame."""
        out = Features(self.size, beads, derivatives)
        close = CloseBeads(beads).fill(pairs, self.cutoff)
        add_triplets(out, close, self.numbers(beads), self.grid, self.columns, self.top)
        return out

    def forces(self, beads: int, pairs: Pairs, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """−Jᵀ weights of one frame, (beads, 3)."""
        out, close = np.zeros((beads, 3)), CloseBeads(beads).fill(pairs, self.cutoff)
        coefficients = self.columns.coefficients(weights, self.top)
        triplet_energy(close, self.numbers(beads), self.grid, coefficients, out, np.zeros(6))
        return out


pair_sums = lru_cache(maxsize=64)(PairSums)  # memos of pure functions of the descriptor
triplet_sums = lru_cache(maxsize=64)(TripletSums)


def frame_pairs(x: Tensor, cell: Tensor | None, cutoff: float, wanted) -> Callable[[int], Pairs]:
    """A function that gives the pairs of frame k."""
    if cell is None:
        frame, i, j, v = neighbours(x, None, cutoff, wanted)
        ends = np.searchsorted(frame.numpy(), np.arange(len(x) + 1))
        i, j, v = i.numpy(), j.numpy(), v.numpy()
        parts = [pair_list(i[a:b], j[a:b], v[a:b]) for a, b in pairwise(ends)]
        return parts.__getitem__
    points, boxes = x.numpy(), cell.to(x).expand(len(x), 3, 3).numpy()
    return lambda k: SkinList(cutoff, _THIN, wanted).pairs(points[k], boxes[k])


def environments(sums: PairSums | TripletSums, x: Tensor, cell: Tensor | None, wanted) -> Environments:
    """Environments of a batch, with Jacobians, and strain where there is a cell."""
    n, beads = x.shape[:2]
    z = np.empty((n, sums.size))
    rows, strain = np.empty((n, 3 * beads, sums.size)), np.empty((n, 6, sums.size))

    pairs = frame_pairs(x, cell, sums.cutoff, wanted)

    def one(k: int) -> None:
        found = sums.features(beads, pairs(k), True)
        z[k], rows[k], strain[k] = found.z, found.rows, found.strain

    side_by_side(one, range(n))
    jacobian, strained = torch.from_numpy(rows).transpose(1, 2), torch.from_numpy(strain).transpose(1, 2)
    return Environments(torch.from_numpy(z), jacobian, strain=None if cell is None else strained)


def values_and_pullback(
    sums: PairSums | TripletSums, x: Tensor, cell: Tensor | None, wanted
) -> tuple[Tensor, None, Pullback]:
    """z of a batch without Jacobians, and products with their transpose by energies of the same sums."""
    n, beads = x.shape[:2]
    z, pairs = np.empty((n, sums.size)), frame_pairs(x, cell, sums.cutoff, wanted)

    def one(k: int) -> Pairs:
        here = pairs(k)
        z[k] = sums.features(beads, here, False).z
        return here

    found = side_by_side(one, range(n))

    def pullback(g: Tensor) -> Tensor:
        weights, out = g.detach().numpy(), np.empty((n, beads, 3))

        def back(k: int) -> None:
            out[k] = -sums.forces(beads, found[k], weights[k])

        side_by_side(back, range(n))
        return torch.from_numpy(out)

    return torch.from_numpy(z), None, pullback
