"""Covariances within labels: sums over all pairs of rows of environments that one label reads.

The label of a frame may be a sum over many environments: the force on a bead reads all pairs that it belongs to, an
energy all environments of its frame. Its variance is a sum over pairs of these rows. The rows are therefore sorted by
label and taken as many small sets (:meth:`~kernelfe.kernels.Kernel.gram_of_sets`), of which some are in memory at a
time; pairs of rows of different labels are not computed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .base import Kernel
from .jets import Jets, linear


def label_covariances(kernel: Kernel, a: Jets, b: Jets, frames: int, components: int) -> Tensor:
    """Covariance of each label of two reads of the same frames: that of ``a`` with that of ``b``.

    Parameters
    ----------
    kernel
        The kernel.
    a, b
        Embedded jets of the frames. Where they are the same jets the covariances are variances.
    frames, components
        Frames n, and labels of each, m.

    Returns
    -------
    Tensor, shape (n, m)
    """
    if a is b and a.direct:
        return kernel.diagonal(a)
    labels = frames * components
    if not len(a) or not len(b):
        return a.z.new_zeros(frames, components)
    left = _Sets(a, labels, components)
    right = left if a is b else _Sets(b, labels, components)
    root = math.isqrt(kernel.PAIR_ENTRIES)
    wide, high = min(left.most, root), min(right.most, root)
    step = max(1, kernel.PAIR_ENTRIES // max(wide * high, (wide + high) * (1 + a.z.shape[1])))
    out = []
    for first in range(0, labels, step):
        some = slice(first, min(first + step, labels))
        total = a.z.new_zeros(some.stop - some.start)
        for i in range(0, left.most, wide):
            rows = left.jets(some, i, i + wide)
            for j in range(0, right.most, high):
                total = total + kernel.gram_of_sets(rows, right.jets(some, j, j + high)).flatten(1).sum(1)
        out.append(total)
    return torch.cat(out).reshape(frames, components)


class _Sets:
    """Rows of jets sorted by the label that they belong to."""

    def __init__(self, jets: Jets, labels: int, components: int):
        self.rows, self.per_environment = jets, jets.rows
        place = jets.place(components).reshape(-1)
        self.order = torch.argsort(place, stable=True)
        self.counts = torch.bincount(place, minlength=labels)
        self.starts = self.counts.cumsum(0) - self.counts
        self.most = int(self.counts.max())

    def jets(self, labels: slice, first: int, last: int) -> Jets:
        """Rows first…last−1 of some labels, one per environment, with those that a label lacks equal to zero.

        Shapes z (labels, rows, D), c (labels, rows, 1), w (labels, rows, 1, D).
        """
        number = torch.arange(first, min(last, self.most), device=self.order.device)
        lacking = number >= self.counts[labels, None]
        at = (self.starts[labels, None] + number).clamp_max(len(self.order) - 1)
        index = self.order[at]
        c = linear(lambda c: c.flatten()[index].masked_fill(lacking, 0.0)[:, :, None], self.rows.c)
        w = linear(lambda w: w.flatten(0, 1)[index].masked_fill(lacking[:, :, None], 0.0)[:, :, None], self.rows.w)
        return Jets(self.rows.z[index // self.per_environment], c, w)
