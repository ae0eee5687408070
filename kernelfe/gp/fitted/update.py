"""Conditioning a fitted model on more labels, without fitting it again.

With hyperparameters, inducing environments and baseline as they are, a Gaussian posterior takes more labels exactly:
the Cholesky factor of a dense model grows by the new rows, an iterative one solves again from its present solution, Λ
and b of a sparse one grow by the new normal equations,

    Λ' = Λ + Σ ψψᵀ/σ²,   b' = Λμ + Σ ψ y/σ².

The result is what conditioning on all labels at once gives (a sparse model keeps its inducing environments, so it can
resolve new places only as far as these reach).
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from ...errors import DataError
from ...frames import Frames
from ...linalg import CONDITION_LIMIT, Conditioning, precision_condition
from ...linalg.normal import Stacked
from ..observations import assemble
from ..observations.labels import LabelSet
from ..observations.levels import NoiseLevels
from ..solvers.dense import DensePosterior
from ..solvers.iterative.posterior import IterativePosterior
from ..solvers.sparse.posterior import SparsePosterior, by_rows
from ..solvers.sparse.streaming import accumulate


def condition(model, frames: Frames, labels=None, noise=None):
    """A model conditioned on more labels; the one passed in is left as it was.

    Parameters
    ----------
    model
        A fitted :class:`~kernelfe.FreeEnergyRegressor`.
    frames
        Configurations of the same molecule with new labels. Temperatures may be new.
    labels
        Label kinds to condition on; None: all that are present.
    noise
        Standard deviations by label kind, overriding those of the Frames. Kinds without any take the level that the
        fit learned.

    Returns
    -------
    FreeEnergyRegressor

    Raises
    ------
    DataError
        If the frames are of another molecule, a kind of label has no noise that is given or was learned, or the model
        is one of several molecules, of correlated noise, or conditioned on a density or on C ≥ 0.
    SolverError
        If the new labels contradict each other beyond their noise in float64.
    """
    check_is_fitted(model, "posterior_")
    if not isinstance(frames, Frames):
        raise DataError(f"frames must be kernelfe.Frames, not {type(frames).__name__}")
    if model.molecules_ is not None:
        raise DataError("the model is one of several molecules: fit it again with the new frames")
    if model.noise_model_ is not None:
        raise DataError("the model knows noise that is correlated, which new labels must share: fit it again with them")
    model.check_frames(frames)
    if model.density_ is not None:
        raise DataError("the model is conditioned on a density, which more labels would change: condition before that")
    if model.concave_:
        raise DataError("the model is conditioned on C ≥ 0, which more labels would change: condition before that")
    own = (model.baseline_, model.composition_.counts, model.molecule_)
    device = model.posterior_.prior.device
    sets = [label.to(device) for label in assemble.label_sets(frames, labels, noise, *own)]
    known = NoiseLevels.of(model.noise_, model.noise_temperature_).to(device)
    for label in sets:
        if label.learned and label.kind not in known.kinds:
            raise DataError(f"labels of kind {label.kind!r} have no noise: the fit learned none, give noise=")
    out = copy.copy(model)
    if isinstance(model.posterior_, (DensePosterior, IterativePosterior)):
        out.posterior_ = model.posterior_.extended(sets)
    else:
        out.posterior_ = _extended(model.posterior_, sets, known, model.solver_.block_rows)
    out.log_evidence_ = out.posterior_.log_evidence
    out.temperatures_ = sorted({*model.temperatures_, *np.unique(frames.temperature).tolist()})
    out.zero_known_ = model.zero_known_ or any(label.kind == "free_energy" for label in sets)
    if model.domain_ is not None:
        out.domain_ = model.domain_.extended(frames)
    return out


@torch.no_grad()
def _extended(posterior: SparsePosterior, labels: list[LabelSet], noise: NoiseLevels, rows: int) -> SparsePosterior:
    """By normal equations where both posteriors are well-conditioned, else by orthogonal factorization of the rows."""
    if precision_condition(posterior.lower) <= CONDITION_LIMIT:
        out = _by_sums(posterior, accumulate(posterior.basis, labels, rows), noise)
        if out is not None:
            return out
    return by_rows(posterior.basis, labels, noise, rows, before=posterior)


def _by_sums(posterior: SparsePosterior, stacked: Stacked, noise: NoiseLevels) -> SparsePosterior | None:
    variances = posterior.prior.variances()
    levels = noise.levels(stacked.kinds, stacked.temperature) ** 2
    added, b = stacked.precision(variances, levels)  # I + Σ ψψᵀ/σ²
    added.diagonal().sub_(1.0)
    before = posterior.lower @ (posterior.lower.T @ posterior.weights)
    lower, info = torch.linalg.cholesky_ex(torch.addmm(added, posterior.lower, posterior.lower.T))
    if int(info) or not precision_condition(lower) <= CONDITION_LIMIT:
        return None
    weights = torch.cholesky_solve((before + b)[:, None], lower)[:, 0]
    out = SparsePosterior(posterior.basis, weights, lower)
    gain = 0.5 * (weights @ (before + b)) - lower.diagonal().log().sum()
    gain = gain - 0.5 * (posterior.weights @ before) + posterior.lower.diagonal().log().sum()
    out.log_evidence = posterior.log_evidence + float(gain + stacked.log_norm(variances, levels))
    out.conditioning = Conditioning("cholesky", precision_condition(lower))
    return out
