"""Active learning: choose configurations where a label helps most, have them labelled, update the model.

Each round draws samples of the present model at the target temperatures, and candidates at all temperatures that a
driver can label; chooses the candidates whose labels would lower the expected divergence most
(:mod:`kernelfe.training.acquisition`); has them labelled; and conditions the model on the labels
(:func:`kernelfe.gp.fitted.update.condition`). Every few rounds the hyperparameters are fitted again, from their present
values.

Candidates far outside the training data are left out: the model's ensemble reaches them only by mistake, and an
all-atom run may fail there. The domain grows with every label, so new regions are reached step by step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from sklearn.base import clone
from tqdm import tqdm

from ..errors import require
from ..frames import Frames
from ..gp import FreeEnergyRegressor, condition
from ..simulate import LangevinProtocol, SamplingError, run_langevin, uniform_masses
from ..specs import SEED, Bound, Flag, OneOrMore, OrNone, Real, Spec, Whole
from .acquisition import expected_divergence, propose

logger = logging.getLogger(__name__)

#: Default sampling of a round. No guard: replicas that stray are left out by their domain score.
SAMPLING = LangevinProtocol(
    timestep=5.0, friction=10.0, steps=200, stride=1, burn_in=200, moves="auto", moves_every=1, guard=None
)

#: Takes configurations with temperatures and a seed, returns them with labels and their noise.
Driver = Callable[[Frames, int], Frames]


@dataclass(frozen=True)
class ActivePlan(Spec):
    """Temperatures, sizes and sampling of an active-learning loop.

    Parameters
    ----------
    rounds, batch
        Rounds, and configurations labelled in each.
    candidates, samples
        Candidates to choose from, and samples of the model (at each target temperature) that judge them.
    farthest
        Domain score beyond which candidates are left out.
    refit
        Rounds between fits of the hyperparameters; 0: never.
    replicas
        Replicas of the Langevin dynamics that draws samples and candidates.
    protocol
        The dynamics; its ``stride``, ``seed`` and ``guard`` are not used.
    target
        Temperatures, K, at which the ensemble of the model shall be right; None: those of its training data.
    temperatures
        Temperatures, K, at which configurations can be labelled; None: those of the training data.
    at_random
        Choose among the same candidates at random: the reference of a choice by uncertainty.
    seed
        Seed of all random numbers; the driver gets seeds derived from it.
    attempts
        Attempts at sampling a model, each with the unstable replicas started elsewhere and a time step ``shorter``
        times the one before.
    shorter
        See ``attempts``.
    steps, burn_in, timestep, friction
        Replace those of ``protocol``.
    """

    rounds: int = 5
    batch: int = 10
    candidates: int = 150
    samples: int = 300
    farthest: float = 2.0
    refit: int = 2
    replicas: int = 200
    protocol: LangevinProtocol = SAMPLING
    target: float | Sequence[float] | None = None
    temperatures: Sequence[float] | None = None
    at_random: bool = False
    seed: int | None = 0
    attempts: int = 6
    shorter: float = 0.7
    steps: InitVar[int | None] = None
    burn_in: InitVar[int | None] = None
    timestep: InitVar[float | None] = None
    friction: InitVar[float | None] = None

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        **dict.fromkeys(("rounds", "batch", "candidates", "samples", "replicas", "attempts"), Whole(least=1)),
        "refit": Whole(least=0),
        "seed": SEED,
        "farthest": Real(above=0.0, finite=False),
        "shorter": Real(above=0.0, most=1.0),
        "at_random": Flag(),
        **dict.fromkeys(("target", "temperatures"), OrNone(OneOrMore(Real(above=0.0)))),
    }

    def __post_init__(self, *given: Any) -> None:  # nothing is given by set_params
        named = zip(("steps", "burn_in", "timestep", "friction"), given, strict=False)
        options = {name: value for name, value in named if value is not None}
        object.__setattr__(self, "protocol", self.protocol.with_options(**options))
        super().__post_init__()
        require(self.batch <= self.candidates, f"ActivePlan: a batch of {self.batch} needs at least as many candidates")


@dataclass(frozen=True)
class ActiveRound:
    """Record of one round.

    Parameters
    ----------
    expected, promised
        Expected divergence ⟨D⟩ before the round, and the prediction of the proposal for after it.
    chosen
        The configurations that were labelled, with their labels.
    left_out
        Share of the candidates that are too far outside the training data.
    """

    expected: float
    promised: float
    chosen: Frames = field(repr=False)
    left_out: float


@dataclass(frozen=True)
class ActiveLearning:
    """Result of :func:`learn_actively`.

    Parameters
    ----------
    model
        The model after the last round.
    frames
        All frames it was conditioned on, with their noise.
    rounds
        Record of every round.
    """

    model: FreeEnergyRegressor
    frames: Frames
    rounds: tuple[ActiveRound, ...]


def learn_actively(
    model: FreeEnergyRegressor,
    frames: Frames,
    driver: Driver,
    *,
    noise: Mapping[str, float],
    plan: ActivePlan | None = None,
    progress: bool = True,
    callback: Callable[[int, FreeEnergyRegressor], None] | None = None,
    **options: Any,
) -> ActiveLearning:
    """Improve a model where its ensemble depends on missing data.

    Parameters
    ----------
    model
        Fitted to ``frames``; not changed.
    frames
        The labelled frames to begin with: positions of the beads of a molecule.
    driver
        Labels configurations, for example ``lambda f, seed: ensemble.sample(f, structures, 10.0, seed=seed)`` with a
        :class:`kernelfe.allatom.RestrainedEnsemble`. Its labels must include their noise.
    noise
        Label kind to the approximate standard deviation of the driver's labels; its keys are the kinds that the choice
        takes into account. After the first round the median of the stated noise is used.
    plan
        Target temperatures, rounds, sizes, seed and sampling.
    progress
        Show a progress bar.
    callback
        Called with the round and the model after each.
    **options
        Fields of the plan to replace, for example ``target=350.0, temperatures=(300.0, 450.0), seed=1``.

    Returns
    -------
    ActiveLearning

    Raises
    ------
    DataError
        If the frames are not of bead positions without a cell, a temperature is not positive, the driver returns other
        rows, no noise or not the expected labels, or too few candidates are near the training data.

    Notes
    -----
    An exception that ends the loop (an error of the driver, Ctrl-C) carries the rounds completed so far as its
    attribute ``learned``, an :class:`ActiveLearning`, so that no labels are lost.
    """
    plan = replace(plan or ActivePlan(), **options)
    require(
        frames.positions is not None and frames.cell is None and not frames.parameters,
        "active learning samples the model: it needs bead positions, without cell and parameters",
    )
    rng = np.random.default_rng(plan.seed)
    learned = ActiveLearning(model, _with_noise(model, frames), ())
    expected_noise = dict(noise)
    try:
        for number in tqdm(range(plan.rounds), unit="round", desc="active learning", disable=not progress):
            one = _round(learned, driver, expected_noise, plan, rng)
            known = Frames.concatenate([learned.frames, one.chosen])
            learned = ActiveLearning(learned.model, known, (*learned.rounds, one))  # labels first, then the model
            for kind in expected_noise:
                expected_noise[kind] = float(np.nanmedian(np.asarray(one.chosen.noise[kind])))
            if plan.refit and (number + 1) % plan.refit == 0:
                model = clone(learned.model).set_params(terms=learned.model.fitted_terms()).fit(known)
            else:
                model = condition(learned.model, one.chosen)
            learned = ActiveLearning(model, known, learned.rounds)
            logger.info("round %d: expected divergence %.4f, predicted %.4f", number, one.expected, one.promised)
            if callback is not None:
                callback(number, model)
    except BaseException as error:
        error.learned = learned  # type: ignore[attr-defined]
        raise
    return learned


def _round(learned: ActiveLearning, driver: Driver, noise: Mapping[str, float], plan: ActivePlan, rng) -> ActiveRound:
    """Sample, choose, and have labelled."""
    model, known = learned.model, learned.frames
    targets, offered = (np.unique(t or model.temperatures_) for t in (plan.target, plan.temperatures))
    samples = _draw(model, known, targets, plan.samples, plan, rng)
    pool = _draw(model, known, offered, -(-plan.candidates // len(offered)), plan, rng)
    near = model.domain_score(pool) <= plan.farthest
    candidates, sound = pool[near], samples[model.domain_score(samples) <= plan.farthest]
    for count, least, name in ((len(candidates), plan.batch, "candidates"), (len(sound), 2, "samples")):
        require(
            count >= least,
            f"only {count} {name} are near the training data, {least} are needed: begin with more frames, or raise "
            "farthest",
        )
    if plan.at_random:
        rows = rng.choice(len(candidates), plan.batch, replace=False)
        expected, promised = expected_divergence(model, sound), float("nan")
    else:
        proposal = propose(model, candidates, sound, plan.batch, noise)
        rows = proposal.rows
        expected, promised = float(proposal.divergence[0]), float(proposal.divergence[-1])
    chosen = driver(candidates[rows], int(rng.integers(2**31)))
    _check_labels(chosen, candidates[rows], noise)
    return ActiveRound(expected, promised, chosen, float(1.0 - near.mean()))


def _with_noise(model: FreeEnergyRegressor, frames: Frames) -> Frames:
    """Frames with noise of every label: that learned by the fit where none was stated."""
    noise = dict(frames.noise)
    for kind, values in frames.labels.items():
        if kind in noise:
            continue
        learned = kind in model.noise_
        require(learned, f"labels {kind!r} were not fitted, and their noise is unknown: drop them (drop_labels)")
        level, power = model.noise_[kind]
        sigma = level * (frames.temperature / model.noise_temperature_) ** power
        noise[kind] = np.broadcast_to(sigma.reshape(-1, *[1] * (values.ndim - 1)), values.shape)
    return frames.replace(noise=noise)


def _draw(model: FreeEnergyRegressor, frames: Frames, temperatures, count: int, plan: ActivePlan, rng) -> Frames:
    """Samples of the model, ``count`` at each temperature, from starts among the frames at the nearest one."""
    assert frames.positions is not None
    share = min(count, max(1, plan.replicas // len(temperatures)))
    rounds = -(-count // share)
    starts = []
    for t in temperatures:
        gap = np.abs(frames.temperature - t)
        starts.append(rng.choice(np.flatnonzero(gap == gap.min()), share))
    at, start = np.repeat(temperatures, share), frames.positions[np.concatenate(starts)]
    stride = max(1, plan.protocol.steps // rounds)
    protocol = replace(plan.protocol.for_bonds(frames.bonds), steps=stride * rounds, stride=stride, guard=None)
    for attempt in range(plan.attempts):
        try:
            run = run_langevin(
                model.frozen(),
                start,
                at,
                replace(protocol, seed=int(rng.integers(2**62))),
                masses=uniform_masses(frames.positions.shape[1]),
                progress=False,
            )
            break
        except SamplingError as error:  # a model of few labels may have deep holes: start those replicas elsewhere
            lost = list(error.replicas)
            kept = np.setdiff1d(np.arange(len(start)), lost)
            if attempt == plan.attempts - 1 or not len(kept):
                raise
            same = [kept[at[kept] == at[k]] for k in lost]
            for k, others in zip(lost, same, strict=True):
                start[k] = start[rng.choice(others if len(others) else kept)]
            shorter = protocol.time_step(model.frozen(), uniform_masses(frames.positions.shape[1])) * plan.shorter
            protocol = replace(protocol, timestep=shorter)
    temperature = np.tile(at, rounds)
    rows = np.concatenate([np.flatnonzero(temperature == t)[:count] for t in temperatures])
    return Frames.from_arrays(
        run.flat()[rows], temperature=temperature[rows], kinds=frames.kinds, masses=frames.masses, bonds=frames.bonds
    )


def _check_labels(chosen: Frames, asked: Frames, noise: Mapping[str, float]) -> None:
    """Raise DataError unless a driver returned the rows of the request with labels and their noise."""
    wrong = ""
    if not isinstance(chosen, Frames) or chosen.shape != asked.shape:
        wrong = "something other than Frames with the rows it was asked about, in their order"
    elif not chosen.labels:
        wrong = "no labels"
    elif bare := [kind for kind in chosen.labels if kind not in chosen.noise]:
        wrong = f"labels {', '.join(bare)} without noise"
    elif absent := [kind for kind in noise if kind not in chosen.labels or not chosen.present[kind].any()]:
        wrong = f"no labels {absent[0]!r}, which noise= names: remove it there"
    require(not wrong, f"the driver returned {wrong}")
