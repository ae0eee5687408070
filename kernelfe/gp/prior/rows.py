"""Rows of some frames of a row block, in any order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ...kernels import Jets


@dataclass
class TermRead:
    """What one read of one term sees of a batch of frames."""

    jets: Jets  # in the kernel's own columns
    factors: Tensor  # (n, size)


@dataclass
class RowBlock:
    """Rows of one functional on n frames: label i of the block is component i % m of frame i // m."""

    frames: int
    components: int  # m
    terms: list[list[TermRead]]  # terms × reads
    mean: list[tuple[Tensor, Tensor]]  # reads: features (n, X), factors (n, size)
    prior_mean: Tensor  # (n·m,)

    def __len__(self) -> int:
        return self.frames * self.components

    def slice(self, start: int, stop: int) -> RowBlock:
        """The rows of frames start…stop−1."""
        terms = [[TermRead(_slice(r.jets, start, stop), r.factors[start:stop]) for r in reads] for reads in self.terms]
        m = self.components
        mean = [(features[start:stop], factors[start:stop]) for features, factors in self.mean]
        return RowBlock(stop - start, m, terms, mean, self.prior_mean[start * m : stop * m])

    def scatter(self, block: Tensor, jets: Jets) -> Tensor:
        """B · block: sum rows of environments (E, r, K) into labels (n·m, K)."""
        if jets.frame is None and jets.label is None:
            return block.reshape(len(self), block.shape[2])
        frame = torch.arange(len(jets.z), device=block.device) if jets.frame is None else jets.frame
        label = torch.arange(jets.rows, device=block.device) if jets.label is None else jets.label
        index = (frame[:, None] * self.components + label).reshape(-1)
        out = block.new_zeros(len(self), block.shape[2])
        return out.index_add(0, index, block.flatten(0, 1))


def frame_chunks(frames: int, size: int) -> Iterator[tuple[int, int]]:
    """(start, stop) pairs that cover ``frames`` in steps of ``size``."""
    for start in range(0, frames, size):
        yield start, min(start + size, frames)


def _direct(jets: Jets) -> bool:
    return jets.frame is None and jets.label is None


def _slice(jets: Jets, start: int, stop: int) -> Jets:
    if jets.frame is None:
        if jets.label is None:
            return jets[start:stop]
        first, last = start, stop
    else:  # descriptors list environments frame by frame
        first, last = torch.searchsorted(jets.frame, torch.tensor([start, stop], device=jets.frame.device)).tolist()
    part = slice(first, last)
    return Jets(
        jets.z[part],
        None if jets.c is None else jets.c[part],
        None if jets.w is None else jets.w[part],
        None if jets.frame is None else jets.frame[part] - start,
        None if jets.label is None else jets.label[part],
    )


def select(block: RowBlock, frames: Tensor) -> RowBlock:
    """The rows of some frames, in the order given."""
    terms = [[TermRead(_jets(r.jets, frames), r.factors[frames]) for r in reads] for reads in block.terms]
    mean = [(features[frames], factors[frames]) for features, factors in block.mean]
    m = block.components
    at = (frames[:, None] * m + torch.arange(m, device=frames.device)).reshape(-1)
    return RowBlock(len(frames), m, terms, mean, block.prior_mean[at])


def _jets(jets: Jets, frames: Tensor) -> Jets:
    if jets.frame is None:
        index, frame = frames, None
    else:  # descriptors list environments frame by frame
        bounds = torch.searchsorted(jets.frame, torch.stack([frames, frames + 1]))
        lengths = bounds[1] - bounds[0]
        frame = torch.repeat_interleave(lengths)
        start = bounds[0] - (lengths.cumsum(0) - lengths)
        index = torch.arange(int(lengths.sum()), device=frames.device) + start[frame]
    return Jets(
        jets.z[index],
        None if jets.c is None else jets.c[index],
        None if jets.w is None else jets.w[index],
        frame,
        None if jets.label is None else jets.label[index],
    )
