"""Rows of some frames of a row block, in any order."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels import Jets
from .labels import LabelSet
from .prior import RowBlock, TermRead


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


def frame_of_rows(label: LabelSet) -> list[int] | None:
    """The frame of each row of a label set, or None where it is not known or a label reads two."""
    if label.frame is None or label.minus is not None:
        return None
    return label.frame.tolist()
