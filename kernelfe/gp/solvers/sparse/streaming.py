"""Streams of labels: groups that share a sum, blocks of frames in memory at a time, and chunks of blocks.

Chunks are what processes share and checkpoints hold. Their bounds follow from the labels and the size of a block and
never from the number of processes, so that sums over them are the same to the last bit however the work is divided
(:mod:`kernelfe.runtime.sums`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ....linalg import Group, NormalEquations
from ....runtime.checkpoint import Checkpoint
from ....runtime.processes import Processes
from ....runtime.sums import sum_chunks
from ...observations.labels import LabelSet
from ...observations.noise_models import Scaled
from ...prior.prior import Prior
from ...prior.rows import RowBlock, frame_chunks
from .basis import SparseBasis
from .row_reduction import reduced


@dataclass(frozen=True)
class StreamSettings:
    """Groups, chunks and memory of a pass over the labels.

    Parameters
    ----------
    max_states
        Distinct thermodynamic states up to which labels are grouped by state.
    noise_bins
        Bins of temperature for the learned noise of labels with more states than that.
    fewest_chunks, most_chunks
        Chunks of a group: at least (as far as it has blocks), and at most.
    frames
        Frames whose descriptors are in memory at a time.
    feature_rows, gpu_feature_rows
        Rows whose features of all terms are in memory at a time, and on a GPU, where a small block leaves most of it
        idle.
    overhead
        Share of the memory of a pass that unfinished sums may take.
    arrays
        Arrays of such features that a pass holds.
    worker_bytes
        Memory for the arrays and sums of all threads together; one of them works in any case.
    """

    max_states: int = 16
    noise_bins: int = 8
    fewest_chunks: int = 8
    most_chunks: int = 64
    frames: int = 512
    feature_rows: int = 2048
    gpu_feature_rows: int = 1 << 15
    overhead: float = 0.1
    arrays: float = 4.0
    worker_bytes: int = 1 << 29

    def workers(self, size: int) -> int:
        """Threads whose arrays and sums, of so many features, fit in memory."""
        return max(1, int(self.worker_bytes / (8 * size * (size + self.arrays * self.feature_rows))))


@torch.no_grad()
def accumulate(
    basis: SparseBasis,
    labels: list[LabelSet],
    block_rows: int,
    progress=None,
    equations=None,
    processes: Processes | None = None,
    checkpoint: Checkpoint | None = None,
    settings: StreamSettings | None = None,
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
    settings
        Groups, chunks and memory; None: the defaults.
    """
    settings = StreamSettings() if settings is None else settings
    expanded = sum(rank * size for rank, size in zip(basis.ranks, basis.functions, strict=True))
    groups = plan(labels, block_rows, sum(basis.ranks), expanded, settings)

    def stream(group: GroupPlan, blocks: list[Block], target) -> None:
        for block in blocks:
            label = labels[block.label]
            _add_block(target, basis, label, block.index, group.key, settings)
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
        workers=settings.workers(max(sum(basis.ranks), expanded * any(group.wide for group in groups))),
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


