"""The rounds of relative entropy: propose from the samples of all models, sample the proposal, keep it or not."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..arrays import real_array
from ..frames import Frames
from ..protocol import LinearModel
from ..simulate import LangevinProtocol, SamplingError, uniform_masses
from ..specs import Bound, Real, Spec, Whole
from ..units import BOLTZMANN
from .ensembles import (
    Ensemble,
    Likelihood,
    Samples,
    SideData,
    gained,
    informed,
    maximum,
    refined_precision,
    total_objective,
    trusted_step,
)
from .linear import linear_model, trained
from .replicas import Draws, Equilibration, Replicas
from .sides import SlowVariables, missing_sides, side_inefficiencies, slowest_torsion

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RelativeEntropyPlan(Spec):
    """Rounds, replicas and thresholds of :func:`minimize_relative_entropy`.

    Parameters
    ----------
    rounds
        Most rounds of sampling.
    replicas
        Replicas of the model, shared equally by the temperatures; at least two for each.
    trusted
        Share of the samples that reweighting must leave effective; below it the step of a round is shortened.
    settled
        Converged is a model from which further steps promise less than this share of what chance in the frames is
        worth, besides what chance in the samples promises.
    sure
        Standard errors by which a step must improve the objective to be kept.
    forgotten
        Independent samples wanted of each replica: a run is extended until it has them.
    memory
        Correlation of a replica's averages with its start that is accepted: a run is extended until it is lost.
    longest
        Most steps of production of a round. A model that has not forgotten the start by then is not used.
    curvature_samples
        Samples of each temperature from which the curvature of ln Z is computed.
    enough_frames
        Frames on one side of the slowest torsion from which its inefficiency is estimated.
    enough_samples
        Samples on one side of the slowest torsion below which averages over that side are not considered known.
    """

    rounds: int = 12
    replicas: int = 1000
    trusted: float = 0.3
    settled: float = 0.1
    sure: float = 2.0
    forgotten: float = 3.0
    memory: float = 0.1
    longest: int = 1600
    curvature_samples: int = 1000
    enough_frames: int = 30
    enough_samples: int = 5

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        **dict.fromkeys(
            ("rounds", "replicas", "longest", "curvature_samples", "enough_frames", "enough_samples"), Whole(least=1)
        ),
        "trusted": Real(above=0.0, most=1.0),
        **dict.fromkeys(("forgotten", "sure", "settled", "memory"), Real(least=0.0)),
    }


@dataclass(frozen=True)
class Round:
    """One model that was sampled.

    Parameters
    ----------
    step
        Share of the proposed step that was taken; 0 for the model of the labels.
    effective_fraction
        Share of the samples of the model before left effective by reweighting to this one, the least of all
        temperatures.
    distance
        Distance from the model of the labels, in posterior standard deviations: ‖Lᵀ(w − μ)‖, Λ = LLᵀ.
    samples_per_replica
        Independent samples of each replica, of the slowest descriptor.
    memory
        Largest correlation of a replica's averages with its start, beyond chance.
    steps
        Steps of production.
    gain, gain_error
        Decrease of the relative entropy (in nats, of all independent frames, with the labels' posterior) from the best
        model before, and its standard error.
    kept
        True if this model became the best one.
    """

    step: float
    effective_fraction: float
    distance: float
    samples_per_replica: float
    memory: float = 0.0
    steps: int = 0
    gain: float = 0.0
    gain_error: float = 0.0
    kept: bool = True


@dataclass(frozen=True)
class RelativeEntropyFit:
    """Result of :func:`minimize_relative_entropy`.

    Parameters
    ----------
    model
        The best model found, of the type passed in, which is not changed.
    rounds
        Record of every model sampled, that of the labels first.
    converged
        True if no further step promises an improvement that frames and samples can tell from chance.
    inefficiency
        Temperature → statistical inefficiencies used: of the density on either side of the slowest torsion (the sides
        where it is negative and positive), and of the populations of the sides.
    gain, gain_error
        Decrease of the relative entropy from the model of the labels alone, in nats, and its standard error: sums over
        the rounds kept.
    outcome
        What was returned and why, in words.
    """

    model: Any
    rounds: tuple[Round, ...]
    converged: bool
    inefficiency: dict[float, tuple[float, float, float]]
    gain: float = 0.0
    gain_error: float = 0.0
    outcome: str = ""

    @property
    def improved(self) -> bool:
        """False if the model returned is that of the labels, in its averages."""
        return any(one.kept for one in self.rounds[1:])


@dataclass(frozen=True)
class _Sampled:
    """A model with its samples at every temperature, and its −ln Z in units of the first model."""

    v: Tensor
    samples: list[Samples]
    free: list[float]


class Refinement:
    """Rounds of sampling and stepping, in the whitened coordinates v = Lᵀ(w − μ) of the first model.

    Parameters
    ----------
    given, frames, protocol, plan, inefficiency, masses
        As in :func:`~kernelfe.training.minimize_relative_entropy`, checked.
    """

    def __init__(
        self,
        given: Any,
        frames: Frames,
        protocol: LangevinProtocol,
        plan: RelativeEntropyPlan,
        inefficiency: float | None,
        masses: np.ndarray | None,
    ):
        self.given, self.plan, self.bonds = given, plan, frames.bonds
        self.linear = linear = linear_model(given)
        self.mean, self.lower = _plain(linear.mean), _plain(linear.lower)
        self.temperatures: list[float] = np.unique(frames.temperature).tolist()
        self.kts = [BOLTZMANN * t for t in self.temperatures]
        positions = np.asarray(frames.positions, dtype=np.float64)
        places = [positions[frames.temperature == t] for t in self.temperatures]
        slow = [self._read(x) for x in places]
        self.torsion = torsion = slowest_torsion(slow)
        if inefficiency is None:
            g = [side_inefficiencies(one, torsion, plan.enough_frames) for one in slow]
        else:
            g = [(float(inefficiency),) * 3 for _ in slow]
        self.inefficiency = dict(zip(self.temperatures, g, strict=True))
        sides = [one.side(torsion) for one in slow]
        missing = missing_sides(self.temperatures, sides)
        self.data = [
            SideData(
                [self._mean_features(x[side == s], t) if (side == s).any() else None for s in (0, 1)],
                np.bincount(side, minlength=2),
                own,
                silent,
            )
            for t, x, side, silent, own in zip(self.temperatures, places, sides, missing, g, strict=True)
        ]
        share = plan.replicas // len(self.temperatures)
        rng = np.random.default_rng(protocol.seed)
        start = np.concatenate([rng.choice(x, share) for x in places])
        masses = uniform_masses(start.shape[1]) if masses is None else real_array(masses, "masses", "u")
        protocol = replace(protocol.for_bonds(frames.bonds), guard=None)
        rule = Equilibration(plan.memory, plan.forgotten, max(plan.longest, protocol.steps))
        self.replicas = Replicas(self._read, start, self.temperatures, protocol, masses, rule, rng)
        self.likelihoods: list[Likelihood] = []
        self.history: list[Round] = []

    def run(self, update: Callable[[], Any]) -> RelativeEntropyFit:
        """Sample and step until nothing improves or the rounds are used up."""
        v = torch.zeros_like(self.mean)
        draws = self.replicas.sample(self.linear)
        update()
        best = _Sampled(v, self._samples(draws, v), [0.0] * len(self.kts))
        self._record(0.0, 1.0, v, draws)
        if not draws.settled:
            return self._labels_alone(draws)
        pool, radius, converged = [best], math.inf, False
        while not converged:
            ensembles = self._join(pool)
            target = maximum(best.v, ensembles, self.plan.curvature_samples)
            with torch.no_grad():
                promised = float(total_objective(best.v, ensembles) - total_objective(target, ensembles))
            chance = self._chance(best, pool, ensembles)
            converged = promised <= chance and self._covered(best)
            logger.info("relative entropy: a further step promises %.2f nats, chance %.2f", promised, chance)
            if converged or len(self.history) >= self.plan.rounds:
                break
            whole = target - best.v
            length = float(torch.linalg.vector_norm(whole))
            cut = min(1.0, radius / max(length, 1e-300))
            share, effective = trusted_step(cut * whole, best.samples, self.kts, self.plan.trusted)
            step = share * cut
            v = best.v + step * whole
            found = self._try(v)
            update()
            if found is None:  # cannot be sampled at all
                self._record(step, effective, v, None)
                radius = 0.5 * step * length
                continue
            candidate, gain, error, overlap = self._judge(best, v, found)
            kept = found.settled and gain > self.plan.sure * error
            self._record(step, effective, v, found, gain, error, kept)
            if kept:
                best, radius = candidate, max(radius, 2.0 * step * length)
            else:
                radius = 0.5 * step * length
            if found.settled and overlap > 0.01:  # samples that share nothing have no common scale
                pool = [best, *(one for one in [*pool, candidate][-4:] if one is not best)]
            elif kept:
                pool = [best]
        return self._finish(best, pool, converged)

    def _try(self, v: Tensor) -> Draws | None:
        try:
            return self.replicas.sample(self._model(v, self.lower))
        except SamplingError:
            return None

    def _samples(self, draws: Draws, v: Tensor) -> list[Samples]:
        """Whitened features of the samples at every temperature; the first time also the weights of the likelihood."""
        out, share = [], self.replicas.share
        for k, t in enumerate(self.temperatures):
            positions = draws.positions[:, k * share : (k + 1) * share].reshape(-1, *draws.positions.shape[2:])
            side, independent = draws.found[k].side(self.torsion), share * draws.independent[k]
            if len(self.likelihoods) == k:
                self.likelihoods.append(Likelihood.of(self.kts[k], self.data[k], independent))
            blocks = [self._whitened(f) for f in self._blocks(positions, t)]
            features = torch.cat(blocks) - self.data[k].mean
            out.append(Samples.of(features, side, share, independent, v, self.data[k].silent))
        return out

    def _judge(self, best: _Sampled, v: Tensor, draws: Draws) -> tuple[_Sampled, float, float, float]:
        """Candidate with its samples, its gain over the best model with its error, and the least overlap."""
        samples = self._samples(draws, v)
        gain, variance, overlap, free = 0.5 * float(best.v @ best.v - v @ v), 0.0, 1.0, []
        for old, new, likelihood, before in zip(best.samples, samples, self.likelihoods, best.free, strict=True):
            more, influence, difference, common = gained(old, new, likelihood, self.plan.enough_samples)
            gain, overlap = gain + more, min(overlap, common)
            variance += sum(float(one @ one) for one in influence)
            free.append(before + difference)
        return _Sampled(v, samples, free), float(gain), math.sqrt(variance), overlap

    def _join(self, pool: list[_Sampled]) -> list[Ensemble]:
        return [
            Ensemble.of(likelihood, [one.samples[k] for one in pool], [one.free[k] for one in pool])
            for k, likelihood in enumerate(self.likelihoods)
        ]

    def _covered(self, best: _Sampled) -> bool:
        """True if the model's samples visit every side that frames visit."""
        least = self.plan.enough_samples
        return all(s.covers_frames(one, least) for s, one in zip(best.samples, self.likelihoods, strict=True))

    def _chance(self, best: _Sampled, pool: list[_Sampled], ensembles: list[Ensemble]) -> float:
        """Gain that a step may promise by chance, nats: half for each direction that the frames determine."""
        noise = 0.0
        for k, one in enumerate(ensembles):
            independent = sum(x.samples[k].independent for x in pool) / len(one.features)
            noise = max(noise, one.likelihood.weight / (independent * one.effective(best.v)))
        return 0.5 * informed(best.v, ensembles, self.plan.curvature_samples) * (self.plan.settled + noise)

    def _record(
        self,
        step: float,
        effective: float,
        v: Tensor,
        draws: Draws | None,
        gain: float = 0.0,
        error: float = 0.0,
        kept: bool = True,
    ) -> None:
        distance = float(torch.linalg.vector_norm(v))
        if draws is None:
            self.history.append(Round(step, effective, distance, 0.0, 1.0, 0, -math.inf, 0.0, False))
            return
        independent = min(draws.independent)
        self.history.append(Round(step, effective, distance, independent, draws.memory, draws.steps, gain, error, kept))

    def _finish(self, best: _Sampled, pool: list[_Sampled], converged: bool) -> RelativeEntropyFit:
        kept = [one for one in self.history[1:] if one.kept]
        gain, error = sum(one.gain for one in kept), math.sqrt(sum(one.gain_error**2 for one in kept))
        tried = f"{len(self.history)} models sampled"
        better = f"the relative entropy is {gain:.1f} ± {error:.1f} nats below that of the labels' model"
        if not kept and not converged:
            outcome = f"{tried}: not converged, none improved on the labels' model beyond its error, which is returned"
            return RelativeEntropyFit(self.given, tuple(self.history), False, self.inefficiency, outcome=outcome)
        if not kept:
            outcome = f"{tried}: the labels' model agrees with the density of the frames, which narrows its errors"
        elif converged:
            outcome = f"{tried}: converged, {better}"
        else:
            outcome = f"{tried}: not converged, the best model is returned; {better}"
        lower = refined_precision(self.lower, best.v, self._join(pool), self.plan.curvature_samples)
        density = {
            t: float((one.counts / np.array(one.inefficiency[:2])).sum())
            for t, one in zip(self.temperatures, self.data, strict=True)
        }
        model = trained(self.given, self._model(best.v, lower), density)
        return RelativeEntropyFit(model, tuple(self.history), converged, self.inefficiency, gain, error, outcome)

    def _labels_alone(self, draws: Draws) -> RelativeEntropyFit:
        outcome = (
            f"after {draws.steps} steps replicas of the labels' model still depend on their start (correlation "
            f"{draws.memory:.2f}): its populations are not known, and it is returned as it was; raise longest or "
            "replicas, or pass moves"
        )
        return RelativeEntropyFit(self.given, tuple(self.history), False, self.inefficiency, outcome=outcome)

    def _model(self, v: Tensor, lower: Tensor) -> LinearModel:
        weights = self.mean + torch.linalg.solve_triangular(self.lower.T, v[:, None], upper=True)[:, 0]
        return self.linear.with_weights(weights.to(self.linear.mean), lower.to(self.linear.lower))

    def _read(self, positions: np.ndarray) -> SlowVariables:
        return SlowVariables.of(self.linear, self.bonds, positions)

    def _mean_features(self, positions: np.ndarray, temperature: float) -> Tensor:
        """Mean of the whitened features over frames, without holding those of all."""
        total = torch.zeros_like(self.mean)
        for block in self._blocks(positions, temperature):
            total += block.sum(0)
        return self._whitened(total[None] / len(positions))[0]

    def _whitened(self, features: Tensor) -> Tensor:
        """L⁻¹ f of features (n, W)."""
        return torch.linalg.solve_triangular(self.lower, features.T, upper=False).T

    def _blocks(self, positions: np.ndarray, temperature: float, frames: int = 1024):
        """Features of some configurations at a time, which limits the memory."""
        for start in range(0, len(positions), frames):
            x = torch.from_numpy(np.array(positions[start : start + frames], dtype=np.float64, order="C"))
            yield _plain(self.linear.features(x, temperature))


def _plain(values: Tensor) -> Tensor:
    """On the CPU, in double precision, without a graph."""
    return values.detach().to("cpu", torch.float64)


__all__ = ["Refinement", "RelativeEntropyFit", "RelativeEntropyPlan", "Round"]
