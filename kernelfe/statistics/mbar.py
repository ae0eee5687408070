"""Free-energy surfaces at any temperature from samples taken at several: MBAR through pymbar.

The pooled weights are w_n ∝ exp(−b U_n) / Σ_k N_k exp(f_k − b_k U_n) with the reduced free energies f_k that
solve the MBAR equations (Shirts and Chodera, J. Chem. Phys. 129, 124105 (2008)). pymbar is an optional
dependency (``pip install kernelfe[mbar]``), imported when it is used.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from ..arrays import kelvin, real_array, unwrapped
from ..errors import DataError, MissingDependencyError, require
from ..runtime.seeds import random_numbers
from ..units import BOLTZMANN
from .overlap import require_overlap
from .series import autocorrelation_time, bootstrap_counts

FloatArray = NDArray[np.float64]


#: Samples that groups of temperatures must share, and effective samples at the target: weights carry no error bar.
ENOUGH_SAMPLES = 20.0


def temperature_weights(energies: ArrayLike, temperature: ArrayLike, target: float | Sequence[float]) -> FloatArray:
    """Weights that turn a pool of samples from several temperatures into the ensemble at another.

    Parameters
    ----------
    energies
        Potential energy U of every sample, any shape, eV. One Hamiltonian: U must not depend on T.
    temperature
        Temperature each sample was drawn at, broadcast to ``energies``, K. One value needs no MBAR and is
        reweighted directly.
    target
        Wanted temperature(s), K.

    Returns
    -------
    numpy.ndarray
        The shape of ``energies``, with a leading axis where ``target`` is a sequence; each sums to one.

    Raises
    ------
    DataError
        If an energy is not finite or a temperature not positive, if the temperatures do not overlap (groups of them
        share fewer than 20 samples, and less than a tenth of theirs), or if reweighting to the target leaves fewer than
        20 effective samples and less than a tenth of all.
    MissingDependencyError
        If pymbar is needed and not installed.
    """
    u = real_array(energies, "energies", "eV")
    t = np.broadcast_to(real_array(temperature, "temperature", "K"), u.shape)
    targets = real_array(target, "target", "K").reshape(-1)
    require(np.isfinite(u).all(), "energies hold a value that is not finite: drop or repair the sample")
    require(
        all((np.isfinite(v) & (v > 0.0)).all() for v in (t, targets)),
        "temperatures must be positive and finite (K)",
    )
    flat = u.ravel() - u.mean()  # a constant in U drops out of the weights, but not out of the rounding
    ladder, state = np.unique(t.ravel(), return_inverse=True)
    counts = np.bincount(state)
    reduced = flat / (BOLTZMANN * ladder[:, None])
    f = np.asarray(mbar(reduced, state, ENOUGH_SAMPLES)[0].f_k) if len(ladder) > 1 else np.zeros(1)
    mixture = logsumexp(np.log(counts)[:, None] + f[:, None] - reduced, axis=0)
    log_weights = -flat / (BOLTZMANN * targets[:, None]) - mixture
    weights = np.exp(log_weights - logsumexp(log_weights, axis=1, keepdims=True))
    effective = 1.0 / (weights**2).sum(axis=1)
    worst, needed = int(np.argmin(effective)), min(ENOUGH_SAMPLES, 0.1 * flat.size)
    require(
        effective[worst] >= needed,
        f"reweighting to {targets[worst]:g} K leaves {effective[worst]:.2g} effective of {flat.size} samples, and "
        f"{needed:.3g} are needed: the samples do not cover that ensemble; add temperatures closer to it",
    )
    return weights[0].reshape(u.shape) if np.ndim(target) == 0 else weights.reshape(-1, *u.shape)


@dataclass(frozen=True)
class Surface:
    """Probabilities on a grid with their standard errors.

    Attributes
    ----------
    probability, std
        (bins_1, …, bins_d); the probabilities sum to one. A bin without samples has both zero: its error is
        unknown, not small.
    edges
        d arrays of bin edges.
    """

    probability: FloatArray
    std: FloatArray
    edges: tuple[FloatArray, ...]

    def free_energy(self, temperature: float) -> FloatArray:
        """−kT ln p in eV, zero at the most likely bin, infinite where nothing was sampled; equal bins assumed."""
        with np.errstate(divide="ignore"):
            return -BOLTZMANN * kelvin(temperature) * np.log(self.probability / self.probability.max())


def surface(
    coordinates: ArrayLike,
    weights: ArrayLike,
    edges: Sequence[ArrayLike],
    blocks: ArrayLike,
    rng: np.random.Generator | int | None,
    bootstraps: int = 200,
) -> Surface:
    """Weighted histogram with error bars from a bootstrap over blocks of time.

    Whole blocks are redrawn, so correlation inside a block (and between replicas of one block) is accounted
    for; the weights are kept, the uncertainty of the f_k being second to that of the histogram.

    Parameters
    ----------
    coordinates
        (n, d), periodic ones wrapped into the edges.
    weights
        (n,) non-negative.
    edges
        d increasing arrays of bin edges that enclose every sample.
    blocks
        (n,) integer label of the independent block of each sample (:func:`~.blocks.block_labels`).
    rng
        Source of the redraws.
    bootstraps
        Number of redraws.

    Returns
    -------
    Surface

    Raises
    ------
    DataError
        If shapes do not fit, a sample lies outside the edges, or there is only one block.
    """
    x, w = real_array(coordinates, "coordinates"), real_array(weights, "weights")
    grid = tuple(real_array(e, "edges") for e in edges)
    label, block = np.unique(np.asarray(unwrapped(blocks, "blocks")), return_inverse=True)
    rng = random_numbers(rng, "rng")
    require(
        x.ndim == 2 and x.shape == (len(w), len(grid)) and block.shape == w.shape and w.ndim == 1,
        f"coordinates {x.shape}, weights {w.shape}, blocks {block.shape} and {len(grid)} edges do "
        "not fit: expected (n, d), (n,), (n,) and d arrays of edges",
    )
    require(len(label) >= 2, "one block gives no error bar: label the samples with two or more independent blocks")
    shape = tuple(len(e) - 1 for e in grid)
    cell = np.zeros(len(x), int)
    for column, e in zip(x.T, grid, strict=True):
        if not ((column >= e[0]) & (column <= e[-1])).all():
            raise DataError(f"a sample lies outside the edges {e[0]:g}…{e[-1]:g}: wrap or drop it")
        # the last bin holds its upper edge, as in numpy.histogram
        cell = cell * (len(e) - 1) + np.clip(np.searchsorted(e, column, side="right") - 1, None, len(e) - 2)
    size = int(np.prod(shape))
    sums = np.bincount(block * size + cell, w, len(label) * size).reshape(len(label), size)
    draws = bootstrap_counts(len(label), bootstraps, rng).astype(float) @ sums
    draws = draws / draws.sum(axis=1, keepdims=True)
    # a bootstrap over b blocks has (b − 1)/b of the variance
    std: FloatArray = draws.std(axis=0, ddof=1) * math.sqrt(len(label) / (len(label) - 1))
    total = sums.sum(axis=0)
    return Surface((total / total.sum()).reshape(shape), std.reshape(shape), grid)


def reweighted_mean(values: ArrayLike, weights: ArrayLike) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Weighted mean over a time series of replicas, its standard error and the effective sample size.

    The error is that of the linearised ratio, y_r = Σ_k w_rk (a_rk − ā), whose autocorrelation covers
    replicas that exchange: SE² = rounds·Var(y)·2τ(y). The effective sample size is Var_w(a)/SE².

    Parameters
    ----------
    values
        (rounds, replicas) or (rounds, replicas, m), a at each round of time and replica.
    weights
        (rounds, replicas), for example from :func:`temperature_weights`.

    Returns
    -------
    mean, standard_error, effective_sample_size : numpy.ndarray
        Each () or (m,). For the size of a sample of angles take the least over their cosines and sines.

    Raises
    ------
    DataError
        If the shapes do not fit or a column is constant.
    """
    a, w = real_array(values, "values"), real_array(weights, "weights")
    require(
        w.ndim == 2 and a.shape[:2] == w.shape and a.ndim <= 3,
        f"values {a.shape} and weights {w.shape} do not fit: expected (rounds, replicas[, m]) and (rounds, replicas)",
    )
    w = (w / w.sum()).reshape(*w.shape, *([1] * (a.ndim - 2)))
    mean = (w * a).sum(axis=(0, 1))
    series = (w * (a - mean)).sum(axis=1)
    variance = len(series) * series.var(axis=0) * 2.0 * autocorrelation_time(series)
    spread = (w * (a - mean) ** 2).sum(axis=(0, 1))
    return mean, np.sqrt(variance), spread / variance


