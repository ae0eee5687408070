"""Evidence of the sparse model."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.optimize
import torch
from torch import Tensor

from ....linalg.normal import Stacked
from ...observations.labels import LabelSet
from ...observations.levels import NoiseLevels
from ...prior.prior import Prior
from ..evidence import Found, length_scales, random_subsets, restore, several_searches
from ..maximise import maximise
from .basis import SparseBasis
from .streaming import accumulate

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Search:
    """Bounded searches of single numbers of kernels.

    Parameters
    ----------
    evaluations
        Trials of each search.
    lengthscale, other
        How far it moves the logarithm of length scales, and of any other number of a kernel.
    """

    evaluations: int = 4
    lengthscale: float = 0.7
    other: float = 2.0


@dataclass(frozen=True)
class SparseStarts:
    """Length scales with which the search of a sparse model may start.

    The range of its bounded searches is short, and functions of a distance between beads vary within far less than the
    spread of the distances.

    Parameters
    ----------
    factors
        Of all length scales; the first is 1.
    share, least
        Part of the labels, and the fewest rows of labels, by which they are compared first.
    inducing, screening
        Most inducing environments of the first comparison, and its steps. Starts that matter differ by far more than
        these decide.
    max_iter
        Steps of the comparison by all labels that another start than the first has to win as well.
    """

    factors: tuple[float, ...] = (1.0, 0.3, 0.1)
    share: float = 0.2
    least: int = 1000
    inducing: int = 40
    screening: int = 6
    max_iter: int = 15


def fit_scales(prior: Prior, noise: NoiseLevels, stacked: Stacked, max_iter: int) -> float:
    """Maximise the evidence over prior scales and noise with the length scales as they are: no pass over the data.

    Parameters
    ----------
    stacked
        All labels, accumulated in the basis of the present length scales.
    """
    free = [*(term.log_scales for term in prior.terms), *(noise.parameters() if noise.kinds else [])]

    def objective() -> Tensor:
        levels = noise.levels(stacked.kinds, stacked.temperature) ** 2
        evidence = stacked.log_evidence(prior.variances(), levels, bound=False)
        return evidence + prior.hyperpriors() + noise.hyperprior()

    return maximise(objective, [p for p in free if p.requires_grad], max_iter, scale=float(stacked.count.sum()))


def fit_sparse(
    prior: Prior,
    labels: list[LabelSet],
    noise: NoiseLevels,
    inducing: list[Tensor],
    *,
    gradients: bool = False,
    block_rows: int = 8192,
    search: Search | None = None,
    progress=None,
) -> float:
    """Maximise the evidence of the sparse model; ``prior`` and ``noise`` are changed in place.

    Numbers of the kernels (length scales by one common factor per kernel, every other number by itself) are found by
    bounded scalar searches one after the other, twice where a term has several of them; all other numbers by gradients
    within each trial.
    """
    search = Search() if search is None else search
    best: list = [-math.inf, None]

    def snapshot():
        return [p.detach().clone() for p in [*prior.parameters(), *noise.parameters()]]

    def back(saved):
        restore([*prior.parameters(), *noise.parameters()], saved)

    def trial(max_iter: int) -> float:
        with torch.no_grad():
            stacked = accumulate(SparseBasis(prior, inducing, gradients), labels, block_rows)

        value = fit_scales(prior, noise, stacked, max_iter)
        if value > best[0]:
            best[:] = [value, snapshot()]
        if progress is not None:
            progress.update(1)
        return value

    trial(30)
    for index, term in enumerate(prior.terms):
        if term.spec.fixed:
            continue
        directions = term.spec.kernel.directions()
        for name, at in directions * (1 if len(directions) == 1 else 2):
            parameter, reach = term.log_hyperparameter(name), search.lengthscale if at is None else search.other
            start = parameter.detach().clone()
            chosen = slice(None) if at is None else slice(at, at + 1)

            def shifted(shift: float, parameter=parameter, start=start, chosen=chosen) -> float:
                back(best[1])
                parameter.data.copy_(start)
                parameter.data[chosen] += shift
                return -trial(6)

            scipy.optimize.minimize_scalar(
                shifted, bounds=(-reach, reach), method="bounded", options={"maxiter": search.evaluations, "xatol": 0.1}
            )
            back(best[1])
        logger.info(
            "term %d: %s", index, {name: term.log_hyperparameter(name).exp().tolist() for name, _ in directions}
        )
    return best[0]


def choose_start(
    prior: Prior,
    labels: list[LabelSet],
    noise: NoiseLevels,
    choice: Callable[[int], list[Tensor]],
    inducing: int,
    *,
    gradients: bool = False,
    block_rows: int = 8192,
    starts: SparseStarts | None = None,
) -> None:
    """Set ``prior`` and ``noise`` to the start with the most evidence in a part of the labels.

    Parameters
    ----------
    choice
        Chooses so many inducing environments for the present length scales: shorter ones need others.
    inducing
        Number of them in the search.
    """
    starts = SparseStarts() if starts is None else starts
    rows = max(starts.least, round(starts.share * sum(map(len, labels))))
    few = random_subsets(labels, rows, np.random.default_rng(0))
    free = [p for p in (*prior.parameters(), *(noise.parameters() if noise.kinds else ())) if p.requires_grad]
    lengths = length_scales(prior)
    if not lengths:
        return

    def compared(some: list[LabelSet], count: int, max_iter: int, factors: Sequence[float]) -> Found | None:
        def search() -> float:
            with torch.no_grad():
                stacked = accumulate(SparseBasis(prior, choice(count), gradients), some, block_rows)
            return fit_scales(prior, noise, stacked, max_iter)

        found = several_searches(search, free, lengths, factors)
        return max(found, key=lambda one: one.value, default=None)

    best = compared(few, min(starts.inducing, inducing), starts.screening, starts.factors)
    if best is not None and best.factor != starts.factors[0]:
        # by all labels: a few may miss those that a start explains badly
        best = compared(labels, inducing, starts.max_iter, (starts.factors[0], best.factor))
    if best is not None and best.factor != starts.factors[0]:
        logger.info("the search starts with length scales %g times as long as given by the data", best.factor)
        restore(free, best.values)
