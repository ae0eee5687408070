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

from ...errors import DataError
from ...frames import Frames
from ..observations.assemble import label_sets
from ..observations.levels import NoiseLevels
from ..observations.whole import left_out, warn_left_out


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
    broken = left_out(frames)
    warn_left_out(broken)
    sets = label_sets(frames, labels, noise, model.baseline, counts, molecule, without=broken)
    sets = [label.to(device) for label in sets]
    known = NoiseLevels.of(model.noise.levels, model.noise.reference).to(device)
    for label in sets:
        if label.learned and label.kind not in known.kinds:
            raise DataError(f"labels of kind {label.kind!r} have no noise: the fit learned none, give noise=")
    temperatures = tuple(sorted({*provenance.temperatures, *np.unique(frames.temperature).tolist()}))
    return replace(
        model,
        posterior=model.posterior.extended(sets, known),
        provenance=replace(provenance, temperatures=temperatures),
        molecules=model.molecules.extended(any(label.kind == "free_energy" for label in sets)),
        domain=None if model.domain is None else model.domain.extended(frames[~broken]),
    )
