"""One statistical inefficiency for many observables of a series, each with its weight."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import require
from ..linalg.autocorrelation import autocovariance, integrated_time

FloatArray = NDArray[np.float64]


def weighted_inefficiency(series: Sequence[FloatArray], weights: FloatArray) -> float:
    """Statistical inefficiency g = 2τ from the weighted average of the autocorrelations of several columns.

    The largest of many estimated correlation times is a matter of chance. The average of the normalised
    autocorrelations over columns is far less noisy, and its integral is the average of the columns' times.

    Parameters
    ----------
    series
        Independent runs (n, k) of the same observables, equally spaced in time; the mean is that of all runs.
    weights
        (k,), not negative; constant columns do not count.

    Returns
    -------
    float
        At least 1; 1 for runs of fewer than four samples and where no column counts.

    Raises
    ------
    DataError
        If a value is not finite, or the shapes do not fit.
    """
    runs, weights = [np.asarray(x, dtype=float) for x in series], np.asarray(weights, dtype=float)
    fit = runs and all(x.ndim == 2 and x.shape[1] == len(weights) and np.isfinite(x).all() for x in runs)
    require(bool(fit) and bool((weights >= 0.0).all()), "series must be finite runs (n, k), with one weight per column")
    mean = np.concatenate(runs).mean(0)
    runs = [x - mean for x in runs]
    if max(map(len, runs)) < 4:
        return 1.0
    covariance = autocovariance(runs)
    weights = weights * (covariance[0] > 0.0)
    if not weights.sum() > 0.0:
        return 1.0
    rho = (covariance / np.where(weights > 0.0, covariance[0], 1.0)) @ weights / weights.sum()
    return max(1.0, 2.0 * float(integrated_time(rho[:, None])[0]))


__all__ = ["weighted_inefficiency"]
