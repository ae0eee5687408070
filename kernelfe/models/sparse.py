"""Sparse conditioning: inducing environments and streamed normal equations.

Each term is represented by the values (or the full jets) of its functions at M inducing environments.
Labels stream through in blocks of frames; memory is set by M and by the number of kinds of labels and
distinct temperatures, never by the number of frames.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..linalg import Checkpoint, Conditioning, Group, NormalEquations, Processes, Whitening, sum_chunks
from ..linalg.normal import Stacked
from .labels import LabelSet
from .orbits import orbit_size, whitening_of_orbits
from .posterior import Expansion
from .prior import Prior, RowBlock, frame_chunks
from .row_reduction import reduced
from .streaming import FEATURE_ROWS, Block, GroupPlan, plan

#: Frames whose descriptors are in memory at a time.
FRAMES_AT_ONCE = 512
#: Rows whose features of all terms are in memory at a time on a card, where a small block leaves most of it idle.
CARD_FEATURE_ROWS = 1 << 15
#: Kernel values of a block of rows: about a megabyte, to stay in the cache until they are whitened.
CACHED_ENTRIES = 1 << 17
#: The same on a card: a gigabyte, many rows for each time that the whitening matrix is read.
CARD_ENTRIES = 1 << 27


class SparseBasis:
    """Whitened features of all terms and the mean function.

    Parameters
    ----------
    prior
        Prior; its length scales are read when the basis is built.
    inducing
        Inducing environments per term in the descriptor's own units, shapes (M, D).
    gradients
        Whether inducing variables are full jets (1 + D per environment) instead of values.
    whitening
        Whitening matrices of a saved model, to be used as they are.
    """

    def __init__(self, prior: Prior, inducing: list[Tensor], gradients: bool, whitening: list[Tensor] | None = None):
        self.prior, self.inducing, self.gradients = prior, inducing, gradients
        self.jets, self.whitenings = [], []
        for t, (term, z) in enumerate(zip(prior.terms, inducing, strict=True)):
            kernel = term.kernel
            jets = kernel.inducing(z, gradients)
            self.jets.append(jets)
            if whitening is not None:  # signs and order of eigenvectors must match the stored weights
                self.whitenings.append(Whitening(whitening[t]))
            else:
                gram = kernel.gram(jets, jets).flatten(2).flatten(0, 1)
                self.whitenings.append(whitening_of_orbits(gram, 1 if gradients else orbit_size(term)))
        self.ranks = [whitening.rank for whitening in self.whitenings]
        self.functions = [term.size for term in prior.terms]
        if prior.mean is not None:
            self.ranks.append(len(prior.mean.offset))
            self.functions.append(prior.mean.size)

    def term_features(self, rows: RowBlock, t: int, read: int) -> Tensor:
        """ψ of one read of one term, shape (len(rows), rank), without factors."""
        jets = rows.terms[t][read].jets
        block = self.prior.terms[t].kernel.gram(jets, self.jets[t])
        return rows.scatter(block.flatten(2), jets) @ self.whitenings[t].matrix

    def fill(self, rows: RowBlock, out: Tensor) -> list[Tensor]:
        """Features of rows of one read, without factors, block by block.

        Parameters
        ----------
        out
            Shape (len(rows), Σ ranks); overwritten.

        Returns
        -------
        list of Tensor
            Per term Σ ψ², shape (len(rows),).
        """
        at, squares = 0, []
        for t, term in enumerate(self.prior.terms):
            own, jets = out[:, at : at + self.ranks[t]], rows.terms[t][0].jets
            at += self.ranks[t]
            if jets.frame is not None or jets.label is not None:
                own.copy_(self.term_features(rows, t, 0))
                squares.append((own * own).sum(1))
                continue
            nodes, m, found = self.jets[t], rows.components, []
            kernel, matrix = term.kernel, self.whitenings[t].matrix
            entries = CARD_ENTRIES if own.is_cuda else CACHED_ENTRIES
            step = max(1, entries // max(1, m * len(matrix)))
            block = own.new_empty(min(step, rows.frames) * m, len(matrix))
            for start, stop in frame_chunks(rows.frames, step):
                columns, features = block[: (stop - start) * m], own[start * m : stop * m]
                kernel.fill_gram(jets[start:stop], nodes, columns)
                torch.mm(columns, matrix, out=features)
                found.append((features * features).sum(1))
            squares.append(torch.cat(found))
        if self.prior.mean is not None:
            out[:, at:] = rows.mean[0][0] if rows.mean else 0.0
        return squares

    def wide(self, rows: RowBlock) -> tuple[Tensor, Tensor]:
        """Expanded rows without prior scales, (len(rows), W), and per function what they miss, (len(rows), Σ size)."""
        m, parts, missing = rows.components, [], []
        for t in range(len(self.prior.terms)):
            total = rows.prior_mean.new_zeros(())
            for r, read in enumerate(rows.terms[t]):
                factors = read.factors.repeat_interleave(m, 0)
                total = total + factors[:, :, None] * self.term_features(rows, t, r)[:, None, :]
            explained = (total**2).sum(2)
            missing.append((self.prior.kernel_diagonal(rows, t) - explained).clamp_min(0.0))
            parts.append(total.flatten(1))
        if self.prior.mean is not None:
            kinds, size = len(self.prior.mean.offset), self.prior.mean.size
            total = rows.prior_mean.new_zeros(len(rows), size, kinds)
            for features, factors in rows.mean:
                total = total + factors[:, :, None] * features[:, None, :]
            parts.append(total.flatten(1))
            missing.append(rows.prior_mean.new_zeros(len(rows), size))
        return torch.cat(parts, 1), torch.cat(missing, 1)

    def amplitudes(self) -> Tensor:
        """Prior standard deviation of every weight, shape (W,)."""
        return torch.cat(
            [v.sqrt().repeat_interleave(r) for v, r in zip(self.prior.variances(), self.ranks, strict=True)]
        )


@torch.no_grad()
def accumulate(
    basis: SparseBasis,
    labels: list[LabelSet],
    block_rows: int,
    progress=None,
    equations=None,
    processes: Processes | None = None,
    checkpoint: Checkpoint | None = None,
):
    """Stream all labels through the basis into normal equations, or others of the same interface.

    Parameters
    ----------
    basis
        Features of the rows.
    labels
        All labels, the same ones on every process.
    block_rows
        Label rows in memory at a time.
    progress
        A bar that is told the rows this process has done.
    equations
        What takes the rows instead of normal equations; it does so in this process, and keeps no checkpoints.
    processes
        Who shares the work; None: this process does all of it. The result is the same to the last bit.
    checkpoint
        Where sums over parts of the labels are kept until all are done.
    """
    expanded = sum(rank * size for rank, size in zip(basis.ranks, basis.functions, strict=True))
    groups = plan(labels, block_rows, sum(basis.ranks), expanded)

    def stream(group: GroupPlan, blocks: list[Block], target) -> None:
        for block in blocks:
            label = labels[block.label]
            _add_block(target, basis, label, block.index, group.key)
            if progress is not None:
                progress.update(len(block.index) * label.y.shape[1])

    if equations is not None:
        for group in groups:
            stream(group, group.blocks, equations)
        return equations.stacked()

    def work(g: int, chunk: int) -> dict[str, Tensor]:
        own = NormalEquations(basis.ranks, basis.functions)
        stream(groups[g], groups[g].chunk(chunk), own)
        (group,) = (*own.groups.values(), *own.wide.values())
        return group.sums()

    sums = sum_chunks(
        [group.chunks for group in groups],
        work,
        lambda g, chunk: sum(len(b.index) * labels[b.label].y.shape[1] for b in groups[g].chunk(chunk)),
        processes=Processes() if processes is None else processes,
        checkpoint=checkpoint,
        device=basis.prior.device,
        resumed=None if progress is None else progress.update,
    )
    equations = NormalEquations(basis.ranks, basis.functions)
    for plan_, found in zip(groups, sums, strict=True):
        kind, temperature, *state = plan_.key
        if state:
            factors = _factors(basis.prior, labels[plan_.blocks[0].label], plan_.blocks[0].index[:1])
            equations.groups[plan_.key] = Group.from_sums(kind, temperature, factors, found)
        else:
            equations.wide[kind, temperature] = Group.from_sums(kind, temperature, [], found)
    return equations.stacked()


def _factors(prior: Prior, label: LabelSet, index: Tensor) -> list[Tensor]:
    """Factors of the state, per block, that rows of a group share: those of one of its frames."""
    rows = label.rows(prior, index)
    factors = [reads[0].factors[0] for reads in rows.terms]
    if prior.mean is not None:
        factors.append(rows.mean[0][1][0] if rows.mean else rows.prior_mean.new_zeros(prior.mean.size))
    return factors


def _add_block(equations: NormalEquations, basis: SparseBasis, label: LabelSet, index: Tensor, key: tuple):
    """Add some frames of one label set; ``key`` has a state when its rows share their factors."""
    if len(index) > FRAMES_AT_ONCE:  # few rows to a frame: its descriptors are what takes memory
        for part in torch.split(index, FRAMES_AT_ONCE):
            _add_block(equations, basis, label, part, key)
        return
    prior = basis.prior
    rows = label.rows(prior, index)
    y = label.y[index].reshape(-1) - rows.prior_mean
    whiten, log_weight = _noise_whitening(label.row_scale(index), rows)
    count = None
    if label.learned:
        count, log_weight = label.counted(index)
    if len(key) == 2:
        features, missing = basis.wide(rows)
        if label.noise is not None and label.noise.ndim == 3:
            lost_wide = _block_trace(label.noise[index], missing)
        else:
            lost_wide = whiten(torch.ones_like(y)) ** 2 @ missing
        equations.add_wide(*key, whiten(features), whiten(y), lost_wide, log_weight, count)
        return
    count, outside = float(len(y)) if count is None else count, 0.0
    fewer = reduced(rows, y, whiten)
    if fewer is not None:
        rows, y, outside = fewer
        whiten, block_noise = _as_is, None
    else:
        block_noise = label.noise[index] if label.noise is not None and label.noise.ndim == 3 else None
        y = whiten(y)
    factors = [reads[0].factors[0] for reads in rows.terms]
    diagonals = [_unit_diagonal(prior, rows, t, factors[t]) for t in range(len(prior.terms))]
    weight = whiten(torch.ones_like(y)) ** 2
    if prior.mean is not None:
        factors.append(rows.mean[0][1][0] if rows.mean else y.new_zeros(prior.mean.size))
    m, width = rows.components, sum(basis.ranks)
    step = max(1, (CARD_FEATURE_ROWS if y.is_cuda else FEATURE_ROWS) // m)
    buffer = y.new_empty(min(step, rows.frames) * m, width)
    for start, stop in frame_chunks(rows.frames, step):
        part, here = rows.slice(start, stop), slice(start * m, stop * m)
        features = buffer[: len(part)]
        squares = basis.fill(part, features)
        lost = []
        for diagonal, square in zip(diagonals, squares, strict=False):
            gap = (diagonal[here] - square).clamp_min(0.0)
            if block_noise is not None:
                lost.append(_block_trace(block_noise[start:stop], gap[:, None])[0])
            else:
                lost.append(gap @ weight[here])
        if prior.mean is not None:
            lost.append(y.new_zeros(()))
        if fewer is None:
            features = _noise_whitening(label.row_scale(index[start:stop]), part)[0](features)
        equations.add(key, factors, features, y[here], torch.stack(lost), log_weight, count, outside)
        log_weight, count, outside = 0.0, 0.0, 0.0  # of the whole block, counted once


def _as_is(a: Tensor) -> Tensor:
    return a


def _unit_diagonal(prior: Prior, rows: RowBlock, t: int, factors: Tensor) -> Tensor:
    """Variances of the rows under the kernel of a term alone; zero where the rows do not read the term.

    The rows share their factors of state: the largest is divided out.
    """
    lead = factors.abs().argmax().reshape(1)  # a tensor: on a card nothing waits for it
    squared = factors[lead] ** 2
    return prior.kernel_diagonal(rows, t).index_select(1, lead)[:, 0] / torch.where(squared > 0, squared, 1.0)


def _noise_whitening(scale: Tensor | None, rows: RowBlock):
    """A function that divides rows by their standard deviations, and Σ log variance."""
    if scale is None:
        return (lambda a: a), 0.0
    if scale.ndim == 2:
        inverse = 1.0 / scale.reshape(-1)
        return (lambda a: a * (inverse if a.ndim == 1 else inverse[:, None])), -2.0 * inverse.log().sum()
    lower = torch.linalg.cholesky(scale)
    n, m = rows.frames, rows.components

    def whiten(a: Tensor) -> Tensor:
        blocks = a.reshape(n, m, -1)
        return torch.linalg.solve_triangular(lower, blocks, upper=False).reshape(a.shape)

    return whiten, 2.0 * lower.diagonal(dim1=1, dim2=2).log().sum()


def _block_trace(noise: Tensor, missing: Tensor) -> Tensor:
    """Σ over rows of diag(noise⁻¹)·missing for per-frame covariance blocks.

    The trace of noise⁻¹ (K − Q) with K − Q taken as diagonal: exact when the components of a frame miss nothing or
    miss it independently. Between correlated components the bound is an approximation, and no longer strictly one.
    """
    inverse = torch.linalg.inv(noise).diagonal(dim1=1, dim2=2).reshape(-1)
    return inverse @ missing


class SparsePosterior:
    """Posterior of a sparse model: normal weights on whitened features, plus what the features miss.

    Parameters
    ----------
    basis
        Features with the final hyperparameters.
    weights, lower
        Posterior mean of the whitened, scaled weights, and the Cholesky factor of their precision Λ.
    """

    def __init__(self, basis: SparseBasis, weights: Tensor, lower: Tensor):
        self.basis, self.prior = basis, basis.prior
        self.weights, self.lower = weights, lower
        with torch.no_grad():
            self.expansions, self.mean_weights = self._expansions()

    @classmethod
    def fit(cls, basis: SparseBasis, stacked: Stacked, noise) -> SparsePosterior:
        """Solve the normal equations with the learned noise levels."""
        with torch.no_grad():
            levels = noise.levels(stacked.kinds, stacked.temperature) ** 2
            out = cls(basis, *stacked.solve(basis.prior.variances(), levels))
            half = (out.lower.T @ out.weights).square().sum()  # bᵀ Λ⁻¹ b
            gain = 0.5 * half - out.lower.diagonal().log().sum()
            out.log_evidence = float(gain + stacked.log_norm(basis.prior.variances(), levels))
        return out

    log_evidence: float = math.nan
    #: How the weights were solved for (:mod:`kernelfe.models.sparse_solve`); None where that is not known.
    conditioning: Conditioning | None = None
    #: Its comparison with the exact answer (:class:`~kernelfe.models.solver_check.SolverCheck`), if there was one.
    check = None

    def features(self, a: RowBlock) -> Tensor:
        """Linear in the rows: what :meth:`explained` reads, shape (len(a), weights)."""
        return self.basis.wide(a)[0] * self.basis.amplitudes()

    def explained(self, left: Tensor, right: Tensor) -> Tensor:
        """Prior minus posterior covariance of rows, or combinations of rows, from their features."""
        half = torch.linalg.solve_triangular(self.lower, left.T, upper=False)
        other = half if right is left else torch.linalg.solve_triangular(self.lower, right.T, upper=False)
        return left @ right.T - half.T @ other

    def covariance(self, a: RowBlock, b: RowBlock) -> Tensor:
        """Posterior covariances, shape (len(a), len(b)): prior − explained + weights' posterior."""
        amplitudes = self.basis.amplitudes()
        left = self.basis.wide(a)[0] * amplitudes
        right = left if a is b else self.basis.wide(b)[0] * amplitudes
        prior = self.prior.gram(a, b) - left @ right.T
        half_left = torch.linalg.solve_triangular(self.lower, left.T, upper=False)
        half_right = half_left if a is b else torch.linalg.solve_triangular(self.lower, right.T, upper=False)
        return prior + half_left.T @ half_right

    def variance(self, a: RowBlock) -> Tensor:
        """Posterior variances, shape (len(a),)."""
        amplitudes, variances = self.basis.amplitudes(), torch.cat(self.prior.variances())
        parts = []
        for start, stop in frame_chunks(a.frames, max(1, 2048 // a.components)):
            features, missing = self.basis.wide(a.slice(start, stop))
            half = torch.linalg.solve_triangular(self.lower, (features * amplitudes).T, upper=False)
            parts.append((half**2).sum(0) + missing @ variances)
        return torch.cat(parts)

    def _expansions(self) -> tuple[list[Expansion], Tensor | None]:
        scaled, out, at = self.weights * self.basis.amplitudes(), [], 0
        for t, term in enumerate(self.prior.terms):
            rank, size = self.basis.ranks[t], term.size
            block = scaled[at : at + rank * size].reshape(size, rank)
            at += rank * size
            jets = self.basis.jets[t]
            coefficients = (self.basis.whitenings[t].matrix @ block.T).reshape(len(jets.z), jets.rows, size)
            w = torch.einsum("erd,erp->edp", jets.w, coefficients) if self.basis.gradients else None
            out.append(Expansion(jets.z, coefficients[:, 0].contiguous(), w))
        if self.prior.mean is None:
            return out, None
        return out, scaled[at:].reshape(self.prior.mean.size, -1).T.contiguous()
