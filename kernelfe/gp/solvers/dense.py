"""Exact conditioning by a dense Cholesky factorization of the Gram of all labels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...linalg import CholeskyFactor
from ...runtime.devices import DEVICE
from ...specs import Bound, Whole
from ..observations.labels import LabelSet
from ..observations.levels import NoiseLevels
from ..prior.prior import Prior
from ..prior.rows import RowBlock, frame_chunks
from .exact import ExactPosterior, ExactSolver, gram_matrix


class DensePosterior(ExactPosterior):
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
        (K + noise)⁻¹ (y − prior mean), if known from a saved model: the factor is then built for the first covariance.
    factor
        The factorized covariance of the labels, if known.
    """

    def __init__(
        self,
        prior: Prior,
        labels: list[LabelSet],
        noise: NoiseLevels,
        weights: Tensor | None = None,
        factor: CholeskyFactor | None = None,
    ):
        self._factor = factor
        super().__init__(prior, labels, noise, weights)
        if self._factor is not None:
            with torch.no_grad():
                target = self.target()
                half = self._factor.half_solve(target)
                self.log_evidence = float(
                    -0.5 * (half @ half + self._factor.logdet() + len(target) * math.log(2 * math.pi))
                ) + sum(float(label.tempering(noise)) for label in labels)

    @property
    def factor(self) -> CholeskyFactor:
        """The factorized covariance of the labels."""
        if self._factor is None:
            with torch.no_grad():
                self._factor = CholeskyFactor(
                    lambda: gram_matrix(self.prior, self.labels, self.noise), "covariance of the labels"
                )
        return self._factor

    def solve(self, b: Tensor) -> Tensor:
        """(K + noise)⁻¹ b for b of shape (labels,) or (labels, k)."""
        return self.factor.solve(b)

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
        for start, stop in frame_chunks(a.frames, max(1, self.variance_rows // a.components)):
            part = a.slice(start, stop)
            half = self.factor.half_solve(self.cross(part).T.contiguous())
            parts.append(self.prior.diagonal(part) - (half**2).sum(0))
        return torch.cat(parts).clamp_min(0.0)

    def extended(self, labels: list[LabelSet], levels: NoiseLevels) -> DensePosterior:
        """The posterior given more labels; only their rows are factorized."""
        with torch.no_grad():
            blocks = [label.rows(self.prior) for label in labels]
            cross = torch.cat([self.cross(block) for block in blocks])
            factor = self.factor.extended(
                cross, lambda: gram_matrix(self.prior, labels, self.noise), "covariance of the new labels"
            )
        return DensePosterior(self.prior, [*self.labels, *labels], self.noise, factor=factor)


@dataclass(frozen=True)
class Dense(ExactSolver):
    """Exact conditioning by Cholesky factorization: n² numbers and n³/3 operations for n label rows.

    Parameters
    ----------
    evidence_rows
        Label rows (whole frames, chosen at random) on which hyperparameters are fitted.
    device
        Where the fit, and predictions by it, compute: "cpu", "cuda" or "cuda:1".
    """

    evidence_rows: int = 1500
    device: str = "cpu"
    posterior: ClassVar[type[ExactPosterior]] = DensePosterior

    BOUNDS: ClassVar[Mapping[str, Bound]] = {"evidence_rows": Whole(least=1), "device": DEVICE}
