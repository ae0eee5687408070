"""Newton steps of relative entropy: a quadratic likelihood, labels of adjustable weight, and what is left open.

Around sampled models minus the log likelihood of the frames is, in the whitened coordinates v of the weights,

    ½ vᵀ A v − cᵀ v + const,    A = Σ_T m_T b² Cov_T(f, f),    c = A v₀ + Σ_T m_T b (⟨f⟩_{v₀} − f̄),

v₀ the model whose averages ⟨f⟩ are known, f̄ those of the frames, m_T their independent number. The labels enter with
the weight κ, the prior of the weights does not change:

    ½ vᵀ Λ_κ v − l_κᵀ v,    Λ_κ = P + κ (1 − P),    l_κ = −(1 − κ) p,

P the precision of the prior and p its slope at v = 0, where the labels' posterior has its maximum and, at κ = 1, unit
covariance. The minimum of the sum is v = (Λ_κ + A)⁻¹ (c + l_κ).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Labels:
    """What is known of the whitened weights without the density: a prior, and labels with a weight κ.

    Parameters
    ----------
    prior
        P, (W, W), precision of the prior of v, at most 1; zero if it is not known: κ then weighs all that is known.
    pull
        p, (W,), slope of minus the log prior at v = 0.
    """

    prior: Tensor
    pull: Tensor

    @classmethod
    def of(cls, mean: Tensor, lower: Tensor, prior: tuple[Tensor, Tensor] | None) -> Labels:
        """From the posterior N(μ, (LLᵀ)⁻¹) of the weights, and mean and precision of their prior, None if unknown."""
        if prior is None:
            return cls(torch.zeros_like(lower), torch.zeros_like(mean))
        center, precision = (x.detach().to("cpu", torch.float64) for x in prior)
        half = torch.linalg.solve_triangular(lower, precision, upper=False)
        whitened = torch.linalg.solve_triangular(lower, half.T, upper=False)
        values, vectors = torch.linalg.eigh(0.5 * (whitened + whitened.T))
        # errors estimated from scores may exceed those of the prior in some direction: the labels say nothing there
        whitened = (vectors * values.clamp(0.0, 1.0)) @ vectors.T
        pull = torch.linalg.solve_triangular(lower, (precision @ (mean - center))[:, None], upper=False)[:, 0]
        return cls(whitened, pull)

    def precision(self, weight: float) -> Tensor:
        """Λ_κ."""
        return self.prior + weight * (torch.eye(len(self.prior), dtype=self.prior.dtype) - self.prior)

    def linear(self, weight: float) -> Tensor:
        """l_κ."""
        return -(1.0 - weight) * self.pull

    def energy(self, v: Tensor, weight: float) -> float:
        """½ vᵀ Λ_κ v − l_κᵀ v."""
        return float(0.5 * v @ self.precision(weight) @ v - self.linear(weight) @ v)

    def within(self, directions: Tensor) -> Labels:
        """The same on a subspace with an orthonormal basis (W, k)."""
        return Labels(directions.T @ self.prior @ directions, directions.T @ self.pull)


@dataclass(frozen=True)
class Modes:
    """Directions in which labels and density are independent of each other.

    Parameters
    ----------
    values
        (k,), ascending: curvature of the likelihood over that of the labels.
    vectors
        (W, k), columns.
    """

    values: Tensor
    vectors: Tensor

    @property
    def shares(self) -> Tensor:
        """Share of what is known of each mode that the frames contribute, (k,)."""
        return self.values / (1.0 + self.values)


@dataclass(frozen=True)
class Quadratic:
    """Quadratic minus log likelihood ½ vᵀ A v − cᵀ v, as a function of whitened weights, and the labels.

    Parameters
    ----------
    curvature
        A, (W, W), positive semidefinite.
    linear
        c, (W,).
    labels
        What is known without the density.
    movable
        Q, (W, k), orthonormal columns: the directions in which v may move; None for all.
    """

    curvature: Tensor
    linear: Tensor
    labels: Labels
    movable: Tensor | None = None

    @classmethod
    def around(
        cls, v: Tensor, gradient: Tensor, curvature: Tensor, labels: Labels, movable: Tensor | None = None
    ) -> Quadratic:
        """The quadratic with this gradient (W,) at v."""
        return cls(curvature, curvature @ v - gradient, labels, movable)

    def _reduced(self) -> Quadratic:
        """The same as a function of the movable coordinates."""
        q = self.movable
        if q is None:
            return self
        return Quadratic(q.T @ self.curvature @ q, q.T @ self.linear, self.labels.within(q))

    def modes(self, weight: float) -> Modes:
        """Modes of likelihood and labels."""
        one = self._reduced()
        lower = torch.linalg.cholesky(one.labels.precision(weight))
        half = torch.linalg.solve_triangular(lower, one.curvature, upper=False)
        values, vectors = torch.linalg.eigh(torch.linalg.solve_triangular(lower, half.T, upper=False))
        vectors = torch.linalg.solve_triangular(lower.T, vectors, upper=True)
        return Modes(values.clamp_min(0.0), vectors if self.movable is None else self.movable @ vectors)

    def minimum(self, weight: float) -> Tensor:
        """The most probable v."""
        modes = self.modes(weight)
        along = modes.vectors.T @ (self.linear + self.labels.linear(weight))
        return modes.vectors @ (along / (1.0 + modes.values))

    def lower(self, weight: float) -> Tensor:
        """Cholesky factor of Λ_κ + A, (W, W), also where A is so large that their sum is singular to rounding."""
        modes = replace(self, movable=None).modes(weight)
        rows = (self.labels.precision(weight) @ modes.vectors) * (1.0 + modes.values).sqrt()
        upper = torch.linalg.qr(rows.T).R
        return (torch.where(upper.diagonal() < 0.0, -1.0, 1.0)[:, None] * upper).T

    def value(self, v: Tensor, weight: float) -> float:
        """Minus the log posterior, up to a constant."""
        return self.labels.energy(v, weight) + self.likelihood(v)

    def likelihood(self, v: Tensor) -> float:
        """Minus the log likelihood of the frames, up to a constant."""
        return float(0.5 * v @ self.curvature @ v - self.linear @ v)


@dataclass(frozen=True)
class Fold:
    """Frames and samples of all boxes, divided into those from which a step is found and those on which it is judged.

    Parameters
    ----------
    fitted, held_out
        Quadratic minus log likelihoods around the same model.
    """

    fitted: Quadratic
    held_out: Quadratic

    def gains(self, v: Tensor, weights: list[float]) -> Tensor:
        """Decrease of the held-out quadratic from the model at v, by the step that each label weight κ would make."""
        before = self.held_out.likelihood(v)
        return torch.tensor([before - self.held_out.likelihood(self.fitted.minimum(one)) for one in weights])


#: Label weights that are tried: 1, 0.32, 0.1, … 1e-6.
LABEL_WEIGHTS = [10.0 ** (-0.5 * k) for k in range(13)]


def held_out_weight(v: Tensor, folds: list[Fold]) -> float:
    """Label weight whose step gains most on what was held out; of those within one standard error, the largest.

    Parameters
    ----------
    v
        The model from which steps are made.
    folds
        At least two.
    """
    gains = torch.stack([fold.gains(v, LABEL_WEIGHTS) for fold in folds])
    behind = gains[:, gains.mean(0).argmax()][:, None] - gains
    error = behind.std(0) / math.sqrt(len(folds))
    return LABEL_WEIGHTS[int(torch.nonzero(behind.mean(0) <= error)[0])]


def open_weights(directions: Tensor, share: float = 0.5) -> list[int]:
    """Indices of the weights that lie mostly in the span of some directions.

    Parameters
    ----------
    directions
        (W, j), in the space of the weights, linearly independent.
    share
        Squared length of a unit vector within the span from which its weight counts.
    """
    if not directions.shape[1]:
        return []
    basis = torch.linalg.qr(directions).Q
    return torch.nonzero(basis.square().sum(1) >= share).flatten().tolist()


def movable_directions(lower: Tensor, columns: Tensor) -> Tensor:
    """Orthonormal basis (W, k) of the whitened directions v = Lᵀ(w − μ) along which only some weights change.

    Parameters
    ----------
    lower
        L, (W, W).
    columns
        Mask (W,) of the weights that may change.
    """
    return torch.linalg.qr(lower.T[:, columns]).Q


__all__ = [
    "LABEL_WEIGHTS",
    "Fold",
    "Labels",
    "Modes",
    "Quadratic",
    "held_out_weight",
    "movable_directions",
    "open_weights",
]
