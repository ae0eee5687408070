"""The posterior of a solver: expansions on environments for means, and what a fitted model asks of it.

The posterior mean of every term is an expansion on nodes,

    f(z; T, λ) = Σ_k φ_k(T, λ) Σ_j [c_jk κ(z, z_j) + w_jk·∇' κ(z, z_j)],

with coefficient jets (c, w) that an exact solver takes from K⁻¹y and the sparse one from its weights. Every solver
gives a :class:`Posterior`; nothing outside of :mod:`kernelfe.gp.solvers` depends on which one it is.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from ..kernels import Jets
from ..kernels.jets import linear, plus
from .observations.labels import LabelSet
from .observations.levels import NoiseLevels
from .prior.prior import Prior
from .prior.rows import RowBlock, TermRead, frame_chunks


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
        weights = all_weights[row : row + len(block), None]
        row += len(block)
        for t, term in enumerate(prior.terms):
            for read in block.terms[t]:
                jets, factors = read.jets, read.spread() * term.variances()
                c, w = jets.coefficients(block.gather(weights, jets))
                c = jets.z.new_zeros(len(jets), 1) if c is None else c
                expansion = Expansion(jets.z, c * factors, linear(torch.mul, w, factors[:, None, :]))
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


@dataclass
class Expansion:
    """Posterior mean of one term, in the columns of its kernel.

    Parameters
    ----------
    nodes
        Shape (J, D).
    c, w
        Coefficient jets per function of state, shapes (J, size) and (J, D, size); w None for zero.
    """

    nodes: Tensor
    c: Tensor
    w: Tensor | None

    def slopes(self) -> Tensor:
        """Coefficients w, also where they are zero."""
        return self.c.new_zeros(*self.nodes.shape, self.c.shape[1]) if self.w is None else self.w

    def merged(self, other: Expansion) -> Expansion:
        """Sum of two expansions; shared nodes are kept once."""
        if self.nodes.shape == other.nodes.shape and torch.equal(self.nodes, other.nodes):
            return Expansion(self.nodes, self.c + other.c, plus(self.w, other.w))
        parts = (self, other)
        w = torch.cat([e.slopes() for e in parts]) if any(e.w is not None for e in parts) else None
        return Expansion(torch.cat([self.nodes, other.nodes]), torch.cat([self.c, other.c]), w)


@dataclass(frozen=True)
class Nodes:
    """An expansion of n draws of one term whose functions of state go with each other.

    The coefficients of function k at node j are (c_j, w_j) times factors_jk.

    Parameters
    ----------
    z
        Nodes in the columns of the kernel, shape (J, D).
    c, w
        Shapes (J, n) and (J, D, n), or None for zero.
    factors
        Shape (J, size).
    """

    z: Tensor
    c: Tensor | None
    w: Tensor | None
    factors: Tensor

    def along(self, state: Tensor) -> tuple[Tensor, Tensor | None]:
        """c and w of Σ_k state_k g_k."""
        scale = self.factors @ state
        c = linear(lambda c: c * scale[:, None], self.c)
        return self.z.new_zeros(len(self.z), 1) if c is None else c, linear(lambda w: w * scale[:, None, None], self.w)


class DrawnTerm(Protocol):
    """n draws of the functions g_k of one term."""

    def read(self, jets: Jets, factors: Tensor) -> Tensor:
        """c g + w·∇g with g = Σ_k factors_k g_k, per environment, for all draws, shape (E, r, n)."""
        ...


def read_rows(rows: RowBlock, terms: Sequence[DrawnTerm], mean: Tensor | None, n: int) -> Tensor:
    """Draws of the rows of a block, shape (len(rows), n).

    Parameters
    ----------
    terms
        Draws of every term.
    mean
        Draws of the weights of the mean functions, shape (kinds, functions, n), or None.
    """
    out = rows.prior_mean.new_zeros(len(rows), n)
    for reads, draws in zip(rows.terms, terms, strict=True):
        for read in reads:
            if len(read.jets):
                out += rows.scatter(draws.read(read.jets, read.spread()), read.jets)
    if mean is not None:
        for features, factors in rows.mean:
            out += torch.einsum("ix,ik,xkn->in", features, factors, mean)
    return out


@dataclass(frozen=True)
class Correction:
    """The difference between draws from the prior and draws from the posterior, both without their means.

    Parameters
    ----------
    terms
        Per term, the expansions to add to its draws.
    mean
        Draws of the weights of the mean functions, shape (kinds, functions, n), or None.
    """

    terms: list[list[Nodes]]
    mean: Tensor | None


class Posterior(ABC):
    """The result of conditioning: a Gaussian process over A, by one solver.

    A subclass gives expansions of the mean, covariances, and the same posterior with more observations.

    Attributes
    ----------
    prior
        Prior with its final hyperparameters.
    expansions, mean_weights
        Posterior means of the terms, and of the weights of the mean functions.
    log_evidence
        Log evidence (or a lower bound) of the labels; nan where the solver does not give it.
    labels
        The labels, where the posterior keeps them; None otherwise.
    check, conditioning
        Comparison with the exact answer, and how the equations were solved; None where there is nothing to report.
    """

    prior: Prior
    expansions: list[Expansion]
    mean_weights: Tensor | None
    log_evidence: float = math.nan
    labels: list[LabelSet] | None = None
    check: Any = None
    conditioning: Any = None
    #: Whether A is linear in finitely many normal weights w, A = prior mean + f·w with f the ``features``. Then
    #: ``with_weights`` exists, ``weights`` are the means of w, and ``lower`` is the Cholesky factor of their precision.
    linear: ClassVar[bool] = False
    #: Whether ``reconditioned`` exists: the labels are kept, and few enough to condition on them again and again.
    reconditions: ClassVar[bool] = False
    #: Rows of a block whose variances are computed at a time: memory only.
    variance_rows: ClassVar[int] = 512
    #: Rows of frames whose posterior covariance is computed at a time: memory only.
    covariance_rows: ClassVar[int] = 400
    #: (Environment, node) pairs of the mean held at a time: memory only, 2²¹ kernel values are 16 MiB.
    pairs_at_once: ClassVar[int] = 1 << 21

    # ------------------------------------------------------------------ predictions

    def mean(self, rows: RowBlock) -> Tensor:
        """Posterior mean of the rows of a block, shape (len(rows),), without any baseline."""
        out = rows.prior_mean.clone()
        for term, expansion, reads in zip(self.prior.terms, self.expansions, rows.terms, strict=True):
            for read in reads:

                def values(part: TermRead, kernel=term.kernel, e=expansion) -> Tensor:
                    value, gradient = kernel.jet_product(part.jets.z, e.nodes, e.c, e.w)
                    slope = (gradient @ part.factors[:, :, None]) if part.jets.reads_slopes else None
                    return part.jets.read((value * part.factors).sum(1, keepdim=True), slope)

                out += rows.summed(read, max(1, self.pairs_at_once // max(1, len(expansion.nodes))), values)[:, 0]
        if self.mean_weights is not None:
            for features, factors in rows.mean:
                out += ((features @ self.mean_weights) * factors).sum(1)
        return out

    @abstractmethod
    def features(self, a: RowBlock) -> Tensor:
        """Arguments of :meth:`explained` for the rows of a block, shape (len(a), p); linear in the rows."""

    @abstractmethod
    def explained(self, left: Tensor, right: Tensor) -> Tensor:
        """Prior minus posterior covariance of combinations of rows, from combinations of their features."""

    def covariance(self, a: RowBlock, b: RowBlock) -> Tensor:
        """Posterior covariances of the rows of two blocks, shape (len(a), len(b))."""
        left = self.features(a)
        return self.prior.gram(a, b) - self.explained(left, left if a is b else self.features(b))

    def variance(self, a: RowBlock) -> Tensor:
        """Posterior variances of the rows of a block, shape (len(a),)."""
        parts = []
        for start, stop in frame_chunks(a.frames, max(1, self.variance_rows // a.components)):
            part = a.slice(start, stop)
            left = self.features(part)
            parts.append(self.prior.diagonal(part) - self.explained(left, left).diagonal())
        return torch.cat(parts).clamp_min(0.0)

    def reducible(self, a: RowBlock) -> Tensor:
        """The part of the posterior covariance of rows that observations can reduce, shape (len(a), len(a)).

        All of it, unless the posterior has finitely many weights and a rest that these do not describe.
        """
        return self.covariance(a, a)

    # ------------------------------------------------------------------ more observations

    @abstractmethod
    def extended(self, labels: list[LabelSet], levels: NoiseLevels) -> Posterior:
        """The posterior given more labels, with the same hyperparameters and by the same solver.

        Parameters
        ----------
        levels
            Learned noise levels of the fit.
        """

    @abstractmethod
    def with_observations(self, observations: LabelSet, covariance: Tensor | None = None) -> Posterior:
        """The posterior given virtual observations with known noise, by the same solver.

        Its ``log_evidence`` is that of this posterior: virtual observations are not data.

        Parameters
        ----------
        covariance
            :meth:`reducible` of their rows, if it is known.
        """

    def reconditioned(self, prior: Prior, levels: NoiseLevels) -> Posterior:
        """The posterior given the same labels, with other hyperparameters.

        Raises
        ------
        DataError
            If ``reconditions`` is False.
        """
        raise DataError("the model cannot be conditioned again with other hyperparameters: fit it with solver='dense'")

    # ------------------------------------------------------------------ draws

    @abstractmethod
    def correction(self, terms: Sequence[DrawnTerm], rng: np.random.Generator, n: int) -> Correction:
        """The expansions that turn draws from the prior into draws from the posterior, without their means.

        Parameters
        ----------
        terms
            Draws of every term from the prior.
        rng
            Source of the other random numbers: noise, weights of the mean functions.
        n
            Draws.
        """

    # ------------------------------------------------------------------ a linear model

    def with_weights(self, weights: Tensor, lower: Tensor) -> Posterior:
        """The posterior with other mean weights and another Cholesky factor of their precision.

        Raises
        ------
        DataError
            If ``linear`` is False.
        """
        raise DataError("the model is not linear in finitely many weights: fit it with solver='sparse'")

    # ------------------------------------------------------------------ report and file

    def remark(self) -> str:
        """An addition to the reason for the solver: its accuracy, or an unusual way of solving."""
        return ""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Tensors of the model file, from which ``posterior_from`` of the solver rebuilds this; labels apart."""


def predict_mean(posterior: Posterior, rows: RowBlock) -> Tensor:
    """Posterior mean of the rows of a block, shape (len(rows),), without any baseline."""
    return posterior.mean(rows)
