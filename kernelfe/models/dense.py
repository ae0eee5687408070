"""Exact conditioning by a dense Cholesky factorization of the Gram of all labels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..linalg import CholeskyFactor
from .labels import LabelSet
from .posterior import Expansion
from .prior import Prior, RowBlock, frame_chunks

#: Entries of a Gram block that is built at a time: small enough to stay near the cache.
BLOCK_ENTRIES = 1 << 20


def gram_matrix(prior: Prior, labels: list[LabelSet], noise) -> Tensor:
    """Covariance of all labels, noise included; only the lower triangle is filled in.

    Parameters
    ----------
    noise
        :class:`~kernelfe.models.evidence.NoiseLevels` of the kinds that have no noise of their own.
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


def noise_variances(label: LabelSet, noise) -> tuple[Tensor | None, Tensor]:
    """Noise variances of the rows of a label set, and what weights below one add to its log evidence.

    With weight w the likelihood N(y | f, σ²) is raised to the power w: the row has the variance σ²/w, and
    N(y | f, σ²)^w = N(y | f, σ²/w) · (2π σ²/w)^½ (2π σ²)^(−w/2).

    Returns
    -------
    Tensor, Tensor
        Shape (n·m,), None for covariance blocks; and a number.
    """
    scale, zero = label.row_scale(), label.y.new_zeros(())
    if scale is not None and scale.ndim == 3:
        return None, zero
    levels = noise.levels([label.noise_kind] * len(label.y), label.states.temperature)[:, None]
    variances = (levels if scale is None else levels * scale).expand(label.y.shape) ** 2
    if label.weight is not None:
        logs = (2.0 * math.pi * variances).log()
        zero = 0.5 * (logs - label.weight * (logs + label.weight.log())).sum()
    return variances.reshape(-1), zero


def add_noise(out: Tensor, row: int, label: LabelSet, noise) -> None:
    """Add the noise variances of a label set to the rows from ``row`` on of a covariance, in place."""
    size, m = len(label), label.y.shape[1]
    variances, _ = noise_variances(label, noise)
    if variances is not None:
        out.diagonal()[row : row + size] += variances
    else:  # covariance blocks, frame by frame
        at = row + torch.arange(len(label.y) * m, device=out.device).reshape(-1, m)
        out[at[:, :, None], at[:, None, :]] += label.noise


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


def weight_expansions(prior: Prior, blocks: list[RowBlock], all_weights: Tensor) -> list[Expansion]:
    """The posterior mean of every term as an expansion on the environments of the labels.

    Parameters
    ----------
    all_weights
    (K + noise)⁻¹ (y − prior mean), shape (labels,).
    """
    out: list[Expansion | None] = [None] * len(prior.terms)
    row = 0
    for block in blocks:
        weights = all_weights[row : row + len(block)].reshape(block.frames, block.components)
        row += len(block)
        for t, term in enumerate(prior.terms):
            for read in block.terms[t]:
                jets = read.jets
                local = weights if jets.frame is None else weights[jets.frame]
                if jets.label is not None:
                    local = torch.gather(local, 1, jets.label)
                factors = (read.factors if jets.frame is None else read.factors[jets.frame]) * term.variances()
                c = jets.z.new_zeros(len(jets.z)) if jets.c is None else (jets.c * local).sum(1)
                w = None
                if jets.w is not None:
                    w = torch.einsum("erd,er->ed", jets.w, local)[:, :, None] * factors[:, None, :]
                expansion = Expansion(jets.z, c[:, None] * factors, w)
                previous = out[t]
                out[t] = expansion if previous is None else previous.merged(expansion)
    return out  # type: ignore[return-value]


def weight_means(prior: Prior, blocks: list[RowBlock], all_weights: Tensor) -> Tensor | None:
    """Posterior means of the mean functions' weights, shape (kinds, functions)."""
    mean = prior.mean
    if mean is None:
        return None
    out = all_weights.new_zeros(len(mean.offset), mean.size)
    row = 0
    for block in blocks:
        weights = all_weights[row : row + len(block)]
        row += len(block)
        for features, factors in block.mean:
            out += features.T @ (weights[:, None] * factors * mean.variances(factors.device))
    return out
