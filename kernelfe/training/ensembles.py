"""Likelihood of the positions of frames, estimated from samples of models.

Everything is in whitened coordinates v = Lᵀ(w − μ) of the weights, in which the posterior of the linear labels is a
standard normal distribution. Minus the log posterior of the weights is ½|v|² plus, for each temperature, minus the log
likelihood of its frames, which contains ln Z of the model:

* :class:`Ensemble` estimates it for any v from the samples of several models, which proposes steps;
* :func:`gained` measures the change between two models that were both sampled, with its error, which decides them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..statistics.bennett import bennett


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

    @property
    def mean(self) -> Tensor:
        """L⁻¹ f̄ of all frames."""
        total = int(self.counts.sum())
        parts = [int(n) / total * f for n, f in zip(self.counts, self.means, strict=True) if f is not None]
        return torch.stack(parts).sum(0)


@dataclass(frozen=True)
class Likelihood:
    """Weights of the parts of the log likelihood of the frames at one temperature; the same for all models.

    It is Σ_s c_s n_s [−w·(f̄_s − f̄)/kT − ln Z_s] + c Σ_s n_s [ln Z_s − ln Z]: the density within each side of the
    slowest torsion, and the populations of the sides, c ≤ c_s. Equal c make it that of the whole density.

    Parameters
    ----------
    kt
        eV.
    within, between
        c_s n_s and c n_s of the sides.
    gap
        L⁻¹(f̄_s − f̄), None for a side without frames.
    """

    kt: float
    within: tuple[float, float]
    between: tuple[float, float]
    gap: list[Tensor | None]

    @classmethod
    def of(cls, kt: float, data: SideData, independent: float) -> Likelihood:
        """Weights by the independent frames, and by the ``independent`` samples of a model at the maximum.

        Averages of frames and of samples are compared, and their variances add. At the maximum the samples are divided
        among the sides as the frames are; the first model may have left a side nearly empty.
        """
        counts, g, total, mean = data.counts, data.inefficiency, int(data.counts.sum()), data.mean
        within = [1.0 / (g[s] / n + total / (independent * n)) if n else 0.0 for s, n in enumerate(counts)]
        between = [w / n for w, n in zip(within, counts, strict=True) if n]
        each = min([1.0 / (g[2] + total / independent), *between])
        return cls(
            kt,
            (within[0], within[1]),
            (each * int(counts[0]), each * int(counts[1])),
            [None if f is None else f - mean for f in data.means],
        )

    @property
    def weight(self) -> float:
        """Frames that the likelihood counts."""
        return max(sum(self.within), sum(self.between))


@dataclass(frozen=True)
class Samples:
    """Samples of the model at ``origin``, at one temperature.

    Parameters
    ----------
    features
        L⁻¹(f − f̄) of the samples, f̄ that of all frames; (S, W).
    side, replica
        (S,).
    replicas
        Their number.
    independent
        Independent samples among the S.
    origin
        (W,), the model that was sampled.
    """

    features: Tensor
    side: Tensor
    replica: Tensor
    replicas: int
    independent: float
    origin: Tensor

    @classmethod
    def of(
        cls, features: Tensor, side: np.ndarray, replicas: int, independent: float, origin: Tensor, silent: set[int]
    ) -> Samples:
        """Samples (samples · replicas, in this order) without those on the ``silent`` sides, if any others are left."""
        keep = torch.from_numpy(~np.isin(side, list(silent)))
        if not bool(keep.any()):  # the model has left the frames: all of its samples are then evidence
            keep = torch.ones_like(keep)
        number = torch.arange(len(features)) % replicas
        return cls(features[keep], torch.from_numpy(side)[keep], number[keep], replicas, independent, origin)

    def work(self, step: Tensor, kt: float) -> Tensor:
        """Change of the reduced potential of every sample by a step of the weights."""
        return self.features @ step / kt

    def effective_fraction(self, step: Tensor, kt: float) -> float:
        """Effective share of the samples after reweighting by a step from the origin."""
        p = torch.softmax(-self.work(step, kt), 0)
        return float(1.0 / (p @ p)) / len(p)

    def covers_frames(self, likelihood: Likelihood, least: int) -> bool:
        """True if at least so many samples visit every side that frames visit."""
        return all(g is None or int((self.side == s).sum()) >= least for s, g in enumerate(likelihood.gap))


@dataclass(frozen=True)
class Ensemble:
    """Samples of one or several models at one temperature, joined as MBAR joins them.

    Parameters
    ----------
    likelihood
        What is estimated from them.
    features, side
        Those of all samples.
    log_weight
        (S,), minus the log density that they were all drawn from, in units of that of the model at v = 0.
    """

    likelihood: Likelihood
    features: Tensor
    side: Tensor
    log_weight: Tensor

    @classmethod
    def of(cls, likelihood: Likelihood, rounds: list[Samples], free: list[float]) -> Ensemble:
        """Join the samples of several models, ``free`` their −ln Z."""
        features = torch.cat([one.features for one in rounds])
        reduced = features @ torch.stack([one.origin for one in rounds], 1) / likelihood.kt
        log_counts = torch.tensor([len(one.features) for one in rounds], dtype=reduced.dtype).log()
        mixture = torch.logsumexp(torch.as_tensor(free, dtype=reduced.dtype) + log_counts - reduced, 1)
        return cls(likelihood, features, torch.cat([one.side for one in rounds]), -mixture)

    def exponents(self, v: Tensor) -> Tensor:
        """Log weights of the samples for the model at v."""
        return self.log_weight - self.features @ v / self.likelihood.kt

    def objective(self, v: Tensor) -> Tensor:
        """Minus the log likelihood estimated from the samples, up to a constant."""
        exponents, parts = self.exponents(v), self.likelihood
        out = sum(parts.between) * torch.logsumexp(exponents, 0)
        for side, gap in enumerate(parts.gap):
            if gap is None or not bool((self.side == side).any()):
                continue
            log_z = torch.logsumexp(exponents[self.side == side], 0)
            out = out + parts.within[side] * (log_z + v @ gap / parts.kt) - parts.between[side] * log_z
        return out

    def curvature_factor(self, v: Tensor, samples: int = 1000) -> Tensor:
        """B (rows, W) with BᵀB the second derivatives of the objective, from at most ``samples`` samples."""
        every, parts = -(-len(self.features) // samples), self.likelihood
        exponents, side, f = self.exponents(v)[::every], self.side[::every], self.features[::every]
        weights, masks = [sum(parts.between)], [torch.ones_like(side, dtype=torch.bool)]
        for s in (0, 1):
            if (weight := parts.within[s] - parts.between[s]) > 0.0 and bool((side == s).any()):
                weights.append(weight)
                masks.append(side == s)
        return _deviations(f, exponents, weights, masks) / parts.kt

    def effective(self, v: Tensor) -> float:
        """Effective number of samples for the model at v."""
        p = torch.softmax(self.exponents(v), 0)
        return float(1.0 / (p @ p))


def gained(
    old: Samples, new: Samples, likelihood: Likelihood, least: int
) -> tuple[float, tuple[np.ndarray, np.ndarray], float, float]:
    """Decrease of minus the log likelihood from one sampled model to another, by Bennett's acceptance ratio.

    Returns
    -------
    gain
        Infinite where the new model visits a side of the frames that the old one does not, minus infinity for the
        reverse.
    influence
        Of the replicas of the old and of the new model on the gain; see
        :class:`~kernelfe.statistics.bennett.BennettDifference`.
    difference
        ln Z of the old model − ln Z of the new one.
    overlap
        Of the two ensembles.
    """
    step, kt = new.origin - old.origin, likelihood.kt
    work = old.work(step, kt).numpy(), new.work(step, kt).numpy()
    replica, replicas = (old.replica.numpy(), new.replica.numpy()), (old.replicas, new.replicas)
    whole = bennett(work, replica, replicas)
    gain = sum(likelihood.between) * whole.value
    influence = [sum(likelihood.between) * one for one in whole.influence]
    for s, gap in enumerate(likelihood.gap):
        if gap is None:
            continue
        here = old.side.numpy() == s, new.side.numpy() == s
        known = [int(one.sum()) >= least for one in here]
        if known[0] != known[1]:
            return (np.inf if known[1] else -np.inf), (influence[0], influence[1]), whole.value, whole.overlap
        gain -= likelihood.within[s] * float(step @ gap) / kt
        weight = likelihood.within[s] - likelihood.between[s]
        if not known[0] or weight == 0.0:
            continue
        part = bennett(
            tuple(w[one] for w, one in zip(work, here, strict=True)),  # type: ignore[arg-type]
            tuple(r[one] for r, one in zip(replica, here, strict=True)),  # type: ignore[arg-type]
            replicas,
        )
        gain += weight * part.value
        influence = [all_ + weight * one for all_, one in zip(influence, part.influence, strict=True)]
    return gain, (influence[0], influence[1]), whole.value, whole.overlap


def total_objective(v: Tensor, ensembles: list[Ensemble]) -> Tensor:
    """Minus the log posterior of the weights at v, up to a constant."""
    return torch.stack([0.5 * (v @ v), *(one.objective(v) for one in ensembles)]).sum()


def maximum(v: Tensor, ensembles: list[Ensemble], samples: int = 1000, iterations: int = 30) -> Tensor:
    """Most probable v, estimated from the samples: Newton's method with curvatures from ``samples`` of them."""
    for _ in range(iterations):
        v = v.clone().requires_grad_(True)
        value = total_objective(v, ensembles)
        (gradient,) = torch.autograd.grad(value, v)
        v = v.detach()
        factor = _factor(v, ensembles, samples)
        # (1 + BᵀB)⁻¹ g = g − Bᵀ (1 + BBᵀ)⁻¹ B g: there are fewer rows than weights
        inner = torch.eye(len(factor), dtype=v.dtype) + factor @ factor.T
        solved = torch.cholesky_solve((factor @ gradient)[:, None], torch.linalg.cholesky(inner))[:, 0]
        step = factor.T @ solved - gradient
        slope, share = float(step @ gradient), 1.0
        if slope > -1e-3:  # nats
            break
        while share > 1e-4:
            with torch.no_grad():
                if float(total_objective(v + share * step, ensembles) - value) <= 1e-4 * share * slope:
                    break
            share *= 0.5
        v = v + share * step
    return v.detach()


