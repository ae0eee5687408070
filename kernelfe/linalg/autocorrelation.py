"""Autocovariances of series and their integrals: the numbers, without checks of the series."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


def autocovariance(series: Sequence[FloatArray]) -> FloatArray:
    """Σ_i x_i x_{i+t} of each column, summed over trajectories, by FFT.

    Parameters
    ----------
    series
        Trajectories (n_k, ...) of zero mean, equally spaced in time.

    Returns
    -------
    numpy.ndarray
        (n, ...) with n the length of the longest trajectory.
    """
    total = np.zeros((max(len(x) for x in series), *series[0].shape[1:]))
    for x in series:
        spectrum = np.fft.rfft(x, 1 << (2 * len(x) - 1).bit_length(), axis=0)
        total[: len(x)] += np.fft.irfft(np.abs(spectrum) ** 2, axis=0)[: len(x)]
    return total


def integrated_time(correlation: FloatArray) -> FloatArray:
    """Integral ½ + Σ_{t≥1} ρ(t) of each column of normalised autocorrelations (n, k), shape (k,).

    Geyer's initial monotone sequence (Stat. Sci. 7, 473 (1992)): the sums ρ(2m) + ρ(2m+1) of a reversible chain are
    positive and decrease, so the sum ends where the first is not positive, and each is at most the one before.
    """
    return np.sum(_pair_sums(correlation), axis=0) - 0.5


def summed_lags(correlation: FloatArray) -> NDArray[np.int64]:
    """Number of lags t ≥ 0 that :func:`integrated_time` sums, for each column of (n, k), shape (k,)."""
    return 2 * np.count_nonzero(_pair_sums(correlation), axis=0)


def _pair_sums(correlation: FloatArray) -> FloatArray:
    """ρ(2m) + ρ(2m+1), (n // 2, k), made monotone; zero from the first that is not positive."""
    half = len(correlation) // 2
    pairs = correlation[: 2 * half].reshape(half, 2, -1).sum(axis=1)
    return np.asarray(np.minimum.accumulate(pairs * np.logical_and.accumulate(pairs > 0.0)))
