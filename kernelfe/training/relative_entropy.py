"""Relative entropy: where the frames are found is a label, too.

Equilibrium frames are draws from exp(−A(R; T)/kT)/Z(T), so beside their forces and energies their *places* tell of A:
how deep a basin is, and that nothing is where no frame is. Their likelihood

    Σ_n [−A(R_n; T_n)/kT_n − ln Z(T_n)]

is the relative entropy of model and data up to a constant (Shell, J. Chem. Phys. 129, 144108, 2008). It is no linear
functional of A, so it cannot join the exact conditioning; but a sparse model has a Gaussian posterior N(μ, Λ⁻¹) of its
weights w, A = w·f(R, T), after all linear labels. With that as the prior, this module finds the maximum of

    −½ (w − μ)ᵀ Λ (w − μ) − Σ_T (n_T/g_T) [w·f̄_T/kT + ln Z_T(w)],

f̄_T the mean of the features over the frames at T and g_T their statistical inefficiency. ln Z_T comes from samples of
the model of the last round, reweighted; a round ends where reweighting becomes unreliable, and the next samples anew.
At the maximum the Laplace approximation adds (n_T/g_T) Cov_T(f, f)/(kT)² to the precision: error bars shrink, too.
The objective is convex in w, so there is one maximum.
"""

from __future__ import annotations

import copy
import logging
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor
from tqdm import tqdm

from ..errors import DataError
from ..frames import Frames
from ..functionals import FreeEnergy
from ..models import FreeEnergyRegressor
from ..models.prior import frame_chunks
from ..models.sparse import SparsePosterior
from ..models.states import States
from ..simulate import Move, TorsionMoves, run_langevin, uniform_masses
from ..statistics import autocorrelation_time
from ..units import BOLTZMANN

logger = logging.getLogger(__name__)

