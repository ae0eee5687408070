"""Samples of a model's ensemble divided into basins: averages in each, and their response to a change of A."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arrays import kelvin, real_array, unwrapped
from ..errors import require
from ..frames.checks import per_frame
from ..gp.fitted.joint import Query
from ..units import BOLTZMANN

FloatArray = NDArray[np.float64]

#: Functionals of A that determine the basins: δA, δu and δc of the formulas in :mod:`kernelfe.analysis.basins`.
READ = ("free_energy", "mean_energy", "heat_capacity")


@dataclass(frozen=True, eq=False)
class BasinSamples:
    """The model's ensemble at one temperature, divided into basins.

    Parameters
    ----------
    X
        (n, beads, 3) or (n, d): configurations drawn from exp(−bA) of the model.
    basin
        (n,): basin of each, 0, 1, …; −1 for none.
    temperature
        K.
    weights
        (n,), not negative: statistical weights; None: equal. Points of a grid have exp(−bA) times their volume, see
        :func:`boltzmann_weights`.
    inefficiency
        Samples per independent sample (2τ), for the sampling error; 0: none, for a grid.
    """

    X: ArrayLike
    basin: ArrayLike
    temperature: float
    weights: ArrayLike | None = None
    inefficiency: float = 1.0


def boltzmann_weights(model: Any, X: ArrayLike, temperature: float, volume: ArrayLike | None = None) -> FloatArray:
    """exp(−bA)·volume of points of a grid, normalised, (n,).

    Parameters
    ----------
    model
        A fitted :class:`~kernelfe.FreeEnergyRegressor`.
    X
        Points.
    temperature
        K.
    volume
        (n,) or number: quadrature weight of each point.
    """
    temperature = kelvin(temperature)
    a = model.predict(X, "free_energy", temperature=temperature, reference=None) / (BOLTZMANN * temperature)
    each = np.ones(len(a)) if volume is None else per_frame(volume, "volume", len(a))
    require(
        (each >= 0.0).all() and each.any(),
        "volumes must not be negative, and some must be positive",
    )
    out = np.exp(a.min() - a) * each
    return out / out.sum()


def basin_averages(weight, u, c, basin, size: int, b: float):
    """Weight, U and C of every basin (draws, basins), and the total weight (draws, 1)."""
    inside = (basin[:, None] == np.arange(size)).astype(float)
    total = weight @ inside
    energy = (weight * u) @ inside / total
    fluctuation = (weight * u**2) @ inside / total - energy**2
    return total, energy, (weight * c) @ inside / total + BOLTZMANN * b * b * fluctuation, weight.sum(1, keepdims=True)


@dataclass(frozen=True, eq=False)
class DividedSamples:
    """Checked samples with the model's u and c, weights normalised."""

    X: NDArray[Any]
    basin: NDArray[np.int64]
    temperature: float
    weight: FloatArray
    inefficiency: float
    size: int
    u: FloatArray
    c: FloatArray

    @classmethod
    def of(cls, model: Any, samples: BasinSamples) -> DividedSamples:
        x, basin, t = (
            real_array(samples.X, "X"),
            np.asarray(unwrapped(samples.basin, "basin")),
            float(samples.temperature),
        )
        w = np.ones(len(x)) if samples.weights is None else real_array(samples.weights, "weights")
        require(
            basin.shape == (len(x),) and w.shape == (len(x),) and np.issubdtype(basin.dtype, np.integer),
            f"{len(x)} samples need as many basins (whole numbers) and weights",
        )
        require(
            np.isfinite(w).all() and (w >= 0.0).all() and w.sum() > 0.0 and 0.0 <= samples.inefficiency < np.inf,
            "weights must be finite and not negative, and so must be the inefficiency",
        )
        size = int(basin.max(initial=-1)) + 1
        count = np.bincount(basin[(basin >= 0) & (w > 0.0)], minlength=size)
        require(
            size > 0 and basin.min() >= -1 and count.min() >= 2,
            f"samples per basin: {count.tolist()}; basins are numbered from 0 (−1: none), and each needs at least two",
        )
        keep = w > 0.0
        x, basin, w = x[keep], basin[keep].astype(np.int64), w[keep] / w.sum()
        u = model.predict(x, "mean_energy", temperature=t)
        c = model.predict(x, "heat_capacity", temperature=t)
        return cls(x, basin, t, w, float(samples.inefficiency), size, u, c)

    def moments(self) -> tuple[FloatArray, ...]:
        """Population, F, U, S, C, (basins,) each."""
        b, u0 = 1.0 / (BOLTZMANN * self.temperature), self.u.mean()  # energies have a large constant
        found = basin_averages(self.weight[None], (self.u - u0)[None], self.c[None], self.basin, self.size, b)
        p, energy, heat = (part[0] for part in found[:3])
        energy, free = energy + u0, -np.log(p) / b
        return p, free, energy, (energy - free) / self.temperature, heat

    def choose(self, configurations: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], FloatArray]:
        """Configurations spread evenly over basins, with weights that preserve the weight of every basin.

        If there are few samples, all are taken with their own weights; otherwise each basin is sampled by weight, in
        even steps.
        """
        if len(self.X) <= configurations:
            return np.arange(len(self.X)), self.weight.copy()
        groups = [np.flatnonzero(self.basin == a) for a in range(-1, self.size)]
        groups = [rng.permutation(g) for g in groups if len(g)]
        each, chosen, share = max(2, configurations // len(groups)), [], []
        for group in groups:
            w = self.weight[group]
            if len(group) > each:
                steps = (np.arange(each) + rng.random()) / each
                picked = np.minimum(np.searchsorted(np.cumsum(w) / w.sum(), steps), len(group) - 1)
                picked, times = np.unique(picked, return_counts=True)
                group, w = group[picked], w.sum() * times / each
            chosen.append(group)
            share.append(w)
        return np.concatenate(chosen), np.concatenate(share)

    def responses(self, chosen: NDArray[np.int64], share: FloatArray) -> FloatArray:
        """F (relative to the whole), U and C of the basins as linear functions of δA, δu, δc: (3k, 3, chosen)."""
        k, b = self.size, 1.0 / (BOLTZMANN * self.temperature)
        out = np.zeros((3, k, 3, len(chosen)))
        for a in range(k):
            here = np.flatnonzero(self.basin[chosen] == a)
            w = share[here] / share[here].sum()
            du = self.u[chosen][here] - w @ self.u[chosen][here]
            dc = self.c[chosen][here] - w @ self.c[chosen][here]
            fluctuation = BOLTZMANN * b * b * (du**2 - w @ du**2)
            out[0, a, 0, here] = w
            out[1, a, 1, here] = w
            out[1, a, 0, here] = -b * w * du
            out[2, a, 2, here] = w
            out[2, a, 1, here] = 2.0 * BOLTZMANN * b * b * w * du
            out[2, a, 0, here] = -b * w * (dc + fluctuation)
        out[0, :, 0] -= share / share.sum()
        return out.reshape(3 * k, 3, len(chosen))

    def sampling(self) -> FloatArray:
        """Covariance of F, U, C of the basins from the finite number of samples, (3k, 3k).

        Counts in basins scatter as those of independent draws do; conditional averages by their influence functions.
        """
        k, b = self.size, 1.0 / (BOLTZMANN * self.temperature)
        out = np.zeros((3, k, 3, k))
        if self.inefficiency == 0.0:
            return out.reshape(3 * k, 3 * k)
        whole = self.inefficiency * float(np.sum(self.weight**2))  # 1/(independent samples)
        p = np.array([self.weight[self.basin == a].sum() for a in range(k)])
        out[0, :, 0, :] = whole * (np.diag(1.0 / p) - 1.0) / b**2
        for a in range(k):
            here = self.basin == a
            w = self.weight[here] / p[a]
            du, dc = self.u[here] - w @ self.u[here], self.c[here] - w @ self.c[here]
            influence = np.stack([du, dc + BOLTZMANN * b * b * (du**2 - w @ du**2)])
            out[1:, a, 1:, a] = self.inefficiency * (influence * w**2) @ influence.T
        return out.reshape(3 * k, 3 * k)

    def query(self, chosen: NDArray[np.int64], maps: FloatArray) -> Query:
        """Sum of ``maps`` (of :meth:`responses`) applied to δA, δu and δc at the chosen samples, as one query."""
        places = self.X[chosen]
        parts = [maps[:, q] @ Query(places, quantity, self.temperature) for q, quantity in enumerate(READ)]
        return parts[0] + parts[1] + parts[2]
