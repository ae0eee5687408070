"""Relative entropy: the positions of equilibrium frames as labels.

Equilibrium frames are draws from exp(−A(R; T)/kT)/Z(T). Besides their forces and energies, their *positions* therefore
carry information about A: the depth of a basin, and the absence of frames where A is high. Their likelihood

    Σ_n [−A(R_n; T_n)/kT_n − ln Z(T_n)]

is the relative entropy of model and data up to a constant (Shell, J. Chem. Phys. 129, 144108, 2008). It is not a linear
functional of A, so it cannot join the exact conditioning. A model that is linear in its weights,
A = w·f(R, T) + baseline (:class:`~kernelfe.protocol.LinearModel`), has a normal distribution N(μ, Λ⁻¹) of them after
all linear labels: the posterior of a sparse fit, or the prior of a model of your own. With it as the prior, this module
finds the maximum of

    −½ (w − μ)ᵀ Λ (w − μ) − Σ_T (n_T/g_T) [w·f̄_T/kT + ln Z_T(w)],

f̄_T the mean of the features over the frames at T, g_T their statistical inefficiency (two of them where a torsion
is slow, see :mod:`~kernelfe.training.sides`). ln Z_T comes from samples of the model of the last round, reweighted; a
round ends where reweighting becomes unreliable, and the next one samples again.
At the maximum the Laplace approximation adds (n_T/g_T) Cov_T(f, f)/(kT)² to the precision: error bars shrink as well.
The objective is concave in w, so there is one maximum.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..arrays import real_array
from ..errors import require
from ..frames import Frames
from ..protocol import LinearModel
from ..runtime.threads import one_thread
from ..simulate import LangevinProtocol, run_langevin, uniform_masses
from ..specs import Bound, OrNone, Real, Spec, Whole, checked
from ..statistics import samples_per_replica
from ..units import BOLTZMANN
from .ensembles import Ensemble, SideData, maximum, refined_precision, trusted_step, weighted_ensemble
from .linear import linear_model, trained
from .sides import SlowVariables, side_inefficiencies, slowest_torsion

logger = logging.getLogger(__name__)

#: Default sampling of a round. No guard: where the model goes and the frames do not is what the density corrects.
SAMPLING = LangevinProtocol(friction=10.0, steps=200, stride=20, burn_in=100, moves="auto", moves_every=1, guard=None)


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
    arrived
        Effective share of the samples after a full step at which the result has converged: further samples would
        change nothing.
    forgotten
        Independent samples per replica below which averages are reported as biased towards the start.
    curvature_samples
        Samples of each temperature from which the curvature of ln Z is computed.
    enough_frames
        Frames on one side of the slowest torsion from which its inefficiency is estimated.
    enough_samples
        Samples on one side of the slowest torsion below which averages over that side are not considered known and the
        result has not converged.
    """

    rounds: int = 8
    replicas: int = 1000
    trusted: float = 0.3
    arrived: float = 0.9
    forgotten: float = 3.0
    curvature_samples: int = 1000
    enough_frames: int = 30
    enough_samples: int = 5

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        **dict.fromkeys(("rounds", "replicas", "curvature_samples", "enough_frames", "enough_samples"), Whole(least=1)),
        **dict.fromkeys(("trusted", "arrived"), Real(above=0.0, most=1.0)),
        "forgotten": Real(least=0.0),
    }


@dataclass(frozen=True)
class Round:
    """One round of sampling and stepping.

    Parameters
    ----------
    step
        Share of the proposed step that was taken.
    effective_fraction
        Share of the samples left effective by reweighting to the new model, the least of all temperatures.
    distance
        Distance from the model before, in posterior standard deviations: ‖Lᵀ(w − μ)‖, Λ = LLᵀ.
    samples_per_replica
        Independent samples of each replica, of the slowest descriptor. Near one, replicas have stayed at their start,
        among the frames, and their averages are those of the frames whatever the model.
    """

    step: float
    effective_fraction: float
    distance: float
    samples_per_replica: float


@dataclass(frozen=True)
class RelativeEntropyFit:
    """Result of :func:`minimize_relative_entropy`.

    Parameters
    ----------
    model
        The refined model, of the type passed in, which is not changed.
    rounds
        Record of every round.
    converged
        True if the last round took its full step and further samples would change nothing.
    inefficiency
        Temperature → statistical inefficiencies used: of the density on either side of the slowest torsion (the sides
        where it is negative and positive), and of the populations of the sides.
    """

    model: Any
    rounds: tuple[Round, ...]
    converged: bool
    inefficiency: dict[float, tuple[float, float, float]]


