"""Accuracy check of the sparse solver against the exact one on a subsample.

With hyperparameters and inducing environments of a fit (before its last step, which takes all labels), both posteriors
are conditioned on the same random frames and compared at others: the error of sparse means in exact standard
deviations, and the ratio of standard deviations. This is the cost of the inducing environments at the size of the
sample. More labels make the exact posterior narrower, and errors of the inducing environments larger in its units.
"""

from __future__ import annotations

import json
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np
import torch

from ....errors import SolverError
from ....runtime.processes import Processes
from ....specs import Bound, Real, Spec, Whole
from ...observations.labels import LabelSet
from ...prior.prior import Prior
from ..dense import DensePosterior
from .basis import SparseBasis
from .orbits import orbit_size
from .posterior import SparsePosterior, by_rows
from .streaming import accumulate

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckSettings(Spec):
    """Sample of the comparison, and when more inducing environments are taken.

    Parameters
    ----------
    large
        Deviation of means, in standard deviations of the exact posterior, above which more are taken.
    most
        Most inducing environments that are taken automatically.
    rows
        Label rows of the sample.
    held_out
        Frames at which both are compared, as a share of those of the sample.
    """

    large: float = 0.25
    most: int = 2400
    rows: int = 1500
    held_out: float = 0.15

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        "large": Real(above=0.0),
        "most": Whole(least=1),
        "rows": Whole(least=1),
        "held_out": Real(above=0.0),
    }


@dataclass(frozen=True)
class SolverCheck:
    """A sparse model compared with the exact one.

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
        Time of the check: the exact answer, and the sparse ones with this number of inducing environments and fewer.
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
            f"{self.inducing} inducing environments against the exact answer on {self.rows} label rows: means off by "
            f"{self.deviation[kind]:.2f} of its standard deviation ({kind}), standard deviations "
            f"{min(self.ratio.values()):.2f} to {max(self.ratio.values()):.2f} of its"
        )


def shared_check(check: SolverCheck | None, processes: Processes) -> SolverCheck | None:
    """The check of process 0, on every process: on unequal machines theirs differ in the last digits."""
    own = json.dumps(None if check is None else asdict(check))
    found = json.loads(processes.gather_bytes(own.encode())[0])
    return None if found is None else SolverCheck(**found)


class Comparison:
    """The exact answer on a sample, computed once and compared with any number of sparse ones.

    Parameters
    ----------
    prior
        Prior with the hyperparameters of the fit.
    labels
        All labels.
    noise
        :class:`~kernelfe.gp.observations.levels.NoiseLevels`.
    rng
        Chooses the frames.
    settings
        Of the sample; None: the defaults.
    """

    @torch.no_grad()
    def __init__(
        self,
        prior: Prior,
        labels: list[LabelSet],
        noise,
        rng: np.random.Generator,
        settings: CheckSettings | None = None,
    ):
        begin = time.perf_counter()
        self.prior, self.noise = prior, noise
        self.settings = CheckSettings() if settings is None else settings
        self.train, self.test = split(labels, self.settings.rows, self.settings.held_out, rng)
        exact = DensePosterior(prior, self.train, noise)
        self.exact = [(exact.mean(r), exact.variance(r).sqrt()) for r in self._rows()]
        self.seconds = time.perf_counter() - begin

    def _rows(self) -> Iterator:
        for label in self.test:
            yield label.rows(self.prior)

    @torch.no_grad()
    def check(self, basis: SparseBasis, block_rows: int) -> SolverCheck:
        """Compare the sparse answer with these inducing environments with the exact one."""
        begin = time.perf_counter()
        stacked = accumulate(basis, self.train, block_rows)
        try:
            sparse = SparsePosterior.fit(basis, stacked, self.noise)
        except SolverError:
            sparse = by_rows(basis, self.train, self.noise, block_rows)
        off: dict[str, list] = {}
        widths: dict[str, list] = {}
        for label, rows, (mean, std) in zip(self.test, self._rows(), self.exact, strict=True):
            uncertain = std > 0.0
            off.setdefault(label.kind, []).append((sparse.mean(rows) - mean)[uncertain] / std[uncertain])
            found = sparse.variance(rows).clamp_min(0.0).sqrt()[uncertain] / std[uncertain]
            widths.setdefault(label.kind, []).append(found)
        # several molecules have labels of the same kind
        deviation = {kind: _over(parts, lambda x: x.square().mean().sqrt(), 0.0) for kind, parts in off.items()}
        ratio = {kind: _over(parts, torch.median, 1.0) for kind, parts in widths.items()}
        count = max(len(z) // orbit_size(term) for z, term in zip(basis.inducing, self.prior.terms, strict=True))
        rows_used = sum(len(label) for label in self.train)
        self.seconds += time.perf_counter() - begin
        return SolverCheck(rows_used, count, deviation, ratio, self.seconds)


def _over(parts: list, reduce: Callable, otherwise: float) -> float:
    values = torch.cat(parts)
    return float(reduce(values)) if len(values) else otherwise


def split(
    labels: list[LabelSet], rows: int, held_out: float, rng: np.random.Generator
) -> tuple[list[LabelSet], list[LabelSet]]:
    """Random frames with about ``rows`` label rows, and a share of others; the same where kinds share frames."""
    total, seed = sum(len(label) for label in labels), int(rng.integers(2**31))
    train, test = [], []
    for label in labels:
        n = len(label.y)
        if n < 2:  # no frame is left to compare at
            train.append(label)
            continue
        some = max(1, min(n - 1, round(rows * n / total)))
        others = max(1, min(n - some, math.ceil(held_out * some)))
        order = np.random.default_rng(seed).permutation(n)
        train.append(label.subset(torch.from_numpy(np.sort(order[:some])).to(label.y.device)))
        test.append(label.subset(torch.from_numpy(np.sort(order[some : some + others])).to(label.y.device)))
    return train, test


@torch.no_grad()
def checked_basis(
    comparison: Comparison, choose: Callable[[int], list], count: int, gradients: bool, block_rows: int
) -> tuple[SparseBasis, SolverCheck]:
    """A basis with as many inducing environments as the comparison asks for: from ``count``, doubling.

    Parameters
    ----------
    choose
        Inducing environments of every term, given how many.
    gradients, block_rows
        As of :class:`~kernelfe.Sparse`.

    Warns
    -----
    UserWarning
        If the sparse answer is off by more than the settings allow with the most inducing environments, or all there
        are.
    """
    prior, large = comparison.prior, comparison.settings.large
    basis = SparseBasis(prior, choose(count), gradients)
    found = comparison.check(basis, block_rows)
    while found.worst > large and 2 * count <= comparison.settings.most:
        count *= 2
        logger.info("%s: %d are taken", found, count)
        larger = choose(count)
        if all(len(a) == len(b) for a, b in zip(larger, basis.inducing, strict=True)):
            break  # the pool has no more
        basis = SparseBasis(prior, larger, gradients)
        found = comparison.check(basis, block_rows)
    if found.worst > large:
        warnings.warn(
            f"{found}. Give solver=Sparse(inducing=..., gradients=True), whose inducing variables are slopes too, or "
            "solver='iterative', which is exact",
            stacklevel=2,
        )
    return basis, found
