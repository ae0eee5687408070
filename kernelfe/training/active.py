"""Active learning: the model says where it must be told more, a driver finds it out, the model takes it in.

Each round draws samples of the present model at the temperatures that matter, and candidates at all temperatures that a
driver may be asked about; chooses the candidates whose labels would lower the expected divergence most
(:mod:`kernelfe.training.acquisition`); has them labelled; and conditions the model on the labels
(:func:`kernelfe.gp.fitted.update.condition`), with hyperparameters fitted anew, from where they were, every few rounds.

Candidates far outside of the training data are left out: the model's ensemble reaches there only by mistake, and an
all-atom run may not start there. The domain grows with every label, so new places are reached step by step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from sklearn.base import clone
from tqdm import tqdm

from ..errors import DataError, require
from ..frames import Frames
from ..frames.checks import numbers
from ..gp import FreeEnergyRegressor, condition
from ..simulate import SamplingError, TorsionMoves, run_langevin, uniform_masses
from ..specs import Bound, Real, Spec, Whole
from .acquisition import expected_divergence, propose

logger = logging.getLogger(__name__)

#: How often the sampling of a model is tried, with replicas that were lost started elsewhere and shorter steps.
ATTEMPTS = 6

#: Takes configurations with temperatures and a seed, gives them back with labels and their noise.
Driver = Callable[[Frames, int], Frames]


@dataclass(frozen=True)
class ActivePlan(Spec):
    """How an active-learning loop proceeds.

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
    replicas, steps, burn_in, timestep, friction
        Of the Langevin dynamics that draws samples and candidates: fs, 1/ps.
    """

    rounds: int = 5
    batch: int = 10
    candidates: int = 150
    samples: int = 300
    farthest: float = 2.0
    refit: int = 2
    replicas: int = 200
    steps: int = 200
    burn_in: int = 200
    timestep: float = 5.0
    friction: float = 10.0

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        **dict.fromkeys(("rounds", "batch", "candidates", "samples", "replicas", "steps"), Whole(least=1)),
        **dict.fromkeys(("refit", "burn_in"), Whole(least=0)),
        **dict.fromkeys(("farthest", "timestep", "friction"), Real(above=0.0, finite=False)),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.batch <= self.candidates, f"ActivePlan: a batch of {self.batch} needs at least as many candidates")


@dataclass(frozen=True)
class ActiveRound:
    """What one round did.

    Parameters
    ----------
    expected, promised
        Expected divergence ⟨D⟩ before the round, and what the proposal promised for after it.
    chosen
        The configurations that were labelled, with their labels.
    left_out
        Share of the candidates that lay too far outside of the training data.
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
        What every round did.
    """

    model: FreeEnergyRegressor
    frames: Frames
    rounds: tuple[ActiveRound, ...]


def learn_actively(
    model: FreeEnergyRegressor,
    frames: Frames,
    driver: Driver,
    *,
    target: float | Sequence[float],
    temperatures: Sequence[float],
    noise: Mapping[str, float],
    plan: ActivePlan | None = None,
    at_random: bool = False,
    seed: int = 0,
    progress: bool = True,
    callback: Callable[[int, FreeEnergyRegressor], None] | None = None,
) -> ActiveLearning:
    """Improve a model where its ensemble depends on what it does not know.

    Parameters
    ----------
    model
        Fitted to ``frames``; left as it was.
    frames
        The labelled frames to begin with: positions of the beads of a molecule.
    driver
        Labels configurations, for example ``lambda f, seed: ensemble.sample(f, structures, 10.0, seed=seed)`` with a
        :class:`kernelfe.allatom.RestrainedEnsemble`. The noise of its labels must come with them.
    target
        Temperatures, K, at which the ensemble of the model shall be right.
    temperatures
        Temperatures, K, at which configurations may be labelled.
    noise
        Label kind to the standard deviation the driver's labels will have, about; its keys are what the choice reckons
        with. After the first round the median of what the driver stated is used.
    plan
        How many rounds, candidates and samples.
    at_random
        Choose among the same candidates at random instead: what a choice by uncertainty is to be compared with.
    seed
        Of everything random; the driver gets seeds derived from it.
    progress
        Show a progress bar.
    callback
        Called with the round and the model after each.

    Returns
    -------
    ActiveLearning

    Raises
    ------
    DataError
        If the frames are not of bead positions without a cell, a temperature is not positive, the driver returns other
        rows, no noise or not the labels reckoned with, or too few candidates lie near the training data.

    Notes
    -----
    Whatever interrupts the loop (an error of the driver, Ctrl-C) leaves with the rounds completed so far as its
    attribute ``learned``, an :class:`ActiveLearning`: labels that were paid for are not lost.
    """
    plan = ActivePlan() if plan is None else plan
    if frames.positions is None or frames.cell is not None or frames.parameters:
        raise DataError("active learning samples the model: it needs bead positions, without cell and parameters")
    targets, offered = (np.unique(numbers(t, n)) for t, n in ((target, "target"), (temperatures, "temperatures")))
    for name, t in (("target", targets), ("temperatures", offered)):
        if not len(t) or not (np.isfinite(t) & (t > 0.0)).all():
            raise DataError(f"{name}={t.tolist()}: give at least one, positive and finite (K)")
    rng = np.random.default_rng(seed)
    learned = ActiveLearning(model, _with_noise(model, frames), ())
    expected_noise = dict(noise)
    try:
        for number in tqdm(range(plan.rounds), unit="round", desc="active learning", disable=not progress):
            one = _round(learned, driver, targets, offered, expected_noise, plan, at_random, rng)
            known = Frames.concatenate([learned.frames, one.chosen])
            learned = ActiveLearning(learned.model, known, (*learned.rounds, one))  # labels first, then the model
            for kind in expected_noise:
                expected_noise[kind] = float(np.nanmedian(np.asarray(one.chosen.noise[kind])))
            if plan.refit and (number + 1) % plan.refit == 0:
                model = clone(learned.model).set_params(terms=learned.model.fitted_terms()).fit(known)
            else:
                model = condition(learned.model, one.chosen)
            learned = ActiveLearning(model, known, learned.rounds)
            logger.info("round %d: expected divergence %.4f, promised %.4f", number, one.expected, one.promised)
            if callback is not None:
                callback(number, model)
    except BaseException as error:
        error.learned = learned  # type: ignore[attr-defined]
        raise
    return learned


def _round(
    learned: ActiveLearning, driver: Driver, targets, offered, noise: Mapping[str, float], plan, at_random: bool, rng
) -> ActiveRound:
    """Sample, choose, and have labelled."""
    model, known = learned.model, learned.frames
    samples = _draw(model, known, targets, plan.samples, plan, rng)
    pool = _draw(model, known, offered, -(-plan.candidates // len(offered)), plan, rng)
    near = model.domain_score(pool) <= plan.farthest
    candidates, sound = pool[near], samples[model.domain_score(samples) <= plan.farthest]
    for count, least, name in ((len(candidates), plan.batch, "candidates"), (len(sound), 2, "samples")):
        if count < least:
            raise DataError(
                f"only {count} {name} lie near the training data, {least} are needed: begin with more frames, or raise "
                "farthest"
            )
    if at_random:
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
    """Frames whose noise is given: what the fit learned, where nothing was stated."""
    noise = dict(frames.noise)
    for kind, values in frames.labels.items():
        if kind in noise:
            continue
        if kind not in model.noise_:
            raise DataError(f"labels {kind!r} were not fitted, and their noise is unknown: drop them (drop_labels)")
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
    try:
        moves = None if frames.bonds is None else TorsionMoves(frames.bonds)
    except DataError:  # no bond that could turn
        moves = None
    stride, timestep = max(1, plan.steps // rounds), plan.timestep
    for attempt in range(ATTEMPTS):
        try:
            run = run_langevin(
                model.frozen(),
                start,
                at,
                masses=uniform_masses(frames.positions.shape[1]),
                timestep=timestep,
                friction=plan.friction,
                steps=stride * rounds,
                stride=stride,
                burn_in=plan.burn_in,
                moves=moves,
                moves_every=1,
                seed=int(rng.integers(2**62)),
                progress=False,
                guard=None,  # who strays is left out by the domain score, nothing else ends the round
            )
            break
        except SamplingError as error:  # a model of few labels may have pits: who falls into one starts elsewhere
            lost = list(error.replicas)
            kept = np.setdiff1d(np.arange(len(start)), lost)
            if attempt == ATTEMPTS - 1 or not len(kept):
                raise
            same = [kept[at[kept] == at[k]] for k in lost]
            for k, others in zip(lost, same, strict=True):
                start[k] = start[rng.choice(others if len(others) else kept)]
            timestep *= 0.7
    temperature = np.tile(at, rounds)
    rows = np.concatenate([np.flatnonzero(temperature == t)[:count] for t in temperatures])
    return Frames.from_arrays(
        run.flat()[rows], temperature=temperature[rows], kinds=frames.kinds, masses=frames.masses, bonds=frames.bonds
    )


def _check_labels(chosen: Frames, asked: Frames, noise: Mapping[str, float]) -> None:
    if not isinstance(chosen, Frames) or chosen.shape != asked.shape:
        raise DataError("the driver must return Frames with the rows it was asked about, in their order")
    bare = [kind for kind in chosen.labels if kind not in chosen.noise]
    if not chosen.labels or bare:
        raise DataError(
            f"the driver returned {'labels ' + ', '.join(bare) + ' without noise' if bare else 'no labels'}"
        )
    if absent := [kind for kind in noise if kind not in chosen.labels or not chosen.present[kind].any()]:
        raise DataError(f"the driver returned no labels {absent[0]!r}, which noise= reckons with: leave it out there")
