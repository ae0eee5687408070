"""Free energy, energy, entropy and heat capacity as functions of a few coordinates ξ(R), with error bands.

A model gives A(R; T) for all beads. Along coordinates ξ (a torsion, or the bins of two) its free energy is

    F(ξ; T) = −kT ln ∫ exp(−b A(R; T)) δ(ξ(R) − ξ) dR,

and since b A is differentiable in b at every R, its decomposition is exact: with <·>_ξ the average over the model's
samples at ξ, and u = A − T ∂A/∂T, c = −T ∂²A/∂T² of the model at R,

    U(ξ) = ∂(bF)/∂b = <u>_ξ,      −T S = F − U,      C(ξ) = −T ∂²F/∂T² = <c>_ξ + k b² Var_ξ(u).

Error bands are the model's posterior, propagated to first order. A change δA of the free energy changes

    δF = <δA>_ξ,   δU = <δu>_ξ − b Cov_ξ(u, δA),
    δC = <δc>_ξ + 2 k b² Cov_ξ(u, δu) − b Cov_ξ(c + k b² (u − <u>_ξ)², δA),

all linear in δA, whose posterior covariance at the samples is known in closed form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arrays import kelvin, real_array, unwrapped
from ..errors import require
from ..runtime.seeds import random_numbers
from ..units import BOLTZMANN

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Conditional:
    """Averages within bins.

    Attributes
    ----------
    count, mean, error
        (bins,): samples, their mean (NaN without samples) and its standard error std/sqrt(count) for independent
        samples.
    """

    count: NDArray[np.int64]
    mean: FloatArray
    error: FloatArray


def conditional_averages(values: ArrayLike, bins: ArrayLike, size: int) -> Conditional:
    """Mean of values (n,) within bins (n,) numbered 0 … size − 1."""
    x, at = real_array(values, "values"), np.asarray(unwrapped(bins, "bins"))
    require(
        x.ndim == 1 and at.shape == x.shape and (not len(at) or (0 <= at.min() and at.max() < size)),
        f"values {x.shape} and bins {at.shape} do not fit, or a bin is outside 0…{size - 1}",
    )
    count = np.bincount(at, minlength=size)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(at, x, size) / count
        square = np.bincount(at, (x - np.where(count > 0, mean, 0.0)[at]) ** 2, size)
        error = np.sqrt(square / (count - 1) / count)
    return Conditional(count, mean, np.where(count > 1, error, np.nan))


@dataclass(frozen=True, eq=False)
class Decomposition:
    """F = U − T S and C along bins of ξ; arrays (bins,), NaN where there are too few samples.

    Attributes
    ----------
    temperature
        K.
    count
        Samples in each bin.
    free_energy, energy, entropy
        F, U (eV) and S (eV/K), each relative to its average over the samples.
    heat_capacity
        C, eV/K, absolute.
    free_energy_std, energy_std, entropy_std, heat_capacity_std
        Posterior standard deviations, with the sampling error of the bin added in quadrature.
    """

    temperature: float
    count: NDArray[np.int64]
    free_energy: FloatArray
    energy: FloatArray
    entropy: FloatArray
    heat_capacity: FloatArray
    free_energy_std: FloatArray
    energy_std: FloatArray
    entropy_std: FloatArray
    heat_capacity_std: FloatArray


def decomposition(
    model: Any,
    positions: ArrayLike,
    bins: ArrayLike,
    size: int,
    temperature: float,
    *,
    rng: np.random.Generator | int | None,
    configurations: int = 600,
    least: int = 10,
) -> Decomposition:
    """Decompose the free energy along ξ from samples of the model; see the module for the formulas.

    Parameters
    ----------
    model
        The fitted :class:`~kernelfe.FreeEnergyRegressor` that was sampled.
    positions
        (n, beads, 3), Å: decorrelated samples of the model at ``temperature``.
    bins
        (n,), bin of ξ of each sample, 0 … size − 1.
    temperature
        K.
    rng
        Chooses the configurations for the error bands.
    configurations
        Samples, spread evenly over the bins, at which the posterior covariance is evaluated.
    least
        Bins with fewer samples stay NaN.

    Returns
    -------
    Decomposition

    Raises
    ------
    DataError
        If no bin has enough samples.
    """
    x, at, t = real_array(positions, "positions", "Å"), np.asarray(unwrapped(bins, "bins")), kelvin(temperature)
    rng = random_numbers(rng, "rng")
    count = np.bincount(at, minlength=size)
    used = np.flatnonzero(count >= max(least, 2))
    require(len(used), f"no bin holds {least} samples: sample longer or use wider bins")
    b = 1.0 / (BOLTZMANN * t)
    u = model.predict(x, "mean_energy", temperature=t)
    c = model.predict(x, "heat_capacity", temperature=t)
    u = u - u.mean()
    energy, capacity = conditional_averages(u, at, size), conditional_averages(c, at, size)
    fluctuation = conditional_averages((u - np.nan_to_num(energy.mean)[at]) ** 2, at, size)
    with np.errstate(divide="ignore"):
        free = np.where(count > 0, -np.log(count / len(x)) / b, np.nan)
    p = count / len(x)
    free = free - p[used] @ free[used] / p[used].sum()
    entropy = (energy.mean - free) / t
    heat = capacity.mean + BOLTZMANN * b * b * fluctuation.mean
    each = max(2, configurations // len(used))
    chosen = [rng.permutation(np.flatnonzero(at == k))[:each] for k in used]
    posterior = _posterior(model, x, t, chosen, p[used] / p[used].sum(), u, c)
    sampling_f = 1.0 / (b * np.sqrt(np.maximum(count, 1)))
    sampling_c = np.hypot(capacity.error, BOLTZMANN * b * b * fluctuation.error)
    sampling = (sampling_f, energy.error, np.hypot(sampling_f, energy.error) / t, sampling_c)
    bands = []
    for variance, own in zip(posterior, sampling, strict=True):
        out = np.full(size, np.nan)
        out[used] = np.sqrt(variance + own[used] ** 2)
        bands.append(out)

    def shown(values: FloatArray) -> FloatArray:
        out = np.full(size, np.nan)
        out[used] = values[used]
        return out

    return Decomposition(t, count, shown(free), shown(energy.mean), shown(entropy), shown(heat), *bands)


def _posterior(model, x, t, chosen, weight, u, c) -> list[FloatArray]:
    """Posterior variances of F, U, S (relative to their averages) and C of bins.

    ``chosen`` holds rows of samples of each bin, ``weight`` the populations of the bins.
    """
    b = 1.0 / (BOLTZMANN * t)
    index = np.concatenate(chosen)
    n = len(index)
    quantities = ("free_energy", "mean_energy", "heat_capacity")
    covariance = np.empty((3 * n, 3 * n))
    for i, first in enumerate(quantities):
        for j in range(i, 3):
            block = model.covariance(x[index], first, quantities[j], temperature=t)
            covariance[i * n : (i + 1) * n, j * n : (j + 1) * n] = block
            covariance[j * n : (j + 1) * n, i * n : (i + 1) * n] = block.T
    by = np.zeros((3, len(chosen), 3 * n))  # F, U, C as linear functions of δA, δu, δc at the chosen configurations
    start = 0
    for row, members in enumerate(chosen):
        stop, m = start + len(members), len(members)
        here = slice(start, stop)
        du, dc = u[members] - u[members].mean(), c[members] - c[members].mean()
        fluctuation = BOLTZMANN * b * b * (du**2 - np.mean(du**2))
        by[0, row, here] = 1.0 / m
        by[1, row, n + start : n + stop] = 1.0 / m
        by[1, row, here] = -b * du / m
        by[2, row, 2 * n + start : 2 * n + stop] = 1.0 / m
        by[2, row, n + start : n + stop] = 2.0 * BOLTZMANN * b * b * du / m
        by[2, row, here] = -b * (dc + fluctuation) / m
        start = stop
    free, energy = by[0] - weight @ by[0], by[1] - weight @ by[1]
    maps = (free, energy, (energy - free) / t, by[2])
    return [np.maximum(np.einsum("ki,ij,kj->k", m, covariance, m, optimize=True), 0.0) for m in maps]


def total_heat_capacity(model: Any, positions: ArrayLike, temperature: float) -> float:
    """Observed configurational heat capacity of the sampled system, eV/K: <c>_R + k b² Var_R(u).

    Parameters
    ----------
    model
        A fitted :class:`~kernelfe.FreeEnergyRegressor`.
    positions
        (n, beads, 3), Å: samples of the model at ``temperature``.
    temperature
        K.
    """
    temperature = kelvin(temperature)
    u = model.predict(positions, "mean_energy", temperature=temperature)
    c = model.predict(positions, "heat_capacity", temperature=temperature)
    return float(np.mean(c) + np.var(u) / (BOLTZMANN * temperature**2))
