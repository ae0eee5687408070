"""From label sets to a posterior: hyperparameters by the evidence, conditioning, and alternately correlated noise."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .correlated_noise.estimate import estimate, starting_levels, weigh_by_time
from .correlated_noise.model import FittedNoise
from .observations.labels import WHITENED, LabelSet
from .observations.levels import NoiseLevels
from .observations.noise import CorrelatedNoise
from .posterior import Posterior
from .prior.prior import Prior
from .solvers.base import Run, Solver


@dataclass
class Conditioned:
    """Posterior, learned noise levels and, with correlated noise, the initial levels."""

    posterior: Posterior
    levels: NoiseLevels
    noise: FittedNoise | None = None
    first: NoiseLevels | None = None


def condition_in_turn(
    spec: CorrelatedNoise | None, solver: Solver, prior: Prior, labels: list[LabelSet], levels: NoiseLevels, run: Run
) -> Conditioned:
    """The posterior by a solver; with ``spec``, correlated noise and posterior are then fitted alternately.

    Parameters
    ----------
    spec
        Correlated noise, or None.
    solver
        The solver.
    prior, levels
        Hyperparameters, fitted in place if ``run.evidence``.
    labels
        All labels.
    run
        The circumstances of the fit; its checkpoints are cleared at the end.
    """
    free = [p.requires_grad for p in prior.parameters()]
    found = Conditioned(solver.fit(prior, labels, levels, run), levels)
    first = levels
    for _ in range(0 if spec is None else spec.rounds):
        assert spec is not None
        noise = estimate(spec, labels, found.posterior, found.levels, found.noise)
        changed = [replace(label) for label in noise.transformed(labels, found.posterior)]
        noise = replace(noise, inefficiency=weigh_by_time(spec, changed, found.posterior, noise.layout))
        start = starting_levels(changed, found.levels)
        exponent = levels.exponent.requires_grad
        levels = NoiseLevels(start, levels.reference, exponent=exponent)
        if not run.evidence:
            levels = _kept(levels, found.levels)
        for parameter, was in zip(prior.parameters(), free, strict=True):
            parameter.requires_grad_(was)
        found = Conditioned(solver.fit(prior, changed, levels, run), levels, noise, first)
    run.complete()
    return found


def _kept(levels: NoiseLevels, before: NoiseLevels) -> NoiseLevels:
    """Levels and exponents of kinds that were known before, for a fit without evidence."""
    known = before.values()
    values = {kind: known.get(kind, (level, 0.0)) for kind, (level, _) in levels.values().items()}
    return NoiseLevels.of(values, levels.reference)


def natural_levels(found: Conditioned) -> dict[str, tuple[float, float]]:
    """(σ₀, p) by kind of label as they were given: the marginal noise, root mean square over components."""
    values, noise = found.levels.values(), found.noise
    if noise is None or found.first is None:
        return values
    # of transformed labels the levels are those of numbers that the Frames do not have
    out = {kind: values.get(kind, value) for kind, value in found.first.values().items()}
    if noise.layout is not None and noise.spec.within_frame:
        level, p = values[WHITENED + noise.layout.name]
        for kind in noise.layout.kinds:
            at = noise.layout.columns([kind])
            out[kind] = (level * float(noise.covariance.diagonal()[at].mean().sqrt()), noise.exponents[int(at[0])] + p)
    return out
