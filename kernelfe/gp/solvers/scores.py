"""Error bars from the scatter of whole frames: the covariance of the frames' scores in place of assumed noise.

The labels of a frame are not independent: forces of hydrogen-bonded partners are nearly opposite, and frames follow
each other in time. The mean of the posterior hardly depends on it, its covariance does: with independent noise the
variance of the pressure that forces leave open comes out too large, and that of forces too small. With s_n =
Σ_i ψ_i r_i/σ_i² the gradient of the log likelihood of frame n at the posterior mean, and Λ = 1 + Σψψᵀ/σ² its assumed
precision, the covariance

    Λ⁻¹ (1 + J) Λ⁻¹,   J = Σ_n s_n s_nᵀ,

is right whatever the correlations within a frame are (White, Econometrica 50, 1, 1982; as a posterior: Müller,
Econometrica 81, 1805, 2013). J of few frames has a low rank: it is shrunk towards a multiple of Σψψᵀ/σ². Successive
frames are correlated as well, energies and pressures longer than forces: s_n = Σ_X √g_X s_nX with the statistical
inefficiency g_X of the scores of every label kind X.
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
        g of every label kind, at least 1.
    shrinkage
        Share of the assumed covariance in J, 0 to 1.
    ratio
        Trace of J over that of the assumed covariance: 1 if labels are as independent as assumed.
    """

    frames: int
    inefficiency: dict[str, float]
    shrinkage: float
    ratio: float

    def __str__(self) -> str:
        slow = ", ".join(f"{kind} {g:.2f}" for kind, g in self.inefficiency.items())
        return (
            f"error bars from the scatter of {self.frames} frames (inefficiency: {slow}; "
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
    if len(temperature) < FEWEST_FRAMES:
        return None
    lower, inefficiency = posterior.lower, {}
    white = torch.zeros(len(temperature), len(lower)).to(lower)
    for kind, (rows, own) in scores.items():
        part = torch.linalg.solve_triangular(lower, own.T, upper=False).T  # L⁻¹ s_n
        inefficiency[kind] = statistical_inefficiency(part, temperature[rows])
        white[rows] += inefficiency[kind] ** 0.5 * part
    inverse = torch.linalg.solve_triangular(lower, torch.eye(len(lower)).to(lower), upper=False)
    prior = inverse @ inverse.T  # L⁻¹ 1 L⁻ᵀ
    assumed = torch.eye(len(lower)).to(lower) - prior
    measured, shrinkage = shrunk(white - white.mean(0), assumed)
    middle = prior + measured
    # Σ = L⁻ᵀ M L⁻¹, so that its inverse is L M⁻¹ Lᵀ
    root = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(middle)))
    ratio = float(measured.trace() / assumed.trace())
    return posterior.with_weights(posterior.weights, lower @ root), Scatter(
        len(temperature), inefficiency, shrinkage, ratio
    )


def frame_scores(
    posterior: SparsePosterior, labels: list[LabelSet], levels: NoiseLevels
) -> tuple[dict[str, tuple[Tensor, Tensor]], Tensor]:
    """Scores of every label kind, and the temperatures of all frames, (n,), in their order.

    Returns
    -------
    dict, Tensor
        By kind: numbers of the frames that have it, ascending, (m,), and s_nX, (m, W).
    """
    where = torch.unique(torch.cat([label.frame for label in labels]))  # type: ignore[misc]
    temperature = posterior.weights.new_zeros(len(where))
    found: dict[str, Tensor] = {}
    for label in labels:
        out = found.setdefault(label.kind, temperature.new_zeros(len(where), len(posterior.weights)))
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
    present = {kind: torch.nonzero(out.abs().amax(1) > 0)[:, 0] for kind, out in found.items()}
    return {kind: (rows, found[kind][rows]) for kind, rows in present.items()}, temperature


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

    The sum ends where ρ falls below ``least``, or below 1.5 times its own standard error, which is smaller the more
    components there are.
    """
    size = float(scores.square().mean()) or 1.0
    covariance = scores.T @ scores
    directions = float(covariance.trace() ** 2 / covariance.square().sum()) if len(scores) else 1.0
    least = max(least, 1.5 / (max(1.0, directions) * max(1, len(scores))) ** 0.5)
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
