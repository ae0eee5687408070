"""Likelihood of the positions of frames, estimated from samples of a model.

Everything is in whitened coordinates v = Lᵀ(w − μ) of the weights, in which the posterior of the linear labels is a
standard normal distribution.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class SideData:
    """Frames at one temperature, divided by the side of the slowest torsion.

    Parameters
    ----------
    means
        L⁻¹ f̄_s, the mean whitened features of the frames on side 0 and on side 1; None for a side without frames.
    counts
        (2,), frames on each side.
    inefficiency
        Statistical inefficiencies of the density on side 0, on side 1, and of the populations of the sides.
    silent
        Sides whose samples are left out, since the frames carry no information about them.
    """

    means: list[Tensor | None]
    counts: np.ndarray
    inefficiency: tuple[float, float, float]
    silent: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class Ensemble:
    """Samples of the model with weights ``origin`` at one temperature, in whitened coordinates v = Lᵀ(w − μ).

    The log likelihood is Σ_s c_s n_s [−w·(f̄_s − f̄)/kT − ln Z_s] + c Σ_s n_s [ln Z_s − ln Z]: the density within each
    side of the slowest torsion, and the populations of the sides, c ≤ c_s. Equal c make it that of the whole density.
    """

    kt: float
    features: Tensor  # L⁻¹(f − f̄) of the samples, f̄ that of all frames; shape (S, W)
    side: Tensor  # (S,)
    gap: list[Tensor | None]  # L⁻¹(f̄_s − f̄), None for a side without frames
    within: tuple[float, float]  # c_s n_s
    between: tuple[float, float]  # c n_s
    origin: Tensor

    def objective(self, v: Tensor) -> Tensor:
        """Minus the log likelihood estimated from the samples, up to a constant."""
        exponents = self.exponents(v)
        out = sum(self.between) * torch.logsumexp(exponents, 0)
        for side in (0, 1):
            gap = self.gap[side]
            if gap is None or not bool((self.side == side).any()):
                continue
            log_z = torch.logsumexp(exponents[self.side == side], 0)
            out = out + self.within[side] * (log_z + v @ gap / self.kt) - self.between[side] * log_z
        return out

    def curvature(self, v: Tensor, samples: int = 1000) -> Tensor:
        """Second derivatives of the objective, from at most ``samples`` samples."""
        every = -(-len(self.features) // samples)
        exponents, side, f = self.exponents(v)[::every], self.side[::every], self.features[::every]
        out = sum(self.between) * _covariance(f, exponents)
        for s in (0, 1):
            weight = self.within[s] - self.between[s]
            if weight > 0.0 and bool((side == s).any()):
                out += weight * _covariance(f[side == s], exponents[side == s])
        return out / self.kt**2

    def covers_frames(self, least: int) -> bool:
        """True if at least so many samples visit every side that frames visit."""
        return all(gap is None or int((self.side == side).sum()) >= least for side, gap in enumerate(self.gap))

    def exponents(self, v: Tensor) -> Tensor:
        """−(v − origin)·f/kT of every sample: reweighting to v."""
        return (self.features @ (v - self.origin)) / -self.kt

    def effective_fraction(self, step: Tensor) -> float:
        """Effective share of the samples after reweighting by a step from the origin."""
        p = torch.softmax(self.features @ step / -self.kt, 0)
        return float(1.0 / (p @ p)) / len(p)


def weighted_ensemble(
    kt: float, features: Tensor, side: np.ndarray, data: SideData, independent: float, origin: Tensor
) -> Ensemble:
    """Samples of one temperature with the weights of the parts of the likelihood.

    Parameters
    ----------
    kt
        eV.
    features, side
        Whitened features (S, W) of the samples, and their sides (S,).
    data
        The frames at this temperature.
    independent
        Independent samples among the S.
    origin
        (W,), weights of the model that was sampled.
    """
    counts, g, total = data.counts, data.inefficiency, int(data.counts.sum())
    mean = sum(int(n) / total * f for n, f in zip(counts, data.means, strict=True) if f is not None)
    shares = [max(float(np.mean(side == s)), 1.0 / len(side)) for s in (0, 1)]
    # averages of frames and of samples are compared: their variances add
    within = [1.0 / (g[s] / n + 1.0 / (independent * shares[s])) if n else 0.0 for s, n in enumerate(counts)]
    each = min([1.0 / (g[2] + total / independent), *(w / n for w, n in zip(within, counts, strict=True) if n)])
    keep = torch.from_numpy(~np.isin(side, list(data.silent)))
    if not bool(keep.any()):  # the model has left the frames: all of its samples are then evidence
        keep = torch.ones_like(keep)
    return Ensemble(
        kt,
        (features - mean)[keep],
        torch.from_numpy(side)[keep],
        [None if f is None else f - mean for f in data.means],
        (within[0], within[1]),
        (each * int(counts[0]), each * int(counts[1])),
        origin,
    )


def maximum(v: Tensor, ensembles: list[Ensemble]) -> Tensor:
    """Most probable v, estimated from the samples."""
    v = v.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS([v], max_iter=60, history_size=20, tolerance_grad=1e-3, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        optimizer.zero_grad()
        out = 0.5 * (v @ v)
        for ensemble in ensembles:
            out = out + ensemble.objective(v)
        out.backward()
        return out

    optimizer.step(objective)
    return v.detach()


def trusted_step(step: Tensor, ensembles: list[Ensemble], trusted: float) -> tuple[float, float]:
    """Largest share of a step, in factors of 0.8, that leaves the share ``trusted`` of the samples effective.

    Returns
    -------
    float, float
        The share of the step, and the effective share of the samples there.
    """
    share = 1.0
    while True:
        effective = min(ensemble.effective_fraction(share * step) for ensemble in ensembles)
        if effective >= trusted or share < 1e-3:
            return share, effective
        share *= 0.8


def refined_precision(lower: Tensor, v: Tensor, ensembles: list[Ensemble], samples: int) -> Tensor:
    """Cholesky factor of Λ + Σ curvatures, from that of Λ; curvatures from at most ``samples`` samples each."""
    precision = torch.eye(len(v), dtype=v.dtype)
    for ensemble in ensembles:
        precision += ensemble.curvature(v, samples)
    return lower @ torch.linalg.cholesky(precision)


def _covariance(f: Tensor, exponents: Tensor) -> Tensor:
    """Covariance of features under samples of these log weights."""
    p = torch.softmax(exponents, 0)
    f = (f - p @ f) * p.sqrt()[:, None]
    return f.T @ f
