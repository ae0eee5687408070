"""Uncertainty of the hyperparameters: Laplace's approximation about the evidence's maxima, corrected by importance.

Error bars of one model are conditional on its length scales, prior scales and noise. With few labels these are
themselves uncertain, θ ~ p(θ|y) ∝ p(y|θ) p(θ), and error bars with the most probable θ are too small. Here θ (all
logarithms, and the noise's powers of T) is drawn about the maximum θ̂ from Student t distributions with the curvature
H = −∇² ln p(θ|y) there, and draws are chosen by the ratio of p(θ|y) to the density they were drawn from. For a quantity

    mean = Σ w_s μ_s,     covariance = Σ w_s [Σ_s + (μ_s − mean)(μ_s − mean)ᵀ],

the law of total covariance (Rasmussen & Williams 2006, section 5.2; MacKay, Neural Computation 11, 1035, 1999).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr
from torch import Tensor

from ...arrays import real_array
from ...errors import DataError, SolverError
from ...runtime.seeds import generator, random_numbers
from ...runtime.threads import one_thread
from ...specs import Bound, Each, Real, Spec, Whole
from ..conditioning import Conditioned, natural_levels
from ..molecules import over_parts
from ..observations.levels import NoiseLevels
from ..solvers.evidence import dense_log_evidence, length_scales, random_subsets, several_searches
from ..solvers.maximise import maximise
from .joint import Joint, Query, covariance_root

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class SamplingSettings(Spec):
    """Distributions that hyperparameters are drawn from.

    Parameters
    ----------
    degrees
        Degrees of freedom of Student's t: heavier tails than those of a normal distribution.
    widths
        Of each distribution of the mixture, in units of Laplace's approximation.
    points
        Points drawn from each, even numbers.
    step
        Step in the logarithms of hyperparameters of the differences of gradients that give the curvature.
    factors
        Of the starting length scales, at which searches for other maxima begin; none: only the fitted one counts.
    rows
        Label rows up to which other maxima are searched for; more of them leave one.
    max_iter
        Steps of these searches.
    deepest
        Log density below that of the fitted maximum at which another one no longer counts.
    apart
        Distance of two maxima, in units of Laplace's approximation, from which on they are two.
    """

    degrees: float = 6.0
    widths: tuple[float, ...] = (1.0, 1.7)
    points: tuple[int, ...] = (48, 16)
    step: float = 1e-3
    factors: tuple[float, ...] = (1.0, 0.3, 0.1)
    rows: int = 400
    max_iter: int = 60
    deepest: float = 6.0
    apart: float = 3.0

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        "degrees": Real(above=0.0),
        "widths": Each(Real(above=0.0), least=1),
        "points": Each(Whole(least=2), least=1),
        "step": Real(above=0.0),
        "factors": Each(Real(above=0.0)),
        "rows": Whole(least=0),
        "max_iter": Whole(least=1),
        "deepest": Real(least=0.0),
        "apart": Real(least=0.0),
    }


@dataclass(frozen=True, eq=False)
class MixtureJoint(Joint):
    """Moments of a mixture of normal distributions, one for each draw of the hyperparameters.

    Attributes
    ----------
    members
        The joint posterior of each draw.
    weights
        Their weights, (draws,); they sum to one.
    """

    members: tuple[Joint, ...]
    weights: FloatArray

    @classmethod
    def of(cls, members: list[Joint], weights: FloatArray) -> MixtureJoint:
        """The mixture of joint posteriors of the same rows."""
        means = np.stack([m.mean for m in members])
        mean = weights @ means
        apart = (means - mean) * np.sqrt(weights)[:, None]
        covariance = np.einsum("s,sij->ij", weights, np.stack([m.covariance for m in members])) + apart.T @ apart
        return cls(mean, covariance, members[0].sizes, tuple(members), weights)

    def cdf(self, values: ArrayLike) -> FloatArray:
        """Probability that each row lies below a value, (rows,): of the mixture, not of the normal distribution."""
        y = real_array(values, "values")
        z = np.stack([(y - m.mean) / np.maximum(m.std, 1e-300) for m in self.members])
        return self.weights @ ndtr(z)

    def combined(self, matrix: ArrayLike) -> MixtureJoint:
        """The joint posterior of linear combinations of the rows; a vector makes one."""
        return self.of([m.combined(matrix) for m in self.members], self.weights)

    def sample(self, n: int, seed=0) -> FloatArray:
        """Independent draws, (n, rows): first of the hyperparameters, then of A."""
        rng = random_numbers(seed)
        which = rng.choice(len(self.weights), n, p=self.weights)
        out = np.empty((n, len(self.mean)))
        for k in np.unique(which):
            member, rows = self.members[k], np.flatnonzero(which == k)
            noise = rng.standard_normal((len(rows), len(self.mean)))
            out[rows] = member.mean + noise @ covariance_root(member.covariance).T
        return out


class HyperparameterEnsemble:
    """Models with the same data and different hyperparameters, weighted; predicts like one model.

    Made by :func:`hyperparameter_ensemble`.

    Parameters
    ----------
    models
        Fitted regressors.
    weights
        Of the models, (draws,); they sum to one.
    effective
        Effective number of points of the importance sampling they were chosen from; with less than a few, the
        uncertainty of the hyperparameters is known badly.
    """

    def __init__(self, models: list[Any], weights: ArrayLike, effective: float):
        self.models, self.weights, self.effective = models, real_array(weights, "weights"), effective

    def predict(self, X, quantity=None, *, return_std=False, **options):
        """As :meth:`FreeEnergyRegressor.predict <kernelfe.FreeEnergyRegressor.predict>`, hyperparameters averaged."""

        def mixed(part):
            if not return_std:
                means = np.stack([m.predict(part, quantity, **options) for m in self.models])
                return np.tensordot(self.weights, means, 1)
            found = [m.predict(part, quantity, return_std=True, **options) for m in self.models]
            means, stds = (np.stack(values) for values in zip(*found, strict=True))
            mean = np.tensordot(self.weights, means, 1)
            return mean, np.sqrt(np.tensordot(self.weights, stds**2 + (means - mean) ** 2, 1))

        return over_parts(mixed, X)

    def joint(self, *queries: Query) -> MixtureJoint:
        """As :meth:`FreeEnergyRegressor.joint <kernelfe.FreeEnergyRegressor.joint>`, of the mixture."""
        return MixtureJoint.of([m.joint(*queries) for m in self.models], self.weights)

    def covariance(
        self, X, quantity="free_energy", other=None, *, temperature=None, X2=None, temperature2=None
    ) -> FloatArray:
        """As :meth:`FreeEnergyRegressor.covariance <kernelfe.FreeEnergyRegressor.covariance>`, of the mixture."""
        t2 = temperature if temperature2 is None else temperature2
        second = Query(X if X2 is None else X2, quantity if other is None else other, t2)
        return self.joint(Query(X, quantity, temperature), second).block(0, 1)


@one_thread()
def ensemble_of(
    model,
    draws: int = 16,
    seed: int = 0,
    subset_seed: int | None = 0,
    sampling: SamplingSettings | None = None,
) -> HyperparameterEnsemble:
    """Models with hyperparameters that the labels allow; see :func:`kernelfe.gp.hyperparameter_ensemble`.

    Parameters
    ----------
    model
        A :class:`~kernelfe.gp.FreeEnergy` of the dense solver.
    draws, seed
        Models in the ensemble, and seed of the draws.
    subset_seed
        Seed of the random label rows from which the evidence is computed.
    sampling
        Distributions that hyperparameters are drawn from; None: the defaults.
    """
    sampling = SamplingSettings() if sampling is None else sampling
    posterior = model.posterior
    if model.provenance.concave:
        raise DataError(
            "the model is conditioned on C ≥ 0, which depends on the hyperparameters: make the ensemble of the model "
            "before that, and condition its members (models)"
        )
    if not posterior.reconditions:
        raise DataError(
            "an ensemble of hyperparameters needs a model of the dense solver: fit with solver='dense', if need be to "
            "some of the frames"
        )
    if draws < 1:
        raise DataError(f"draws={draws}: at least one model is needed")
    prior, noise = copy.deepcopy(posterior.prior), copy.deepcopy(posterior.noise)
    free: list[torch.nn.Parameter] = []
    for term in prior.terms:
        term.requires_grad_(not term.spec.fixed)
        free += [p for p in term.parameters() if p.requires_grad]
    if noise.kinds:
        noise.log_noise.requires_grad_(True)
        noise.exponent.requires_grad_(len(model.provenance.temperatures) > 1)
        free += [p for p in noise.parameters() if p.requires_grad]
    if not free:
        raise DataError("the model has no hyperparameter that was fitted: its terms are fixed and its noise is given")
    rows, every = model.provenance.solver.evidence_rows, posterior.labels
    labels = every if rows is None else random_subsets(every, rows, generator(subset_seed))

    def log_density() -> Tensor:
        return dense_log_evidence(prior, labels, noise) + prior.hyperpriors() + noise.hyperprior()

    def target(values: Tensor) -> float:
        _assign(free, values)
        try:
            with torch.no_grad():
                value = float(log_density())
        except SolverError:
            return -math.inf
        return value if math.isfinite(value) else -math.inf

    centre = torch.cat([p.detach().reshape(-1) for p in free])
    widest = max(noise.prior_width, *(term.spec.prior_width for term in prior.terms))
    root = _inverse_root(_curvature(log_density, free, centre, sampling.step), widest)
    rng = random_numbers(seed)
    modes = [(centre, root)]
    few = sum(len(label) for label in labels) <= sampling.rows
    for other in _other_maxima(log_density, free, prior, noise, sampling) if few else ():
        if target(other) > target(centre) - sampling.deepest and all(
            float(torch.linalg.norm(torch.linalg.solve(r, other - c))) > sampling.apart for c, r in modes
        ):
            _assign(free, other)
            modes.append((other, _inverse_root(_curvature(log_density, free, other, sampling.step), widest)))
    points, weights = importance_sample(target, modes, rng, sampling)
    models, kept = [], []
    for index in _resampled(weights, draws, rng):
        _assign(free, points[index])
        models.append(_conditioned(model, prior, noise))
        kept.append(index)
    return HyperparameterEnsemble(models, np.full(len(models), 1.0 / len(models)), 1.0 / float(np.sum(weights**2)))


def _other_maxima(log_density, free, prior, noise, sampling: SamplingSettings) -> list[Tensor]:
    """Ends of searches that begin with shorter and longer length scales and the starting values of the rest."""
    lengths = length_scales(prior)
    if not lengths or not sampling.factors:
        return []
    for term in prior.terms:
        if not term.spec.fixed:
            for name in ("scales", *term.spec.kernel.hyperparameters()):
                getattr(term, f"log_{name}").data.copy_(getattr(term, f"start_{name}"))
    if noise.kinds:
        noise.log_noise.data.copy_(noise.start)
    ends = several_searches(lambda: maximise(log_density, free, sampling.max_iter), free, lengths, sampling.factors)
    return [torch.cat([value.reshape(-1) for value in one.values]) for one in ends]


def importance_sample(
    target,
    modes: Sequence[tuple[Tensor, Tensor]],
    rng: np.random.Generator,
    sampling: SamplingSettings | None = None,
) -> tuple[Tensor, FloatArray]:
    """Weighted points of an unnormalised density, drawn about its maxima.

    From a mixture of Student t distributions about the maxima, some wider than Laplace's approximation says, each
    point weighted by the density over that of the mixture. (Adapting the distributions to the points found was tried:
    with so few points it narrows them.)

    Parameters
    ----------
    target
        Log density, −∞ outside its support.
    modes
        Of each maximum its place (p,), and A with A Aᵀ the covariance of Laplace's approximation there, (p, p).
    rng
        Source of the draws.
    sampling
        Distributions that are drawn from, about every maximum; None: the defaults.

    Returns
    -------
    Tensor, ndarray
        Points (n, p) and weights (n,), which sum to one.

    Raises
    ------
    SolverError
        If the density vanishes at all of them.
    """
    sampling = SamplingSettings() if sampling is None else sampling
    points, student = [], sampling.degrees
    mixed = [
        (*mode, width, count) for mode in modes for width, count in zip(sampling.widths, sampling.points, strict=True)
    ]
    for centre, root, width, count in mixed:
        half = rng.standard_normal((count // 2, len(centre)))
        half *= width / np.sqrt(rng.chisquare(student, (len(half), 1)) / student)
        x = np.concatenate([half, -half])  # in pairs about the maximum: what is odd averages out
        points.append(centre + torch.from_numpy(x) @ root.T)
    out = torch.cat(points)
    logs = np.array([target(one) for one in out])
    logs -= np.logaddexp.reduce(
        np.stack(
            [math.log(count) + _log_student(out, centre, width * root, student) for centre, root, width, count in mixed]
        )
    )
    if not np.isfinite(logs).any():
        raise SolverError("no draw of the hyperparameters could be conditioned: check the scales of the labels")
    weights = np.exp(logs - logs.max())
    return out, weights / weights.sum()


def _log_student(points: Tensor, centre: Tensor, root: Tensor, degrees: float) -> FloatArray:
    """Log density of a Student t distribution up to a constant that all share, (n,)."""
    x = torch.linalg.solve(root, (points - centre).T)
    squared = (x**2).sum(0).numpy()
    return -0.5 * (degrees + len(centre)) * np.log1p(squared / degrees) - float(torch.linalg.slogdet(root)[1])


def _resampled(weights: FloatArray, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Systematic resampling: ``count`` points of equal weight."""
    steps = (np.arange(count) + rng.random()) / count
    return np.minimum(np.searchsorted(np.cumsum(weights), steps), len(weights) - 1)