def trusted_step(step: Tensor, samples: list[Samples], kts: list[float], trusted: float) -> tuple[float, float]:
    """Largest share of a step, in factors of 0.8, that leaves the share ``trusted`` of the samples effective.

    Returns
    -------
    float, float
        The share of the step, and the effective share of the samples there.
    """
    share = 1.0
    while True:
        effective = min(one.effective_fraction(share * step, kt) for one, kt in zip(samples, kts, strict=True))
        if effective >= trusted or share < 1e-3:
            return share, effective
        share *= 0.8


def informed(v: Tensor, ensembles: list[Ensemble], samples: int) -> float:
    """Number of directions that the frames determine: tr[C (1 + C)⁻¹], C the curvature of their likelihood at v."""
    factor = _factor(v, ensembles, samples)
    square = factor @ factor.T if len(factor) <= factor.shape[1] else factor.T @ factor
    values = torch.linalg.eigvalsh(square).clamp_min(0.0)
    return float((values / (1.0 + values)).sum())


def refined_precision(lower: Tensor, v: Tensor, ensembles: list[Ensemble], samples: int) -> Tensor:
    """Cholesky factor of Λ + Σ curvatures, from that of Λ; curvatures from at most ``samples`` samples each."""
    precision = torch.eye(len(v), dtype=v.dtype)
    for ensemble in ensembles:
        factor = ensemble.curvature_factor(v, samples)
        precision += factor.T @ factor
    return lower @ torch.linalg.cholesky(precision)


