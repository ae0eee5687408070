"""Free-energy differences from umbrella windows and several temperatures, by MBAR, as pair labels.

With reduced potentials u_k = b_k (U + W_k) of the K sampled states (window biases W_k, temperatures 1/(k b_k)), MBAR
gives the reduced free energy of any other state (Shirts and Chodera, J. Chem. Phys. 129, 124105 (2008)); here those of
the unbiased ensemble confined to each bin of the variables: A_j − A_i = kT (f_j − f_i) between bins of equal size.
Differences between temperatures hold the gauge a0·T (one unknown constant in every f_k) and are not made into labels.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.special import logsumexp

from ..arrays import unwrapped
from ..errors import DataError, require
from ..frames import Frames
from ..frames.checks import numbers, per_frame
from ..units import BOLTZMANN
from .mbar import mbar

FloatArray = NDArray[np.float64]

#: Added to the reduced potential outside a bin: no weight in double precision, however much energies fluctuate.
OUTSIDE = 1e3
#: Independent samples that groups of states must share, and a bin must hold after reweighting.
ENOUGH_SHARED = 3.0


@dataclass(frozen=True, eq=False)
class BinFreeEnergies:
    """Free energies of bins at one temperature.

    Attributes
    ----------
    temperature
        K.
    centres
        (m, d), of the bins that hold enough samples.
    free_energy
        (m,), eV, relative to the first.
    std
        (m, m), standard deviation of A_j − A_i for every pair of bins, eV.
    """

    temperature: float
    centres: FloatArray
    free_energy: FloatArray
    std: FloatArray

    def pairs(self) -> tuple[NDArray[np.int64], NDArray[np.int64], FloatArray, FloatArray]:
        """i, j, A_j − A_i and its standard deviation for m − 1 pairs of bins.

        The spanning tree of least total variance: its differences are as nearly independent as differences of m
        numbers can be, and determine all others.
        """
        tree = minimum_spanning_tree(np.triu(np.maximum(self.std, 1e-300) ** 2, 1)).tocoo()
        i, j = tree.row.astype(np.int64), tree.col.astype(np.int64)
        return i, j, self.free_energy[j] - self.free_energy[i], self.std[i, j]


def bin_free_energies(
    variables: ArrayLike,
    edges: Sequence[ArrayLike],
    state: ArrayLike,
    temperatures: float | ArrayLike,
    *,
    energies: ArrayLike | None = None,
    biases: ArrayLike | None = None,
    target: float | None = None,
    inefficiency: float = 1.0,
    fewest: int = 10,
) -> BinFreeEnergies:
    """Free energies of bins of the variables in the unbiased ensemble at one temperature.

    Parameters
    ----------
    variables
        (n, d), pooled samples of all states.
    edges
        d increasing arrays of evenly spaced bin edges; samples outside count in MBAR but in no bin. The difference of
        two bins is that of their averages, off by O(width²) from that of their centres.
    state
        (n,), the number 0 … K − 1 of the state that each sample comes from.
    temperatures
        K, one number or (K,).
    energies
        (n,), unbiased potential energies, eV; needed with more than one temperature. U must not depend on T.
    biases
        (K, n): the bias energy of every state at every sample, eV. None: no state is biased.
    target
        Temperature wanted, K; None: that of the states, if they have one.
    inefficiency
        2τ of the samples: variances of MBAR, which counts them as independent, are multiplied by it.
    fewest
        Samples that a bin must hold. A bin that reweighting leaves fewer than 3 effective independent samples (fewer
        than ``fewest``, if that is less) is left out as well.

    Raises
    ------
    DataError
        If shapes do not fit, numbers are not finite, fewer than two bins hold enough samples, or states do not overlap:
        groups of them share fewer than 3 independent samples, and less than a tenth of theirs.
    MissingDependencyError
        If pymbar is not installed.
    """
    x, grid = numbers(variables, "variables"), [numbers(e, "edges") for e in edges]
    require(
        x.ndim == 2 and x.shape[1] == len(grid) and np.isfinite(x).all(),
        f"variables must be finite and (n, {len(grid)}) for {len(grid)} edges, they have {x.shape}",
    )
    steps = [np.diff(e) if e.ndim == 1 and len(e) > 1 else np.zeros(1) for e in grid]
    require(
        not any(not (d > 0.0).all() or not np.allclose(d, d.mean()) for d in steps),
        "edges must be evenly spaced and increasing: bins of unlike size have no common measure",
    )
    n, which = len(x), np.asarray(unwrapped(state, "state"))
    require(
        which.shape == (n,) and which.dtype.kind in "iu" and n and (0 <= which.min() <= which.max() < n),
        f"state must be ({n},) whole numbers from 0, the state of each sample",
    )
    require(
        not np.ndim(inefficiency) and 1.0 <= float(numbers(inefficiency, "inefficiency")) < np.inf,
        f"inefficiency={inefficiency} must be at least 1, the value of independent samples",
    )
    bias = None if biases is None else numbers(biases, "biases", None, "eV")
    if bias is not None and (bias.ndim != 2 or bias.shape[1] != n or not np.isfinite(bias).all()):
        raise DataError(f"biases must be finite and (states, {n}), they have shape {bias.shape}")
    states = int(which.max()) + 1 if bias is None else len(bias)
    ladder = per_frame(temperatures, "temperatures of the states", states, "K")
    require(
        (ladder > 0.0).all() and (target is None or 0.0 < float(numbers(target, "target", None, "K")) < np.inf),
        "temperatures and target must be positive and finite (K)",
    )
    if (missing := np.flatnonzero(np.bincount(which, minlength=states) == 0)).size or which.max() >= states:
        raise DataError(
            f"state {missing[0] if missing.size else which.max()} has no samples, or no bias: renumber states"
        )
    t = ladder[0] if target is None else float(target)
    require(
        target is not None or not np.ptp(ladder) > 0.0,
        f"the states have temperatures {np.unique(ladder)}: say which one is wanted, target=",
    )
    require(
        energies is not None or (not np.ptp(ladder) > 0.0 and t == ladder[0]),
        "several temperatures need the potential energies of the samples: pass energies=",
    )
    u = np.zeros(n) if energies is None else numbers(energies, "energies", None, "eV")
    require(u.shape == (n,) and np.isfinite(u).all(), f"energies must be finite and ({n},), they have shape {u.shape}")
    u = u - u.mean()  # a constant drops out of differences at one temperature, but not out of the rounding
    total = u if bias is None else u + bias
    reduced = np.broadcast_to(total, (states, n)) / (BOLTZMANN * ladder[:, None])
    cell, inside = np.zeros(n, int), np.ones(n, bool)
    for column, e in zip(x.T, grid, strict=True):
        place = np.searchsorted(e, column, side="right") - 1
        inside &= (place >= 0) & (place < len(e) - 1)
        cell = cell * (len(e) - 1) + place
    chosen, count = np.unique(cell[inside], return_counts=True)
    chosen = chosen[count >= fewest]
    require(len(chosen) >= 2, f"{len(chosen)} bins hold {fewest} samples: a difference needs two; widen the bins")
    targets = u / (BOLTZMANN * t) + np.where(inside & (cell == chosen[:, None]), 0.0, OUTSIDE)
    f, std, effective = _mbar(reduced, which, targets, ENOUGH_SHARED * inefficiency)
    kept = np.flatnonzero(effective >= min(fewest, ENOUGH_SHARED) * inefficiency)
    require(
        len(kept) >= 2,
        f"reweighted to {t:g} K without bias, {len(kept)} bins hold enough effective samples, and a difference needs "
        "two: add windows or temperatures closer to the target",
    )
    chosen, f, std = chosen[kept], f[kept] - f[kept[0]], std[np.ix_(kept, kept)]
    place = np.stack(np.unravel_index(chosen, [len(e) - 1 for e in grid]), 1)
    centres = np.stack([0.5 * (e[k] + e[k + 1]) for e, k in zip(grid, place.T, strict=True)], 1)
    kt = BOLTZMANN * t
    return BinFreeEnergies(t, centres, kt * f, kt * std * np.sqrt(inefficiency))


def pair_label_frames(parts: Sequence[BinFreeEnergies]) -> Frames:
    """Frames of the bin centres, one part per temperature, whose pair labels are the differences of each part.

    Raises
    ------
    DataError
        If ``parts`` is empty.
    """
    require(parts, "no bin free energies: give at least one temperature")
    temperature = np.concatenate([np.full(len(part.centres), part.temperature) for part in parts])
    frames = Frames.from_arrays(variables=np.concatenate([part.centres for part in parts]), temperature=temperature)
    start = 0
    for part in parts:
        i, j, value, std = part.pairs()
        frames.add_pair_labels(start + i, start + j, value, std)
        start += len(part.centres)
    return frames


def _mbar(
    reduced: FloatArray, state: NDArray, targets: FloatArray, least: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Free energies (L,) of targets in kT, the first zero, std (L, L) of differences, effective samples (L,)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        solved, order = mbar(reduced, state, least)
        found = solved.compute_perturbed_free_energies(targets[:, order])
    f, std = np.asarray(found["Delta_f"])[0], np.asarray(found["dDelta_f"])
    require(
        np.isfinite(f).all() and np.isfinite(std).all() and (std + np.eye(len(std)) > 0.0).all(),
        "MBAR gives no finite differences: the states do not overlap; add windows or temperatures",
    )
    mixture = np.log(np.bincount(state))[:, None] + np.asarray(solved.f_k)[:, None] - reduced
    log_weights = -targets - logsumexp(mixture, axis=0)
    effective = np.exp(2.0 * logsumexp(log_weights, axis=1) - logsumexp(2.0 * log_weights, axis=1))
    return f, std, effective
