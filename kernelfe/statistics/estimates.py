"""Means of correlated series with standard errors: one trajectory, or several independent ones.

The variance of the mean of n frames in R independent series is

    Var(x̄) = n⁻² Σ_t Σ_r (n_r − |t|) c(t),   c(t) = Cov(x_i, x_{i+t}).

The raw sums Σ_i (x_i − x̄)(x_{i+t} − x̄) over all series estimate Σ_r (n_r − |t|) c(t): no block length is chosen. The
sum over t ends as in :func:`~kernelfe.linalg.autocorrelation.integrated_time`. Deviations are from the common mean, so
that replicas which have not forgotten their start spread, and widen the error. Deviations from the sample mean are too
small by Var(x̄) per term, which is corrected.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arrays import real_array, unwrapped
from ..errors import require
from ..linalg.autocorrelation import autocovariance, integrated_time, summed_lags

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Estimate:
    """A value with its standard error.

    Attributes
    ----------
    value, error
        Numbers, or arrays of one shape. The error is NaN where a single frame gives none.
    independent
        Number of independent frames: Var(x)/Var(mean), of the shape of ``value``.
    """

    value: Any
    error: Any
    independent: Any

    def scaled(self, factor: float) -> Estimate:
        """The estimate in another unit, or per bead."""
        return Estimate(self.value * factor, self.error * abs(factor), self.independent)

    def shifted(self, constant: float) -> Estimate:
        """The estimate plus a number without error."""
        return Estimate(self.value + constant, self.error, self.independent)

    def __str__(self) -> str:
        if np.ndim(self.value):
            return f"{np.size(self.value)} values, the largest error {np.max(self.error):.2g}"
        if not math.isfinite(self.error) or self.error <= 0.0:
            return f"{self.value:.6g}"
        digits = max(0, 1 - math.floor(math.log10(self.error)))
        return f"{self.value:.{digits}f} ± {self.error:.{digits}f}"


def series_mean(values: ArrayLike, series: ArrayLike | None = None, curve: bool = False) -> Estimate:
    """Mean over frames with its standard error, from the autocorrelation within each series.

    Parameters
    ----------
    values
        (n, ...), finite. Frames of one series are in the order of time and equally spaced.
    series
        (n,), label of the independent series (replica, run) of each frame; None for one series. Series of one frame
        each are independent frames.
    curve
        True if columns are points of one curve: the sum over t ends for all where their average autocorrelation does,
        which is less noisy and its error less biased.

    Returns
    -------
    Estimate
        Of the shape of one frame. A series of fewer than some 50 autocorrelation times gives a lower bound of the
        error; of independent frames, errors are 3 % (300 frames) to 10 % (80 frames) too large on average. Constant
        columns have error 0.

    Raises
    ------
    DataError
        If there are no frames, a value is not finite, or ``series`` has another length.
    """
    x = real_array(values, "values")
    require(x.ndim >= 1 and len(x), f"values must be (n, ...) with at least one frame, got {x.shape}")
    require(np.isfinite(x).all(), "the series holds a value that is not finite: drop or repair it")
    labels, n = series_labels(series, len(x)), len(x)
    flat = x.reshape(n, -1)
    mean = flat.mean(axis=0)
    if n == 1:
        return _shaped(mean, np.full(mean.shape, np.nan), np.ones(mean.shape), x.shape[1:])
    centred = flat - mean
    parts = [centred[labels == label] for label in range(labels.max() + 1)]
    sums = autocovariance(parts)
    constant = (np.ptp(flat, axis=0) == 0.0) | (sums[0] <= 0.0)
    rho = sums / np.where(constant, 1.0, sums[0])
    rho = np.concatenate([rho, np.zeros((len(rho) % 2, rho.shape[1]))])  # lags are summed in pairs
    tau, summed = integrated_time(rho), summed_lags(rho)
    if curve and not constant.all():
        summed = np.broadcast_to(summed_lags(rho[:, ~constant].mean(axis=1, keepdims=True)), summed.shape)
        tau = rho[: summed[0]].sum(axis=0) - 0.5
    # an anticorrelated series may beat independent ones, but no finite series shows by how much
    tau = np.clip(tau, 0.5 / math.log10(max(n, 100)), None)
    lags = np.arange(len(rho))
    pairs = np.sum([np.clip(len(part) - lags, 0, None) for part in parts], axis=0)
    reached = np.concatenate([[0], np.cumsum(pairs * np.where(lags == 0, 1, 2))])[summed]
    variance = 2.0 * tau * sums[0] / n**2 / (1.0 - np.minimum(np.maximum(reached, n) / n**2, 0.5))
    variance = np.where(constant, 0.0, variance)
    spread = sums[0] / n + variance
    independent = np.where(constant, n, spread / np.where(constant, 1.0, variance))
    return _shaped(mean, np.sqrt(variance), independent, x.shape[1:])


def series_labels(series: ArrayLike | None, frames: int) -> NDArray[np.intp]:
    """Whole numbers 0 … R − 1 (n,) for labels of series of any type; zeros for None.

    Raises
    ------
    DataError
        If there is not one label per frame.
    """
    if series is None:
        return np.zeros(frames, dtype=np.intp)
    labels = np.asarray(unwrapped(series, "series"))
    require(
        labels.shape == (frames,),
        f"series has shape {labels.shape}: give the label of the series of each of {frames} frames",
    )
    return np.unique(labels, return_inverse=True)[1].astype(np.intp)


def _shaped(mean: FloatArray, error: FloatArray, independent: FloatArray, shape: tuple[int, ...]) -> Estimate:
    parts = (mean.reshape(shape), error.reshape(shape), independent.reshape(shape))
    return Estimate(*(part if shape else float(part) for part in parts))
