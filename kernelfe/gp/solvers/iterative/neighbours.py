"""The local part of the preconditioner: every frame conditioned on the frames nearest to it among those before it.

Frames are near when their environments are, in the columns of the kernels of all terms with one environment per frame
(or one orbit of them); labels of the same frame stay together. Where all frames have the same labels, the covariances
of all neighbourhoods are computed in batches; otherwise one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ....kernels import Jets
from ....kernels.jets import linear
from ....kernels.radial import RadialKernel
from ....linalg.preconditioner import LocalFactor, last_columns
from ...observations.labels import LabelSet
from ...prior.rows import RowBlock
from .operator import JetGram
from .settings import PreconditionerSettings


class Neighbourhoods:
    """Choice of labels to condition each label on; from it, Vecchia's factor of A − L Lᵀ without mean functions.

    Parameters
    ----------
    gram
        A.

    Attributes
    ----------
    order
        Labels in the order in which features of them are wanted, frame by frame, shape (N,); None: as they are.
    """

    def __init__(self, gram: JetGram):
        self.gram = gram
        site, self.where = sites(gram)
        self.count = int(site.max()) + 1 if len(site) else 0
        self._order = torch.argsort(site, stable=True)
        self._sizes = torch.bincount(site, minlength=self.count)
        self._uniform = None if self.where is None else UniformSites.of(gram, self._order, self._sizes)
        self.order = None if self._uniform is None else self._order

    def factor(
        self,
        features: Tensor | None,
        settings: PreconditionerSettings,
        dtype: torch.dtype = torch.float64,
    ) -> LocalFactor:
        """Vecchia's factor.

        Parameters
        ----------
        features
            L, shape (N, r), in the order of :attr:`order`, or None.
        settings
            Size of the neighbourhoods.
        dtype
            In which it is computed and kept.

        Raises
        ------
        SolverError
            If rows of one neighbourhood are not positive definite together.
        """
        typical = max(1, int(self._sizes.to(torch.float64).mean()))
        looked_at = max(0, settings.group_rows // typical - 1) if self.where is not None else 0
        looked_at = looked_at if settings.most is None else min(looked_at, settings.most)
        looked_at = 0 if looked_at < settings.fewest else min(looked_at, self.count - 1)
        if self.where is None or not looked_at:
            sequence = torch.arange(self.count, device=self._order.device)
            near = sequence.new_zeros(self.count, 0)
        else:
            sequence = (
                spread_out(self.where)
                if self.count <= settings.spread_out
                else torch.randperm(self.count, generator=_seeded(), device="cpu")
            ).to(self.where.device)
            near = nearest_before(self.where, sequence, looked_at)
        if self._uniform is not None:
            return self._uniform.factor(sequence, near, features, dtype)
        rows_of = self._order.split(self._sizes.tolist())
        bare = [block.bare() for block in self.gram.blocks]

        def residual(rows: Tensor) -> Tensor:
            block = local_gram(self.gram, bare, rows)
            if features is not None:
                part = features[rows].to(torch.float64)
                block.addmm_(part, part.mT, alpha=-1.0)
            return block.to(dtype)

        own = [rows_of[s] for s in sequence.tolist()]
        few = [part[: min(i, looked_at)].tolist() for i, part in enumerate(near)]
        others = [torch.cat([rows_of[s] for s in part]) if part else self._order[:0] for part in few]
        return LocalFactor.of_groups(own, others, residual, dtype)


def sites(gram: JetGram) -> tuple[Tensor, Tensor | None]:
    """The frame that each label belongs to, (N,), and where the frames are, (sites, D), or None."""
    names: dict[tuple, int] = {}
    device = gram.prior.device
    site, place = [], []
    for label, block in zip(gram.label_sets, gram.blocks, strict=True):
        own = frame_of_rows(label)
        keys: list[tuple] = [(id(label), i) for i in range(block.frames)]
        if own is not None:
            keys = [(label.states.molecule, frame) for frame in own]
        numbers = torch.tensor([names.setdefault(key, len(names)) for key in keys], device=device)
        site.append(numbers.repeat_interleave(block.components))
        jets = [reads[0].jets for reads in block.terms if reads and len(reads[0].jets)]
        firsts = [own.z[::each] for own in jets if (each := own.each(block.frames))]
        place.append((numbers, torch.cat(firsts, 1) if firsts else None))
    widths = {None if z is None else z.shape[1] for _, z in place}
    if len(widths) != 1 or None in widths:
        return torch.cat(site), None
    where = place[0][1].new_zeros(len(names), widths.pop())  # type: ignore[union-attr]
    for numbers, z in place:
        where[numbers] = z
    return torch.cat(site), where


def spread_out(where: Tensor) -> Tensor:
    """All places in the order of farthest-point sampling: each as far as can be from those before it."""
    x = where.detach().cpu().numpy()  # thousands of small steps: what takes time is calling them
    x = x - x.mean(0) if len(x) else x
    with np.errstate(over="ignore"):
        squares = (x**2).sum(1)
    far, chosen, done = squares.copy(), np.empty(len(x), dtype=np.int64), np.zeros(len(x), dtype=bool)
    for k in range(len(x)):
        chosen[k] = pivot = int(far.argmax())
        done[pivot] = True
        with np.errstate(over="ignore", invalid="ignore"):
            np.minimum(far, squares + (squares[pivot] - 2.0 * (x @ x[pivot])), out=far)
        far[done] = -np.inf  # each place once, whatever the numbers are
    return torch.from_numpy(chosen).to(where.device)


def nearest_before(where: Tensor, sequence: Tensor, count: int) -> Tensor:
    """For each place in the sequence, the ``count`` nearest of those before it, shape (places, count).

    The i-th has i before it: where that is less than ``count``, only the first i columns of its row mean anything.
    """
    ordered = where[sequence]
    out = sequence.new_zeros(len(sequence), count)
    step = max(1, (1 << 22) // max(1, len(ordered)))
    for start in range(0, len(ordered), step):
        stop = min(start + step, len(ordered))
        distance = torch.cdist(ordered[start:stop], ordered[:stop])
        later = torch.arange(stop, device=where.device) >= torch.arange(start, stop, device=where.device)[:, None]
        few = torch.topk(distance.masked_fill_(later, torch.inf), min(count, stop), largest=False).indices
        out[start:stop, : few.shape[1]] = sequence[few]
    return out


@dataclass
class UniformSites:
    """Frames that all have the same labels: jets of all labels of a frame, per term and thermal column.

    Parameters
    ----------
    gram
        The covariance.
    rows
        Rows of the labels of each frame, shape (sites, R).
    terms
        Per term, the jets that read the P environments of a frame: z (sites, P, D), c (sites, P, R, p) or None,
        w (sites, P, R, D, p) or None.
    noise
        Noise covariance of the labels of a frame, shape (sites, R, R).
    """

    gram: JetGram
    rows: Tensor
    terms: list[Jets]
    noise: Tensor
    #: Numbers in a batch of neighbourhoods, in all arrays of that size: memory only.
    batch_numbers: ClassVar[int] = 1 << 21

    @classmethod
    def of(cls, gram: JetGram, order: Tensor, sizes: Tensor) -> UniformSites | None:
        """The sites of a covariance, or None where frames differ in their labels or their number of environments."""
        count, each = len(sizes), int(sizes[0])
        frames = {block.frames for block in gram.blocks}
        if not bool((sizes == each).all()) or frames != {count}:
            return None
        rows = order.reshape(count, each)
        terms = []
        for t, nodes in enumerate(gram.terms):
            if nodes.reads and nodes.seen is nodes.reads and nodes.reads[0].jets.each(count) != 1:
                return None  # several environments per frame that are not an orbit
            found = _site_jets(gram, t, rows)
            if found is None:
                return None
            terms.append(found)
        return cls(gram, rows, terms, _site_noise(gram, rows))

    def factor(self, sequence: Tensor, near: Tensor, features: Tensor | None, dtype: torch.dtype) -> LocalFactor:
        """Vecchia's factor in the order of ``sequence``; rows of features as in :attr:`rows`."""
        (count, each), looked_at = self.rows.shape, near.shape[1]
        height = (looked_at + 1) * each
        index = torch.zeros(count, looked_at + 1, dtype=torch.long, device=self.rows.device)
        factor = torch.zeros(count, height, each, dtype=dtype, device=self.rows.device)
        copies = max((jets.z.shape[1] for jets in self.terms), default=1)
        width = 0 if features is None else features.shape[1]
        by_site = None if features is None else features.reshape(count, -1)  # rows of a site are gathered as one
        batch = max(1, self.batch_numbers // (height * max(height * copies, width)))
        # the first ones have fewer before them
        spans = [(i, i + 1) for i in range(looked_at)]
        spans += [(i, min(i + batch, count)) for i in range(looked_at, count, batch)]
        for start, stop in spans:
            others = near[start:stop, : min(start, looked_at)]
            who = torch.cat([others, sequence[start:stop, None]], 1)
            block = self.block(who, dtype)
            if by_site is not None:
                own = by_site.index_select(0, who.reshape(-1)).view(len(who), -1, width)
                block.baddbmm_(own, own.mT, alpha=-1.0)
            index[start:stop, looked_at + 1 - who.shape[1] :] = who
            factor[start:stop, height - block.shape[1] :] = last_columns(block, each)
        used = torch.arange(1, count + 1, device="cpu").clamp_max(looked_at + 1)
        return LocalFactor(self.rows, index, factor, torch.full((count,), each, device="cpu"), used)

    def block(self, who: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        """Covariances within sets of sites (B, k), shape (B, k·R, k·R).

        Radial kernels depend on differences only: in single precision they are taken from coordinates about the centre
        of the set. Other kernels are computed in double.
        """
        b, k = who.shape
        each = self.rows.shape[1]
        out = torch.zeros(b, k * each, k * each, dtype=dtype, device=who.device)
        at = torch.arange(k, device=who.device)
        out.unflatten(1, (k, each)).unflatten(3, (k, each))[:, at, :, at] += self.noise[who].transpose(0, 1).to(dtype)
        for nodes, jets in zip(self.gram.terms, self.terms, strict=True):
            kernel, copies = nodes.term.kernel, jets.z.shape[1]
            for p in range(nodes.columns):
                z, c, w = jets.z[who], *(linear(lambda v, p=p: v[who][..., p], part) for part in (jets.c, jets.w))
                own = Jets(z, c, w)
                if isinstance(kernel, RadialKernel):
                    own = Jets(z - z.mean((1, 2), keepdim=True), c, w).map(lambda v: v.to(dtype))
                # the first of an orbit stands for all
                found = kernel.gram_of_sets(own.map(lambda v: v[:, :, 0]), own.map(lambda v: v.flatten(1, 2)))
                if copies > 1:
                    found = found.unflatten(3, (k, copies)).sum(4).mul_(copies)
                out += found.reshape(b, k * each, k * each)
        return out


def _site_jets(gram: JetGram, t: int, rows: Tensor) -> Jets | None:
    """Jets of all labels of each site, in the order of the site's rows; None where environments are uneven."""
    nodes, (count, each) = gram.terms[t], rows.shape
    if not nodes.reads:
        return Jets(rows.new_zeros(count, 1, nodes.nodes.shape[1], dtype=torch.float64))
    copies = nodes.reads[0].jets.each(count)
    slot = torch.zeros(gram.rows, dtype=torch.long, device=rows.device)
    slot[rows.reshape(-1)] = torch.arange(each, device=rows.device).repeat(count)
    owner = torch.zeros_like(slot)
    owner[rows.reshape(-1)] = torch.arange(count, device=rows.device).repeat_interleave(each)
    z = nodes.nodes.new_zeros(count, copies, nodes.nodes.shape[1])
    coefficients: dict[int, Tensor] = {}
    for number, read in enumerate(nodes.reads):
        jets, m = read.jets, read.block.components
        if not copies or jets.each(count) != copies:
            return None
        who = owner[read.rows.start : read.rows.stop : m]  # site of each frame
        environments = jets.z.unflatten(0, (count, copies))
        if not number:
            z[who] = environments
        elif not torch.equal(z[who], environments):
            return None
        at = slot[read.rows.start + jets.place(m)].unflatten(0, (count, copies))
        for kind, part in enumerate((jets.c, jets.w)):
            if part is None:
                continue
            one = (1,) * (part.ndim - 2)
            values = part.unflatten(0, (count, copies))[..., None] * read.factors.reshape(count, 1, 1, *one, -1)
            own = values.new_zeros(count, copies, each, *values.shape[3:])
            own.scatter_add_(2, at.reshape(*at.shape, 1, *one).expand(values.shape), values)
            if kind not in coefficients:
                coefficients[kind] = torch.zeros_like(own)
            coefficients[kind][who] += own
    return Jets(z, coefficients.get(0), coefficients.get(1))


def _site_noise(gram: JetGram, rows: Tensor) -> Tensor:
    count, each = rows.shape
    out = torch.zeros(count, each, each, dtype=torch.float64, device=rows.device)
    slot = torch.empty(gram.rows, dtype=torch.long, device=rows.device)
    slot[rows.reshape(-1)] = torch.arange(each, device=rows.device).repeat(count)
    owner = torch.empty_like(slot)
    owner[rows.reshape(-1)] = torch.arange(count, device=rows.device).repeat_interleave(each)
    at = 0
    for label, noise in zip(gram.label_sets, gram.noise, strict=True):
        part = slice(at, at + len(label))
        at += len(label)
        noise.add_to(out, slot[part], owner[part])
    return out


def local_gram(gram: JetGram, bare: list[RowBlock], rows: Tensor) -> Tensor:
    """Covariance of some labels, noise included and mean functions left out, shape (s, s)."""
    out = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
    picked: list[tuple[RowBlock, Tensor]] = []
    at = 0
    for block, noise in zip(bare, gram.noise, strict=True):
        inside = torch.nonzero((rows >= at) & (rows < at + len(block)))[:, 0]
        if len(inside):
            local = rows[inside] - at
            frames = local[:: block.components] // block.components
            part = block.take(frames)
            for other, columns in picked:
                covariance = gram.prior.gram(part, other)
                out[inside[:, None], columns] = covariance
                out[columns[:, None], inside] = covariance.mT
            out[inside[:, None], inside] = gram.prior.gram(part, part)
            picked.append((part, inside))
            noise.take(frames).add_to(out, inside)
        at += len(block)
    return out


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def frame_of_rows(label: LabelSet) -> list[int] | None:
    """The frame of each row of a label set, or None where it is not known or a label reads two."""
    if label.frame is None or label.minus is not None:
        return None
    return label.frame.tolist()
