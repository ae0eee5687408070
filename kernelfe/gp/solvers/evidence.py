"""The exact log evidence of a part of the labels, and hyperparameters that maximise it."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ...errors import SolverError
from ..observations.labels import LabelSet
from ..observations.levels import NoiseLevels
from ..prior.prior import Prior
from .maximise import maximise


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


def fit_dense(prior: Prior, labels: list[LabelSet], noise: NoiseLevels, max_iter: int = 60) -> float:
    """Maximise the exact log evidence; ``prior`` and ``noise`` are changed in place."""
    parameters = [
        *(p for p in prior.parameters() if p.requires_grad),
        *(p for p in noise.parameters() if p.requires_grad and noise.kinds),
    ]
    return maximise(
        lambda: dense_log_evidence(prior, labels, noise) + prior.hyperpriors() + noise.hyperprior(),
        parameters,
        max_iter,
        scale=float(sum(len(label) for label in labels)),
    )
