"""Errors of averages over correlated series: autocorrelation times, effective sizes, blocks, bootstrap."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arrays import real_array
from ..errors import require
from ..linalg.autocorrelation import autocovariance, integrated_time

FloatArray = NDArray[np.float64]


def autocorrelation(series: ArrayLike) -> FloatArray:
    """Normalised autocorrelation ρ(t) = c(t)/c(0), c(t) = (1/n) Σ_i (x_i − x̄)(x_{i+t} − x̄), by FFT.

    Parameters
    ----------
    series
        (n,) or (n, k), equally spaced in time; columns are treated one by one.

    Returns
    -------
    numpy.ndarray
        The shape of ``series``; ρ(0) = 1.

    Raises
    ------
    DataError
        If the series is shorter than 4, not finite, or constant.
    """
    x = _series(series)
    x = x - x.mean(axis=0)
    covariance = autocovariance([x])
    return covariance / covariance[:1]


def autocorrelation_time(series: ArrayLike) -> FloatArray | float:
    """Integrated autocorrelation time τ = ½ + Σ_{t≥1} ρ(t) in samples (½ for independent samples).

    The sum ends as in :func:`~kernelfe.linalg.autocorrelation.integrated_time` (Geyer). Var(mean) = 2τ·Var(x)/n. A
    series shorter than some 50 τ gives a lower bound.

    Parameters
    ----------
    series
        (n,) or (n, k). Give angles as cosines and sines.

    Returns
    -------
    float or numpy.ndarray
        One number, or (k,).

    Raises
    ------
    DataError
        If the series is shorter than 4, not finite, or constant.
    """
    rho = autocorrelation(series)
    # an anticorrelated series may beat independent ones, but no finite series shows by how much
    floor = 0.5 / math.log10(max(len(rho), 100))
    tau = np.clip(integrated_time(rho.reshape(len(rho), -1)), floor, None)
    return tau.reshape(rho.shape[1:]) if rho.ndim > 1 else float(tau[0])


def effective_sample_size(series: ArrayLike) -> FloatArray | float:
    """Number of independent samples with the same error of the mean, n/(2τ).

    Parameters
    ----------
    series
        (n,) or (n, k). Give angles as cosines and sines and take the smallest of the results.

    Returns
    -------
    float or numpy.ndarray
        One number, or (k,).

    Raises
    ------
    DataError
        If the series is shorter than 4, not finite, or constant.
    """
    return len(real_array(series, "series")) / (2.0 * autocorrelation_time(series))


def replica_effective_sample_size(series: ArrayLike, fewest_replicas: int = 20) -> FloatArray:
    """Independent samples in trajectories of independent replicas, for each observable.

    With R replicas, Var(mean) = Var(replica means)/R holds whatever the autocorrelation inside a replica, so
    n_eff = R·Var(x)/Var(replica means). A start that has not been forgotten spreads the replica means and lowers
    the number. With few replicas, autocorrelation times are estimated replica by replica instead.

    Parameters
    ----------
    series
        (samples, replicas) or (samples, replicas, k). Give angles as cosines and sines and take the smallest.
    fewest_replicas
        Number of replicas from which the scatter of their means gives the size.

    Returns
    -------
    numpy.ndarray
        (k,) or (); at most the number of samples. Constant observables count every sample.

    Raises
    ------
    DataError
        If the shape is wrong or a value not finite.
    """
    x, each = _replicas(series), samples_per_replica(series)
    replicas = x.shape[1]
    out = replicas * np.atleast_1d(each)
    if replicas < fewest_replicas:
        columns = x.reshape(*x.shape[:2], -1)
        for k in np.flatnonzero(np.ptp(columns, axis=(0, 1)) > 0.0):
            moving = columns[:, np.ptp(columns[:, :, k], axis=0) > 0.0, k]
            out[k] = min(np.sum(effective_sample_size(moving)), columns[:, :, k].size)
    return out.reshape(x.shape[2:])


def samples_per_replica(series: ArrayLike) -> FloatArray:
    """Var(x)/Var(replica means), for each observable: independent samples in each of several independent replicas.

    Parameters
    ----------
    series
        (samples, replicas) or (samples, replicas, k), two replicas at least.

    Returns
    -------
    numpy.ndarray
        (k,) or (); at most ``samples``, which is what constant observables count.

    Raises
    ------
    DataError
        If the shape is wrong or a value not finite.
    """
    x = _replicas(series)
    if x.shape[1] < 2:
        return np.full(x.shape[2:], float(len(x)))
    variance, spread = x.var(axis=(0, 1)), x.mean(axis=0).var(axis=0, ddof=1)
    constant = (np.ptp(x, axis=(0, 1)) == 0.0) | (spread == 0.0)
    return np.where(constant, len(x), np.minimum(variance / np.where(constant, 1.0, spread), len(x)))


def _replicas(series: ArrayLike) -> FloatArray:
    x = real_array(series, "series")
    require(
        x.ndim in (2, 3) and 0 not in x.shape and np.isfinite(x).all(),
        f"series must be finite and of shape (samples, replicas[, k]), got {x.shape}",
    )
    return x


def block_labels(n: int, blocks: int) -> NDArray[np.intp]:
    """Label (n,) of the contiguous block of time each of ``n`` samples belongs to; sizes differ by at most one.

    Raises
    ------
    DataError
        If there are fewer samples than blocks, or fewer than two blocks.
    """
    require(
        2 <= blocks <= n, f"cannot cut {n} samples into {blocks} blocks: choose between 2 and the number of samples"
    )
    return (np.arange(n) * blocks) // n


def block_standard_error(series: ArrayLike, blocks: int = 20) -> FloatArray | float:
    """Standard error of the mean from the scatter of block averages.

    Parameters
    ----------
    series
        (n, ...), first axis time.
    blocks
        Number of contiguous blocks; each should be many autocorrelation times long. With b blocks the
        standard error itself is uncertain by a factor 1 ± 1/√(2(b−1)).

    Returns
    -------
    float or numpy.ndarray
        The shape of one sample.

    Raises
    ------
    DataError
        If the series cannot be cut into that many blocks, or is not finite.
    """
    x = real_array(series, "series")
    require(x.ndim >= 1 and np.isfinite(x).all(), "the series holds a value that is not finite: drop or repair it")
    labels = block_labels(len(x), blocks)
    counts = np.bincount(labels)
    means = np.add.reduceat(x, np.r_[0, np.cumsum(counts)[:-1]], axis=0) / counts.reshape(-1, *([1] * (x.ndim - 1)))
    error = means.std(axis=0, ddof=1) / math.sqrt(blocks)
    return error if x.ndim > 1 else float(error)


def bootstrap_counts(blocks: int, samples: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Numbers of draws of each block in each bootstrap sample, (samples, blocks): multinomial, equal chances."""
    return rng.multinomial(blocks, np.full(blocks, 1.0 / blocks), size=samples)


def _series(series: ArrayLike) -> FloatArray:
    x = real_array(series, "series")
    require(x.ndim in (1, 2) and len(x) >= 4, f"a series must be (n,) or (n, k) with n ≥ 4, got {x.shape}")
    require(np.isfinite(x).all(), "the series holds a value that is not finite: drop or repair it")
    require(
        not (np.ptp(x, axis=0) == 0.0).any(), "the series is constant: it has no autocorrelation time; drop the column"
    )
    return x
