"""The exact log evidence of a part of the labels, and hyperparameters that maximise it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ...errors import SolverError
from ...specs import Bound, Each, Real, Spec, Whole
from ..observations.labels import LabelSet
from ..observations.levels import NoiseLevels
from ..prior.prior import Prior
from .maximise import maximise

logger = logging.getLogger(__name__)


def random_subsets(labels: list[LabelSet], rows: int, rng: np.random.Generator) -> list[LabelSet]:
    """Random frames of every kind, with about ``rows`` rows in all; the same frames where kinds share them."""
    total = sum(len(label) for label in labels)
    if total <= rows:
        return labels
    fraction, out = rows / total, []
    seed = int(rng.integers(2**31))
    for label in labels:
        n = len(label.y)
        keep = max(1, min(n, round(fraction * n)))
        index = np.sort(np.random.default_rng(seed).permutation(n)[:keep])
        out.append(label.subset(torch.from_numpy(index).to(label.y.device)))
    return out


def dense_log_evidence(prior: Prior, labels: list[LabelSet], noise: NoiseLevels) -> Tensor:
    """log N(y | prior mean, K + noise), differentiable in all hyperparameters.

    The same number as gpytorch's ``ExactMarginalLogLikelihood`` times the number of labels (that is the
    test oracle); computed here because gpytorch clamps noise variances at an absolute 1e-6, which is
    larger than those of labels in eV/K, and switches to loose iterations at 800 rows.
    """
    blocks = [label.kept_rows(prior) for label in labels]
    gram = torch.cat([torch.cat([prior.gram(a, b) for b in blocks], 1) for a in blocks])
    row, tempered = 0, gram.new_zeros(())
    for label in labels:
        own = label.noise_at(noise)
        tempered = tempered + label.noise.tempering(own, label.y)
        own.add_to(gram, torch.arange(row, row + len(label), device=gram.device))
        row += len(label)
    residual = torch.cat([label.y.reshape(-1) for label in labels]) - torch.cat([b.prior_mean for b in blocks])
    gram = gram + 1e-12 * torch.diag(gram.detach().diagonal())  # row by row: labels come in different units
    lower, info = torch.linalg.cholesky_ex(gram)
    if int(info):
        raise SolverError("the covariance of the labels is not positive definite")
    half = torch.linalg.solve_triangular(lower, residual[:, None], upper=False)[:, 0]
    constant = len(residual) * math.log(2.0 * math.pi)
    return tempered - 0.5 * (half @ half + 2.0 * lower.diagonal().log().sum() + constant)


@dataclass(frozen=True)
class Starts(Spec):
    """Starting points of a search for the largest of several maxima.

    Few labels often fit equally well with long length scales and much noise, and with short ones and little.

    Parameters
    ----------
    factors
        Of the length scales, all of a model by the same; the first is where the search begins in any case.
    rows
        Label rows (whole frames, chosen at random) by which they are compared.
    max_iter
        Steps of each comparison.
    """

    factors: tuple[float, ...] = (1.0, 0.3, 0.1)
    rows: int = 150
    max_iter: int = 12

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        "factors": Each(Real(above=0.0), least=1),
        "rows": Whole(least=1),
        "max_iter": Whole(least=1),
    }


def fit_dense(
    prior: Prior, labels: list[LabelSet], noise: NoiseLevels, max_iter: int = 60, starts: Starts | None = None
) -> float:
    """Maximise the exact log evidence; ``prior`` and ``noise`` are changed in place.

    Parameters
    ----------
    max_iter
        Steps of the search in all labels.
    starts
        Where the search may start; None: the defaults. The best by few labels is continued with all.
    """
    starts = Starts() if starts is None else starts
    free = [p for p in (*prior.parameters(), *(noise.parameters() if noise.kinds else ())) if p.requires_grad]
    few = random_subsets(labels, starts.rows, np.random.default_rng(0))

    def search(some: list[LabelSet], steps: int) -> float:
        return maximise(
            lambda: dense_log_evidence(prior, some, noise) + prior.hyperpriors() + noise.hyperprior(),
            free,
            steps,
            scale=float(sum(len(label) for label in some)),
        )

    found = several_searches(lambda: search(few, starts.max_iter), free, length_scales(prior), starts.factors)
    begin, values = [p.detach().clone() for p in free], []
    for one in found:  # by all labels: a few may miss those that a start explains badly
        restore(free, one.values)
        values.append(_value_or_less(prior, labels, noise))
    restore(free, begin)
    if values and (best := found[int(np.argmax(values))]).factor != starts.factors[0]:
        logger.info("the search starts with length scales %g times as long as given by the data", best.factor)
        restore(free, best.values)
    return search(labels, max_iter)


def _value_or_less(prior: Prior, labels: list[LabelSet], noise: NoiseLevels) -> float:
    """Log evidence with priors, −∞ where it cannot be computed."""
    try:
        with torch.no_grad():
            return float(dense_log_evidence(prior, labels, noise) + prior.hyperpriors() + noise.hyperprior())
    except SolverError:
        return -math.inf


@dataclass(frozen=True)
class Found:
    """End of a search: log evidence with priors, factor of the length scales at its start, parameters."""

    value: float
    factor: float
    values: list[Tensor]


def several_searches(
    search: Callable[[], float],
    free: list[torch.nn.Parameter],
    lengths: list[torch.nn.Parameter],
    factors: Sequence[float],
    most: float = 8.0,
) -> list[Found]:
    """Ends of searches that begin with the present parameters and length scales times each of the factors.

    Parameters
    ----------
    search
        Maximises from the present parameters, which it leaves at the end of the search.
    free, lengths
        All parameters that are fitted, and the logarithms of length scales among them; without any, one search is made.
    most
        Largest growth of a logarithm from another start than the first.
    """
    begin, found = [p.detach().clone() for p in free], []
    for factor in factors if lengths else factors[:1]:
        restore(free, begin)
        for p in lengths:
            p.data += math.log(factor)
        try:
            value = search()
        except SolverError:  # this start has no evidence at all; another may have
            continue
        if factor != factors[0] and any(float((p.detach() - q).max()) > most for p, q in zip(free, begin, strict=True)):
            continue  # scales without bounds: the evidence of such a covariance is rounding
        found.append(Found(value, factor, [p.detach().clone() for p in free]))
    restore(free, begin)
    return found


def length_scales(prior: Prior) -> list[torch.nn.Parameter]:
    """Logarithms of the length scales that are fitted, of all terms, also of kernels within kernels."""
    return [
        term.log_hyperparameter(name)  # type: ignore[operator]
        for term in prior.terms
        for name in term.spec.kernel.hyperparameters()  # type: ignore[union-attr]
        if name.endswith("lengthscale") and not term.spec.fixed
    ]


def restore(parameters: list[torch.nn.Parameter], values: list[Tensor]) -> None:
    """Set parameters to values of their shapes."""
    for p, value in zip(parameters, values, strict=True):
        p.data.copy_(value)