def _add_block(
    equations: NormalEquations,
    basis: SparseBasis,
    label: LabelSet,
    index: Tensor,
    key: tuple,
    settings: StreamSettings,
):
    """Add some frames of one label set; ``key`` has a state when its rows share their factors."""
    if len(index) > settings.frames:  # few rows to a frame: its descriptors are what takes memory
        for part in torch.split(index, settings.frames):
            _add_block(equations, basis, label, part, key, settings)
        return
    prior = basis.prior
    rows = label.rows(prior, index)
    y = label.y[index].reshape(-1) - rows.prior_mean
    whiten = label.noise.whitening(index, rows.components)
    log_weight = whiten.log
    count = None
    if label.learned:
        count, log_weight = label.counted(index)
    if len(key) == 2:
        features, missing = basis.wide(rows)
        equations.add_wide(*key, whiten(features), whiten(y), whiten.trace(missing), log_weight, count)
        return
    count, outside = float(len(y)) if count is None else count, 0.0
    fewer = reduced(rows, y, whiten)
    if fewer is not None:
        rows, y, outside = fewer
        whiten = Scaled(None, rows.components)
    else:
        y = whiten(y)
    factors = [reads[0].factors[0] for reads in rows.terms]
    diagonals = [_unit_diagonal(prior, rows, t, factors[t]) for t in range(len(prior.terms))]
    if prior.mean is not None:
        factors.append(rows.mean[0][1][0] if rows.mean else y.new_zeros(prior.mean.size))
    m, width = rows.components, sum(basis.ranks)
    step = max(1, (settings.gpu_feature_rows if y.is_cuda else settings.feature_rows) // m)
    buffer = y.new_empty(min(step, rows.frames) * m, width)
    for start, stop in frame_chunks(rows.frames, step):
        part, here, own = rows.slice(start, stop), slice(start * m, stop * m), whiten.slice(start, stop)
        features = buffer[: len(part)]
        squares = basis.fill(part, features)
        gaps = zip(diagonals, squares, strict=False)
        lost = [own.trace((diagonal[here] - square).clamp_min(0.0)) for diagonal, square in gaps]
        if prior.mean is not None:
            lost.append(y.new_zeros(()))
        equations.add(key, factors, own(features), y[here], torch.stack(lost), log_weight, count, outside)
        log_weight, count, outside = 0.0, 0.0, 0.0  # of the whole block, counted once


def _unit_diagonal(prior: Prior, rows: RowBlock, t: int, factors: Tensor) -> Tensor:
    """Variances of the rows under the kernel of a term alone; zero where the rows do not read the term.

    The rows share their factors of state: the largest is divided out.
    """
    lead = factors.abs().argmax().reshape(1)  # a tensor: a GPU does not wait for it
    squared = factors[lead] ** 2
    return prior.kernel_diagonal(rows, t).index_select(1, lead)[:, 0] / torch.where(squared > 0, squared, 1.0)


@dataclass(frozen=True)
class Block:
    """Frames of one label set, given by its number, that are in memory together."""

    label: int
    index: Tensor


@dataclass
class GroupPlan:
    """Labels that add up to one group of the normal equations.

    Parameters
    ----------
    key
        (kind, temperature, state) of labels that share their factors; (kind, temperature) of others.
    blocks
        Their frames.
    chunks
        Into how many chunks the blocks are divided.
    """

    key: tuple
    blocks: list[Block] = field(default_factory=list)
    chunks: int = 1

    @property
    def wide(self) -> bool:
        """True if rows are expanded, since each has a state of its own."""
        return len(self.key) == 2

    def chunk(self, number: int) -> list[Block]:
        """The blocks of a chunk."""
        n = len(self.blocks)
        return self.blocks[n * number // self.chunks : n * (number + 1) // self.chunks]


def plan(
    labels: list[LabelSet], block_rows: int, features: int, expanded: int, settings: StreamSettings | None = None
) -> list[GroupPlan]:
    """The groups of a pass over labels, in their order, with their blocks and chunks.

    Parameters
    ----------
    labels
        All labels.
    block_rows
        Label rows in memory at a time.
    features, expanded
        Numbers per row that a group sums the products of: of labels that share their factors, and of others.
    settings
        Groups, chunks and memory; None: the defaults.
    """
    settings = StreamSettings() if settings is None else settings
    groups: dict[tuple, GroupPlan] = {}
    for number, label in enumerate(labels):
        states = torch.stack([label.states.temperature, *label.states.parameters.values()], 1)
        distinct, which = torch.unique(states, dim=0, return_inverse=True)
        grouped = len(distinct) <= settings.max_states and len(label.functional.reads) == 1 and label.minus is None
        temperature = label.states.temperature
        if grouped:
            order = torch.argsort(which, stable=True)
            bounds = torch.bincount(which).cumsum(0).tolist()
        else:  # the learned noise of a bin of temperatures is taken at its mean
            bins = settings.noise_bins if label.learned and len(torch.unique(temperature)) > 1 else 1
            order = torch.argsort(temperature, stable=True)
            bounds = [len(order) * (k + 1) // bins for k in range(bins)]
        step, begin = max(1, block_rows // label.y.shape[1]), 0
        for state, end in enumerate(bounds):
            # the state itself, not its number: molecules with the same states share groups, others do not
            own = (tuple(distinct[state].tolist()),) if grouped else ()
            key = (label.noise_kind, float(temperature[order[begin:end]].mean()), *own)
            for start, stop in frame_chunks(end - begin, step):
                block = Block(number, order[begin + start : begin + stop])
                groups.setdefault(key, GroupPlan(key)).blocks.append(block)
            begin = end
    out = list(groups.values())
    sizes = [expanded if group.wide else features for group in out]
    total = float(sum(size**2 for size in sizes))
    for group, size in zip(out, sizes, strict=True):
        group.chunks = min(len(group.blocks), _chunks(total, size, block_rows, settings))
    return out


def _chunks(total: float, size: int, block_rows: int, settings: StreamSettings) -> int:
    """Chunks, a power of two, of a group with (size, size) numbers, of ``total`` in all groups.

    A sum over 2ˡ chunks holds l sums in addition to that of the group until it is complete.
    """
    room = settings.overhead * (total + settings.arrays * min(block_rows, settings.feature_rows) * size)
    chunks = settings.fewest_chunks
    while chunks < settings.most_chunks and (chunks.bit_length()) * size**2 <= room:
        chunks *= 2
    return chunks
