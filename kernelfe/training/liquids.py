"""Relative entropy of liquids: Newton steps on averages of whole boxes, in a trust region of nats per bead.

Reweighting, on which the rounds of molecules rest, fails for a liquid: two models that differ by a hundredth of kT per
bead share no configurations of a box. But averages over a box are nearly normal, and their response to the weights is
their covariance. A round therefore takes ⟨f⟩ and Cov(f, f) from samples of the best model, steps to the minimum of the
quadratic objective (:mod:`~kernelfe.training.quadratic`), samples there, and keeps the step if the objective has fallen
by more than its error (:mod:`~kernelfe.training.differences`). The theory page on the density of the frames has the
formulas, and what the weight of the labels means.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..arrays import real_array
from ..frames import Frames
from ..protocol import LinearModel
from ..simulate import LangevinProtocol, SamplingError, uniform_masses
from .boxes import BoxSamples, Runs, boxes_of, inefficiency
from .differences import free_difference, unit_labels
from .linear import linear_model, trained
from .liquid_plan import LiquidFit, LiquidPlan, LiquidRound
from .quadratic import Fold, Labels, Modes, Quadratic, held_out_weight, movable_directions, open_weights

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Sampled:
    """A model with its samples in every box, and its −ln Z in units of the first model."""

    v: Tensor
    samples: list[BoxSamples]
    independent: list[float]
    drift: float
    settled: bool
    free: list[float] = field(default_factory=list)


class LiquidRefinement:
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
        plan: LiquidPlan,
        inefficiency: float | None,
        masses: np.ndarray | None,
    ):
        self.given, self.plan, self.fixed_inefficiency = given, plan, inefficiency
        self.linear = linear = linear_model(given)
        self.mean, self.lower = (x.detach().to("cpu", torch.float64) for x in (linear.mean, linear.lower))
        self.boxes = boxes_of(frames)
        self.frames = [torch.cat(list(box.features(linear, box.positions, self.lower))) for box in self.boxes]
        self.center = [f.mean(0) for f in self.frames]
        self.movable = self._movable()
        rng = np.random.default_rng(protocol.seed)
        masses = uniform_masses(self.boxes[0].beads) if masses is None else real_array(masses, "masses", "u")
        longest = max(plan.longest, protocol.steps)
        self.runs = [Runs(box, plan.replicas, protocol, masses, longest, rng) for box in self.boxes]
        self.labels = Labels.of(self.mean, self.lower, getattr(linear, "prior", None))
        self.modes: Modes | None = None
        self.g = [1.0 for _ in self.boxes]
        self.weights: list[float] = []
        self.history: list[LiquidRound] = []
        self.kappa = plan.label_weight or 1.0

    def run(self, update: Callable[[], Any]) -> LiquidFit:
        """Sample and step until nothing improves or the rounds are used up."""
        try:
            best = self._sample(self.linear, torch.zeros_like(self.mean))
        except SamplingError as failed:
            failed.add_note("relative entropy cannot sample the model it was given, which is not changed")
            raise
        update()
        best = replace(best, free=[0.0 for _ in self.boxes])
        self._weigh(best)
        self._record(best, 0.0, 1.0, 0.0)
        if not best.settled:
            return self._labels_alone(best)
        pool, radius, converged = [best], math.inf, False
        try:
            while True:
                quadratic = self._quadratic(best, pool)
                self.kappa = self._label_weight(best)
                self.modes = quadratic.modes(self.kappa)
                target = quadratic.minimum(self.kappa)
                promised = quadratic.value(best.v, self.kappa) - quadratic.value(target, self.kappa)
                noise = max(m / s for m, s in zip(self.weights, best.independent, strict=True))
                chance = self._chance(self.modes.shares, noise)
                converged = promised <= chance
                logger.info(
                    "relative entropy: a further step promises %.2f nats, chance %.2f; weight of the labels %.3g",
                    promised,
                    chance,
                    self.kappa,
                )
                if converged or len(self.history) >= self.plan.rounds:
                    break
                whole = target - best.v
                length = float(torch.linalg.vector_norm(whole))
                share = min(self._trusted(best, whole), radius / max(length, 1e-300))
                effective, change = self._reach(best, share * whole)
                try:
                    found = self._sample(self._model(best.v + share * whole, self.lower), best.v + share * whole)
                except SamplingError:
                    self._record(None, share, effective, change)
                    radius = 0.5 * share * length
                    continue
                finally:
                    update()
                candidate, gain, error, overlap = self._judge(best, found)
                kept = found.settled and gain > self.plan.sure * error
                self._record(candidate, share, effective, change, gain, error, kept, overlap)
                if kept:
                    best, radius = candidate, max(radius, 2.0 * share * length)
                else:
                    radius = 0.5 * share * length
                if found.settled:
                    pool.append(candidate)
                limit = self.plan.sure * error
                converged = found.settled and not kept and abs(gain) <= limit and promised <= limit + chance
                if converged:  # nothing that the samples could tell from chance is left to gain
                    break
        except BaseException as failed:  # what was found so far is not lost
            failed.fit = self._finish(best, pool, False)  # type: ignore[attr-defined]
            raise
        return self._finish(best, pool, converged)

    def _sample(self, model: LinearModel, v: Tensor) -> _Sampled:
        """Samples in every box, from runs as long as they ask for."""
        samples, independent, drift, settled = [], [], 0.0, True
        for k, runs in enumerate(self.runs):
            run, total, features = runs.begin(model), runs.protocol.steps, None
            while True:
                new = self._features(k, run.positions)
                features = new if features is None else torch.cat([features, new])
                found = BoxSamples(features, total, run.positions[-1])
                modes = self.modes or self._own_modes(k, found)
                shares = modes.shares
                moved = found.drift(modes.vectors, shares)
                still = moved <= 1.0 + 3.0 * math.sqrt(2.0 / max(1.0, float(shares.sum())))
                g = inefficiency([features[:, r] for r in range(features.shape[1])], modes.vectors, shares)
                count = len(found.flat) / g
                wanted = self.plan.enough * len(self.frames[k]) / self.g[k]
                if (still and count >= wanted) or 2 * total > runs.longest:
                    break
                run = runs.more(model, run, total)
                features, total = features if still else None, 2 * total
            runs.start = found.last
            samples.append(found)
            independent.append(count)
            drift, settled = max(drift, moved), settled and still
        return _Sampled(v, samples, independent, drift, settled)

    def _features(self, k: int, positions: np.ndarray) -> Tensor:
        """Features (samples, replicas, W) about the mean over the frames."""
        flat = positions.reshape(-1, *positions.shape[2:])
        found = torch.cat(list(self.boxes[k].features(self.linear, flat, self.lower))) - self.center[k]
        return found.reshape(*positions.shape[:2], -1)

    def _own_modes(self, k: int, found: BoxSamples) -> Modes:
        """Modes of one box alone, before those of all boxes are known."""
        curvature = len(self.frames[k]) / self.g[k] * self.boxes[k].b ** 2 * found.covariance
        return Quadratic(curvature, torch.zeros_like(self.mean), self.labels, self.movable).modes(1.0)

    def _weigh(self, first: _Sampled) -> None:
        """Inefficiencies of the frames, and the weights of the boxes in the likelihood; the same for all models."""
        if self.fixed_inefficiency is not None:
            self.g = [self.fixed_inefficiency for _ in self.boxes]
        for turn in range(3):  # the weights depend on the inefficiencies, and these on the modes
            self.weights = [
                1.0 / (g / len(f) + 1.0 / s) for g, f, s in zip(self.g, self.frames, first.independent, strict=True)
            ]
            if turn == 2 or self.fixed_inefficiency is not None:
                break
            quadratic = self._quadratic(first, [first])
            self.kappa = self._label_weight(first)
            modes = quadratic.modes(self.kappa)
            self.g = [inefficiency([f], modes.vectors, modes.shares) for f in self.frames]

    def _quadratic(self, best: _Sampled, pool: list[_Sampled]) -> Quadratic:
        """The likelihood around the best model, from all its samples and all frames."""
        parts = []
        for k in range(len(self.boxes)):
            joined = [best] if best.independent[k] >= 10 * len(self.mean) else pool
            own = [(one.samples[k].covariance, one.independent[k]) for one in joined]
            frames = self.frames[k] - self.center[k]
            parts.append((best.samples[k].mean, [*own, (_covariance(frames), len(frames) / self.g[k])]))
        return self._assembled(best.v, parts)

    def _assembled(self, v: Tensor, parts: list[tuple[Tensor, list[tuple[Tensor, float]]]]) -> Quadratic:
        """Quadratic likelihood from ⟨f⟩ − f̄ and covariances with their weights, for each box.

        The response of ⟨f⟩ is the covariance, averaged over the way from the model to that of the frames. Frames and
        samples are its two ends: their average is right to second order, and less noisy than either.
        """
        gradient, curvature = torch.zeros_like(self.mean), torch.zeros_like(self.lower)
        for (mean, covariances), box, m in zip(parts, self.boxes, self.weights, strict=True):
            total = sum(weight for _, weight in covariances)
            for covariance, weight in covariances:
                curvature += m * box.b**2 * weight / total * covariance
            gradient -= m * box.b * mean
        return Quadratic.around(v, gradient, curvature, self.labels, self.movable)

    def _label_weight(self, best: _Sampled) -> float:
        """κ: that of the plan, or the one whose step is best for frames and samples that it was not made from."""
        if self.plan.label_weight is not None:
            return self.plan.label_weight
        count = min(4, self.plan.replicas, *(len(f) // 2 for f in self.frames))
        if count < 2:
            return 1.0
        folds = []
        for fold in range(count):
            parts: tuple[list, list] = ([], [])
            for k, (f, center) in enumerate(zip(self.frames, self.center, strict=True)):
                block = torch.arange(len(f)) * count // len(f) == fold
                replica = torch.arange(self.plan.replicas) % count == fold
                for part, rows, columns in zip(parts, (~block, block), (~replica, replica), strict=True):
                    frames, samples = f[rows] - center, best.samples[k].features[:, columns].flatten(0, 1)
                    sizes = (best.independent[k] * len(samples) / len(best.samples[k].flat), len(frames) / self.g[k])
                    covariances = list(zip((_covariance(samples), _covariance(frames)), sizes, strict=True))
                    part.append((samples.mean(0) - frames.mean(0), covariances))
            fitted, held_out = (self._assembled(best.v, part) for part in parts)
            share = (count - 1) / count  # of the frames, from which the step of a fold is made
            fitted = replace(fitted, curvature=share * fitted.curvature, linear=share * fitted.linear)
            folds.append(Fold(fitted, held_out))
        return held_out_weight(best.v, folds)

    def _chance(self, shares: Tensor, noise: float) -> float:
        """Gain that a step may promise by chance, nats.

        Half for each direction that the frames determine, times the variance ``noise`` that the samples add to that of
        the frames, with the standard deviation of a sum of squares; and the share ``settled`` of what the frames do.
        """
        directions = float(shares.sum())
        return 0.5 * (self.plan.settled * directions + noise * (directions + math.sqrt(2.0 * directions)))

    def _reach(self, best: _Sampled, step: Tensor) -> tuple[float, float]:
        """Least effective share of the samples after a step, and its largest predicted change in nats per bead."""
        effective, change = 1.0, 0.0
        for box, one in zip(self.boxes, best.samples, strict=True):
            work = box.b * (one.flat @ step)
            p = torch.softmax(-work, 0)
            effective = min(effective, float(1.0 / (p @ p)) / len(p))
            change = max(change, 0.5 * float(work.var()) / box.beads)
        return effective, change

    def _trusted(self, best: _Sampled, whole: Tensor) -> float:
        """Largest share of a step within the trust region."""
        share = 1.0
        while share > 1e-3:
            effective, change = self._reach(best, share * whole)
            if effective >= self.plan.trusted or change <= self.plan.step:
                break
            share *= 0.8
        return share

    def _judge(self, best: _Sampled, found: _Sampled) -> tuple[_Sampled, float, float, float]:
        """Candidate, its gain over the best model with its error, and the least overlap."""
        step = found.v - best.v
        gain = self.labels.energy(best.v, self.kappa) - self.labels.energy(found.v, self.kappa)
        variance, overlap, free = 0.0, 1.0, []
        for k, (box, m) in enumerate(zip(self.boxes, self.weights, strict=True)):
            pair = (best.samples[k], found.samples[k])
            work = [box.b * (one.flat @ step).numpy() for one in pair]
            labels = [unit_labels(*one.features.shape[:2]) for one in pair]
            made = free_difference(
                (work[0], work[1]), (labels[0][0], labels[1][0]), (labels[0][1], labels[1][1]), self.plan.overlap
            )
            gain += m * made.value
            variance += (m * made.error) ** 2
            overlap = min(overlap, made.overlap)
            free.append(best.free[k] - made.value)
        return replace(found, free=free), gain, math.sqrt(variance), overlap

    def _record(
        self,
        found: _Sampled | None,
        step: float,
        effective: float,
        change: float,
        gain: float = 0.0,
        error: float = 0.0,
        kept: bool = True,
        overlap: float = 1.0,
    ) -> None:
        more = {"change": change, "overlap": overlap, "label_weight": self.kappa}
        if found is None:
            self.history.append(LiquidRound(step, effective, math.nan, 0.0, 1.0, 0, -math.inf, 0.0, False, **more))
            return
        each = min(found.independent) / self.plan.replicas
        distance = float(torch.linalg.vector_norm(found.v))
        steps = max(one.steps for one in found.samples)
        self.history.append(LiquidRound(step, effective, distance, each, found.drift, steps, gain, error, kept, **more))

    def _finish(self, best: _Sampled, pool: list[_Sampled], converged: bool) -> LiquidFit:
        kept = [one for one in self.history[1:] if one.kept]
        gain = -sum(m * f for m, f in zip(self.weights, best.free, strict=True))
        gain -= self.labels.energy(best.v, self.kappa)
        error = math.sqrt(sum(one.gain_error**2 for one in kept))
        quadratic = replace(self._quadratic(best, pool), movable=None)
        open_ = torch.linalg.solve_triangular(self.lower.T, self._open(quadratic), upper=True)
        open_ = open_ / torch.linalg.vector_norm(open_, dim=0)
        named = tuple(open_weights(open_))
        outcome = self._outcome(bool(kept), converged, gain, error, named, open_.shape[1])
        extra = {"label_weight": self.kappa, "open_directions": open_.T.numpy(), "open_weights": named}
        tried = tuple(self.history)
        if not kept and not converged:
            return LiquidFit(self.given, tried, False, self._inefficiency(), outcome=outcome, **extra)
        lower = self.lower @ quadratic.lower(self.kappa)
        density: dict[float, float] = {}
        for box, f, g in zip(self.boxes, self.frames, self.g, strict=True):
            density[box.temperature] = density.get(box.temperature, 0.0) + len(f) / g
        model = trained(self.given, self._model(best.v, lower), density)
        return LiquidFit(model, tried, converged, self._inefficiency(), gain, error, outcome, **extra)

    def _outcome(
        self, kept: bool, converged: bool, gain: float, error: float, named: tuple[int, ...], directions: int
    ) -> str:
        """What was returned and why."""
        tried = f"{len(self.history)} models sampled"
        better = f"the relative entropy is {gain:.1f} ± {error:.1f} nats below that of the labels' model"
        if not kept:
            text = f"{tried}: the labels' model agrees with the density of the frames, which narrows its errors"
            if not converged:
                text = f"{tried}: not converged, none improved on the labels' model, which is returned"
        elif converged:
            text = f"{tried}: converged, {better}"
        else:
            text = f"{tried}: not converged, the best model is returned; {better}"
        text += f"; weight of the labels {self.kappa:.2g}"
        if directions:
            shown = ", ".join(map(str, named[:12])) + (", …" if len(named) > 12 else "")
            text += f"; the frames leave {directions} directions of the weights to the labels" + (
                f", among them the weights {shown}" if named else ""
            )
        return text

    def _open(self, quadratic: Quadratic) -> Tensor:
        """Whitened directions (W, j) in which the frames add less than a thousandth to what the labels say."""
        modes = quadratic.modes(self.kappa)
        floor = max(1e-3, 1e-12 * float(modes.values.max()))
        return modes.vectors[:, modes.values <= floor]

    def _inefficiency(self) -> dict[float, tuple[float, float, float]]:
        return {box.temperature: (g, g, g) for box, g in zip(self.boxes, self.g, strict=True)}

    def _labels_alone(self, found: _Sampled) -> LiquidFit:
        outcome = (
            f"after {max(one.steps for one in found.samples)} steps the averages of the labels' model still drift: it "
            "is returned as it was; raise longest or burn_in"
        )
        return LiquidFit(self.given, tuple(self.history), False, self._inefficiency(), outcome=outcome)

    def _model(self, v: Tensor, lower: Tensor) -> LinearModel:
        weights = self.mean + torch.linalg.solve_triangular(self.lower.T, v[:, None], upper=True)[:, 0]
        return self.linear.with_weights(weights.to(self.linear.mean), lower.to(self.linear.lower))

    def _movable(self) -> Tensor | None:
        """Directions that leave the response to temperature as it is; None for all."""
        one = len({box.temperature for box in self.boxes}) == 1
        if self.plan.response == "free" or (self.plan.response == "auto" and not one):
            return None
        same = torch.ones(len(self.mean), dtype=torch.bool)
        for box in self.boxes:
            here, there = (
                torch.cat(list(one.features(self.linear, box.positions[:4], torch.eye(len(self.mean)).double())))
                for one in (box, replace(box, temperature=1.1 * box.temperature))
            )
            same &= (here - there).abs().amax(0) <= 1e-9 * there.abs().amax(0)
        return None if same.all() or not same.any() else movable_directions(self.lower, same)


def _covariance(features: Tensor) -> Tensor:
    """Cov(f, f), (W, W), of features (n, W)."""
    off = features - features.mean(0)
    return off.T @ off / max(1, len(off) - 1)


__all__ = ["LiquidRefinement"]
