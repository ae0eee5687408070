"""Newton steps of relative entropy: a quadratic likelihood, a normal prior of adjustable weight, and what is left open.

Around sampled models minus the log likelihood of the frames is, in the whitened coordinates v of the weights,

    ½ vᵀ A v − cᵀ v + const,    A = Σ_T m_T b² Cov_T(f, f),    c = A v₀ + Σ_T m_T b (⟨f⟩_{v₀} − f̄),

v₀ the model whose averages ⟨f⟩ are known, f̄ those of the frames, m_T their independent number. With the prior N(0, 1/κ)
of v, κ the weight of the labels, the minimum is v = (κ + A)⁻¹ c, and the evidence of κ is

    ln p(κ) = ½ Σ_i [ln κ − ln(κ + a_i) + c_i²/(κ + a_i)],

in the eigenvectors of A with the eigenvalues a_i.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor


@dataclass(frozen=True)
class Quadratic:
    """Quadratic minus log likelihood ½ vᵀ A v − cᵀ v, as a function of whitened weights.

    Parameters
    ----------
    curvature
        A, (W, W), positive semidefinite.
    linear
        c, (W,).
    movable
        Q, (W, k), orthonormal columns: the directions in which v may move; None for all.
    """

    curvature: Tensor
    linear: Tensor
    movable: Tensor | None = None

    @classmethod
    def around(cls, v: Tensor, gradient: Tensor, curvature: Tensor, movable: Tensor | None = None) -> Quadratic:
        """The quadratic with this gradient (W,) at v."""
        return cls(curvature, curvature @ v - gradient, movable)

    @cached_property
    def modes(self) -> tuple[Tensor, Tensor, Tensor]:
        """Eigenvalues a (k,), ascending, eigenvectors as columns (W, k), and components of c (k,)."""
        if self.movable is None:
            values, vectors = torch.linalg.eigh(self.curvature)
        else:
            values, vectors = torch.linalg.eigh(self.movable.T @ self.curvature @ self.movable)
            vectors = self.movable @ vectors
        return values.clamp_min(0.0), vectors, vectors.T @ self.linear

    def minimum(self, weight: float) -> Tensor:
        """(κ + A)⁻¹ c, the most probable v."""
        values, vectors, c = self.modes
        return vectors @ (c / (weight + values))

    def value(self, v: Tensor, weight: float) -> float:
        """½ κ |v|² + ½ vᵀ A v − cᵀ v."""
        return float(0.5 * weight * (v @ v) + 0.5 * v @ self.curvature @ v - self.linear @ v)

    def shares(self, weight: float) -> Tensor:
        """Share a/(κ + a) of what is known of each mode that the frames contribute, (k,)."""
        values = self.modes[0]
        return values / (weight + values)

    def log_evidence(self, weight: float) -> float:
        """Log probability of the frames given κ, nats, up to a constant."""
        values, _, c = self.modes
        return float(0.5 * (math.log(weight) - (weight + values).log() + c.square() / (weight + values)).sum())

    def likeliest_weight(self, least: float = 1e-6) -> float:
        """The κ from ``least`` to 1 of the largest evidence.

        At an inner maximum κ|v|² is the number Σ a/(κ + a) of directions that the frames determine: the labels are
        trusted so far that the refined model lies as far from theirs as their error bars then say.
        """
        grid = np.linspace(math.log(least), 0.0, 61)
        best = int(np.argmax([self.log_evidence(math.exp(x)) for x in grid]))
        if best in (0, len(grid) - 1):
            return math.exp(grid[best])
        found = minimize_scalar(
            lambda x: -self.log_evidence(math.exp(x)), bounds=(grid[best - 1], grid[best + 1]), method="bounded"
        )
        return math.exp(float(found.x))

    def null_space(self, relative: float = 1e-9) -> Tensor:
        """Directions of v without any curvature, as columns (W, j): there the frames carry no information."""
        values, vectors, _ = self.modes
        largest = float(values.max()) if len(values) else 0.0
        return vectors[:, values <= relative * largest] if largest > 0.0 else vectors


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


__all__ = ["Quadratic", "movable_directions", "open_weights"]
