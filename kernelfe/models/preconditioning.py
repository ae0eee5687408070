"""The preconditioner of the exact solver, from what the labels know of one another.

Low-rank part: Nyström features, full jets at a few environments of every term that are chosen greedily, and the mean
functions. Local part: frames near each other, in clusters of a few, each conditioned on the nearest frames of earlier
clusters (:mod:`kernelfe.linalg.preconditioner`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..kernels import Jets
from ..kernels.products import PairProducts
from ..linalg.normal import Whitening
from ..linalg.preconditioner import Groups, LocalFactor, LowRankAndLocal
from .inducing import choose_inducing
from .jet_operator import JetGram, TermNodes
from .prior import RowBlock, TermRead, frame_chunks
from .select import frame_of_rows, select

#: Rows of a group of the local part together with those it looks at.
GROUP_ROWS = 220
#: Share of these that are its own.
OWN = 0.4
#: Columns of the low-rank part at most, and bytes.
MAX_RANK, MAX_BYTES = 2000, 1 << 29
#: Environments from which those of the low-rank part are chosen.
POOL = 4000
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
        groups, selections = neighbourhoods(gram, group_rows)
        features = smooth.features

        def residual(rows: Tensor) -> Tensor:
            block = local_gram(gram, selections, rows)
            if features is not None:
                part = features[rows]
                block.addmm_(part, part.mT, alpha=-1.0)
            return block

        local = LocalFactor(groups, residual)
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


class _TermFeatures:
    """Nyström features of one term, for each of its thermal columns the same."""

    def __init__(self, gram: JetGram, nodes: TermNodes, t: int, count: int):
        self.gram, self.nodes, self.t = gram, nodes, t
        kernel, z = nodes.term.kernel, nodes.nodes
        step = max(1, len(z) // POOL)
        pool = z[::step]
        u = pool[choose_inducing(pool, kernel, count)]
        self.jets = Jets.full(u)
        covariance = kernel.gram(self.jets, self.jets).flatten(2).flatten(0, 1)
        self.whitening = Whitening.of(covariance, 1e-10).matrix
        self.rank = self.whitening.shape[1] * nodes.columns
        self.towards = PairProducts(kernel, nodes.nodes, u, cache_bytes=1 << 28)
        self.back = PairProducts(kernel, u, nodes.nodes, cache_bytes=1 << 28)

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


# ------------------------------------------------------------------ who is near whom


def neighbourhoods(gram: JetGram, group_rows: int) -> tuple[Groups, list[RowBlock]]:
    """Clusters of frames, each with the nearest frames of earlier clusters, and the rows without mean functions.

    Frames are near when their environments are, in the columns of the kernels of all terms with one environment per
    frame; labels of the same frame stay together. Where no term has that, every frame stands for itself.
    """
    site, where = sites(gram)
    count = int(site.max()) + 1 if len(site) else 0
    order = torch.argsort(site, stable=True)
    sizes = torch.bincount(site, minlength=count)
    rows_of = order.split(sizes.tolist())
    typical = max(1, int(sizes.to(torch.float64).mean()))
    bare = [RowBlock(b.frames, b.components, b.terms, [], b.prior_mean) for b in gram.blocks]
    per_group = max(1, round(OWN * group_rows / typical))
    looked_at = max(1, group_rows // typical - per_group) if where is not None else 0
    clusters = bisect(where, per_group) if where is not None else list(torch.arange(count).split(per_group))
    generator = torch.Generator().manual_seed(0)
    clusters = [clusters[i] for i in torch.randperm(len(clusters), generator=generator).tolist()]
    own, near, seen = [], [], torch.zeros(0, dtype=torch.long)
    for cluster in clusters:
        own.append(torch.cat([rows_of[s] for s in cluster.tolist()]))
        chosen = seen[:0]
        if where is not None and looked_at and len(seen):
            distance = torch.cdist(where[cluster], where[seen]).amin(0)
            chosen = seen[torch.topk(distance, min(looked_at, len(seen)), largest=False).indices]
        near.append(torch.cat([rows_of[s] for s in chosen.tolist()]) if len(chosen) else order[:0])
        seen = torch.cat([seen, cluster])
    return Groups(own, near), bare


def sites(gram: JetGram) -> tuple[Tensor, Tensor | None]:
    """The frame that each label belongs to, (N,), and where the frames are, (sites, D), or None."""
    names: dict[tuple, int] = {}
    site, place = [], []
    for label, block in zip(gram.label_sets, gram.blocks, strict=True):
        own = frame_of_rows(label)
        keys = [(id(label), i) if own is None else (label.states.molecule, int(f)) for i, f in enumerate(own or [])]
        if own is None:
            keys = [(id(label), i) for i in range(block.frames)]
        numbers = torch.tensor([names.setdefault(key, len(names)) for key in keys])
        site.append(numbers.repeat_interleave(block.components))
        direct = [reads[0].jets.z for reads in block.terms if reads and len(reads[0].jets.z) == block.frames]
        copies = [
            reads[0].jets.z.reshape(block.frames, -1, reads[0].jets.z.shape[1])[:, 0]
            for reads, nodes in zip(block.terms, gram.terms, strict=True)
            if reads and nodes.targets is not nodes.nodes
        ]
        place.append((numbers, torch.cat(direct + copies, 1) if direct or copies else None))
    widths = {None if z is None else z.shape[1] for _, z in place}
    if len(widths) != 1 or None in widths:
        return torch.cat(site), None
    where = place[0][1].new_zeros(len(names), widths.pop())  # type: ignore[union-attr]
    for numbers, z in place:
        where[numbers] = z
    return torch.cat(site), where


def bisect(z: Tensor, size: int) -> list[Tensor]:
    """Clusters of at most ``size`` rows: halves along the widest column, again and again."""
    out, todo = [], [torch.arange(len(z))]
    while todo:
        part = todo.pop()
        if len(part) <= size:
            if len(part):
                out.append(part)
            continue
        values = z[part]
        widest = int((values.amax(0) - values.amin(0)).argmax())
        order = part[torch.argsort(values[:, widest], stable=True)]
        middle = -(-len(order) // (2 * size)) * size  # whole clusters on the left
        middle = middle if middle < len(order) else len(order) // 2
        todo += [order[middle:], order[:middle]]
    return out


def local_gram(gram: JetGram, bare: list[RowBlock], rows: Tensor) -> Tensor:
    """Covariance of some labels, noise included and mean functions left out, shape (s, s)."""
    out = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
    picked: list[tuple[RowBlock, Tensor]] = []
    at = 0
    for label, block, variances in zip(gram.label_sets, bare, gram._variances, strict=True):
        inside = torch.nonzero((rows >= at) & (rows < at + len(block)))[:, 0]
        if len(inside):
            local = rows[inside] - at
            frames = local[:: block.components] // block.components
            part = select(block, frames)
            for other, columns in picked:
                covariance = gram.prior.gram(part, other)
                out[inside[:, None], columns] = covariance
                out[columns[:, None], inside] = covariance.mT
            out[inside[:, None], inside] = gram.prior.gram(part, part)
            picked.append((part, inside))
            if variances is not None:
                out[inside, inside] += variances[local]
            else:
                at_frames = inside.reshape(len(frames), -1)
                out[at_frames[:, :, None], at_frames[:, None, :]] += label.noise[frames]  # type: ignore[index]
        at += len(block)
    return out
