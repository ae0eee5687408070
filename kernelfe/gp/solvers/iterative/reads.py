"""Labels and the environments of a term: right-hand sides to coefficients of jets, expansions back to labels.

The P environments of a frame under permutations of like beads are often one environment with its columns in another
order (distances are). Then the Jacobian is read once per frame, not P times: it is the largest array of all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ....kernels import Jets
from ....kernels.jets import linear
from ...prior.rows import RowBlock


@dataclass
class NodeRead:
    """One read of one label set of the environments of a term.

    Parameters
    ----------
    block
        The rows of the label set.
    rows
        Where they are among all labels.
    jets
        What they read of the environments.
    index
        Environment → node, shape (E,).
    factors
        Thermal factors of the frames, shape (n, p).
    columns
        If each run of P environments is the first of it with its columns in another order: which, shape (P, D).
    """

    block: RowBlock
    rows: slice
    jets: Jets
    index: Tensor
    factors: Tensor
    columns: Tensor | None = None

    def __post_init__(self):
        #: The jets that have to be read: the first of every orbit, where the others follow from it.
        jets = self.jets if self.columns is None else first_of_orbits(self.jets, len(self.columns))
        self.distinct = jets.contiguous()  # Jacobians may come frame by frame in the last place: every read would copy
        if self.columns is not None:
            #: Columns of the first for all columns of an orbit, and columns of an orbit in the order of the first.
            self.there = self.columns.flatten()
            copy = torch.arange(len(self.columns), device=self.columns.device)[:, None]
            self.back = (self.columns.argsort(1) + copy * self.columns.shape[1]).flatten()
        #: Whether environment and node are the same, from the first to the last.
        self.in_order = torch.equal(self.index, torch.arange(len(self.index), device=self.index.device))

    @classmethod
    def of(cls, block: RowBlock, rows: slice, jets: Jets, index: Tensor, factors: Tensor, copies: int = 1) -> NodeRead:
        """A read, with the order of columns of its ``copies`` environments per orbit if that is all they differ in."""
        return cls(block, rows, jets, index, factors, column_orders(jets, copies) if copies > 1 else None)

    def coefficients(self, x: Tensor, nodes: int, width: int) -> tuple[Tensor | None, Tensor | None]:
        """Jets on the nodes of right-hand sides x (N, k): (nodes, p, k) and (nodes, D, p, k), or None for zero."""
        jets, columns = self.distinct, self.columns
        factors = jets.spread(self.factors)

        def values(c: Tensor) -> Tensor:
            c = factors[:, :, None] * c[:, None, :]
            return self._gathered(c if columns is None else c.repeat_interleave(len(columns), 0), nodes)

        def slopes(w: Tensor) -> Tensor:
            w = factors[:, None, :, None] * w[:, :, None, :]
            if columns is not None:
                w = w.index_select(1, self.there).unflatten(1, columns.shape).flatten(0, 1)
            return self._gathered(w, nodes)

        c, w = jets.coefficients(self.block.gather(x[self.rows], jets))
        return linear(values, c), linear(slopes, w)

    def labels(self, value: Tensor | None, gradient: Tensor | None) -> Tensor:
        """Labels (rows, k) of values (nodes, p, k) and gradients (nodes, D, p, k)."""
        jets, columns = self.distinct, self.columns
        factors = jets.spread(self.factors)

        def values(value: Tensor) -> Tensor:
            at = self._at(value)
            at = at if columns is None else at.unflatten(0, (-1, len(columns))).sum(1)
            return (at * factors[:, :, None]).sum(1)

        def slopes(gradient: Tensor) -> Tensor:
            at = self._at(gradient)
            if columns is not None:
                at = at.unflatten(0, (-1, len(columns))).flatten(1, 2)
                at = at.index_select(1, self.back).unflatten(1, columns.shape).sum(1)
            return (at * factors[:, None, :, None]).sum(2)

        read = jets.read(
            linear(values, value if jets.reads_values else None),
            linear(slopes, gradient if jets.reads_slopes else None),
        )
        return self.block.scatter(read, jets)

    def _at(self, per_node: Tensor) -> Tensor:
        """Values of nodes, by environment."""
        return per_node if self.in_order and len(per_node) == len(self.index) else per_node[self.index]

    def _gathered(self, per_environment: Tensor, nodes: int) -> Tensor:
        if self.in_order and nodes == len(self.index):
            return per_environment
        out = per_environment.new_zeros(nodes, *per_environment.shape[1:])
        return out.index_add(0, self.index, per_environment)


def first_of_orbits(jets: Jets, copies: int, weight: float = 1.0) -> Jets:
    """Jets of the first environment of every orbit, times ``weight``."""
    return jets.map(lambda part: part[::copies]).weighted(weight)


@torch.no_grad()
def column_orders(jets: Jets, copies: int, rounding: float = 1e-12) -> Tensor | None:
    """Order of the columns of the first in each copy, shape (P, D); None if copies differ in more than that.

    The orders are those that sort the columns of the first frame; they hold if they make all environments and slopes of
    all frames the same, to relative differences of ``rounding``.
    """
    if not len(jets) or len(jets) % copies:
        return None
    jets = jets.by_component()
    for part in (jets.frame, jets.label):
        if part is not None and not bool((part.unflatten(0, (-1, copies)) == part[::copies, None]).all()):
            return None
    z = jets.z.detach().unflatten(0, (-1, copies))
    columns = z[0, 0].argsort()[z[0].argsort(1).argsort(1)]  # z[0, p, d] = z[0, 0, columns[p, d]]
    for part, ordered in ((jets.z, True), (jets.c, False), (jets.w, True)):
        if part is None:
            continue
        values = part.detach().unflatten(0, (-1, copies))
        size = rounding * max(float(values.abs().max()), torch.finfo(values.dtype).tiny)
        for p in range(copies):
            expected = values[:, 0][..., columns[p]] if ordered else values[:, 0]
            if float((values[:, p] - expected).abs().max()) > size:
                return None
    return columns