@one_thread()
def minimize_relative_entropy(
    model: Any,
    frames: Frames,
    protocol: LangevinProtocol | None = None,
    *,
    plan: RelativeEntropyPlan | None = None,
    inefficiency: float | None = None,
    masses: np.ndarray | None = None,
    progress: bool = True,
    **options: Any,
) -> RelativeEntropyFit:
    """Condition a linear model on the positions of equilibrium frames.

    Parameters
    ----------
    model
        A :class:`~kernelfe.protocol.LinearModel`, or a :class:`~kernelfe.FreeEnergyRegressor` (or its ``model_``)
        fitted by the sparse solver to configurations of beads, without a cell and without parameters λ.
    frames
        Unbiased equilibrium frames, at one or several temperatures; labels are not used. Best those the model was
        fitted to: no further all-atom simulation is needed.
    protocol
        Sampling of a round: ``steps`` in every round, ``burn_in`` before the first sample of the first round (a fourth
        of it in later rounds, which start from the samples of the round before), ``seed`` of everything random. None:
        ``kernelfe.training.relative_entropy.SAMPLING``, with 200 steps, friction 10/ps and torsion moves after every
        step where the frames have bonds that can turn. Its ``guard`` is not used.
    plan
        Number of rounds and replicas, and thresholds.
    inefficiency
        Statistical inefficiency g = 2τ of the frames: n frames carry the information of n/g independent ones.
        None: estimated at each temperature, taking the frames in their order as a time series, from descriptors and
        torsions on each side of the slowest torsion, and from the crossings between the sides for their populations.
        Shuffled frames count as independent, and error bars are then too small.
    masses
        (beads,), u; None: equal masses. Averages do not depend on them.
    progress
        Show a progress bar.
    **options
        Fields of the protocol and of the plan to replace, for example ``rounds=4, timestep=2.0, seed=1``.

    Returns
    -------
    RelativeEntropyFit

    Raises
    ------
    DataError
        If the model or the frames are not of the kind described above.
    SamplingError
        If a model cannot be sampled (see :func:`~kernelfe.simulate.run_langevin`).
    """
    names = {one.name for one in fields(RelativeEntropyPlan)}
    plan = replace(plan or RelativeEntropyPlan(), **{k: v for k, v in options.items() if k in names})
    protocol = (protocol or SAMPLING).with_options(**{k: v for k, v in options.items() if k not in names})
    inefficiency = checked("inefficiency", inefficiency, OrNone(Real(above=0.0)))
    _check(linear_model(model), frames, plan)
    minimization = _Minimization(model, frames, protocol, plan, inefficiency, masses)
    with tqdm(total=plan.rounds, unit="round", desc="relative entropy", disable=not progress, leave=False) as bar:
        found = minimization.run(bar.update)
    _warn(found, plan)
    return found