def _factor(v: Tensor, ensembles: list[Ensemble], samples: int) -> Tensor:
    """B (rows, W) with BᵀB the curvature of the likelihood, from some ``samples`` samples of all ensembles."""
    return torch.cat([one.curvature_factor(v, max(2, samples // len(ensembles))) for one in ensembles])


def _deviations(f: Tensor, exponents: Tensor, weights: list[float], masks: list[Tensor]) -> Tensor:
    """Rows B, as many as samples, with BᵀB = Σ_k c_k Cov_k(f), the covariances under parts of weighted samples.

    With probabilities p_k, D = Σ_k c_k diag(p_k) and the columns u_k = c_k^½ D^-½ p_k, the sum is FᵀD^½ (1 − UUᵀ) D^½F;
    U = XSYᵀ has a few columns only, and 1 − X(1 − (1 − S²)^½)Xᵀ is the root of the bracket.
    """
    c = torch.tensor(weights, dtype=f.dtype)
    p = torch.stack([torch.softmax(torch.where(mask, exponents, -math.inf), 0) for mask in masks], 1)
    root = (p @ c).sqrt()
    x, s, _ = torch.linalg.svd(p * c.sqrt() / root.clamp_min(1e-150)[:, None], full_matrices=False)
    rows = f * root[:, None]
    return rows - (x * (1.0 - (1.0 - s.square()).clamp_min(0.0).sqrt())) @ (x.T @ rows)