def _assign(free: list[torch.nn.Parameter], values: Tensor) -> None:
    at = 0
    for p in free:
        p.data.copy_(values[at : at + p.numel()].reshape(p.shape))
        at += p.numel()


def _curvature(log_density, free: list[torch.nn.Parameter], centre: Tensor, step: float) -> Tensor:
    """−∇² of the log density at the centre, by differences of its gradient."""

    def gradient(values: Tensor) -> Tensor:
        _assign(free, values)
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(log_density(), free)])

    origin, rows = gradient(centre), []
    for k in range(len(centre)):
        moved = torch.zeros_like(centre)
        moved[k] = step
        rows.append((origin - gradient(centre + moved)) / step)
    _assign(free, centre)
    matrix = torch.stack(rows)
    return 0.5 * (matrix + matrix.T)


def _inverse_root(curvature: Tensor, widest: float) -> Tensor:
    """H^(−1/2); no direction may be wider than the widest prior.

    That also mends a maximum that was not quite reached.
    """
    values, vectors = torch.linalg.eigh(curvature)
    return vectors / values.clamp_min(widest**-2).sqrt()


def _conditioned(model: Any, prior: Any, noise: Any) -> Any:
    """The model conditioned with the present values of the hyperparameters."""
    own, levels = copy.deepcopy(prior).requires_grad_(False), copy.deepcopy(noise).requires_grad_(False)
    posterior = model.posterior.reconditioned(own, levels)
    before = NoiseLevels.of(model.noise.levels, levels.reference)
    found = Conditioned(posterior, levels, model.noise.correlated, before)
    learned = replace(model.noise, levels=natural_levels(found), conditioned=levels.values())
    return replace(model, posterior=posterior, noise=learned)
