"""The preconditioner of the exact solver, from what the labels know of one another.

Low-rank part: Nyström features, full jets at a few environments of every term that are chosen greedily, and the mean
functions. Local part: :mod:`kernelfe.models.neighbours`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..kernels import Jets
from ..kernels.products import PairProducts
from ..kernels.radial import RadialKernel
from ..linalg.normal import Whitening
from ..linalg.preconditioner import LowRankAndLocal
from .inducing import choose_inducing
from .jet_operator import JetGram, TermNodes
from .neighbours import GROUP_ROWS, local_factor
from .prior import RowBlock, TermRead, frame_chunks

#: Columns of the low-rank part at most, and bytes.
MAX_RANK, MAX_BYTES = 2000, 1 << 29
#: Environments from which those of the low-rank part are chosen.
POOL = 4000
#: Share of the variance of values that a low-rank part must account for to be worth its cost.
WORTHWHILE = 0.25
#: How far environments of the low-rank part move towards the mean of those around them.
INWARDS = 0.8
#: Products with A that the low-rank part may cost.
WORTH = 40


def precondition(gram: JetGram, rank: int | None = None, group_rows: int = GROUP_ROWS) -> LowRankAndLocal:
    """A preconditioner of a covariance.

    Parameters
    ----------
    gram
        The covariance.
    rank
        Columns of the low-rank part at most; None: :func:`rank_rule`.
    group_rows
        Rows of a group of the local part, with those it looks at.

    Raises
    ------
    SolverError
        If rows of one group are not positive definite together.
    """
    with torch.no_grad():
        smooth = SmoothPart(gram, rank_rule(gram) if rank is None else rank)
        features = smooth.features
        local = local_factor(gram, features, group_rows)
        parts = [part for part in (features, gram.mean_features) if part is not None and part.shape[1]]
        out = LowRankAndLocal(local, torch.cat(parts, 1) if parts else None, smooth.left, smooth.right)
        smooth.features = None  # products go through the kernel from now on
        return out


def rank_rule(gram: JetGram) -> int:
    """As many columns as cost what some products with A cost: √(products · operations of one / N)."""
    operations = sum(
        6.0 * (1 + t.nodes.shape[1]) * len(t.nodes) * len(t.targets) * t.columns for t in gram.terms if t.reads
    )
    most = min(MAX_RANK, MAX_BYTES // (8 * max(1, gram.rows)), gram.rows // 4)
    return int(min(most, math.sqrt(WORTH * operations / max(1, gram.rows))))


class SmoothPart:
    """Nyström features of all terms: L = K_xu K_uu^(−½), with u full jets at a few environments.

    Parameters
    ----------
    gram
        The covariance.
    rank
        Columns at most, over all terms.
    """

    def __init__(self, gram: JetGram, rank: int):
        self.gram = gram
        self.parts: list[_TermFeatures] = []
        columns = []
        for t, nodes in enumerate(gram.terms):
            if not nodes.reads or not nodes.columns:
                continue
            share = rank // max(1, len(gram.terms)) // nodes.columns
            count = share // (1 + nodes.nodes.shape[1])
            if count < 1:
                continue
            part = _TermFeatures(gram, nodes, t, count)
            if part.explained() < WORTHWHILE:
                continue  # too rough for it: neighbours alone take as few iterations
            self.parts.append(part)
            columns.append(part.features())
        self.features: Tensor | None = torch.cat(columns, 1) if columns else None
        self.mean = gram.mean_features

    def left(self, a: Tensor) -> Tensor:
        """[L F] a, shape (N, k)."""
        out, at = a.new_zeros(self.gram.rows, a.shape[1]), 0
        for part in self.parts:
            part.add_left(out, a[at : at + part.rank])
            at += part.rank
        return out if self.mean is None else out.addmm_(self.mean, a[at:])

    def right(self, x: Tensor) -> Tensor:
        """[L F]ᵀ x, shape (columns, k)."""
        parts = [part.right(x) for part in self.parts]
        if self.mean is not None:
            parts.append(self.mean.mT @ x)
        return torch.cat(parts)


def towards_others(u: Tensor, pool: Tensor, kernel) -> Tensor:
    """Environments moved most of the way to the mean of those that the kernel sees from them (one mean-shift step).

    Greedy choice picks the outermost. From further inside, values and slopes of an environment span more of what the
    labels share, nearly as much as as many eigenvectors do: on 400 frames of ten dimensions (length scale 0.7, 440
    columns) 64 iterations instead of 110, with eigenvectors 62.
    """
    if not isinstance(kernel, RadialKernel):
        return u  # may not be defined between environments
    weights = kernel.value(u, pool).clamp_min(0.0)
    return torch.lerp(u, weights @ pool / weights.sum(1, keepdim=True), INWARDS)


class _TermFeatures:
    """Nyström features of one term, for each of its thermal columns the same."""

    def __init__(self, gram: JetGram, nodes: TermNodes, t: int, count: int):
        self.gram, self.nodes, self.t = gram, nodes, t
        kernel, z = nodes.term.kernel, nodes.nodes
        step = max(1, len(z) // POOL)
        pool = z[::step]
        u = towards_others(pool[choose_inducing(pool, kernel, count)], pool, kernel)
        self.jets = Jets.full(u)
        covariance = kernel.gram(self.jets, self.jets).flatten(2).flatten(0, 1)
        self.whitening = Whitening.of(covariance, 1e-10).matrix
        self.rank = self.whitening.shape[1] * nodes.columns
        self.towards = PairProducts(kernel, nodes.nodes, u, cache_bytes=1 << 28)
        self.back = PairProducts(kernel, u, nodes.nodes, cache_bytes=1 << 28)

    def explained(self) -> float:
        """Share of the variance of values that the features account for, on a sample of environments."""
        kernel, z = self.nodes.term.kernel, self.nodes.nodes
        some = Jets.values(z[:: max(1, len(z) // 200)])
        known = kernel.gram(some, self.jets).flatten(2).flatten(0, 1) @ self.whitening
        return float(known.square().sum() / kernel.diagonal(some).sum())

    def features(self) -> Tensor:
        """L, shape (N, columns · rank): thermal column by thermal column."""
        out = self.whitening.new_zeros(self.gram.rows, self.nodes.columns, self.whitening.shape[1])
        width = self.jets.z.shape[0] * self.jets.rows
        for read in self.nodes.reads:
            m = read.block.components
            step = max(1, (1 << 22) // (m * width))
            alone = RowBlock(
                read.block.frames, m, [[TermRead(read.jets, read.factors)]], [], read.block.prior_mean
            )  # a read by itself
            for start, stop in frame_chunks(read.block.frames, step):
                part = alone.slice(start, stop)
                jets = part.terms[0][0].jets
                if not len(jets.z):
                    continue
                block = self.nodes.term.kernel.gram(jets, self.jets).flatten(2)
                psi = part.scatter(block, jets) @ self.whitening
                factors = read.factors[start:stop].repeat_interleave(m, 0)
                rows = slice(read.rows.start + start * m, read.rows.start + stop * m)
                for column in range(self.nodes.columns):
                    out[rows, column].addcmul_(psi, factors[:, column, None])
        return out.flatten(1)

    def add_left(self, out: Tensor, a: Tensor) -> None:
        """Add L a to ``out``."""
        columns, k = self.nodes.columns, a.shape[1]
        inner = a.reshape(columns, -1, k).permute(1, 0, 2).reshape(-1, columns * k)
        coefficients = (self.whitening @ inner).unflatten(0, (len(self.jets.z), self.jets.rows))
        value, gradient = self.towards.product(coefficients[:, 0].contiguous(), coefficients[:, 1:].contiguous())
        self.nodes.add_labels(out, value, gradient, every=True)

    def right(self, x: Tensor) -> Tensor:
        """Lᵀ x."""
        value, gradient = self.back.product(*self.nodes.coefficients(x))
        read = torch.cat([value[:, None], gradient], 1).flatten(0, 1)  # type: ignore[index,list-item]
        found = (self.whitening.mT @ read).unflatten(1, (self.nodes.columns, x.shape[1]))
        return found.permute(1, 0, 2).reshape(-1, x.shape[1])
