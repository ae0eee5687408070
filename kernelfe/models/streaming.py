"""How labels stream: groups that share a sum, blocks of frames in memory at a time, and chunks of blocks.

Chunks are what processes share and checkpoints hold. Their bounds follow from the labels and the size of a block and
never from the number of processes, so that sums over them are the same to the last bit however the work is divided
(:mod:`kernelfe.linalg.chunk_sums`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .labels import LabelSet
from .prior import frame_chunks

#: Distinct thermodynamic states up to which labels are grouped by state.
MAX_STATES = 16
#: Bins of temperature for the learned noise of labels with more states than that.
NOISE_BINS = 8
#: Chunks of a group: at least (as far as it has blocks), and at most.
FEWEST, MOST = 8, 64
#: Rows whose features of all terms are in memory at a time.
FEATURE_ROWS = 2048
#: Share of the memory of a pass that unfinished sums may take, and arrays of such features that a pass holds.
OVERHEAD, ARRAYS = 0.1, 4.0


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
        """Whether rows are expanded, since each has a state of its own."""
        return len(self.key) == 2

    def chunk(self, number: int) -> list[Block]:
        """The blocks of a chunk."""
        n = len(self.blocks)
        return self.blocks[n * number // self.chunks : n * (number + 1) // self.chunks]


def plan(labels: list[LabelSet], block_rows: int, features: int, expanded: int) -> list[GroupPlan]:
    """The groups of a pass over labels, in their order, with their blocks and chunks.

    Parameters
    ----------
    labels
        All labels.
    block_rows
        Label rows in memory at a time.
    features, expanded
        Numbers per row that a group sums the products of: of labels that share their factors, and of others.
    """
    groups: dict[tuple, GroupPlan] = {}
    for number, label in enumerate(labels):
        states = torch.stack([label.states.temperature, *label.states.parameters.values()], 1)
        distinct, which = torch.unique(states, dim=0, return_inverse=True)
        grouped = len(distinct) <= MAX_STATES and len(label.functional.reads) == 1 and label.minus is None
        temperature = label.states.temperature
        if grouped:
            order = torch.argsort(which, stable=True)
            bounds = torch.bincount(which).cumsum(0).tolist()
        else:  # the learned noise of a bin of temperatures is taken at its mean
            bins = NOISE_BINS if label.learned and len(torch.unique(temperature)) > 1 else 1
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
        group.chunks = min(len(group.blocks), _chunks(total, size, block_rows))
    return out


def _chunks(total: float, size: int, block_rows: int) -> int:
    """Chunks, a power of two, of a group with (size, size) numbers, of ``total`` in all groups.

    A sum over 2ˡ chunks holds l sums beside the group's own while it is under way.
    """
    room = OVERHEAD * (total + ARRAYS * min(block_rows, FEATURE_ROWS) * size)
    chunks = FEWEST
    while chunks < MOST and (chunks.bit_length()) * size**2 <= room:
        chunks *= 2
    return chunks
