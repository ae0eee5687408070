"""Relative entropy: where the frames are found is a label, too.

Equilibrium frames are draws from exp(−A(R; T)/kT)/Z(T), so beside their forces and energies their *places* tell of A:
how deep a basin is, and that nothing is where no frame is. Their likelihood

    Σ_n [−A(R_n; T_n)/kT_n − ln Z(T_n)]

is the relative entropy of model and data up to a constant (Shell, J. Chem. Phys. 129, 144108, 2008). It is no linear
functional of A, so it cannot join the exact conditioning; but a sparse model has a Gaussian posterior N(μ, Λ⁻¹) of its
weights w, A = w·f(R, T), after all linear labels. With that as the prior, this module finds the maximum of

    −½ (w − μ)ᵀ Λ (w − μ) − Σ_T (n_T/g_T) [w·f̄_T/kT + ln Z_T(w)],

f̄_T the mean of the features over the frames at T, g_T their statistical inefficiency (two of them where a torsion
is slow, see :mod:`~kernelfe.training.sides`). ln Z_T comes from samples of the model of the last round, reweighted; a
round ends where reweighting becomes unreliable, and the next samples anew.
At the maximum the Laplace approximation adds (n_T/g_T) Cov_T(f, f)/(kT)² to the precision: error bars shrink, too.
The objective is concave in w, so there is one maximum.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor
from tqdm import tqdm

from ..errors import DataError
from ..frames import Frames
from ..gp import FreeEnergyRegressor
from ..gp.posterior import Posterior
from ..gp.prior.rows import frame_chunks
from ..simulate import Move, TorsionMoves, run_langevin, uniform_masses
from ..specs import OrNone, Real, Whole, checked
from ..statistics import samples_per_replica
from ..units import BOLTZMANN, FEMTOSECOND
from .ensembles import maximum, refined_precision, trusted_step, weighted_ensemble
from .sides import SlowVariables, side_inefficiencies, slowest_torsion

logger = logging.getLogger(__name__)

#: A full step that leaves this share effective has arrived: samples anew would say the same.
ARRIVED = 0.9
#: Independent samples per replica below which the start is not forgotten.
FORGOTTEN = 3.0
#: Frames whose features are held at a time.
FEATURE_FRAMES = 1024


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
        Independent samples each replica gave, of the slowest descriptor. Near one, replicas have stayed where they
        began, among the frames, and the samples agree with them whatever the model.
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
        The refined model; the one passed in is left as it was.
    rounds
        What every round did.
    converged
        Whether the last round took its full step and would sample the same again.
    inefficiency
        Temperature → statistical inefficiencies used: of the density on either side of the slowest torsion (the sides
        where it is negative and positive), and of the populations of the sides.
    """

    model: FreeEnergyRegressor
    rounds: tuple[Round, ...]
    converged: bool
    inefficiency: dict[float, tuple[float, float, float]]


