"""From label sets to a posterior: hyperparameters by the evidence, conditioning, and noise that is fitted in turn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..runtime.checkpoint import Checkpoint
from ..runtime.processes import Processes
from .correlated_noise.estimate import estimate, starting_levels, weigh_by_time
from .correlated_noise.model import FittedNoise
from .observations.labels import GIVEN, WHITENED, LabelSet
from .observations.levels import NoiseLevels
from .observations.noise import CorrelatedNoise
from .prior.prior import Prior
from .solvers.dense import DensePosterior, fit_dense
from .solvers.iterative.fit import fit_iterative_posterior
from .solvers.resume import fingerprint
from .solvers.sparse.fit import fit_sparse_posterior, random_subsets
from .solvers.specs import Dense, Iterative, Sparse


@dataclass
class Conditioned:
    """What conditioning leaves: posterior, its learned levels, and of correlated noise also those of the first fit."""

    posterior: Any
    levels: NoiseLevels
    noise: FittedNoise | None = None
    first: NoiseLevels | None = None


def condition(
    solver,
    prior: Prior,
    labels: list[LabelSet],
    levels: NoiseLevels,
    rng: np.random.Generator,
    evidence: bool,
    progress: bool = False,
    automatic: bool = False,
    checkpoints: list[Checkpoint] | None = None,
) -> Any:
    """The posterior by one solver; with ``evidence``, ``prior`` and ``levels`` are fitted first, in place.

    ``automatic``: nobody chose the solver, so that a sparse one is compared with the exact answer. ``checkpoints``
    takes what is to be removed when the whole fit is complete.
    """
    checkpoint = None
    if not isinstance(solver, Dense) and solver.checkpoint is not None and checkpoints is not None:
        problem = fingerprint(solver, prior, labels, levels, rng, evidence)
        checkpoint = Checkpoint(solver.checkpoint, Processes.current().gather_bytes(problem.encode())[0].decode())
        checkpoints.append(checkpoint)
    if isinstance(solver, Sparse):
        return fit_sparse_posterior(solver, prior, labels, levels, rng, evidence, progress, automatic, checkpoint)
    if isinstance(solver, Iterative):
        return fit_iterative_posterior(solver, prior, labels, levels, rng, evidence, progress, checkpoint)
    if evidence:
        fit_dense(prior, random_subsets(labels, solver.evidence_rows, rng), levels)
    prior.requires_grad_(False)
    return DensePosterior(prior, labels, levels)


def condition_in_turn(
    spec: CorrelatedNoise | None,
    solver,
    prior: Prior,
    labels: list[LabelSet],
    levels: NoiseLevels,
    rng: np.random.Generator,
    evidence: bool,
    progress: bool = False,
    automatic: bool = False,
) -> Conditioned:
    """As :func:`condition`; with a ``spec`` of correlated noise, noise and posterior are then fitted in turn."""
    free = [p.requires_grad for p in prior.parameters()]
    kept: list[Checkpoint] = []
    found = Conditioned(condition(solver, prior, labels, levels, rng, evidence, progress, automatic, kept), levels)
    first = levels
    for _ in range(0 if spec is None else spec.rounds):
        assert spec is not None
        noise = estimate(spec, labels, found.posterior, found.levels, found.noise)
        changed = [replace(label) for label in noise.transformed(labels, found.posterior)]
        noise = replace(noise, inefficiency=weigh_by_time(spec, changed, found.posterior, noise.layout))
        start = starting_levels(changed, found.levels)
        exponent = levels.exponent.requires_grad
        levels = NoiseLevels(start, levels.reference, exponent=exponent)
        if not evidence:
            levels = _kept(levels, found.levels)
        for parameter, was in zip(prior.parameters(), free, strict=True):
            parameter.requires_grad_(was)
        posterior = condition(solver, prior, changed, levels, rng, evidence, progress, automatic, kept)
        found = Conditioned(posterior, levels, noise, first)
    if kept and Processes.current().first:
        for checkpoint in kept:
            checkpoint.clear()
    return found


def _kept(levels: NoiseLevels, before: NoiseLevels) -> NoiseLevels:
    """Without evidence, kinds that are still there keep level and exponent."""
    known = before.values()
    values = {kind: known.get(kind, (level, 0.0)) for kind, (level, _) in levels.values().items()}
    return NoiseLevels.of(values, levels.reference)


def natural_levels(found: Conditioned) -> dict[str, tuple[float, float]]:
    """(σ₀, p) by kind of label as they were given: the marginal noise, root mean square over components."""
    values, noise = found.levels.values(), found.noise
    out = {kind: value for kind, value in values.items() if not kind.startswith(WHITENED) and GIVEN not in kind}
    if noise is None or found.first is None:
        return out
    out = {**found.first.values(), **out}
    if noise.layout is not None and noise.spec.within_frame:
        level, p = values[WHITENED + noise.layout.name]
        for kind in noise.layout.kinds:
            at = noise.layout.columns([kind])
            out[kind] = (level * float(noise.covariance.diagonal()[at].mean().sqrt()), noise.exponents[int(at[0])] + p)
    return out
