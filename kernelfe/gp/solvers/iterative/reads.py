"""How labels see the environments of a term: right-hand sides to coefficients of jets, and expansions back to labels.

The P environments of a frame under permutations of like beads are often one environment with its columns in another
order (distances are). Then the Jacobian is read once per frame, not P times: it is the largest array of all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ....kernels import Jets
from ...prior.rows import RowBlock

#: Relative difference below which two environments are the same but for the order of their columns.
ROUNDING = 1e-12


@dataclass
class NodeRead:
    """How the labels of one read of one label set see the environments of a term.

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
        if jets.w is not None:  # Jacobians may come frame by frame in the last place, where every read would copy them
            jets = Jets(jets.z, jets.c, jets.w.contiguous(), jets.frame, jets.label)
        self.distinct = jets
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
        jets = self.distinct
        local = x[self.rows].reshape(self.block.frames, self.block.components, -1)
        if jets.frame is not None:
            local = local[jets.frame]
        if jets.label is not None:
            local = torch.gather(local, 1, jets.label[:, :, None].expand(-1, -1, local.shape[2]))
        factors = self.factors if jets.frame is None else self.factors[jets.frame]
        c = w = None
        if jets.c is not None:
            read = (jets.c[:, :, None] * local).sum(1)
            read = factors[:, :, None] * read[:, None, :]
            c = self._gathered(read if self.columns is None else read.repeat_interleave(len(self.columns), 0), nodes)
        if jets.w is not None:
            read = torch.bmm(local.mT, jets.w).mT  # (E, D, k): rows times matrices are the faster ones
            read = factors[:, None, :, None] * read[:, :, None, :]
            if self.columns is not None:
                read = read.index_select(1, self.there).unflatten(1, self.columns.shape).flatten(0, 1)
            w = self._gathered(read, nodes)
        return c, w

    def labels(self, value: Tensor | None, gradient: Tensor | None) -> Tensor:
        """Labels (rows, k) of values (nodes, p, k) and gradients (nodes, D, p, k)."""
        jets = self.distinct
        factors = self.factors if jets.frame is None else self.factors[jets.frame]
        out: Tensor | None = None
        if jets.c is not None:
            assert value is not None
            at = self._at(value)
            if self.columns is not None:
                at = at.unflatten(0, (-1, len(self.columns))).sum(1)
            out = jets.c[:, :, None] * (at * factors[:, :, None]).sum(1)[:, None, :]
        if jets.w is not None:
            assert gradient is not None
            at = self._at(gradient)
            if self.columns is not None:
                at = at.unflatten(0, (-1, len(self.columns))).flatten(1, 2)
                at = at.index_select(1, self.back).unflatten(1, self.columns.shape).sum(1)
            slopes = torch.bmm(jets.w, (at * factors[:, None, :, None]).sum(2))
            out = slopes if out is None else out + slopes
        assert out is not None
        return self.block.scatter(out, jets)

    def _at(self, per_node: Tensor) -> Tensor:
        """What is known of nodes, by environment."""
        return per_node if self.in_order and len(per_node) == len(self.index) else per_node[self.index]

    def _gathered(self, per_environment: Tensor, nodes: int) -> Tensor:
        if self.in_order and nodes == len(self.index):
            return per_environment
        out = per_environment.new_zeros(nodes, *per_environment.shape[1:])
        return out.index_add(0, self.index, per_environment)


def first_of_orbits(jets: Jets, copies: int, weight: float = 1.0) -> Jets:
    """Jets of the first environment of every orbit, times ``weight``."""
    part = slice(None, None, copies)
    return Jets(
        jets.z[part],
        None if jets.c is None else weight * jets.c[part],
        None if jets.w is None else weight * jets.w[part],
        None if jets.frame is None else jets.frame[part],
        None if jets.label is None else jets.label[part],
    )


@torch.no_grad()
def column_orders(jets: Jets, copies: int) -> Tensor | None:
    """In which order each copy has the columns of the first, shape (P, D); None if it is not that.

    The orders are those that sort the columns of the first frame; they hold if they make all environments and slopes of
    all frames the same.
    """
    if not len(jets.z) or len(jets.z) % copies:
        return None
    jets = _by_label(jets)
    for part in (jets.frame, jets.label):
        if part is not None and not bool((part.unflatten(0, (-1, copies)) == part[::copies, None]).all()):
            return None
    z = jets.z.detach().unflatten(0, (-1, copies))
    columns = z[0, 0].argsort()[z[0].argsort(1).argsort(1)]  # z[0, p, d] = z[0, 0, columns[p, d]]
    pairs = [(z, 1)] if jets.c is None else [(z, 1), (jets.c.detach().unflatten(0, (-1, copies)), 0)]
    if jets.w is not None:
        pairs.append((jets.w.detach().unflatten(0, (-1, copies)), 1))
    for values, ordered in pairs:
        size = ROUNDING * max(float(values.abs().max()), torch.finfo(values.dtype).tiny)
        for p in range(copies):
            expected = values[:, 0][..., columns[p]] if ordered else values[:, 0]
            if float((values[:, p] - expected).abs().max()) > size:
                return None
    return columns


def _by_label(jets: Jets) -> Jets:
    """Rows of every environment in the order of the labels that they belong to."""
    if jets.label is None:
        return jets
    order = jets.label.argsort(1)
    c = None if jets.c is None else jets.c.gather(1, order)
    w = None if jets.w is None else jets.w.gather(1, order[:, :, None].expand(-1, -1, jets.w.shape[2]))
    return Jets(jets.z, c, w, jets.frame, jets.label.gather(1, order))
