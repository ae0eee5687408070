"""Configurational heat capacities: from differences of ⟨U⟩, from fluctuations, and of a coarse-grained model.

Differences between temperatures are much better known than fluctuations: with n independent frames a fluctuation has
a relative error of √(2/n), a difference over ΔT one of √(2/n)·σ_U/(C ΔT), and σ_U/(C ΔT) = √(k/C)·T/ΔT falls with the
size of the box.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...arrays import kelvin, real_array
from ...errors import require
from ...statistics import Estimate, series_labels, series_mean
from ...units import BOLTZMANN
from .configurations import refuse_frames
from .pressure import variance_of

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class HeatCapacities:
    """Heat capacities at several temperatures.

    Attributes
    ----------
    temperature
        (k,), K.
    value, error
        (k,), eV/K of the whole box, with standard errors.
    independent
        (k,), independent frames; of a difference, of the state that has fewer.
    """

    temperature: FloatArray
    value: FloatArray
    error: FloatArray
    independent: FloatArray

    def at(self, temperature: float) -> Estimate:
        """Linear interpolation to a temperature inside the range; errors are those of independent neighbours.

        Neighbouring differences share a state and are anticorrelated, so that this error is an upper bound.

        Raises
        ------
        DataError
            If the temperature is outside.
        """
        t = kelvin(temperature)
        low, high = self.temperature[0], self.temperature[-1]
        require(low <= t <= high, f"{t:g} K lies outside {low:g} to {high:g} K, where heat capacities are known")
        right = int(np.clip(np.searchsorted(self.temperature, t), 1, max(len(self.temperature) - 1, 1)))
        if len(self.temperature) == 1:
            return Estimate(float(self.value[0]), float(self.error[0]), float(self.independent[0]))
        share = (t - self.temperature[right - 1]) / (self.temperature[right] - self.temperature[right - 1])
        weights, pair = np.array([1.0 - share, share]), slice(right - 1, right + 1)
        error = float(np.sqrt(((weights * self.error[pair]) ** 2).sum()))
        return Estimate(float(weights @ self.value[pair]), error, float(self.independent[pair].min()))


@dataclass(frozen=True, eq=False)
class ObservedHeatCapacity:
    """Heat capacity of a sampled coarse-grained model, eV/K of the whole box.

    Attributes
    ----------
    total
        ⟨C(R)⟩ + k b² Var_R(⟨U⟩(R)): what the all-atom system shows.
    conditional
        ⟨C(R)⟩, of the eliminated degrees of freedom.
    between
        k b² Var_R(⟨U⟩(R)), of the configurations of the beads.
    """

    total: Estimate
    conditional: Estimate
    between: Estimate


def heat_capacity_by_differences(
    energies: Mapping[float, ArrayLike], series: Mapping[float, ArrayLike] | None = None
) -> HeatCapacities:
    """C = Δ⟨U⟩/ΔT between neighbouring temperatures, at their midpoints.

    Parameters
    ----------
    energies
        Temperature (K) → potential energies (n,), eV, in the order of time.
    series
        Temperature → labels (n,) of independent series, for the errors.

    Raises
    ------
    DataError
        If there are fewer than two temperatures, or an energy is not finite.
    """
    kelvins = sorted(energies)
    require(len(kelvins) > 1, "differences need energies at two temperatures or more")
    means = [series_mean(_energies(energies[t], t), (series or {}).get(t)) for t in kelvins]
    t = np.array([kelvin(value) for value in kelvins])
    u, e, n = (np.array([getattr(mean, name) for mean in means]) for name in ("value", "error", "independent"))
    return HeatCapacities(
        0.5 * (t[1:] + t[:-1]),
        np.diff(u) / np.diff(t),
        np.hypot(e[1:], e[:-1]) / np.diff(t),
        np.minimum(n[1:], n[:-1]),
    )


def heat_capacity_by_fluctuations(
    energies: Mapping[float, ArrayLike], series: Mapping[float, ArrayLike] | None = None
) -> HeatCapacities:
    """C = k b² Var(U) at each temperature.

    Parameters
    ----------
    energies
        Temperature (K) → potential energies (n,), eV, in the order of time.
    series
        Temperature → labels (n,) of independent series, for the errors.

    Returns
    -------
    HeatCapacities
        A warning is logged for each temperature with fewer than 100 independent frames.

    Raises
    ------
    DataError
        If an energy is not finite, or a temperature has fewer than four frames.
    """
    kelvins = sorted(energies)
    require(kelvins, "there are no energies")
    found = []
    for t in kelvins:
        u = _energies(energies[t], t)
        require(len(u) > 3, f"{len(u)} energies at {t:g} K: fluctuations need four frames or more")
        labels = series_labels((series or {}).get(t), len(u))
        spread = variance_of(u, labels, f"the heat capacity at {t:g} K")
        found.append(spread.scaled(1.0 / (BOLTZMANN * kelvin(t) ** 2)))
    columns = (np.array([getattr(one, name) for one in found]) for name in ("value", "error", "independent"))
    return HeatCapacities(np.array(kelvins, dtype=float), *columns)


def _energies(values: ArrayLike, temperature: float) -> FloatArray:
    u = real_array(values, f"energies at {temperature:g} K", "eV")
    require(u.ndim == 1 and len(u), f"energies at {temperature:g} K have shape {u.shape}, expected (n,)")
    refuse_frames(~np.isfinite(u), "energy of frame {} " + f"at {temperature:g} K is not finite: drop the frame")
    return u


def observed_heat_capacity(
    mean_energy: ArrayLike, heat_capacity: ArrayLike, temperature: float, series: ArrayLike | None = None
) -> ObservedHeatCapacity:
    """⟨C(R)⟩ + k b² Var_R(⟨U⟩(R)) over samples of a model: comparable with the all-atom heat capacity.

    Parameters
    ----------
    mean_energy, heat_capacity
        (n,), eV and eV/K: ``model.predict(samples, "mean_energy")`` and ``"heat_capacity"`` at each sample.
    temperature
        K, of the samples.
    series
        (n,), label of the independent series (replica) of each sample, for the errors.

    Returns
    -------
    ObservedHeatCapacity
        Errors are those of sampling; the posterior of the model adds its own. A warning is logged if there are fewer
        than 100 independent samples.

    Raises
    ------
    DataError
        If shapes differ, a value is not finite, or there are fewer than four samples.
    """
    t = kelvin(temperature)
    u, c = real_array(mean_energy, "mean_energy", "eV"), real_array(heat_capacity, "heat_capacity", "eV/K")
    require(
        u.ndim == 1 and u.shape == c.shape and len(u) > 3, f"need (n,) each, four at least; got {u.shape}, {c.shape}"
    )
    conditional = series_mean(c, series)
    spread = variance_of(_energies(u, t), series_labels(series, len(u)), "the observed heat capacity")
    between = spread.scaled(1.0 / (BOLTZMANN * t**2))
    both = series_mean(c + (u - u.mean()) ** 2 / (BOLTZMANN * t**2), series)
    total = Estimate(conditional.value + between.value, both.error, spread.independent)
    return ObservedHeatCapacity(total, conditional, between)
