"""Populations of basins and differences of free energy, energy, entropy and heat capacity between them, with errors.

The free energy of a basin a (a region of configurations) is a nonlinear functional of A,

    F_a(T) = −kT ln ∫_a exp(−b A(R; T)) dR.

With <·>_a the average over the model's ensemble within the basin, and u = ∂(bA)/∂b, c = −T ∂²A/∂T² of the model,

    U_a = ∂(bF_a)/∂b = <u>_a,   S_a = (U_a − F_a)/T,   C_a = −T ∂²F_a/∂T² = <c>_a + k b² Var_a(u).

A change δA of the free energy changes them, to first order, by

    δF_a = <δA>_a,   δU_a = <δu>_a − b Cov_a(u, δA),
    δC_a = <δc>_a + 2 k b² Cov_a(u, δu) − b Cov_a(c + k b² (u − U_a)², δA):

the averages are taken of the changed model, and over an ensemble that changes with it. All are linear in δA, so the
posterior covariance of A gives the covariance of every F, U, S and C, within and between basins and temperatures.
Where A is known too badly for a first order, :func:`basin_draws` reweights the ensemble to functions A drawn from the
posterior.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._checks import per_frame
from ..errors import DataError
from ..models.uncertainty import Query, covariance_root
from ..units import BOLTZMANN

FloatArray = NDArray[np.float64]

#: The quantities of a basin, in the order of the rows of covariances.
BASIN_QUANTITIES = ("free_energy", "energy", "entropy", "heat_capacity")
_READ = ("free_energy", "mean_energy", "heat_capacity")


@dataclass(frozen=True, eq=False)
class BasinSamples:
    """The model's ensemble at one temperature, divided into basins.

    Parameters
    ----------
    X
        (n, beads, 3) or (n, d): configurations drawn from exp(−bA) of the model.
    basin
        (n,): basin of each, 0, 1, …; −1 for none.
    temperature
        K.
    weights
        (n,), not negative: statistical weights; None: equal. Points of a grid have exp(−bA) times their volume, see
        :func:`boltzmann_weights`.
    inefficiency
        Samples per independent sample (2τ), for the sampling error; 0: none, for a grid.
    """

    X: ArrayLike
    basin: ArrayLike
    temperature: float
    weights: ArrayLike | None = None
    inefficiency: float = 1.0


@dataclass(frozen=True, eq=False)
class BasinThermodynamics:
    """Basins at one or several temperatures; arrays (temperatures, basins).

    Attributes
    ----------
    temperatures
        (t,), K.
    population
        Share of the ensemble in each basin.
    free_energy
        F_a = −kT ln population, eV: relative to the whole ensemble.
    energy
        U_a, eV, absolute.
    entropy
        (U_a − F_a)/T, eV/K: differences between basins have a meaning.
    heat_capacity
        C_a, eV/K.
    posterior, sampling
        (4tk, 4tk): covariance of everything, ordered by quantity, temperature and basin: the model's, and that of the
        finite number of samples.
    """

    temperatures: FloatArray
    population: FloatArray
    free_energy: FloatArray
    energy: FloatArray
    entropy: FloatArray
    heat_capacity: FloatArray
    posterior: FloatArray
    sampling: FloatArray

    def std(self, quantity: str) -> FloatArray:
        """Standard deviations of a quantity, (temperatures, basins); of ``"population"``, too."""
        if quantity == "population":
            return self.population * self.std("free_energy") / (BOLTZMANN * self.temperatures[:, None])
        block = self._rows(quantity)
        variance = (self.posterior + self.sampling).diagonal()[block]
        return np.sqrt(np.maximum(variance, 0.0)).reshape(self.population.shape)

    def contrast(self, quantity: str, weights: ArrayLike) -> tuple[float, float]:
        """Σ weights · quantity and its standard deviation, weights of shape (temperatures, basins)."""
        w = np.asarray(weights, dtype=float)
        if w.shape != self.population.shape:
            raise DataError(f"weights have shape {w.shape}, there are {self.population.shape} temperatures and basins")
        block = self._rows(quantity)
        used, values = w.ravel() != 0.0, getattr(self, quantity).ravel()
        index, w = np.arange(block.start, block.stop)[used], w.ravel()[used]
        covariance = (self.posterior + self.sampling)[np.ix_(index, index)]
        return float(w @ values[used]), float(np.sqrt(max(0.0, w @ covariance @ w)))

    def difference(self, quantity: str, first: int, second: int, temperature: float | None = None):
        """Value of basin ``second`` minus that of basin ``first`` at a temperature, and its standard deviation.

        Parameters
        ----------
        quantity
            One of ``BASIN_QUANTITIES``.
        first, second
            Basins.
        temperature
            K; None where there is only one.
        """
        weights = np.zeros_like(self.population)
        row, size = self._temperature(temperature), self.population.shape[1]
        if wrong := [a for a in (first, second) if a not in range(size)]:
            raise DataError(f"basin {wrong[0]!r}: there are {size}, numbered from 0")
        weights[row, second] += 1.0
        weights[row, first] -= 1.0
        return self.contrast(quantity, weights)

    def _rows(self, quantity: str) -> slice:
        if quantity not in BASIN_QUANTITIES:
            raise DataError(f"quantity={quantity!r}: a basin has {', '.join(BASIN_QUANTITIES)}")
        size, k = self.population.size, BASIN_QUANTITIES.index(quantity)
        return slice(k * size, (k + 1) * size)

    def _temperature(self, temperature: float | None) -> int:
        found = np.flatnonzero(self.temperatures == temperature)
        if temperature is None and len(self.temperatures) == 1:
            return 0
        if len(found) != 1:
            raise DataError(f"temperature={temperature!r}: give one of {self.temperatures.tolist()} K")
        return int(found[0])


def boltzmann_weights(model: Any, X: ArrayLike, temperature: float, volume: ArrayLike | None = None) -> FloatArray:
    """exp(−bA)·volume of points of a grid, normalised, (n,).

    Parameters
    ----------
    model
        A fitted :class:`~kernelfe.FreeEnergyRegressor`.
    X
        Points.
    temperature
        K.
    volume
        (n,) or number: quadrature weight of each point.
    """
    a = model.predict(X, "free_energy", temperature=temperature, reference=None) / (BOLTZMANN * temperature)
    each = np.ones(len(a)) if volume is None else per_frame(volume, "volume", len(a))
    if not (np.isfinite(temperature) and temperature > 0.0 and (each >= 0.0).all() and each.any()):
        raise DataError(f"temperature={temperature!r} must be positive (K), and so must volumes")
    out = np.exp(a.min() - a) * each
    return out / out.sum()


def basin_thermodynamics(
    model: Any,
    samples: BasinSamples | Sequence[BasinSamples],
    *,
    configurations: int = 600,
    seed: int = 0,
) -> BasinThermodynamics:
    """Populations, free energies, energies, entropies and heat capacities of basins with their joint covariance.

    Parameters
    ----------
    model
        The fitted :class:`~kernelfe.FreeEnergyRegressor` that was sampled, or an ensemble of hyperparameters.
    samples
        Its ensemble at one temperature or several, with the same basins.
    configurations
        Samples of each temperature, spread evenly over the basins, at which the posterior covariance is evaluated.
    seed
        Of their choice.

    Raises
    ------
    DataError
        If the samples are inconsistent or a basin holds fewer than two.
    """
    ensembles = [samples] if isinstance(samples, BasinSamples) else list(samples)
    read = [_Divided.of(model, one) for one in ensembles]
    if not read or len({one.size for one in read}) != 1:
        raise DataError("give samples of the same basins at every temperature")
    rng, k = np.random.default_rng(seed), read[0].size
    queries = []
    for one in read:
        chosen, share = one.choose(configurations, rng)
        maps = one.responses(chosen, share)
        queries.append(_combined(one, chosen, maps))
    covariance = model.joint(*queries).covariance
    # from F, U, C of each temperature to F, U, S, C ordered by quantity
    t, to = len(read), np.zeros((4, len(read), k, len(read), 3, k))
    for i, one in enumerate(read):
        for a in range(k):
            # F of a basin is relative to the whole ensemble, whose change is the mean over basins and what is in none
            to[0, i, a, i, 0, a] = to[1, i, a, i, 1, a] = to[3, i, a, i, 2, a] = 1.0
            to[2, i, a, i, 1, a], to[2, i, a, i, 0, a] = 1.0 / one.temperature, -1.0 / one.temperature
    flat = to.reshape(4 * t * k, t * 3 * k)
    moments = [one.moments() for one in read]
    population, free, energy, entropy, heat = (np.stack(column) for column in zip(*moments, strict=True))
    return BasinThermodynamics(
        np.array([one.temperature for one in read]),
        population,
        free,
        energy,
        entropy,
        heat,
        flat @ covariance @ flat.T,
        flat @ _block_diagonal([one.sampling() for one in read]) @ flat.T,
    )


@dataclass(frozen=True, eq=False)
class BasinDraws:
    """Basins of functions A drawn from the posterior; arrays (draws, basins).

    Attributes
    ----------
    population, free_energy, energy, entropy, heat_capacity
        As in :class:`BasinThermodynamics`.
    effective_fraction
        (draws,): share of the configurations that reweighting to each draw leaves effective. Far below a tenth the
        draw is another ensemble, and the numbers mean little.
    """

    population: FloatArray
    free_energy: FloatArray
    energy: FloatArray
    entropy: FloatArray
    heat_capacity: FloatArray
    effective_fraction: FloatArray


def basin_draws(
    model: Any, samples: BasinSamples, draws: int = 200, *, configurations: int = 300, seed: int = 0
) -> BasinDraws:
    """Basins of functions drawn from the posterior, by reweighting: no linearisation.

    Parameters
    ----------
    model, samples
        As in :func:`basin_thermodynamics`, at one temperature.
    draws
        Functions.
    configurations
        Samples, spread evenly over the basins, at which they are drawn; time goes with the cube.
    seed
        Of the choice and the draws.
    """
    rng, one = np.random.default_rng(seed), _Divided.of(model, samples)
    chosen, share = one.choose(configurations, rng)
    places = one.X[chosen]
    found = model.joint(*(Query(places, quantity, one.temperature) for quantity in _READ))
    noise = rng.standard_normal((draws, len(found.mean)))
    change = (noise @ covariance_root(found.covariance).T).reshape(draws, 3, len(chosen))
    b = 1.0 / (BOLTZMANN * one.temperature)
    exponent = -b * change[:, 0]
    weight = share * np.exp(exponent - exponent.max(axis=1, keepdims=True))
    u, c = one.u[chosen], one.c[chosen]
    basin = one.basin[chosen]
    before = _averages(share[None], u[None], c[None], basin, one.size, b)
    after = _averages(weight, u + change[:, 1], c + change[:, 2], basin, one.size, b)
    p, f, energy, _, heat = one.moments()
    ratio = after[0] / after[3] * (before[3] / before[0])
    population = p * ratio
    free = f - np.log(ratio) / b
    energies = energy + after[1] - before[1]
    effective = weight.sum(1) ** 2 / (weight**2 / share).sum(1) / share.sum()
    return BasinDraws(
        population,
        free,
        energies,
        (energies - free) / one.temperature,
        heat + after[2] - before[2],
        effective,
    )


def _averages(weight, u, c, basin, size: int, b: float):
    """Weight, U and C of every basin (draws, basins), and the total weight (draws, 1)."""
    inside = (basin[:, None] == np.arange(size)).astype(float)
    total = weight @ inside
    energy = (weight * u) @ inside / total
    fluctuation = (weight * u**2) @ inside / total - energy**2
    return total, energy, (weight * c) @ inside / total + BOLTZMANN * b * b * fluctuation, weight.sum(1, keepdims=True)


@dataclass(frozen=True, eq=False)
class _Divided:
    """Checked samples with the model's u and c, weights normalised."""

    X: NDArray[Any]
    basin: NDArray[np.int64]
    temperature: float
    weight: FloatArray
    inefficiency: float
    size: int
    u: FloatArray
    c: FloatArray

    @classmethod
    def of(cls, model: Any, samples: BasinSamples) -> _Divided:
        x, basin, t = np.asarray(samples.X, dtype=float), np.asarray(samples.basin), float(samples.temperature)
        w = np.ones(len(x)) if samples.weights is None else np.asarray(samples.weights, dtype=float)
        if basin.shape != (len(x),) or w.shape != (len(x),) or not np.issubdtype(basin.dtype, np.integer):
            raise DataError(f"{len(x)} samples need as many basins (whole numbers) and weights")
        if (
            not (np.isfinite(w).all() and (w >= 0.0).all() and w.sum() > 0.0)
            or not 0.0 <= samples.inefficiency < np.inf
        ):
            raise DataError("weights must be finite and not negative, and so must be the inefficiency")
        size = int(basin.max(initial=-1)) + 1
        count = np.bincount(basin[(basin >= 0) & (w > 0.0)], minlength=size)
        if size == 0 or basin.min() < -1 or count.min() < 2:
            raise DataError(
                f"samples per basin: {count.tolist()}; basins are numbered from 0 (−1: none), and each needs at least "
                "two"
            )
        keep = w > 0.0
        x, basin, w = x[keep], basin[keep].astype(np.int64), w[keep] / w.sum()
        u = model.predict(x, "mean_energy", temperature=t)
        c = model.predict(x, "heat_capacity", temperature=t)
        return cls(x, basin, t, w, float(samples.inefficiency), size, u, c)

    def moments(self) -> tuple[FloatArray, ...]:
        """Population, F, U, S, C, (basins,) each."""
        b, u0 = 1.0 / (BOLTZMANN * self.temperature), self.u.mean()  # energies have a large constant
        found = _averages(self.weight[None], (self.u - u0)[None], self.c[None], self.basin, self.size, b)
        p, energy, heat = (part[0] for part in found[:3])
        energy, free = energy + u0, -np.log(p) / b
        return p, free, energy, (energy - free) / self.temperature, heat

    def choose(self, configurations: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], FloatArray]:
        """Configurations spread evenly over basins, and their weights, which keep the weight of every basin.

        Few enough, all are taken with their own weights; else each basin is drawn from by weight, in even steps.
        """
        if len(self.X) <= configurations:
            return np.arange(len(self.X)), self.weight.copy()
        groups = [np.flatnonzero(self.basin == a) for a in range(-1, self.size)]
        groups = [rng.permutation(g) for g in groups if len(g)]
        each, chosen, share = max(2, configurations // len(groups)), [], []
        for group in groups:
            w = self.weight[group]
            if len(group) > each:
                steps = (np.arange(each) + rng.random()) / each
                picked = np.minimum(np.searchsorted(np.cumsum(w) / w.sum(), steps), len(group) - 1)
                picked, times = np.unique(picked, return_counts=True)
                group, w = group[picked], w.sum() * times / each
            chosen.append(group)
            share.append(w)
        return np.concatenate(chosen), np.concatenate(share)

    def responses(self, chosen: NDArray[np.int64], share: FloatArray) -> FloatArray:
        """F (relative to the whole), U and C of the basins as linear functions of δA, δu, δc: (3k, 3, chosen)."""
        k, b = self.size, 1.0 / (BOLTZMANN * self.temperature)
        out = np.zeros((3, k, 3, len(chosen)))
        for a in range(k):
            here = np.flatnonzero(self.basin[chosen] == a)
            w = share[here] / share[here].sum()
            du = self.u[chosen][here] - w @ self.u[chosen][here]
            dc = self.c[chosen][here] - w @ self.c[chosen][here]
            fluctuation = BOLTZMANN * b * b * (du**2 - w @ du**2)
            out[0, a, 0, here] = w
            out[1, a, 1, here] = w
            out[1, a, 0, here] = -b * w * du
            out[2, a, 2, here] = w
            out[2, a, 1, here] = 2.0 * BOLTZMANN * b * b * w * du
            out[2, a, 0, here] = -b * w * (dc + fluctuation)
        out[0, :, 0] -= share / share.sum()
        return out.reshape(3 * k, 3, len(chosen))

    def sampling(self) -> FloatArray:
        """Covariance of F, U, C of the basins from the finite number of samples, (3k, 3k).

        Counts in basins scatter as those of independent draws do; conditional averages by their influence functions.
        """
        k, b = self.size, 1.0 / (BOLTZMANN * self.temperature)
        out = np.zeros((3, k, 3, k))
        if self.inefficiency == 0.0:
            return out.reshape(3 * k, 3 * k)
        whole = self.inefficiency * float(np.sum(self.weight**2))  # 1/(independent samples)
        p = np.array([self.weight[self.basin == a].sum() for a in range(k)])
        out[0, :, 0, :] = whole * (np.diag(1.0 / p) - 1.0) / b**2
        for a in range(k):
            here = self.basin == a
            w = self.weight[here] / p[a]
            du, dc = self.u[here] - w @ self.u[here], self.c[here] - w @ self.c[here]
            influence = np.stack([du, dc + BOLTZMANN * b * b * (du**2 - w @ du**2)])
            out[1:, a, 1:, a] = self.inefficiency * (influence * w**2) @ influence.T
        return out.reshape(3 * k, 3 * k)


def _combined(one: _Divided, chosen: NDArray[np.int64], maps: FloatArray) -> Query:
    places = one.X[chosen]
    parts = [maps[:, q] @ Query(places, quantity, one.temperature) for q, quantity in enumerate(_READ)]
    return parts[0] + parts[1] + parts[2]


def _block_diagonal(blocks: list[FloatArray]) -> FloatArray:
    size = sum(len(block) for block in blocks)
    out, at = np.zeros((size, size)), 0
    for block in blocks:
        out[at : at + len(block), at : at + len(block)] = block
        at += len(block)
    return out