#: Share of the samples that reweighting must leave effective: less, and the step of a round is shortened.
TRUSTED = 0.3
#: A full step that leaves this share effective has arrived: samples anew would say the same.
ARRIVED = 0.9
#: Independent samples per replica below which the start is not forgotten.
FORGOTTEN = 3.0
#: Frames whose features are held at a time.
FEATURE_FRAMES = 1024
#: Samples from which the curvature of ln Z is taken.
CURVATURE_SAMPLES = 4000


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
        Temperature → statistical inefficiency of the frames used.
    """

    model: FreeEnergyRegressor
    rounds: tuple[Round, ...]
    converged: bool
    inefficiency: dict[float, float]


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
    timestep: float = 5.0,
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
        Statistical inefficiency g = 2τ of the frames, in frames: n frames tell as much of the density as n/g
        independent ones. None: estimated at each temperature from the slowest descriptor, taking the frames in their
        order as a time series (shuffled frames count as independent, and error bars are then too small).
    rounds
        Most rounds of sampling.
    replicas
        Replicas of the model, shared equally by the temperatures; at least one for each.
    steps, stride, burn_in
        Langevin steps per round, steps between samples, and steps before the first sample (a fourth of them in later
        rounds, which go on from the samples of the round before).
    timestep, friction
        fs and 1/ps.
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
    _check(model, frames, rounds, replicas, inefficiency)
    posterior = model.posterior_
    temperatures = np.unique(frames.temperature).tolist()
    positions = np.asarray(frames.positions, dtype=np.float64)
    places = [positions[frames.temperature == t] for t in temperatures]
    g = {
        t: _inefficiency(model, x) if inefficiency is None else float(inefficiency)
        for t, x in zip(temperatures, places, strict=True)
    }
    data = [_features(model, x, t).mean(0) for t, x in zip(temperatures, places, strict=True)]
    share = max(1, replicas // len(temperatures))
    rng = np.random.default_rng(seed)
    start = np.concatenate([rng.choice(x, share) for x in places])
    arguments: dict[str, Any] = {
        "masses": uniform_masses(start.shape[1]) if masses is None else masses,
        "moves": _moves(frames) if isinstance(moves, str) else moves,
        "moves_every": 1,
        "timestep": timestep,
        "friction": friction,
        "steps": steps,
        "stride": stride,
        "progress": False,
    }
    out, history = copy.copy(model), []
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
                samples = run.positions[:, k * share : (k + 1) * share]
                each = _samples_per_replica(model, samples)
                independent = min(independent, each)
                features = _features(model, samples.reshape(-1, *start.shape[1:]), t) - data[k]
                # averages of frames and of samples are compared: their variances add
                weight = 1.0 / (g[t] / len(places[k]) + 1.0 / (share * each))
                ensembles.append(_Ensemble(BOLTZMANN * t, weight, features, v))
            bar.update()
            target = _maximum(v, ensembles)
            moved, effective = _trusted_step(target - v, ensembles)
            v = v + moved * (target - v)
            history.append(Round(moved, effective, float(torch.linalg.vector_norm(v)), independent))
            arrived = moved == 1.0 and effective >= ARRIVED
            lower = posterior.lower @ _curvature(v, ensembles) if arrived or number == rounds - 1 else posterior.lower
            out.posterior_ = _moved(posterior, v, lower)
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


@dataclass(frozen=True)
class _Ensemble:
    """Samples of the model with weights ``origin`` at one temperature, in whitened coordinates v = Lᵀ(w − μ)."""

    kt: float
    weight: float  # n/g, less for the scatter of the samples
    features: Tensor  # L⁻¹(f_s − f̄), shape (S, W)
    origin: Tensor

    def exponents(self, v: Tensor) -> Tensor:
        """−(v − origin)·f/kT of every sample: reweighting to v."""
        return (self.features @ (v - self.origin)) / -self.kt

    def effective_fraction(self, step: Tensor) -> float:
        """Share of the samples that is effective after reweighting by a step from the origin."""
        p = torch.softmax(self.features @ step / -self.kt, 0)
        return float(1.0 / (p @ p)) / len(p)


def _maximum(v: Tensor, ensembles: list[_Ensemble]) -> Tensor:
    """v at the least of ½ v² + Σ (n/g) ln⟨exp(−(w − w₀)·(f − f̄)/kT)⟩, the objective as the samples see it."""
    v = v.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS([v], max_iter=60, history_size=20, tolerance_grad=1e-3, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        optimizer.zero_grad()
        out = 0.5 * (v @ v)
        for ensemble in ensembles:
            out = out + ensemble.weight * torch.logsumexp(ensemble.exponents(v), 0)
        out.backward()
        return out

    optimizer.step(objective)
    return v.detach()


def _trusted_step(step: Tensor, ensembles: list[_Ensemble]) -> tuple[float, float]:
    """The largest share of a step, to a fifth, at which reweighting is reliable, and the effective share there."""
    share = 1.0
    while True:
        effective = min(ensemble.effective_fraction(share * step) for ensemble in ensembles)
        if effective >= TRUSTED or share < 1e-3:
            return share, effective
        share *= 0.8


def _curvature(v: Tensor, ensembles: list[_Ensemble]) -> Tensor:
    """Cholesky factor of 1 + Σ (n/g) Cov(f, f)/(kT)² in whitened coordinates."""
    out = torch.eye(len(v), dtype=v.dtype)
    most = max(1, CURVATURE_SAMPLES // len(ensembles))
    for ensemble in ensembles:
        every = -(-len(ensemble.features) // most)
        p = torch.softmax(ensemble.exponents(v)[::every], 0)
        f = ensemble.features[::every]
        f = (f - p @ f) * p.sqrt()[:, None]
        out.addmm_(f.T, f, alpha=ensemble.weight / ensemble.kt**2)
    return torch.linalg.cholesky(out)


def _moved(posterior: SparsePosterior, v: Tensor, lower: Tensor) -> SparsePosterior:
    """The posterior at w = μ + L⁻ᵀ v with another Cholesky factor of its precision."""
    w = posterior.weights + torch.linalg.solve_triangular(posterior.lower.T, v[:, None], upper=True)[:, 0]
    out = SparsePosterior(posterior.basis, w, lower)
    out.log_evidence = posterior.log_evidence
    return out


@torch.no_grad()
def _features(model: FreeEnergyRegressor, positions: np.ndarray, temperature: float) -> Tensor:
    """Whitened features L⁻¹ f of A at configurations, shape (n, W), with w·f = A − baseline."""
    posterior = model.posterior_
    amplitudes, out = posterior.basis.amplitudes(), []
    for start, stop in frame_chunks(len(positions), FEATURE_FRAMES):
        part = Frames.from_arrays(positions=positions[start:stop], temperature=temperature, kinds=model.kinds_)
        counts = np.tile(model.composition_.counts, (len(part), 1))
        rows = posterior.prior.rows(FreeEnergy(), States.from_frames(part, counts=counts))
        wide = posterior.basis.wide(rows)[0] * amplitudes
        out.append(torch.linalg.solve_triangular(posterior.lower, wide.T, upper=False).T)
    return torch.cat(out)


def _descriptors(model: FreeEnergyRegressor, positions: np.ndarray) -> np.ndarray:
    """Columns that vary of the descriptors of all terms, shape (n, columns).

    Environments of a frame beyond one have no names, so terms with them are left out.
    """
    x, columns = torch.from_numpy(np.ascontiguousarray(positions)), []
    for _, term in model.terms_:
        z, frame, _ = term.spec.descriptor.values_and_pullback(x)
        if frame is None:
            columns.append(z.detach().numpy())
    out = np.concatenate(columns, 1) if columns else np.zeros((len(x), 0))
    return out[:, np.ptp(out, axis=0) > 0.0]


def _inefficiency(model: FreeEnergyRegressor, positions: np.ndarray) -> float:
    """Statistical inefficiency of the slowest descriptor of a series of frames, at least 1."""
    if len(positions) < 4:
        return 1.0
    z = _descriptors(model, positions)
    return max(1.0, float(np.max(2.0 * np.asarray(autocorrelation_time(z))))) if z.shape[1] else 1.0


def _samples_per_replica(model: FreeEnergyRegressor, positions: np.ndarray) -> float:
    """Var(x)/Var(replica means of x), the least of all descriptors; positions (samples, replicas, beads, 3)."""
    samples, replicas = positions.shape[:2]
    z = _descriptors(model, positions.reshape(-1, *positions.shape[2:]))
    if replicas < 2 or not z.shape[1]:
        return 1.0
    means = z.reshape(samples, replicas, -1).mean(0)
    return min(float(samples), float((z.var(0) / means.var(0, ddof=1)).min()))


def _moves(frames: Frames) -> Move | None:
    """Torsion moves if any bond can turn."""
    if frames.bonds is None:
        return None
    try:
        return TorsionMoves(frames.bonds)
    except DataError:
        return None


def _check(model: FreeEnergyRegressor, frames: Frames, rounds: int, replicas: int, inefficiency: float | None) -> None:
    check_is_fitted(model, "posterior_")
    if not isinstance(model.posterior_, SparsePosterior):
        raise DataError("relative entropy needs a model of the sparse solver: fit it with solver='sparse'")
    if frames.positions is None or frames.cell is not None or model.periodic_ or frames.parameters:
        raise DataError(
            "relative entropy needs Frames of bead positions without a cell and without parameters: the model must be "
            "sampled to know where it puts its weight"
        )
    other_kinds = None not in (frames.kinds, model.kinds_) and frames.kinds != model.kinds_
    if other_kinds or tuple(frames.positions.shape[1:]) != model.coordinate_shape_:
        raise DataError("these frames are of another molecule than the model was fitted to")
    count = len(np.unique(frames.temperature))
    if not len(frames) or rounds < 1 or replicas < count:
        raise DataError(
            f"{len(frames)} frames, rounds={rounds}, replicas={replicas}: needed are frames, a round and a replica for "
            f"each of {count} temperatures (join temperatures that hardly differ)"
        )
    if inefficiency is not None and not (inefficiency > 0.0 and math.isfinite(inefficiency)):
        raise DataError(f"inefficiency={inefficiency} must be positive: 1 for independent frames")
