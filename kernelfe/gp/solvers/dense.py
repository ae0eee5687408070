"""Exact conditioning by a dense Cholesky factorization of the Gram of all labels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...errors import SolverError
from ...linalg import CholeskyFactor
from ..observations.labels import LabelSet
from ..observations.levels import NoiseLevels, add_noise, noise_variances
from ..posterior import weight_expansions, weight_means
from ..prior.prior import Prior
from ..prior.rows import RowBlock, frame_chunks
from .maximise import maximise

#: Entries of a Gram block that is built at a time: small enough to stay near the cache.
BLOCK_ENTRIES = 1 << 20


def gram_matrix(prior: Prior, labels: list[LabelSet], noise) -> Tensor:
    """Covariance of all labels, noise included; only the lower triangle is filled in.

    Parameters
    ----------
    noise
        :class:`~kernelfe.gp.observations.levels.NoiseLevels` of the kinds that have no noise of their own.
    """
    blocks = [label.rows(prior) for label in labels]
    total = sum(len(block) for block in blocks)
    out = torch.empty(total, total, dtype=torch.float64, device=prior.device)
    row = 0
    for i, (label, a) in enumerate(zip(labels, blocks, strict=True)):
        column = 0
        for j, b in enumerate(blocks[: i + 1]):
            step = max(1, BLOCK_ENTRIES // max(1, len(b) * a.components))
            for start, stop in frame_chunks(a.frames, step):
                top, bottom = row + start * a.components, row + stop * a.components
                second = b if j < i else b.slice(0, stop)  # the lower triangle only
                out[top:bottom, column : column + len(second)] = prior.gram(a.slice(start, stop), second)
            column += len(b)
        add_noise(out, row, label, noise)
        row += len(a)
    return out


class DensePosterior:
    """Posterior by Cholesky factorization.

    Parameters
    ----------
    prior
        Prior with its final hyperparameters.
    labels
        All labels.
    noise
        Learned noise levels.
    weights
        (K + noise)⁻¹ (y − prior mean), if known from a saved model: the factor is then built when the
        first covariance is asked for.
    factor
        The factorized covariance of the labels, if known.
    """

    def __init__(
        self,
        prior: Prior,
        labels: list[LabelSet],
        noise,
        weights: Tensor | None = None,
        factor: CholeskyFactor | None = None,
    ):
        self.prior, self.labels, self.noise = prior, labels, noise
        self._factor = factor
        with torch.no_grad():
            self.blocks = [label.rows(prior) for label in labels]
            target = torch.cat([label.y.reshape(-1) for label in labels])
            target = target - torch.cat([block.prior_mean for block in self.blocks])
            self.weights = self.factor.solve(target) if weights is None else weights
            self.expansions = weight_expansions(prior, self.blocks, self.weights)
            self.mean_weights = weight_means(prior, self.blocks, self.weights)
            if self._factor is not None:
                half = self._factor.half_solve(target)
                self.log_evidence = float(
                    -0.5 * (half @ half + self._factor.logdet() + len(target) * math.log(2 * math.pi))
                ) + sum(float(noise_variances(label, noise)[1]) for label in labels)

    @property
    def factor(self) -> CholeskyFactor:
        """The factorized covariance of the labels."""
        if self._factor is None:
            with torch.no_grad():
                self._factor = CholeskyFactor(
                    lambda: gram_matrix(self.prior, self.labels, self.noise), "covariance of the labels"
                )
        return self._factor

    def extended(self, labels: list[LabelSet]) -> DensePosterior:
        """The posterior given more labels, too; only their rows are factorized."""
        with torch.no_grad():
            blocks = [label.rows(self.prior) for label in labels]
            cross = torch.cat([self.cross(block) for block in blocks])
            factor = self.factor.extended(
                cross, lambda: gram_matrix(self.prior, labels, self.noise), "covariance of the new labels"
            )
        return DensePosterior(self.prior, [*self.labels, *labels], self.noise, factor=factor)

    def solve(self, rhs: Tensor) -> Tensor:
        """(K + noise)⁻¹ rhs for rhs of shape (labels, k)."""
        return self.factor.solve(rhs)

    def cross(self, a: RowBlock) -> Tensor:
        """Prior covariances of rows with all labels, shape (len(a), labels)."""
        return torch.cat([self.prior.gram(a, block) for block in self.blocks], 1)

    def features(self, a: RowBlock) -> Tensor:
        """Linear in the rows: what :meth:`explained` reads, shape (len(a), labels)."""
        return self.cross(a)

    def explained(self, left: Tensor, right: Tensor) -> Tensor:
        """Prior minus posterior covariance of rows, or combinations of rows, from their features."""
        half = self.factor.half_solve(left.T.contiguous())
        return half.T @ (half if right is left else self.factor.half_solve(right.T.contiguous()))

    def covariance(self, a: RowBlock, b: RowBlock) -> Tensor:
        """Posterior covariances, shape (len(a), len(b))."""
        left = self.factor.half_solve(self.cross(a).T.contiguous())
        right = left if a is b else self.factor.half_solve(self.cross(b).T.contiguous())
        return self.prior.gram(a, b) - left.T @ right

    def variance(self, a: RowBlock) -> Tensor:
        """Posterior variances, shape (len(a),)."""
        parts = []
        for start, stop in frame_chunks(a.frames, max(1, 512 // a.components)):
            part = a.slice(start, stop)
            half = self.factor.half_solve(self.cross(part).T.contiguous())
            parts.append(self.prior.diagonal(part) - (half**2).sum(0))
        return torch.cat(parts).clamp_min(0.0)


def dense_log_evidence(prior: Prior, labels: list[LabelSet], noise: NoiseLevels) -> Tensor:
    """log N(y | prior mean, K + noise), differentiable in all hyperparameters.

    The same number as gpytorch's ``ExactMarginalLogLikelihood`` times the number of labels (that is the
    test oracle); computed here because gpytorch clamps noise variances at an absolute 1e-6, which is
    larger than those of labels in eV/K, and switches to loose iterations at 800 rows.
    """
    blocks = [label.kept_rows(prior) for label in labels]
    gram = torch.cat([torch.cat([prior.gram(a, b) for b in blocks], 1) for a in blocks])
    fixed = (
        torch.zeros_like(gram) if any(label.noise is not None and label.noise.ndim == 3 for label in labels) else None
    )
    parts, row, tempered = [], 0, gram.new_zeros(())
    for label in labels:
        variances, more = noise_variances(label, noise)
        tempered = tempered + more
        if variances is None:
            assert fixed is not None
            add_noise(fixed, row, label, noise)
            variances = gram.new_zeros(len(label))
        parts.append(variances)
        row += len(label)
    diagonal = torch.cat(parts)
    gram = gram + torch.diag(diagonal)
    if fixed is not None:
        gram = gram + fixed
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
