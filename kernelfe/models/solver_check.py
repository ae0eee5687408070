"""The sparse answer beside the exact one, on as many labels as the exact one can be had for.

With the hyperparameters and inducing environments of a fit, both posteriors are conditioned on the same random frames
and compared at other frames: by how many of the exact standard deviations the sparse means are off, and how the
standard deviations compare. That is what inducing environments cost at the size of the sample; more labels make the
exact posterior narrower and what the inducing environments cannot express larger in its units.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .dense import DensePosterior
from .labels import LabelSet
from .posterior import predict_mean
from .prior import Prior
from .sparse import SparseBasis, accumulate
from .sparse_solve import solve_sparse

#: Label rows of the sample, and the share of frames more that are compared at.
ROWS, HELD_OUT = 1500, 0.15


@dataclass(frozen=True)
class SolverCheck:
    """A sparse model beside the exact one.

    Parameters
    ----------
    rows
        Label rows that both were conditioned on.
    inducing
        Inducing environments per term.
    deviation
        Per kind of label at held-out frames: root mean square of (sparse mean − exact mean) / exact standard deviation.
    ratio
        Per kind: median of sparse standard deviation / exact standard deviation.
    seconds
        What the check took, that with fewer inducing environments included.
    """

    rows: int
    inducing: int
    deviation: dict[str, float]
    ratio: dict[str, float]
    seconds: float

    @property
    def worst(self) -> float:
        """The largest of the deviations."""
        return max(self.deviation.values())

    def __str__(self) -> str:
        kind = max(self.deviation, key=lambda k: self.deviation[k])
        return (
            f"{self.inducing} inducing environments beside the exact answer on {self.rows} label rows: means off by "
            f"{self.deviation[kind]:.2f} of its standard deviation ({kind}), standard deviations "
            f"{min(self.ratio.values()):.2f} to {max(self.ratio.values()):.2f} of its"
        )


class Comparison:
    """The exact answer on a sample, computed once, for any number of sparse ones to be compared with.

    Parameters
    ----------
    prior
        Prior with the hyperparameters of the fit.
    labels
        All labels.
    noise
        :class:`~kernelfe.models.evidence.NoiseLevels`.
    rng
        Chooses the frames.
    rows
        Label rows of the sample.
    """

    @torch.no_grad()
    def __init__(self, prior: Prior, labels: list[LabelSet], noise, rng: np.random.Generator, rows: int = ROWS):
        self._start = time.perf_counter()
        self.prior, self.noise = prior, noise
        self.train, self.test = split(labels, rows, rng)
        exact = DensePosterior(prior, self.train, noise)
        self.exact = [(predict_mean(exact, r), exact.variance(r).sqrt()) for r in self._rows()]

    def _rows(self) -> Iterator:
        for label in self.test:
            yield label.rows(self.prior)

    @torch.no_grad()
    def check(self, inducing: list[Tensor], count: int, gradients: bool, block_rows: int) -> SolverCheck:
        """The sparse answer with these inducing environments, ``count`` of them for every term."""
        basis = SparseBasis(self.prior, inducing, gradients)
        stacked = accumulate(basis, self.train, block_rows)
        sparse = solve_sparse(basis, self.train, stacked, self.noise, block_rows)
        deviation, ratio = {}, {}
        for label, rows, (mean, std) in zip(self.test, self._rows(), self.exact, strict=True):
            seen = std > 0.0
            off = (predict_mean(sparse, rows) - mean)[seen] / std[seen]
            deviation[label.kind] = float(off.square().mean().sqrt()) if len(off) else 0.0
            widths = (sparse.variance(rows).clamp_min(0.0).sqrt()[seen] / std[seen]) if len(off) else std.new_ones(1)
            ratio[label.kind] = float(widths.median())
        rows_used = sum(len(label) for label in self.train)
        return SolverCheck(rows_used, count, deviation, ratio, time.perf_counter() - self._start)


def split(labels: list[LabelSet], rows: int, rng: np.random.Generator) -> tuple[list[LabelSet], list[LabelSet]]:
    """Random frames with about ``rows`` label rows, and others to compare at; the same frames where kinds share them."""
    total, seed = sum(len(label) for label in labels), int(rng.integers(2**31))
    train, test = [], []
    for label in labels:
        n = len(label.y)
        some = max(1, min(n - 1, round(rows * n / total)))
        others = max(1, min(n - some, math.ceil(HELD_OUT * some)))
        order = np.random.default_rng(seed).permutation(n)
        train.append(label.subset(torch.from_numpy(np.sort(order[:some]))))
        test.append(label.subset(torch.from_numpy(np.sort(order[some : some + others]))))
    return train, test