class _Minimization:
    """Rounds of sampling and stepping, in the whitened coordinates v = Lᵀ(w − μ) of the first model."""

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
        positions = np.asarray(frames.positions, dtype=np.float64)
        places = [positions[frames.temperature == t] for t in self.temperatures]
        slow = [SlowVariables.of(linear, frames.bonds, x) for x in places]
        self.torsion = torsion = slowest_torsion(slow)
        if inefficiency is None:
            g = [side_inefficiencies(one, torsion, plan.enough_frames) for one in slow]
        else:
            g = [(float(inefficiency),) * 3 for _ in slow]
        self.inefficiency = dict(zip(self.temperatures, g, strict=True))
        sides = [one.side(torsion) for one in slow]
        visited = [set(side.tolist()) for side in sides]
        everywhere = set().union(*visited)
        _report_unvisited(self.temperatures, visited, everywhere)
        self.data = [
            SideData(
                [self._mean_features(x[side == s], t) if s in seen else None for s in (0, 1)],
                np.bincount(side, minlength=2),
                own,
                everywhere - seen,
            )
            for t, x, side, seen, own in zip(self.temperatures, places, sides, visited, g, strict=True)
        ]
        self.share = plan.replicas // len(self.temperatures)
        self.rng = np.random.default_rng(protocol.seed)
        self.start = np.concatenate([self.rng.choice(x, self.share) for x in places])
        self.masses = uniform_masses(self.start.shape[1]) if masses is None else real_array(masses, "masses", "u")
        self.protocol = replace(protocol.for_bonds(frames.bonds), guard=None)

    def run(self, update: Callable[[], Any]) -> RelativeEntropyFit:
        """Sample and step until the model has converged or the rounds are used up."""
        v, model, history, arrived = torch.zeros_like(self.mean), self.linear, [], False
        for number in range(self.plan.rounds):
            ensembles, independent = self._sample(model, v, self.protocol.burn_in // (4 if number else 1))
            update()
            target = maximum(v, ensembles)
            moved, effective = trusted_step(target - v, ensembles, self.plan.trusted)
            v = v + moved * (target - v)
            history.append(Round(moved, effective, float(torch.linalg.vector_norm(v)), independent))
            # averages over a side that the model hardly visits are not known well enough to stop
            covered = all(one.covers_frames(self.plan.enough_samples) for one in ensembles)
            arrived = moved == 1.0 and effective >= self.plan.arrived and covered
            lower = self.lower
            if arrived or number == self.plan.rounds - 1:
                lower = refined_precision(lower, v, ensembles, self.plan.curvature_samples)
            weights = self.mean + torch.linalg.solve_triangular(self.lower.T, v[:, None], upper=True)[:, 0]
            model = self.linear.with_weights(weights.to(self.linear.mean), lower.to(self.linear.lower))
            if arrived:
                break
        density = {
            t: float((one.counts / np.array(one.inefficiency[:2])).sum())
            for t, one in zip(self.temperatures, self.data, strict=True)
        }
        return RelativeEntropyFit(trained(self.given, model, density), tuple(history), arrived, self.inefficiency)

    def _sample(self, model: LinearModel, v: Tensor, burn_in: int) -> tuple[list[Ensemble], float]:
        """Samples of a model at every temperature, and the independent samples of each replica."""
        run = run_langevin(
            model,
            self.start,
            np.repeat(self.temperatures, self.share),
            replace(self.protocol, burn_in=burn_in, seed=int(self.rng.integers(2**62))),
            masses=self.masses,
            progress=False,
        )
        self.start, ensembles, independent = run.positions[-1], [], math.inf
        for k, t in enumerate(self.temperatures):
            samples = run.positions[:, k * self.share : (k + 1) * self.share].reshape(-1, *self.start.shape[1:])
            found = SlowVariables.of(self.linear, self.bonds, samples)
            side = found.side(self.torsion)
            columns = np.column_stack([found.columns, side]).reshape(len(run), self.share, -1)
            each = float(samples_per_replica(columns).min())
            independent = min(independent, each)
            features = self._features(samples, t)
            ensembles.append(weighted_ensemble(BOLTZMANN * t, features, side, self.data[k], self.share * each, v))
        return ensembles, independent

    def _features(self, positions: np.ndarray, temperature: float) -> Tensor:
        """Whitened features L⁻¹ f at configurations, shape (n, W)."""
        return torch.cat(list(self._feature_blocks(positions, temperature)))

    def _mean_features(self, positions: np.ndarray, temperature: float) -> Tensor:
        """Mean of the whitened features over frames, without holding those of all."""
        total = torch.zeros_like(self.mean)
        for block in self._feature_blocks(positions, temperature):
            total += block.sum(0)
        return total / len(positions)

    def _feature_blocks(self, positions: np.ndarray, temperature: float, frames: int = 1024):
        """Whitened features of some frames at a time, which limits the memory."""
        for start in range(0, len(positions), frames):
            x = torch.from_numpy(np.array(positions[start : start + frames], dtype=np.float64, order="C"))
            f = _plain(self.linear.features(x, temperature))
            yield torch.linalg.solve_triangular(self.lower, f.T, upper=False).T


def _plain(values: Tensor) -> Tensor:
    """On the CPU, in double precision, without a graph."""
    return values.detach().to("cpu", torch.float64)


def _report_unvisited(temperatures: list[float], visited: list[set[int]], everywhere: set[int]) -> None:
    """Log temperatures whose run never crossed the slowest torsion: they do not determine the other side."""
    for t, seen in zip(temperatures, visited, strict=True):
        if seen != everywhere:
            logger.warning(
                "relative entropy: the frames at %g K never visit one side of the slowest torsion, which others do at "
                "their temperatures; they are not used for its population",
                t,
            )


def _warn(found: RelativeEntropyFit, plan: RelativeEntropyPlan) -> None:
    if not found.converged:
        logger.warning("relative entropy: not converged after %d rounds; raise rounds, replicas or steps", plan.rounds)
    independent = found.rounds[-1].samples_per_replica
    if independent < plan.forgotten:
        logger.warning(
            "relative entropy: replicas gave %.1f independent samples each and still depend on their start, the "
            "model's averages are therefore biased towards the frames; raise steps and burn_in, or pass moves",
            independent,
        )


def _check(model: LinearModel, frames: Frames, plan: RelativeEntropyPlan) -> None:
    """Raise DataError if the frames do not fit the model; log temperatures outside those of its data."""
    require(
        isinstance(frames, Frames) and frames.positions is not None and frames.cell is None and not frames.parameters,
        "frames must be kernelfe.Frames of bead positions, without a cell and without parameters: relative entropy "
        "samples the model",
    )
    assert frames.positions is not None
    kinds, here = getattr(model, "kinds", None), frames.positions.shape[1]
    beads = getattr(model, "beads", len(kinds) if kinds else here)
    count = len(np.unique(frames.temperature))
    same = beads == here and (None in (frames.kinds, kinds) or frames.kinds == kinds)
    require(same, "these frames are of another molecule than the model was fitted to")
    require(
        len(frames) and plan.replicas >= 2 * count,
        f"{len(frames)} frames, replicas={plan.replicas}: needed are frames, and two replicas for each of {count} "
        "temperatures (join temperatures that hardly differ)",
    )
    known = getattr(model, "temperatures", None)
    if known and not min(known) <= frames.temperature.min() <= frames.temperature.max() <= max(known):
        logger.warning(
            "relative entropy: some frames lie outside the %g to %g K the model was fitted at", min(known), max(known)
        )


__all__ = ["SAMPLING", "RelativeEntropyFit", "RelativeEntropyPlan", "Round", "minimize_relative_entropy"]
