"""Conditioning a fitted model on more labels, without fitting it again.

With hyperparameters, inducing environments and baseline as they are, a Gaussian posterior takes more labels exactly:
the Cholesky factor of a dense model grows by the new rows, an iterative one solves again from its present solution, Λ
and b of a sparse one grow by the new normal equations,

    Λ' = Λ + Σ ψψᵀ/σ²,   b' = Λμ + Σ ψ y/σ².

The result is what conditioning on all labels at once gives (a sparse model keeps its inducing environments, so it can
resolve new places only as far as these reach).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ...errors import DataError
from ...frames import Frames
from ...linalg import CONDITION_LIMIT, Conditioning, precision_condition
from ...linalg.normal import Stacked
from ..observations.assemble import label_sets
from ..observations.labels import LabelSet
from ..observations.levels import NoiseLevels
from ..solvers.dense import DensePosterior
from ..solvers.iterative.posterior import IterativePosterior
from ..solvers.sparse.posterior import SparsePosterior, by_rows
from ..solvers.sparse.streaming import accumulate


def extended(model, frames: Frames, labels=None, noise=None):
    """A :class:`~kernelfe.gp.FreeEnergy` conditioned on more labels; see :func:`kernelfe.gp.condition`."""
    if not isinstance(frames, Frames):
        raise DataError(f"frames must be kernelfe.Frames, not {type(frames).__name__}")
    if not model.molecules.single:
        raise DataError("the model was fitted to several molecules: fit it again with the new frames")
    if model.noise.correlated is not None:
        raise DataError("the model has correlated noise, which new labels must share: fit it again with them")
    model.check_frames(frames)
    provenance, molecule = model.provenance, model.molecules.entries[0].molecule
    if provenance.density is not None:
        raise DataError("the model is conditioned on a density, which more labels would change: condition before that")
    if provenance.concave:
        raise DataError("the model is conditioned on C ≥ 0, which more labels would change: condition before that")
    counts, device = model.molecules.composition.counts, model.posterior.prior.device
    sets = [label.to(device) for label in label_sets(frames, labels, noise, model.baseline, counts, molecule)]
    known = NoiseLevels.of(model.noise.levels, model.noise.reference).to(device)
    for label in sets:
        if label.learned and label.kind not in known.kinds:
            raise DataError(f"labels of kind {label.kind!r} have no noise: the fit learned none, give noise=")
    if isinstance(model.posterior, (DensePosterior, IterativePosterior)):
        posterior = model.posterior.extended(sets)
    else:
        posterior = _extended(model.posterior, sets, known, provenance.solver.block_rows)
    temperatures = tuple(sorted({*provenance.temperatures, *np.unique(frames.temperature).tolist()}))
    return replace(
        model,
        posterior=posterior,
        provenance=replace(provenance, temperatures=temperatures),
        molecules=model.molecules.extended(any(label.kind == "free_energy" for label in sets)),
        domain=None if model.domain is None else model.domain.extended(frames),
    )


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
