"""The preconditioner of the exact solver, from the covariances of the labels with one another.

Low-rank part: Nyström features, full jets at a few environments of every term that are chosen greedily. Local part:
:mod:`kernelfe.gp.solvers.iterative.neighbours`. Mean functions stand outside both.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from ....errors import SolverError
from ....kernels import Jets
from ....kernels.products import PairProducts
from ....kernels.radial import RadialKernel
from ....linalg.preconditioner import LocalFactor, LowRankAndLocal
from ...prior.rows import TermRead, environments_at_once, frame_chunks
from ..sparse.inducing import choose_inducing
from .neighbours import Neighbourhoods
from .operator import JetGram, TermNodes
from .settings import PreconditionerSettings

logger = logging.getLogger(__name__)


def precondition(
    gram: JetGram, settings: PreconditionerSettings, rank: int | None = None, dtype: torch.dtype = torch.float64
) -> LowRankAndLocal:
    """A preconditioner of a covariance.

    Parameters
    ----------
    gram
        The covariance.
    settings
        What it may cost; for an evidence :meth:`PreconditionerSettings.for_evidence`.
    rank
        Columns of the low-rank part at most; None: :func:`rank_rule`.
    dtype
        Precision of features and local part; where noise and priors leave float32 no digits, float64 is taken.

    Raises
    ------
    SolverError
        If rows of one group are not positive definite together.
    """
    with torch.no_grad():
        near = Neighbourhoods(gram)
        smooth = SmoothPart(gram, rank_rule(gram, settings) if rank is None else rank, settings)
        tried = (torch.float32, torch.float64) if dtype == torch.float32 else (torch.float64,)
        for precision in tried:
            features = smooth.features(near.order, precision)
            little = settings.little
            if features is not None and little and left_over(gram, features, near.order, settings.tested) < little:
                settings = replace(settings, group_rows=0)
            try:
                out = smooth.with_local(near.factor(features, settings, precision), features)
            except SolverError as error:
                if precision == tried[-1]:
                    raise
                logger.info("preconditioner in double precision: %s", error)
                continue
            if precision == tried[-1] or out.consistent():
                break
        return out


def left_over(gram: JetGram, features: Tensor, order: Tensor | None, tested: int) -> float:
    """Variance of labels that features do not explain, in units of their noise: mean of ``tested`` frames per set."""
    place, noise, at = None if order is None else order.argsort(), gram.noise_diagonal(), 0
    left, count = 0.0, 0
    for block in gram.blocks:
        frames = torch.arange(0, block.frames, max(1, block.frames // tested), device=features.device)
        rows = (
            at + frames[:, None] * block.components + torch.arange(block.components, device=frames.device)
        ).flatten()
        at += len(block)
        known = features[rows if place is None else place[rows]].to(torch.float64).square().sum(1)
        ratio = (gram.prior.diagonal(block.bare().take(frames)) - known).clamp_min(0.0) / noise[rows]
        left, count = left + float(ratio.sum()), count + len(rows)
    return left / max(1, count)


def rank_rule(gram: JetGram, settings: PreconditionerSettings) -> int:
    """As many columns r as cost what some products with A do: N r² operations, and r numbers for all that labels read.

    Labels read each environment of a frame, several of them with permutations of like beads.
    """
    terms = [t for t in gram.terms if t.reads and t.columns]
    operations = sum(6.0 * (1 + t.nodes.shape[1]) * len(t.nodes) * len(t.targets) * t.columns for t in terms)
    # columns are shared out among terms and their thermal columns, which have the same features
    read = sum(len(each.jets) * each.jets.rows / t.columns for t in terms for each in t.reads) / max(1, len(gram.terms))
    rows = max(1, gram.rows)
    half = 0.5 * settings.number_cost * read / rows
    most = min(settings.max_rank, settings.max_bytes // (8 * rows), gram.rows // 4)
    return int(min(most, math.sqrt(settings.products * operations / rows + half**2) - half))


class SmoothPart:
    """Nyström features of all terms, with u full jets at a few environments: L = Φ S, Φ = K_xu, S = C⁻ᵀ, K_uu = C Cᵀ.

    Parameters
    ----------
    gram
        The covariance.
    rank
        Columns at most, over all terms.
    settings
        How environments are chosen.
    """

    def __init__(self, gram: JetGram, rank: int, settings: PreconditionerSettings):
        self.gram = gram
        self.parts: list[_TermFeatures] = []
        for t, nodes in enumerate(gram.terms):
            if not nodes.reads or not nodes.columns:
                continue
            share = rank // max(1, len(gram.terms)) // nodes.columns
            count = share // (1 + nodes.nodes.shape[1])
            if count < 1:
                continue
            part = _TermFeatures(gram, nodes, t, count, settings)
            if part.explained() < settings.worthwhile:
                continue  # too rough for it: neighbours alone take as few iterations
            self.parts.append(part)

    def features(self, order: Tensor | None, dtype: torch.dtype = torch.float64) -> Tensor | None:
        """L of the labels in some order, shape (N, columns · rank), or None."""
        if not self.parts:
            return None
        place = None if order is None else order.argsort()
        columns = sum(part.rank for part in self.parts)
        out = torch.zeros(self.gram.rows, columns, dtype=dtype, device=self.gram.prior.device)
        at = 0
        for part in self.parts:
            part.add_features(out[:, at : at + part.rank], place)
            at += part.rank
        return out

    def with_local(self, local: LocalFactor, features: Tensor | None) -> LowRankAndLocal:
        """The preconditioner from features, and neighbours for the rest."""
        if features is None:
            return LowRankAndLocal(local, broad=self.gram.mean_features)
        root = torch.block_diag(*[part.root for part in self.parts for _ in range(part.nodes.columns)])
        return LowRankAndLocal(local, features, self.left, self.right, root, self.gram.mean_features)

    def left(self, a: Tensor) -> Tensor:
        """Φ a, shape (N, k)."""
        out, at = a.new_zeros(self.gram.rows, a.shape[1]), 0
        for part in self.parts:
            part.add_left(out, a[at : at + part.rank])
            at += part.rank
        return out

    def right(self, x: Tensor) -> Tensor:
        """Φᵀ x, shape (columns, k)."""
        return torch.cat([part.right(x) for part in self.parts])


def towards_others(u: Tensor, pool: Tensor, kernel, inwards: float) -> Tensor:
    """Environments moved by a share of the way to the mean of their neighbours, weighted by the kernel (a mean shift).

    Greedy choice picks the outermost. From further inside, values and slopes of an environment span more of what the
    labels share, nearly as much as as many eigenvectors do: on 400 frames of ten dimensions (length scale 0.7, 440
    columns) 64 iterations instead of 110, with eigenvectors 62.
    """
    if not isinstance(kernel, RadialKernel):
        return u  # may not be defined between environments
    weights = kernel.value(u, pool).clamp_min(0.0)
    return torch.lerp(u, weights @ pool / weights.sum(1, keepdim=True), inwards)


class _TermFeatures:
    """Nyström features of one term, for each of its thermal columns the same."""

    #: Numbers in an array of features on the way: the allocator keeps arrays of this size, larger ones are mapped anew
    #: and cleared by the system every time.
    chunk_numbers: ClassVar[int] = 1 << 19

    def __init__(self, gram: JetGram, nodes: TermNodes, t: int, count: int, settings: PreconditionerSettings):
        self.gram, self.nodes, self.t = gram, nodes, t
        kernel, z = nodes.term.kernel, nodes.nodes
        step = max(1, len(z) // settings.pool)
        pool = z[::step]
        u = towards_others(pool[choose_inducing(pool, kernel, count)], pool, kernel, settings.inwards)
        self.jets = Jets.full(u)
        self.factor = jittered(kernel.gram(self.jets, self.jets).flatten(2).flatten(0, 1))
        self.rank = len(self.factor) * nodes.columns
        self.towards = PairProducts(kernel, nodes.nodes, u, cache_bytes=1 << 28)
        self.back = PairProducts(kernel, u, nodes.nodes, cache_bytes=1 << 28)

    def explained(self) -> float:
        """Share of the variance of values that the features account for, on a sample of environments."""
        kernel, z = self.nodes.term.kernel, self.nodes.nodes
        some = Jets.values(z[:: max(1, len(z) // 200)])
        known = self.whitened(kernel.gram(some, self.jets).flatten(2).flatten(0, 1))
        return float(known.square().sum() / kernel.diagonal(some).sum())

    @property
    def root(self) -> Tensor:
        """S = C⁻ᵀ."""
        unit = torch.eye(len(self.factor), dtype=self.factor.dtype, device=self.factor.device)
        return torch.linalg.solve_triangular(self.factor, unit, upper=False).mT

    def whitened(self, covariance: Tensor) -> Tensor:
        """Rows of K_xu, to rows of L."""
        return torch.linalg.solve_triangular(self.factor, covariance.mT, upper=False).mT

    def gram_rows(self, read: TermRead) -> Tensor:
        """Covariances of rows of environments with u, shape (E, r, columns)."""
        return self.nodes.term.kernel.gram(read.jets, self.jets).flatten(2)

    def add_features(self, out: Tensor, place: Tensor | None) -> None:
        """Add L to ``out`` (N, columns · rank), thermal column by thermal column; ``place``: where each label goes."""
        width = len(self.factor)
        for read in self.nodes.reads:
            m = read.block.components
            step = max(1, self.chunk_numbers // (m * width))
            alone = read.block.only(TermRead(read.jets, read.factors))
            for start, stop in frame_chunks(read.block.frames, step):
                part = alone.slice(start, stop)
                own = part.terms[0][0]
                if not len(own.jets):
                    continue
                psi = self.whitened(part.summed(own, environments_at_once(own.jets, width), self.gram_rows))
                factors = read.factors[start:stop].repeat_interleave(m, 0)
                rows = torch.arange(read.rows.start + start * m, read.rows.start + stop * m, device=out.device)
                rows = rows if place is None else place[rows]
                for column in range(self.nodes.columns):
                    scaled = (psi * factors[:, column, None]).to(out.dtype)
                    out[:, column * width : (column + 1) * width].index_add_(0, rows, scaled)

    def add_left(self, out: Tensor, a: Tensor) -> None:
        """Add Φ a to ``out``."""
        columns, k = self.nodes.columns, a.shape[1]
        inner = a.reshape(columns, -1, k).permute(1, 0, 2).reshape(-1, columns * k)
        coefficients = inner.unflatten(0, (len(self.jets), self.jets.rows))
        value, gradient = self.towards.product(coefficients[:, 0].contiguous(), coefficients[:, 1:].contiguous())
        self.nodes.add_labels(out, value, gradient, every=True)

    def right(self, x: Tensor) -> Tensor:
        """Φᵀ x."""
        value, gradient = self.back.product(*self.nodes.coefficients(x))
        read = torch.cat([value[:, None], gradient], 1).flatten(0, 1)  # type: ignore[index,list-item]
        found = read.unflatten(1, (self.nodes.columns, x.shape[1]))
        return found.permute(1, 0, 2).reshape(-1, x.shape[1])


def jittered(gram: Tensor, jitters: tuple[float, ...] = (1e-12, 1e-10, 1e-8)) -> Tensor:
    """Cholesky factor of a Gram of environments that may nearly repeat one another.

    Parameters
    ----------
    gram
        The Gram.
    jitters
        In units of the largest eigenvalue of the correlations, in the order of trial.

    Raises
    ------
    SolverError
        If the Gram is not finite.
    """
    diagonal = gram.diagonal().clone()
    units = diagonal.sqrt()
    largest = float((gram.abs() / (units * units[:, None])).sum(1).max())  # no eigenvalue of the correlations is above
    for jitter in jitters:
        factor, info = torch.linalg.cholesky_ex(gram + torch.diag(jitter * largest * diagonal))
        if not int(info):
            return factor
    raise SolverError("the Gram of the environments of the preconditioner is not finite: check the descriptors")