def energy_overlap(energies: ArrayLike, temperature: ArrayLike) -> FloatArray:
    """Overlap matrix of MBAR (t, t) of samples from t temperatures, sorted: O_ij = N_j Σ_n w_i(n) w_j(n).

    Rows sum to one. Neighbours that overlap well share 0.03 or more (Klimovich et al., J. Comput. Aided Mol. Des. 29,
    397 (2015)).

    Parameters
    ----------
    energies
        (n,), eV, potential energies of one Hamiltonian.
    temperature
        (n,), K.

    Raises
    ------
    DataError
        If an energy is not finite or a temperature not positive, or the equations have no solution.
    MissingDependencyError
        If pymbar is not installed.
    """
    u, t = real_array(energies, "energies", "eV").ravel(), real_array(temperature, "temperature", "K").ravel()
    require(
        u.shape == t.shape and bool((np.isfinite(u) & np.isfinite(t) & (t > 0.0)).all()),
        "energies must be finite and temperatures positive (K), one of each per sample",
    )
    ladder, state = np.unique(t, return_inverse=True)
    solved, _ = mbar((u - u.mean()) / (BOLTZMANN * ladder[:, None]), state, least=1e-12)
    weights = np.asarray(solved.W_nk)
    return (weights.T @ weights) * np.asarray(solved.N_k)


def mbar(reduced: FloatArray, state: NDArray[np.integer], least: float) -> tuple[Any, NDArray[np.intp]]:
    """Solve the MBAR equations with pymbar.

    Parameters
    ----------
    reduced
        (K, n), the reduced potential of every state at every sample.
    state
        (n,), number of the state of each sample.
    least
        Samples that groups of states must share, see :func:`~.overlap.require_overlap`.

    Returns
    -------
    MBAR, order
        pymbar's object, and the order (n,) in which it holds the samples: grouped by state.

    Raises
    ------
    DataError
        If the states do not overlap.
    MissingDependencyError
        If pymbar is not installed.
    """
    logging.getLogger("pymbar").setLevel(logging.ERROR)  # it advertises JAX when it is imported
    try:
        from pymbar import MBAR
    except ImportError as error:
        raise MissingDependencyError("MBAR needs pymbar: pip install 'kernelfe[mbar]' or pip install pymbar") from error
    order = np.argsort(state, kind="stable")
    with warnings.catch_warnings():  # of singular matrices, which the overlap explains
        warnings.simplefilter("ignore", RuntimeWarning)
        solved = MBAR(np.ascontiguousarray(reduced[:, order]), np.bincount(state, minlength=len(reduced)))
        require_overlap(solved, least)
    return solved, order