def minimize_relative_entropy(
    model: FreeEnergyRegressor,
    frames: Frames,
    *,
    inefficiency: float | None = None,
    rounds: int = 8,
    replicas: int = 1000,
    steps: int = 200,
    stride: int = 20,
    burn_in: int = 100,
    timestep: float | None = None,
    friction: float = 10.0,
    masses: np.ndarray | None = None,
    moves: Move | str | None = "auto",
    seed: int = 0,
    progress: bool = True,
) -> RelativeEntropyFit:
    """Condition a fitted model on where equilibrium frames are found, beside the labels it was fitted to.

    Parameters
    ----------
    model
        Fitted by the sparse solver to configurations of beads, without a cell and without parameters λ.
    frames
        Unbiased equilibrium frames, at one or several temperatures; labels are not looked at. Best those the model was
        fitted to: no further all-atom simulation is needed.
    inefficiency
        Statistical inefficiency g = 2τ of the frames: n frames tell as much of the density as n/g independent ones.
        None: estimated at each temperature, taking the frames in their order as a time series, from descriptors and
        torsions on each side of the slowest torsion, and from the crossings between the sides for their populations.
        Shuffled frames count as independent, and error bars are then too small.
    rounds
        Most rounds of sampling.
    replicas
        Replicas of the model, shared equally by the temperatures; at least two for each.
    steps, stride, burn_in
        Langevin steps per round, steps between samples, and steps before the first sample (a fourth of them in later
        rounds, which go on from the samples of the round before).
    timestep, friction
        fs and 1/ps. timestep=None: 5 fs, less where the bonds of the baseline need it.
    masses
        (beads,), u; None: equal masses. Averages do not depend on them.
    moves
        Monte Carlo moves between the steps; "auto": torsion moves where the frames name bonds that can turn.
    seed
        Of the sampling.
    progress
        Show a progress bar.

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
    _check(model, frames)
    rounds, replicas = checked("rounds", rounds, Whole(least=1)), checked("replicas", replicas, Whole(least=1))
    seed = checked("seed", seed, Whole(least=0))
    inefficiency = checked("inefficiency", inefficiency, OrNone(Real(above=0.0)))
    _check_numbers(frames, replicas, moves)
    posterior = model.posterior_
    temperatures = np.unique(frames.temperature).tolist()
    positions = np.asarray(frames.positions, dtype=np.float64)
    places = [positions[frames.temperature == t] for t in temperatures]
    slow = [SlowVariables.of(model, frames.bonds, x) for x in places]
    torsion = slowest_torsion(slow)
    if inefficiency is None:
        g = {t: side_inefficiencies(one, torsion) for t, one in zip(temperatures, slow, strict=True)}
    else:
        g = {t: (float(inefficiency),) * 3 for t in temperatures}
    visited = [set(one.side(torsion).tolist()) for one in slow]
    _report_unvisited(temperatures, visited)
    data = [
        [_mean_features(model, x[one.side(torsion) == side], t) if side in seen else None for side in (0, 1)]
        for t, x, one, seen in zip(temperatures, places, slow, visited, strict=True)
    ]
    share = replicas // len(temperatures)
    rng = np.random.default_rng(seed)
    start = np.concatenate([rng.choice(x, share) for x in places])
    masses = uniform_masses(start.shape[1]) if masses is None else np.asarray(masses, dtype=float)
    arguments: dict[str, Any] = {
        "masses": masses,
        "moves": _moves(frames) if moves == "auto" else moves,
        "moves_every": 1,
        "timestep": _timestep(model, masses) if timestep is None else timestep,
        "friction": friction,
        "steps": steps,
        "stride": stride,
        "progress": False,
        # where the model goes and the frames do not is just what the density corrects
        "guard": None,
    }
    out, history = model, []
    counts = [np.bincount(one.side(torsion), minlength=2) for one in slow]
    density = {t: float(n[0] / g[t][0] + n[1] / g[t][1]) for t, n in zip(temperatures, counts, strict=True)}
    v = torch.zeros_like(posterior.weights)
    with tqdm(total=rounds, unit="round", desc="relative entropy", disable=not progress, leave=False) as bar:
        for number in range(rounds):
            run = run_langevin(
                out.frozen(),
                start,
                np.repeat(temperatures, share),
                burn_in=burn_in if number == 0 else burn_in // 4,
                seed=int(rng.integers(2**62)),
                **arguments,
            )
            start, ensembles, independent = run.positions[-1], [], math.inf
            for k, t in enumerate(temperatures):
                samples = run.positions[:, k * share : (k + 1) * share].reshape(-1, *start.shape[1:])
                found = SlowVariables.of(model, frames.bonds, samples)
                columns = np.column_stack([found.columns, found.side(torsion)]).reshape(len(run), share, -1)
                each = float(samples_per_replica(columns).min())
                independent = min(independent, each)
                ensembles.append(
                    weighted_ensemble(
                        BOLTZMANN * t,
                        _features(model, samples, t),
                        found.side(torsion),
                        data[k],
                        counts[k],
                        g[t],
                        share * each,
                        silent=set().union(*visited) - visited[k],
                        origin=v,
                    )
                )
            bar.update()
            target = maximum(v, ensembles)
            moved, effective = trusted_step(target - v, ensembles)
            v = v + moved * (target - v)
            history.append(Round(moved, effective, float(torch.linalg.vector_norm(v)), independent))
            # averages over a side that the model hardly visits are not known well enough to stop
            arrived = moved == 1.0 and effective >= ARRIVED and all(one.covers_frames() for one in ensembles)
            lower = (
                refined_precision(posterior.lower, v, ensembles) if arrived or number == rounds - 1 else posterior.lower
            )
            out = _refined(model, posterior.moved(v, lower), density)
            if arrived:
                break
    if not arrived:
        logger.warning("relative entropy: not converged after %d rounds; raise rounds, replicas or steps", rounds)
    if independent < FORGOTTEN:
        logger.warning(
            "relative entropy: replicas gave %.1f independent samples each and remember where they began, the model's "
            "averages are therefore biased towards the frames; raise steps and burn_in, or pass moves",
            independent,
        )
    return RelativeEntropyFit(out, tuple(history), arrived, g)


def _refined(model: FreeEnergyRegressor, posterior: Posterior, density: dict) -> FreeEnergyRegressor:
    fitted = model.model_
    return model.with_model(
        replace(fitted, posterior=posterior, provenance=replace(fitted.provenance, density=density))
    )


def _report_unvisited(temperatures: list[float], visited: list[set[int]]) -> None:
    """Say where a run never crossed the slowest torsion: its frames then tell nothing of the other side."""
    everywhere = set().union(*visited)
    for t, seen in zip(temperatures, visited, strict=True):
        if seen != everywhere:
            logger.warning(
                "relative entropy: the frames at %g K never visit one side of the slowest torsion, which others do at "
                "their temperatures; they are taken to tell nothing of its population",
                t,
            )


def _mean_features(model: FreeEnergyRegressor, positions: np.ndarray, temperature: float) -> Tensor:
    """Mean of the features over frames, without holding those of all."""
    total = torch.zeros_like(model.posterior_.weights)
    for start, stop in frame_chunks(len(positions), FEATURE_FRAMES):
        total += _features(model, positions[start:stop], temperature).sum(0)
    return total / len(positions)


@torch.no_grad()
def _features(model: FreeEnergyRegressor, positions: np.ndarray, temperature: float) -> Tensor:
    """Whitened features L⁻¹ f of A at configurations, shape (n, W), with w·f = A − baseline."""
    posterior = model.posterior_
    out = []
    for start, stop in frame_chunks(len(positions), FEATURE_FRAMES):
        part = Frames.from_arrays(positions=positions[start:stop], temperature=temperature, kinds=model.kinds_)
        rows = model.model_.rows(part)[0]
        out.append(posterior.linear_features(rows))
    return torch.cat(out)


def _timestep(model: FreeEnergyRegressor, masses: np.ndarray) -> float:
    """5 fs, or what keeps ω·dt of the stiffest bond of the baseline at 1.4 (stability needs less than 2)."""
    fastest = 0.0
    for (i, j), (stiffness, _) in zip(
        getattr(model.baseline_, "bonds", ()), getattr(model.baseline_, "bond_parameters", ()), strict=True
    ):
        fastest = max(fastest, math.sqrt(stiffness * (1.0 / masses[i] + 1.0 / masses[j])) * FEMTOSECOND)
    return min(5.0, 1.4 / fastest) if fastest > 0.0 else 5.0


def _moves(frames: Frames) -> Move | None:
    """Torsion moves if any bond can turn."""
    if frames.bonds is None:
        return None
    try:
        return TorsionMoves(frames.bonds)
    except DataError:
        return None


def _check(model: FreeEnergyRegressor, frames: Frames) -> None:
    check_is_fitted(model, "model_")
    if not model.posterior_.linear:
        raise DataError("relative entropy needs a model of the sparse solver: fit it with solver='sparse'")
    if model.density_ is not None:
        raise DataError("the model is conditioned on the density of frames already: refine one of labels alone")
    if model.concave_:
        raise DataError("the model is conditioned on C ≥ 0, which the density would change: refine it before that")
    if not isinstance(frames, Frames):
        raise DataError(f"frames must be kernelfe.Frames, not {type(frames).__name__}")
    if model.molecules_ is not None:
        raise DataError("relative entropy refines a model of one molecule: pass model.for_molecule(frames)")
    if frames.positions is None or frames.cell is not None or model.periodic_ or frames.parameters:
        raise DataError(
            "relative entropy needs Frames of bead positions without a cell and without parameters: the model must be "
            "sampled to know where it puts its weight"
        )
    other_kinds = None not in (frames.kinds, model.kinds_) and frames.kinds != model.kinds_
    if other_kinds or tuple(frames.positions.shape[1:]) != model.coordinate_shape_:
        raise DataError("these frames are of another molecule than the model was fitted to")
    low, high = min(model.temperatures_), max(model.temperatures_)
    if len(frames) and not low <= frames.temperature.min() <= frames.temperature.max() <= high:
        logger.warning("relative entropy: some frames lie outside the %g to %g K the model was fitted at", low, high)


def _check_numbers(frames: Frames, replicas: int, moves: Any) -> None:
    count = len(np.unique(frames.temperature))
    if not len(frames) or replicas < 2 * count:
        raise DataError(
            f"{len(frames)} frames, replicas={replicas}: needed are frames, and two replicas for each of {count} "
            "temperatures (join temperatures that hardly differ)"
        )
    if not (moves is None or moves == "auto" or hasattr(moves, "propose")):
        raise DataError(f"moves={moves!r}: use 'auto', None, or moves such as kernelfe.simulate.TorsionMoves")
