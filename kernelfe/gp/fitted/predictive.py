"""Held-out labels of a frame taken together: the density a model gives them, its own error and their noise included."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ... import functionals
from ...errors import DataError
from ..correlated_noise.model import noise_covariance
from ..observations.labels import baseline_rows
from ..posterior import predict_mean
from ..prior.rows import frame_chunks


@dataclass(frozen=True, eq=False)
class JointPredictive:
    """Predictive density of the labels of frames.

    Attributes
    ----------
    log_density
        (n,), ln N(y; prediction, V + Σ) of all labels of each frame together, V the posterior covariance of what they
        read and Σ their noise. It depends on the units of the labels: compare models, not label kinds.
    mahalanobis2
        (n,), (y − prediction)ᵀ (V + Σ)⁻¹ (y − prediction); ``labels`` on average when covariances are right.
    labels
        Numbers per frame.
    """

    log_density: np.ndarray
    mahalanobis2: np.ndarray
    labels: int


def joint_predictive(model: Any, frames, kinds=None, kept=None) -> JointPredictive:
    """Joint predictive density of the labels of each frame.

    Parameters
    ----------
    model
        A fitted model of one molecule that learned the noise of ``kinds``.
    frames
        n frames not used in training, each with all the labels.
    kinds
        Label kinds; None: all whose noise the model learned.
    kept
        Mask (M,) of the numbers of a frame to look at, kind after kind; None: all. Leave redundant ones out (the
        forces on one bead, where those on all add up to zero): their covariance is singular.

    Raises
    ------
    DataError
        If a label is missing, or the covariance of a frame's labels is singular.
    """
    kinds = list(model.noise.levels) if kinds is None else list(kinds)
    for kind in kinds:
        if kind not in frames.labels or not frames.present[kind].all():
            raise DataError(f"not every frame has a label {kind!r}: choose frames or kinds")
    y = torch.from_numpy(np.concatenate([np.asarray(frames.labels[k]).reshape(len(frames), -1) for k in kinds], 1))
    m = y.shape[1]
    mask = torch.ones(m, dtype=torch.bool) if kept is None else torch.as_tensor(np.asarray(kept, bool))
    if mask.shape != (m,):
        raise DataError(f"kept has shape {tuple(mask.shape)}, expected one entry per number of a frame, ({m},)")
    posterior, density, square = model.posterior, [], []
    with torch.no_grad():
        for start, stop in frame_chunks(len(frames), max(1, posterior.covariance_rows // m)):
            part = frames[start:stop]
            n = len(part)
            states = model.states(part)
            read = [functionals.get(kind) for kind in kinds]
            rows = [posterior.prior.rows(functional, states) for functional in read]
            means = [
                (predict_mean(posterior, r) + baseline_rows(model.baseline, f, states)).reshape(n, -1)
                for r, f in zip(rows, read, strict=True)
            ]
            blocks: list[list[torch.Tensor]] = [[torch.empty(0)] * len(rows) for _ in rows]
            for i, a in enumerate(rows):
                for j, b in enumerate(rows[: i + 1]):
                    full = posterior.covariance(a, b).reshape(n, a.components, n, b.components)
                    blocks[i][j] = full.diagonal(dim1=0, dim2=2).permute(2, 0, 1)
                    blocks[j][i] = blocks[i][j].mT
            covariance = torch.cat([torch.cat(row, 2) for row in blocks], 1)
            noise = torch.from_numpy(noise_covariance(model, part, kinds)).to(covariance)
            covariance = (covariance + noise)[:, mask][:, :, mask]
            residual = (y[start:stop].to(covariance) - torch.cat(means, 1))[:, mask, None]
            lower, info = torch.linalg.cholesky_ex(covariance)
            if bool(info.any()):
                raise DataError("the covariance of a frame's labels is singular: leave redundant ones out with kept=")
            z = torch.linalg.solve_triangular(lower, residual, upper=False)[:, :, 0]
            logdet = 2.0 * lower.diagonal(dim1=1, dim2=2).log().sum(1)
            square.append((z**2).sum(1))
            density.append(-0.5 * (square[-1] + logdet + int(mask.sum()) * np.log(2.0 * np.pi)))
    return JointPredictive(torch.cat(density).cpu().numpy(), torch.cat(square).cpu().numpy(), int(mask.sum()))
