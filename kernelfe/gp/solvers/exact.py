"""Exact posteriors, which keep the labels and solve with their covariance.

A new exact solver is an :class:`ExactPosterior` with its own ``solve`` and an :class:`ExactSolver` that names it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from ...errors import SolverError
from ...files.fields import take
from ...runtime.devices import DEVICE
from ...runtime.memory import require_memory
from ...runtime.threads import side_by_side
from ...specs import Bound, OrNone, Whole
from ..observations.labels import LabelSet
from ..observations.levels import NoiseLevels
from ..posterior import Correction, DrawnTerm, Nodes, Posterior, read_rows, weight_expansions, weight_means
from ..prior.prior import Prior
from ..prior.rows import RowBlock, frame_chunks
from .base import Run, Solver

#: Entries of a Gram block that is built at a time: memory only, 8 MiB, small enough to stay near the cache.
BLOCK_ENTRIES = 1 << 20


def gram_matrix(prior: Prior, labels: list[LabelSet], noise: NoiseLevels) -> Tensor:
    """Covariance of all labels with their noise; only the lower triangle is filled in, blocks above it are zero."""
    total = sum(len(label) for label in labels)
    if prior.device.type == "cpu":
        require_memory(
            8 * total * total,
            f"the covariance of {total} label rows",
            "use solver='auto' or 'sparse', whose memory does not grow with the labels, or fewer frames",
        )
    blocks = [label.rows(prior) for label in labels]
    out = torch.zeros(total, total, dtype=torch.float64, device=prior.device)  # pages never written take no memory
    row = 0
    for i, (label, a) in enumerate(zip(labels, blocks, strict=True)):
        column = 0
        for j, b in enumerate(blocks[: i + 1]):
            step = max(1, BLOCK_ENTRIES // max(1, len(b) * a.components))

            def fill(part: tuple[int, int], a=a, b=b, row=row, column=column, below=j < i) -> None:
                start, stop = part
                second = b if below else b.slice(0, stop)  # the lower triangle only
                rows = slice(row + start * a.components, row + stop * a.components)
                out[rows, column : column + len(second)] = prior.gram(a.slice(start, stop), second)

            # changes in place that are recorded for gradients keep their order, and a GPU has one queue
            side_by_side(fill, frame_chunks(a.frames, step), 1 if torch.is_grad_enabled() or out.is_cuda else None)
            column += len(b)
        label.noise_at(noise).add_to(out, torch.arange(row, row + len(a), device=out.device))
        row += len(a)
    return out


class ExactPosterior(Posterior):
    """Posterior given labels that are kept; a subclass solves with their covariance.

    Parameters
    ----------
    prior
        Prior with its final hyperparameters.
    labels
        All labels.
    noise
        Learned noise levels.
    weights
        (K + noise)⁻¹ (y − prior mean), if known from a saved model; None: they are solved for.
    """

    labels: list[LabelSet]
    reconditions: ClassVar[bool] = True

    def __init__(self, prior: Prior, labels: list[LabelSet], noise: NoiseLevels, weights: Tensor | None = None):
        self.prior, self.labels, self.noise = prior, labels, noise
        with torch.no_grad():
            self.weights = self.fitted_weights() if weights is None else weights
            if not bool(torch.isfinite(self.weights).all()):
                raise SolverError(f"{type(self).__name__}: the weights of the labels are not finite; check its solve")
            self.expansions = weight_expansions(prior, self.blocks, self.weights)
            self.mean_weights = weight_means(prior, self.blocks, self.weights)

    @abstractmethod
    def solve(self, b: Tensor) -> Tensor:
        """(K + noise)⁻¹ b for b of shape (labels,) or (labels, k)."""

    @cached_property
    def blocks(self) -> list[RowBlock]:
        """The rows of the labels."""
        return [label.rows(self.prior) for label in self.labels]

    def target(self) -> Tensor:
        """y − prior mean, shape (labels,)."""
        y = torch.cat([label.y.reshape(-1) for label in self.labels])
        return y - torch.cat([block.prior_mean for block in self.blocks])

    def fitted_weights(self) -> Tensor:
        """(K + noise)⁻¹ (y − prior mean), shape (labels,)."""
        return self.solve(self.target())

    # ------------------------------------------------------------------ predictions

    def cross(self, a: RowBlock) -> Tensor:
        """Prior covariances of rows with all labels, shape (len(a), labels)."""
        return torch.cat([self.prior.gram(a, block) for block in self.blocks], 1)

    def features(self, a: RowBlock) -> Tensor:
        """Prior covariances with all labels, shape (len(a), labels)."""
        return self.cross(a)

    def explained(self, left: Tensor, right: Tensor) -> Tensor:
        """Prior minus posterior covariance of combinations of rows, from combinations of their features."""
        return left @ self.solve(right.T.contiguous())

    def variance(self, a: RowBlock) -> Tensor:
        """Posterior variances, shape (len(a),)."""
        parts = []
        for start, stop in frame_chunks(a.frames, max(1, self.variance_rows // a.components)):
            part = a.slice(start, stop)
            cross = self.cross(part).T.contiguous()
            parts.append(self.prior.diagonal(part) - (cross * self.solve(cross)).sum(0))
        return torch.cat(parts).clamp_min(0.0)

    # ------------------------------------------------------------------ more observations

    def extended(self, labels: list[LabelSet], levels: NoiseLevels) -> Self:
        """The posterior given more labels; their noise levels are those of the fit."""
        return type(self)(self.prior, [*self.labels, *labels], self.noise)

    def with_observations(self, observations: LabelSet, covariance: Tensor | None = None) -> Self:
        """The posterior given virtual observations, which become labels."""
        out = type(self)(self.prior, [*self.labels, observations], self.noise)
        out.log_evidence = self.log_evidence
        return out

    def reconditioned(self, prior: Prior, levels: NoiseLevels) -> Self:
        """The posterior given the same labels, with other hyperparameters."""
        return type(self)(prior, self.labels, levels)

    # ------------------------------------------------------------------ draws and file

    def correction(self, terms: Sequence[DrawnTerm], rng: np.random.Generator, n: int) -> Correction:
        """−K(·, X) (K + noise)⁻¹ (f(X) + ε) for draws f from the prior and draws ε of the noise."""
        prior, mean = self.prior, None
        if prior.mean is not None:
            scale = prior.mean.variances(prior.device).sqrt()[:, None]
            mean = scale * normal(rng, prior.device, len(prior.mean.offset), prior.mean.size, n)
        observed = torch.cat([read_rows(block, terms, mean, n) for block in self.blocks])
        draw = partial(normal, rng)
        observed += torch.cat([label.noise_at(self.noise).draw(draw, n) for label in self.labels])
        return _expanded(prior, self.blocks, -self.solve(observed), mean)

    def tensors(self) -> dict[str, Tensor]:
        """The weights; all else is computed from the labels."""
        return {"weights": self.weights}


class ExactSolver(Solver):
    """Base of the specs of exact solvers, whose posterior is an :class:`ExactPosterior`."""

    #: The class of the posterior.
    posterior: ClassVar[type[ExactPosterior]]
    BOUNDS: ClassVar[Mapping[str, Bound]] = {"evidence_rows": OrNone(Whole(least=1)), "device": DEVICE}

    def condition(self, prior: Prior, labels: list[LabelSet], levels: NoiseLevels, run: Run) -> ExactPosterior:
        """The posterior given all labels, with the hyperparameters as they are."""
        return self.posterior(prior, labels, levels)

    def posterior_from(
        self, prior: Prior, levels: NoiseLevels, labels: list[LabelSet] | None, tensors: dict[str, Tensor]
    ) -> ExactPosterior:
        """The posterior of a model file; nothing is solved before the first covariance."""
        assert labels is not None
        return self.posterior(prior, labels, levels, stored_weights(labels, tensors))


def stored_weights(labels: list[LabelSet], tensors: dict[str, Tensor]) -> Tensor:
    """The weights of an exact posterior in a model file, one for each label row."""
    return take(tensors, "weights", sum(len(label) for label in labels))


def normal(rng: np.random.Generator, like: torch.device, *shape: int) -> Tensor:
    """Standard normal numbers, the same on every device."""
    return torch.from_numpy(rng.standard_normal(shape)).to(like)


def _expanded(prior: Prior, blocks: list[RowBlock], weights: Tensor, mean: Tensor | None) -> Correction:
    """K(·, X) weights, weights (rows, n), as expansions; its part in the mean functions is added to ``mean``."""
    row = 0
    out: list[list[Nodes]] = [[] for _ in prior.terms]
    for block in blocks:
        own = weights[row : row + len(block)]
        row += len(block)
        for term, reads, nodes in zip(prior.terms, block.terms, out, strict=True):
            for read in reads:
                c, w = read.jets.coefficients(block.gather(own, read.jets))
                nodes.append(Nodes(read.jets.z, c, w, read.spread() * term.variances()))
        if mean is not None:
            for features, factors in block.mean:
                mean = mean + torch.einsum("ix,ik,in->xkn", features, factors * prior.mean.variances(prior.device), own)  # type: ignore[union-attr]
    return Correction(out, mean)
