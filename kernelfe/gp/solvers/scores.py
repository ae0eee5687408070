"""Error bars from the scatter of whole frames: the covariance of the frames' scores in place of assumed noise.

The labels of a frame are not independent: forces of hydrogen-bonded partners are nearly opposite, and frames follow
each other in time. The mean of the posterior hardly depends on it, its covariance does: with independent noise the
variance of the pressure of a liquid comes out two to three times too large. With s_n = Σ_i ψ_i r_i/σ_i² the gradient of
the log likelihood of frame n at the posterior mean, and Λ = 1 + Σψψᵀ/σ² its assumed precision, the covariance

    Λ⁻¹ (1 + g J) Λ⁻¹,   J = Σ_n s_n s_nᵀ,

is right whatever the correlations within a frame are (White, Econometrica 50, 1, 1982; as a posterior: Müller,
Econometrica 81, 1805, 2013). J of few frames has a low rank: it is shrunk towards a multiple of Σψψᵀ/σ². g is the
statistical inefficiency of the scores along time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..observations.labels import LabelSet
from ..observations.levels import NoiseLevels
from ..prior.rows import frame_chunks
from .sparse.posterior import SparsePosterior

#: Least number of frames whose scatter means something.
FEWEST_FRAMES = 20


@dataclass(frozen=True)
class Scatter:
    """How error bars follow from the scatter of frames.

    Parameters
    ----------
    frames
        Number of frames.
    inefficiency
        g, at least 1.
    shrinkage
        Share of the assumed covariance in J, 0 to 1.
    ratio
        Trace of J over that of the assumed covariance: 1 if labels are as independent as assumed.
    """

    frames: int
    inefficiency: float
    shrinkage: float
    ratio: float

    def __str__(self) -> str:
        return (
            f"error bars from the scatter of {self.frames} frames (inefficiency {self.inefficiency:.2f}, "
            f"shrinkage {self.shrinkage:.2f}, {self.ratio:.2f} times the variance of independent labels)"
        )


@torch.no_grad()
def by_scatter(
    posterior: SparsePosterior, labels: list[LabelSet], levels: NoiseLevels
) -> tuple[SparsePosterior, Scatter] | None:
    """The posterior with the covariance of frames, and how it was made.

    Parameters
    ----------
    posterior
        Of all labels, with independent noise.
    labels
        The same labels; streamed once more.
    levels
        Learned noise levels.

    Returns
    -------
    SparsePosterior, Scatter
        None with too few frames, or labels that do not say which frame they belong to.
    """
    if any(label.frame is None for label in labels):
        return None
    scores, temperature = frame_scores(posterior, labels, levels)
    if len(scores) < FEWEST_FRAMES:
        return None
    lower = posterior.lower
    white = torch.linalg.solve_triangular(lower, scores.T, upper=False).T  # L⁻¹ s_n
    inefficiency = statistical_inefficiency(white, temperature)
    inverse = torch.linalg.solve_triangular(lower, torch.eye(len(lower)).to(lower), upper=False)
    prior = inverse @ inverse.T  # L⁻¹ 1 L⁻ᵀ
    assumed = torch.eye(len(lower)).to(lower) - prior
    measured, shrinkage = shrunk(white - white.mean(0), assumed)
    middle = prior + inefficiency * measured
    # Σ = L⁻ᵀ M L⁻¹, so that its inverse is L M⁻¹ Lᵀ
    root = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(middle)))
    ratio = float(measured.trace() / assumed.trace())
    return posterior.with_weights(posterior.weights, lower @ root), Scatter(len(scores), inefficiency, shrinkage, ratio)


def frame_scores(posterior: SparsePosterior, labels: list[LabelSet], levels: NoiseLevels) -> tuple[Tensor, Tensor]:
    """Scores s_n of all frames, (n, W), and their temperatures, (n,), in the order of the frames."""
    where = torch.unique(torch.cat([label.frame for label in labels]))  # type: ignore[misc]
    out = posterior.weights.new_zeros(len(where), len(posterior.weights))
    temperature = out.new_zeros(len(where))
    for label in labels:
        assert label.frame is not None
        place = torch.searchsorted(where, label.frame)
        temperature[place] = label.states.temperature
        m = label.y.shape[1]
        for start, stop in frame_chunks(len(label.y), max(1, posterior.block_rows // m)):
            part = torch.arange(start, stop, device=out.device)
            rows = label.rows(posterior.prior, part)
            whiten = label.noise.whitening(part, m)
            features = whiten(posterior.features(rows))
            rest = whiten(label.y[part].reshape(-1) - rows.prior_mean) - features @ posterior.weights
            own = (features * rest[:, None]).view(stop - start, m, -1).sum(1)
            level = levels.levels([label.noise_kind] * len(part), label.states.temperature[part])
            out.index_add_(0, place[part], own / level[:, None] ** 2)
    return out, temperature


def shrunk(scores: Tensor, assumed: Tensor) -> tuple[Tensor, float]:
    """Σ s sᵀ of centred scores, (n, W), shrunk towards a multiple of what was assumed, (W, W), and the latter's share.

    Along any fixed direction the sum is unbiased, with the relative error √(2/n), but of n frames it spans n directions
    at most. With d directions that the labels determine, the trace of ``assumed``, the share is d/(n + d).
    """
    n = len(scores)
    total = scores.T @ scores * (n / (n - 1.0))
    share = float(assumed.trace() / (n + assumed.trace()))
    return (1.0 - share) * total + share * assumed * (total.trace() / assumed.trace()), share


def statistical_inefficiency(scores: Tensor, temperature: Tensor, least: float = 0.02, lags: int = 50) -> float:
    """g = 1 + 2 Σ ρ_l of the scores of successive frames at the same temperature, all components together.

    The sum ends where ρ falls below ``least``.
    """
    size = float(scores.square().mean()) or 1.0
    total = 1.0
    for lag in range(1, min(lags, len(scores) // 2)):
        same = temperature[lag:] == temperature[:-lag]
        if not bool(same.any()):
            break
        rho = float((scores[lag:] * scores[:-lag])[same].mean()) / size
        if rho < least:
            break
        total += 2.0 * rho
    return total
