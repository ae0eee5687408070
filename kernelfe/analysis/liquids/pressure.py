"""Pressure, density and compressibility of periodic samples."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...arrays import kelvin, real_array
from ...errors import DataError, require
from ...statistics import Estimate, series_labels, series_mean
from ...units import BOLTZMANN, factor
from .configurations import checked_cells, refuse_frames

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
    excess: ArrayLike | None = None,
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
        (n,), eV: w = −dU/dlnV with molecules moved as a whole (all-atom data), or of the model.
    excess
        (n,), eV/Å³: −∂A/∂V, ``model.predict(samples, "excess_pressure")``. Give one of the three.
    series
        (n,), label of the independent series of each frame, for the error.

    Raises
    ------
    DataError
        If not one of stress, virials and excess is given, or shapes do not fit.
    """
    t = kelvin(temperature)
    require(beads >= 1, f"beads={beads!r} must be the number of particles")
    if (given := excess_of(stress, virials, excess)) is None:
        raise DataError("give the stress, the virial or the excess pressure of each frame")
    value, per_volume = given
    require(value.ndim == 1 and len(value), f"need one number or one stress per frame, got shape {value.shape}")
    volume = _volumes(cell, len(value))
    part = value if per_volume else value / volume
    return series_mean(beads * BOLTZMANN * t / volume + part, series).scaled(1.0 / _BAR)


def excess_of(
    stress: ArrayLike | None, virials: ArrayLike | None, excess: ArrayLike | None
) -> tuple[FloatArray, bool] | None:
    """One of three: numbers (...,) and whether they are excess pressures, eV/Å³, or virials, eV; None if none is given.

    Raises
    ------
    DataError
        If two of them are given, a value is not finite, or the stress has another shape.
    """
    given = [x for x in (stress, virials, excess) if x is not None]
    require(len(given) < 2, "give one of stress, virials and excess, not several")
    if not given:
        return None
    if stress is not None:
        s = real_array(stress, "stress", "eV/Å³")
        require(
            s.shape[-1:] == (6,) or s.shape[-2:] == (3, 3),
            f"stress has shape {s.shape}, expected (n, 6) in ASE's order or (n, 3, 3)",
        )
        value = s[..., :3].sum(-1) if s.shape[-1] == 6 else np.trace(s, axis1=-2, axis2=-1)
        value = np.asarray(-value / 3.0)
    elif virials is not None:
        value = real_array(virials, "virials", "eV")
    else:
        value = real_array(excess, "excess", "eV/Å³")
    name = "stress" if stress is not None else "virials" if virials is not None else "excess"
    require(value.ndim and len(value), f"{name} must be given for each frame")
    refuse_frames(
        ~np.isfinite(value.reshape(len(value), -1)).all(axis=1), name + " of frame {} is not finite: drop the frame"
    )
    return value, virials is None


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
