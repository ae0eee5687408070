"""Populations of basins and differences of free energy, energy, entropy and heat capacity between them, with errors.

The free energy of a basin a (a region of configurations) is a nonlinear functional of A,

    F_a(T) = −kT ln ∫_a exp(−b A(R; T)) dR.

With <·>_a the average over the model's ensemble within the basin, and u = ∂(bA)/∂b, c = −T ∂²A/∂T² of the model,

    U_a = ∂(bF_a)/∂b = <u>_a,   S_a = (U_a − F_a)/T,   C_a = −T ∂²F_a/∂T² = <c>_a + k b² Var_a(u).

A change δA of the free energy changes them, to first order, by

    δF_a = <δA>_a,   δU_a = <δu>_a − b Cov_a(u, δA),
    δC_a = <δc>_a + 2 k b² Cov_a(u, δu) − b Cov_a(c + k b² (u − U_a)², δA):

because both the averaged quantities and the ensemble of the average change. All are linear in δA. The posterior
covariance of A therefore gives the covariance of every F, U, S and C, within and between basins and temperatures.
If A is too uncertain for first order, :func:`basin_draws` reweights the ensemble to functions A drawn from the
posterior.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arrays import real_array
from ..errors import DataError, require
from ..gp.fitted.joint import Query, covariance_root
from ..runtime.seeds import random_numbers
from ..units import BOLTZMANN
from .basin_samples import READ, BasinSamples, DividedSamples, basin_averages

FloatArray = NDArray[np.float64]

#: The quantities of a basin, in the order of the rows of covariances.
BASIN_QUANTITIES = ("free_energy", "energy", "entropy", "heat_capacity")


@dataclass(frozen=True, eq=False)
class BasinThermodynamics:
    """Basins at one or several temperatures; arrays (temperatures, basins).

    Parameters
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
        """Standard deviations of a quantity, (temperatures, basins); also of ``"population"``."""
        if quantity == "population":
            return self.population * self.std("free_energy") / (BOLTZMANN * self.temperatures[:, None])
        block = self._rows(quantity)
        variance = (self.posterior + self.sampling).diagonal()[block]
        return np.sqrt(np.maximum(variance, 0.0)).reshape(self.population.shape)

    def contrast(self, quantity: str, weights: ArrayLike) -> tuple[float, float]:
        """Σ weights · quantity and its standard deviation, weights of shape (temperatures, basins)."""
        w = real_array(weights, "weights")
        require(
            w.shape == self.population.shape,
            f"weights have shape {w.shape}, there are {self.population.shape} temperatures and basins",
        )
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
            K; None if there is only one.
        """
        weights = np.zeros_like(self.population)
        row, size = self._temperature(temperature), self.population.shape[1]
        if wrong := [a for a in (first, second) if a not in range(size)]:
            raise DataError(f"basin {wrong[0]!r}: there are {size}, numbered from 0")
        weights[row, second] += 1.0
        weights[row, first] -= 1.0
        return self.contrast(quantity, weights)

    def _rows(self, quantity: str) -> slice:
        require(quantity in BASIN_QUANTITIES, f"quantity={quantity!r}: a basin has {', '.join(BASIN_QUANTITIES)}")
        size, k = self.population.size, BASIN_QUANTITIES.index(quantity)
        return slice(k * size, (k + 1) * size)

    def _temperature(self, temperature: float | None) -> int:
        found = np.flatnonzero(self.temperatures == temperature)
        if temperature is None and len(self.temperatures) == 1:
            return 0
        if len(found) != 1:
            raise DataError(f"temperature={temperature!r}: give one of {self.temperatures.tolist()} K")
        return int(found[0])


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
        Seed of the selection.

    Raises
    ------
    DataError
        If the samples are inconsistent or a basin holds fewer than two.
    """
    ensembles = [samples] if isinstance(samples, BasinSamples) else list(samples)
    read = [DividedSamples.of(model, one) for one in ensembles]
    require(read and len({one.size for one in read}) == 1, "give samples of the same basins at every temperature")
    rng, k = random_numbers(seed), read[0].size
    queries = []
    for one in read:
        chosen, share = one.choose(configurations, rng)
        maps = one.responses(chosen, share)
        queries.append(one.query(chosen, maps))
    covariance = model.joint(*queries).covariance
    # from F, U, C of each temperature to F, U, S, C ordered by quantity
    t, to = len(read), np.zeros((4, len(read), k, len(read), 3, k))
    for i, one in enumerate(read):
        for a in range(k):
            # F of a basin is relative to the whole ensemble: its change is the mean over basins and unassigned samples
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
        (draws,): fraction of the configurations that stays effective after reweighting to each draw. Far below a tenth,
        the draw is a different ensemble and the numbers are not reliable.
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
        Samples, spread evenly over the basins, at which they are drawn; the cost is of third order in their number.
    seed
        Seed of the selection and of the draws.
    """
    rng, one = random_numbers(seed), DividedSamples.of(model, samples)
    chosen, share = one.choose(configurations, rng)
    places = one.X[chosen]
    found = model.joint(*(Query(places, quantity, one.temperature) for quantity in READ))
    noise = rng.standard_normal((draws, len(found.mean)))
    change = (noise @ covariance_root(found.covariance).T).reshape(draws, 3, len(chosen))
    b = 1.0 / (BOLTZMANN * one.temperature)
    exponent = -b * change[:, 0]
    weight = share * np.exp(exponent - exponent.max(axis=1, keepdims=True))
    u, c = one.u[chosen], one.c[chosen]
    basin = one.basin[chosen]
    before = basin_averages(share[None], u[None], c[None], basin, one.size, b)
    after = basin_averages(weight, u + change[:, 1], c + change[:, 2], basin, one.size, b)
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


def _block_diagonal(blocks: list[FloatArray]) -> FloatArray:
    size = sum(len(block) for block in blocks)
    out, at = np.zeros((size, size)), 0
    for block in blocks:
        out[at : at + len(block), at : at + len(block)] = block
        at += len(block)
    return out
