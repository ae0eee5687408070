"""Pressure, density and compressibility of periodic samples."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...arrays import kelvin, real_array
from ...errors import DataError, require
from ...statistics import Estimate, series_labels, series_mean
from ...units import BOLTZMANN, factor
from .configurations import checked_cells

logger = logging.getLogger(__name__)
FloatArray = NDArray[np.float64]

#: eV/Å³ per bar.
_BAR = factor("bar")
#: Independent frames below which a variance is too uncertain to rely on: its relative error is √(2/n), 14 %.
FEW_FOR_VARIANCE = 100


def pressure(
    temperature: float,
    cell: ArrayLike | None,
    beads: int,
    *,
    stress: ArrayLike | None = None,
    virials: ArrayLike | None = None,
    series: ArrayLike | None = None,
) -> Estimate:
    """Pressure P = ⟨N kT/V − tr(stress)/3⟩ = ⟨(N kT + w)/V⟩, w = −dA/dlnV, with its kinetic part, in bar.

    Parameters
    ----------
    temperature
        K.
    cell
        (3, 3) or (n, 3, 3), Å.
    beads
        N: number of particles that carry momentum independently: beads, or molecules for molecular virials.
    stress
        (n, 6) in ASE's order or (n, 3, 3), eV/Å³: the excess stress of a coarse-grained model, (∂A/∂strain)/V, which
        does not hold the kinetic part.
    virials
        (n,), eV: w = −dU/dlnV with molecules moved as a whole (all-atom data), or of the model. Give either.
    series
        (n,), label of the independent series of each frame, for the error.

    Raises
    ------
    DataError
        If neither or both of stress and virials are given, or shapes do not fit.
    """
    t = kelvin(temperature)
    if (stress is None) == (virials is None):
        raise DataError("give the stress of each frame, or the virial of each frame: one of them")
    require(beads >= 1, f"beads={beads!r} must be the number of particles")
    if stress is not None:
        excess = -_trace(stress) / 3.0
        volume = _volumes(cell, len(excess))
    else:
        w = real_array(virials, "virials", "eV")
        require(w.ndim == 1 and len(w), f"virials have shape {w.shape}, expected (n,): one number per frame")
        volume = _volumes(cell, len(w))
        excess = w / volume
    return series_mean(beads * BOLTZMANN * t / volume + excess, series).scaled(1.0 / _BAR)


def _trace(stress: ArrayLike) -> FloatArray:
    s = real_array(stress, "stress", "eV/Å³")
    require(
        len(s.shape) > 1 and s.shape[1:] in ((6,), (3, 3)) and len(s),
        f"stress has shape {s.shape}, expected (n, 6) in ASE's order or (n, 3, 3)",
    )
    return np.asarray(s[:, :3].sum(axis=1) if s.ndim == 2 else np.trace(s, axis1=1, axis2=2))


def _volumes(cell: ArrayLike | None, frames: int) -> FloatArray:
    return np.abs(np.linalg.det(checked_cells(cell, frames)))


def density(cell: ArrayLike | None, masses: ArrayLike, series: ArrayLike | None = None) -> Estimate:
    """Mass density ⟨M/V⟩, g/cm³.

    Parameters
    ----------
    cell
        (n, 3, 3), Å, of each frame.
    masses
        (beads,), u.
    series
        (n,), label of the independent series of each frame, for the error.
    """
    box = real_array(cell, "cell", "Å") if cell is not None else None
    volume = _volumes(box, len(box) if box is not None and box.ndim == 3 else 1)
    m = real_array(masses, "masses", "u")
    require(m.ndim == 1 and (m > 0.0).all(), "masses must be positive, one per bead, in u")
    return series_mean(m.sum() / volume, series).scaled(1.66053906660)  # u/Å³ in g/cm³


def isothermal_compressibility(volumes: ArrayLike, temperature: float, series: ArrayLike | None = None) -> Estimate:
    """Compressibility κ = Var(V)/(kT ⟨V⟩) of samples at constant pressure, 1/bar.

    Parameters
    ----------
    volumes
        (n,), Å³.
    temperature
        K.
    series
        (n,), label of the independent series of each frame, for the error.

    Returns
    -------
    Estimate
        A warning is logged if there are fewer than 100 independent frames.

    Raises
    ------
    DataError
        If the volumes are not positive, or all the same (constant volume).
    """
    t = kelvin(temperature)
    v = real_array(volumes, "volumes", "Å³")
    require(v.ndim == 1 and len(v) > 3 and (v > 0.0).all(), "volumes must be four positive numbers or more, in Å³")
    require(np.ptp(v) > 0.0, "all volumes are equal: the compressibility needs samples at constant pressure")
    variance = variance_of(v, series_labels(series, len(v)), "the compressibility")
    mean = v.mean()
    # Var(V)/V̄, linearised in both
    part = ((v - mean) ** 2 - variance.value) / mean - variance.value * (v - mean) / mean**2
    error = series_mean(part, series).error
    return Estimate(variance.value / mean, error, variance.independent).scaled(_BAR / (BOLTZMANN * t))


def variance_of(values: FloatArray, series: NDArray[np.intp], what: str) -> Estimate:
    """Variance of a correlated series, corrected for the deviations from its own mean.

    Parameters
    ----------
    values
        (n,).
    series
        (n,), number of the independent series of each frame.
    what
        Name of the result, for a warning if there are too few independent frames.

    Returns
    -------
    Estimate
        ``independent`` is the number of independent frames of the mean.
    """
    mean = series_mean(values, series)
    square = (values - mean.value) ** 2
    spread = series_mean(square, series)
    independent = float(mean.independent)
    if independent < FEW_FOR_VARIANCE:
        logger.warning(
            "%s comes from fluctuations over %.0f independent frames: its standard error is at least %.0f %%. Run "
            "longer, or use differences between states",
            what,
            independent,
            100.0 * np.sqrt(2.0 / max(independent, 2.0)),
        )
    extra = float(mean.error) ** 2
    value = float(spread.value) + extra
    return Estimate(value, float(spread.error) * value / max(float(spread.value), 1e-300), independent)
