"""Histograms of torsions, Jensen–Shannon divergences, and their lower limit for finite samples.

Two finite samples of one distribution differ. For bins of probability p and independent samples of sizes n and m the
expectation of the divergence is about (bins − 1)/8·(1/n + 1/m) if every bin is well visited: 0.0032 for 36×36 bins
and 1e5 points each. A divergence is therefore meaningful only together with the sample sizes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ..arrays import kelvin, real_array
from ..errors import DataError, require
from ..geometry import internal as geometry
from ..runtime.seeds import random_numbers
from ..units import BOLTZMANN

FloatArray = NDArray[np.float64]

#: Bins per torsion in every comparison of surfaces.
BINS = 36


def dihedral_angles(positions: ArrayLike, quadruples: Sequence[tuple[int, int, int, int]]) -> FloatArray:
    """Dihedral angles of bead configurations, by the same code as the descriptors.

    Parameters
    ----------
    positions
        (..., beads, 3), Å.
    quadruples
        Bead indices (i, j, k, l) of each dihedral.

    Returns
    -------
    numpy.ndarray
        (..., dihedrals), rad, in (−π, π], IUPAC sign, trans = π.

    Raises
    ------
    DataError
        If the positions have the wrong shape or a quadruple names a bead they lack.
    """
    x = np.array(real_array(positions, "positions", "Å"))
    require(x.ndim >= 2 and x.shape[-1] == 3, f"positions have shape {x.shape}, expected (..., beads, 3)")
    flat = torch.from_numpy(x.reshape(-1, *x.shape[-2:]))
    torsions = tuple(tuple(int(i) for i in quad) for quad in quadruples)
    stencil = geometry.stencil((), (), torsions, x.shape[-2], (flat.dtype, flat.device))
    angles = geometry.measure(stencil, geometry.edge_vectors(stencil, flat))[0]
    return angles.T.numpy().reshape(*x.shape[:-2], len(torsions)).copy()


def axis_edges(bins: int = BINS) -> FloatArray:
    """Edges of equal bins over (−π, π], shape (bins + 1,), rad."""
    return np.linspace(-math.pi, math.pi, bins + 1)


def periodic_histogram(angles: ArrayLike, bins: int = BINS, weights: ArrayLike | None = None) -> FloatArray:
    """Probabilities on a periodic grid, the Ramachandran histogram for two angles.

    Parameters
    ----------
    angles
        (n, d), rad; wrapped into (−π, π].
    bins
        Per angle.
    weights
        (n,), non-negative; None: equal.

    Returns
    -------
    numpy.ndarray
        d axes of ``bins``, in the order of the columns; sums to one.

    Raises
    ------
    DataError
        If samples are missing, or one is not finite.
    """
    x = real_array(angles, "angles")
    if x.ndim != 2 or not len(x):
        raise DataError(f"angles have shape {x.shape}, expected (n, d) with n ≥ 1")
    if not np.isfinite(x).all():
        raise DataError(f"angles of sample {int(np.argmin(np.isfinite(x).all(axis=1)))} are not finite")
    cells = np.ravel_multi_index(tuple(bin_index(x, bins).T), (bins,) * x.shape[1])
    counts = np.bincount(cells, None if weights is None else real_array(weights, "weights"), bins ** x.shape[1])
    return (counts / counts.sum()).reshape((bins,) * x.shape[1])


def bin_index(angles: ArrayLike, bins: int = BINS) -> NDArray[np.intp]:
    """Bin of each angle (rad, any branch) on the periodic grid of :func:`axis_edges`, same shape."""
    wrapped = np.mod(real_array(angles, "angles") + math.pi, 2.0 * math.pi)
    return np.minimum((wrapped * (bins / (2.0 * math.pi))).astype(int), bins - 1)


def jensen_shannon_divergence(p: ArrayLike, q: ArrayLike) -> float:
    """½ KL(p‖m) + ½ KL(q‖m) with m = (p + q)/2, natural logarithm: 0 for equal, ln 2 for disjoint.

    scipy's ``jensenshannon`` is the square root of this.

    Parameters
    ----------
    p, q
        Same shape, non-negative; each is normalised.

    Raises
    ------
    DataError
        If the shapes differ, or one is not a distribution.
    """
    a, b = real_array(p, "p"), real_array(q, "q")
    require(
        a.shape == b.shape, f"distributions of shapes {a.shape} and {b.shape} cannot be compared: use the same bins"
    )
    for name, x in (("p", a), ("q", b)):
        require(
            np.isfinite(x).all() and (x >= 0.0).all() and x.sum() > 0.0,
            f"{name} is not a distribution: entries must be finite, non-negative and not all zero",
        )
    a, b = a / a.sum(), b / b.sum()
    m = 0.5 * (a + b)
    # rounding may leave −1e-17 for equal distributions
    return max(0.0, sum(0.5 * float((x[x > 0.0] * np.log(x[x > 0.0] / m[x > 0.0])).sum()) for x in (a, b)))


def divergence_floor(
    probability: ArrayLike, sizes: tuple[float, float], rng: np.random.Generator | int | None, draws: int = 20
) -> float:
    """Mean divergence of two independent samples of one distribution: the value for a perfect model.

    Parameters
    ----------
    probability
        The distribution, any shape.
    sizes
        Effective sizes of the two samples; ``math.inf`` for a distribution known exactly.
    rng
        Source of the draws.
    draws
        Pairs of samples drawn.

    Returns
    -------
    float
        By simulation; correct also if most bins are hardly visited.
    """
    p = real_array(probability, "probability").ravel()
    rng = random_numbers(rng, "rng")
    p = p / p.sum()

    def draw(size: float) -> FloatArray:
        return p if math.isinf(size) else rng.multinomial(max(1, round(size)), p).astype(float)

    return float(np.mean([jensen_shannon_divergence(draw(sizes[0]), draw(sizes[1])) for _ in range(draws)]))


def free_energy_surface(probability: ArrayLike, temperature: float) -> FloatArray:
    """−kT ln p, eV, zero at its minimum, infinite in bins without samples."""
    p = real_array(probability, "probability")
    with np.errstate(divide="ignore"):
        return -BOLTZMANN * kelvin(temperature) * np.log(p / p.max())


def surface_rmsd(p: ArrayLike, reference: ArrayLike, temperature: float, least: float = 1e-3) -> float:
    """Root mean square difference of −kT ln p from the reference, weighted by the reference, eV.

    Parameters
    ----------
    p, reference
        Probabilities on the same bins.
    temperature
        K.
    least
        Bins where the reference is less probable than this are omitted. So are bins that the model never visited;
        the divergence includes both.
    """
    a, b = real_array(p, "p"), real_array(reference, "reference")
    used = (b >= least) & (a > 0.0)
    require(used.any(), f"no bin has a probability of at least {least:g} in the reference and samples of the model")
    w = b[used] / b[used].sum()
    difference = -BOLTZMANN * kelvin(temperature) * np.log(a[used] / b[used])
    return float(np.sqrt(w @ (difference - w @ difference) ** 2))


def basin_populations(probability: ArrayLike) -> dict[str, float]:
    """Populations of basins of (φ, ψ): α_R (φ < 0, −125° < ψ < 50°), β (φ < 0, other ψ), α_L (φ ≥ 0)."""
    p = real_array(probability, "probability")
    require(p.ndim == 2 and p.shape[0] == p.shape[1], f"populations need a square (φ, ψ) histogram, got {p.shape}")
    centre = np.degrees(0.5 * (axis_edges(len(p))[1:] + axis_edges(len(p))[:-1]))
    right, alpha = centre < 0.0, (centre > -125.0) & (centre < 50.0)
    p = p / p.sum()
    return {
        "beta": float(p[np.ix_(right, ~alpha)].sum()),
        "alpha_R": float(p[np.ix_(right, alpha)].sum()),
        "alpha_L": float(p[~right].sum()),
    }


def frames_for_divergence(curve: Mapping[int, float], target: float) -> tuple[float, bool]:
    """Number of frames at which a learning curve falls to a divergence, by interpolation in log–log.

    Parameters
    ----------
    curve
        Frames → divergence.
    target
        Wanted divergence.

    Returns
    -------
    frames, bound
        ``bound`` is True if the curve never falls that low: the frames are then the largest of the curve, a
        lower bound. For a curve that starts below the target, the smallest size is returned, an upper bound, with
        False.
    """
    sizes = sorted(curve)
    require(sizes and target > 0.0, "an interpolation needs a learning curve and a positive divergence")
    if curve[sizes[0]] <= target:
        return float(sizes[0]), False
    for low, high in itertools.pairwise(sizes):
        if curve[high] <= target:
            part = math.log(curve[low] / target) / math.log(curve[low] / curve[high])
            return float(low * (high / low) ** part), False
    return float(sizes[-1]), True
