"""Diffusion coefficients from unwrapped trajectories."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...arrays import kelvin, real_array
from ...errors import require
from ...statistics import Estimate, series_labels, series_mean
from ...units import BOLTZMANN, factor
from .configurations import Configurations, configurations, refuse_frames

logger = logging.getLogger(__name__)
FloatArray = NDArray[np.float64]

#: Lattice constant of Yeh and Hummer's correction, cubic cells.
_CUBIC = 2.837297
#: Å²/ps in cm²/s.
CM2_PER_S = 1e-4


@dataclass(frozen=True, eq=False)
class Diffusion:
    """Self-diffusion in a periodic box, not corrected for its size.

    Attributes
    ----------
    coefficient
        D, Å²/ps (1e-4 cm²/s).
    lags, msd, msd_error
        (k,): times of the fit in ps, mean squared displacements in Å² and their standard errors.
    exponent
        Slope of ln MSD on ln t within the fit: 1 where motion is diffusive, more before (ballistic), less in a cage.
    """

    coefficient: Estimate
    lags: FloatArray
    msd: FloatArray
    msd_error: FloatArray
    exponent: float


def diffusion_coefficient(
    positions: ArrayLike,
    spacing: float,
    *,
    cell: ArrayLike | None = None,
    fit: tuple[float, float] | None = None,
    remove_drift: bool = False,
    series: ArrayLike | None = None,
) -> Diffusion:
    """D = ⅙ d⟨|ΔR|²⟩/dt, from a straight line through the mean squared displacement over a range of times.

    Each time origin gives a slope; D is their mean, and its error follows from their autocorrelation, so that the
    correlation of overlapping windows and of beads is counted. In a periodic cell D depends on the size of the box:
    see :func:`finite_size_correction`, which is not applied. Of a coarse-grained model D is not that of the liquid,
    since friction is that of the thermostat.

    Parameters
    ----------
    positions
        (n, beads, 3), Å, unwrapped, equally spaced in time within each series.
    spacing
        Time between frames, ps.
    cell
        (3, 3) or (n, 3, 3), Å: refuses wrapped trajectories, which jump by more than half the least height.
    fit
        Shortest and longest time of the fit, ps; None: 2 % and 10 % of the shortest series. Start beyond the ballistic
        and caged motion.
    remove_drift
        Subtract the motion of the centre of the beads. It lowers the D of independent walkers by 1/N.
    series
        (n,), label of the independent series of each frame.

    Raises
    ------
    DataError
        If a series is too short for the fit, or the trajectory is wrapped; names the frame.
    """
    x = real_array(positions, "positions", "Å")
    require(x.ndim == 3 and x.shape[2] == 3 and len(x), f"positions have shape {x.shape}, expected (n, beads, 3)")
    refuse_frames(~np.isfinite(x).all(axis=(1, 2)), "positions of frame {} are not finite: drop or repair the frame")
    step = float(real_array(spacing, "spacing"))
    require(math.isfinite(step) and step > 0.0, f"spacing={spacing!r} must be a positive time in ps")
    labels = series_labels(series, len(x))
    parts = [x[labels == label] for label in range(labels.max() + 1)]
    if cell is not None:
        _refuse_wrapped(configurations(x, cell, None, labels))
    if remove_drift:
        parts = [part - part.mean(axis=1, keepdims=True) for part in parts]
    lags = _lags(min(len(part) for part in parts), step, fit)
    squares = [_squares(part, lags) for part in parts]
    every = np.concatenate(squares)
    origin = np.repeat(np.arange(len(parts)), [len(part) for part in squares])
    times = np.asarray(lags * step, dtype=np.float64)
    weight = (times - times.mean()) / ((times - times.mean()) ** 2).sum()
    slope, msd = series_mean(every @ weight / 6.0, origin), series_mean(every, origin)
    exponent = float(np.polyfit(np.log(times), np.log(msd.value), 1)[0]) if (msd.value > 0.0).all() else math.nan
    if slope.independent < 5.0:
        logger.warning(
            "the diffusion coefficient comes from %.1f independent stretches of the trajectory: its error is "
            "uncertain; run longer, or end the fit earlier",
            slope.independent,
        )
    return Diffusion(slope, times, msd.value, msd.error, exponent)


def _lags(frames: int, step: float, fit: tuple[float, float] | None) -> NDArray[np.int64]:
    if fit is None:
        first, last = max(1, round(0.02 * frames)), max(4, round(0.1 * frames))
    else:
        require(
            len(fit) == 2 and np.isfinite(fit).all() and 0.0 < fit[0] < fit[1],
            f"fit={fit!r} must be two increasing positive times in ps",
        )
        first, last = max(1, round(fit[0] / step)), round(fit[1] / step)
    require(last > first, f"the fit holds a single time: take frames closer than {step:g} ps, or a longer range")
    require(
        frames >= 2 * last + 1,
        f"a series of {frames} frames is too short for displacements over {last * step:g} ps: it must be twice as "
        "long; end the fit earlier",
    )
    return np.unique(np.linspace(first, last, min(20, last - first + 1)).round().astype(np.int64))


def _squares(x: FloatArray, lags: NDArray[np.int64]) -> FloatArray:
    """Squared displacements (origins, lags), averaged over beads; every lag has the same origins."""
    origins = len(x) - int(lags[-1])
    out = np.empty((origins, len(lags)))
    for column, lag in enumerate(lags):
        moved = x[lag : lag + origins] - x[:origins]
        out[:, column] = np.einsum("nbx,nbx->n", moved, moved) / x.shape[1]
    return out


def _refuse_wrapped(frames: Configurations) -> None:
    after = np.flatnonzero(frames.series[1:] == frames.series[:-1]) + 1
    moved = np.linalg.norm(frames.positions[after] - frames.positions[after - 1], axis=2)
    wrapped = np.zeros(len(frames.positions), dtype=bool)
    wrapped[after] = (moved > 0.5 * frames.heights[after, None]).any(axis=1)
    refuse_frames(
        wrapped,
        "a bead moves by more than half the cell to frame {}: the trajectory is wrapped; pass unwrapped(positions, "
        "cell)",
    )


def unwrapped(positions: ArrayLike, cell: ArrayLike | None, series: ArrayLike | None = None) -> FloatArray:
    """Continuous trajectories (n, beads, 3) of wrapped ones: every step is the shortest image.

    Parameters
    ----------
    positions
        (n, beads, 3), Å, in the order of time, frames so close that no bead moves by half the cell.
    cell
        (3, 3) or (n, 3, 3), Å. When it changes, steps are taken in scaled coordinates of the later frame.
    series
        (n,), label of the independent series of each frame.

    Raises
    ------
    DataError
        If a bead moves by more than half the least height of the cell; names the frame.
    """
    frames = configurations(positions, cell, None, series)
    out = np.array(frames.positions)
    for label in range(frames.series.max() + 1):
        rows = np.flatnonzero(frames.series == label)
        x, cells = frames.positions[rows], frames.cells[rows]
        moved = np.diff(x, axis=0)
        scaled = moved @ np.linalg.inv(cells[1:])
        moved -= np.rint(scaled) @ cells[1:]
        far = np.zeros(len(out), dtype=bool)
        far[rows[1:]] = (np.linalg.norm(moved, axis=2) > 0.5 * frames.heights[rows[1:], None]).any(axis=1)
        refuse_frames(
            far,
            "a bead moves by more than half the cell to frame {}: its path between frames is not known; take frames "
            "closer in time",
        )
        out[rows[1:]] = x[0] + np.cumsum(moved, axis=0)
    return out


def finite_size_correction(temperature: float, viscosity: float, edge: float) -> float:
    """Yeh and Hummer's correction of D in a cubic box, 2.837297 kT/(6π η L), Å²/ps: D∞ = D + correction.

    See J. Phys. Chem. B 108, 15873 (2004). The viscosity is that of the model that was run.

    Parameters
    ----------
    temperature
        K.
    viscosity
        η, mPa·s.
    edge
        L, Å.
    """
    t, eta, length = (
        kelvin(temperature),
        float(real_array(viscosity, "viscosity")),
        float(real_array(edge, "edge", "Å")),
    )
    require(eta > 0.0 and length > 0.0, "viscosity (mPa·s) and edge (Å) must be positive")
    pascal_ps = factor("Pa") * 1e12  # Pa·s in eV/Å³·ps
    return _CUBIC * BOLTZMANN * t / (6.0 * math.pi * eta * 1e-3 * pascal_ps * length)
