"""Conditional moments: labels with standard errors from many all-atom frames at one R.

All cumulants are over the all-atom states that map to R, b = 1/kT, q = f (+ kT div w for nonlinear variables):

    ⟨q⟩ = −∇A                                   ⟨U⟩ = ∂(bA)/∂b
    Var U = −k T³ ∂²A/∂T²                       C = k b² Var U
    d⟨q⟩/dT   = k b² Cov(q, U) + k⟨div w⟩
    d²⟨q⟩/dT² = k² [b⁴ κ(q,U,U) − 2 b³ Cov(q,U) + 2 b² Cov(div w, U)]
    ∂A/∂λ = ⟨∂U/∂λ⟩                             −∇ ∂A/∂λ = ⟨∂q/∂λ⟩ − b Cov(q, ∂U/∂λ)

A restraint energy E_r is part of the Boltzmann factor of a restrained run: U + E_r stands for U in the derivatives of
⟨q⟩, while ⟨U⟩, Var U and C are those of U alone. Values and errors are those of a jackknife over contiguous blocks
(Quenouille, Biometrika 43, 353 (1956); Künsch, Ann. Stat. 17, 1217 (1989)): the 1/s bias of products of sample means
is removed and correlation within a block is accounted for. Three things would make these errors too small in short
runs, and each has its factor of the variance:

* b blocks scatter by chance: (b − 1)/(b − 3), the variance of Student's t;
* blocks of a few inefficiencies are still correlated with each other: the ratio of the scatter that is expected of the
  means of such blocks to that of independent ones, for an exponential correlation of the inefficiency found;
* products such as δf·δU are skewed, and samples with a small average then also have a small scatter: 1 + 2 γ²/b,
  γ the skewness of the pseudo-values (second-order variance of a Studentised mean; Hall, The Bootstrap and Edgeworth
  Expansion, Springer 1992, ch. 2.4).

What is left is of higher order: of skewed products from some thirty independent frames the mean z² is still 1.4 (1.9
without these factors), from a hundred 1.1; errors of means are right, or a few per cent too large.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arrays import kelvin
from ..errors import DataError, require
from ..frames import Frames
from ..frames.checks import mapping, numbers, require_finite_frames
from ..units import BOLTZMANN
from .series import autocorrelation_time, block_labels

FloatArray = NDArray[np.float64]
#: Quantity key → (value, standard error).
Moments = dict[str, tuple[FloatArray, FloatArray]]

#: Quantity keys that forces and energies determine.
MOMENTS = (
    "mean_force",
    "mean_energy",
    "heat_capacity",
    "energy_variance",
    "thermal_response_force",
    "second_thermal_response_force",
)


def conditional_moments(
    forces: ArrayLike,
    energies: ArrayLike,
    temperature: float,
    block: float | None = None,
    *,
    restraint_energies: ArrayLike | None = None,
    divergences: ArrayLike | None = None,
    parameter_derivatives: Mapping[str, ArrayLike] | None = None,
    force_derivatives: Mapping[str, ArrayLike] | None = None,
) -> Moments:
    """Every label that frames at one R and one temperature determine, each with its standard error.

    Parameters
    ----------
    forces
        (s, ...), mapped forces (or q = f·w + kT div w) of s frames in their order in time, without the force of
        restraints on the beads.
    energies
        (s,), all-atom potential energies without those of restraints, eV.
    temperature
        K.
    block
        Statistical inefficiency 2τ of the frames in samples: a block of the jackknife holds four of them. 1 states that
        the frames are independent: every frame is a block. None: the longest 2τ found among the series averaged here.
    restraint_energies
        (s,), eV, for restrained runs; the labels are those of the restrained ensemble, O(1/K) off the constrained one.
    divergences
        div w, of the shape of ``forces``, where these hold kT div w.
    parameter_derivatives
        Name of a parameter λ to ∂U/∂λ (s,).
    force_derivatives
        Name of a parameter to ∂q/∂λ, of the shape of ``forces``; left out where it vanishes.

    Returns
    -------
    dict
        Quantity key to (value, standard error), of the shape of one frame's force or numbers: ``mean_force``,
        ``mean_energy``, ``heat_capacity``, ``energy_variance``, ``thermal_response_force``,
        ``second_thermal_response_force``, and per parameter ``parameter_derivative:name`` and
        ``parameter_response_force:name``. The errors of different keys come from the same frames and are correlated.
        Standard errors hold the factors of the module for few, correlated and skewed blocks.

    Raises
    ------
    DataError
        If shapes do not fit, numbers are not finite, or there are fewer than eight blocks.
    """
    temperature = kelvin(temperature)  # frames of one R and one T
    f = _series(forces, "forces")
    n, shape = len(f), f.shape[1:]
    u = _series(energies, "energies", (n,))
    v = u if restraint_energies is None else u + _series(restraint_energies, "restraint_energies", (n,))
    d = None if divergences is None else _series(divergences, "divergences", f.shape)
    parameter_derivatives = mapping(parameter_derivatives, "parameter_derivatives", "{'field': array}")
    force_derivatives = mapping(force_derivatives, "force_derivatives", "{'field': array}")
    slopes = {k: _series(x, f"parameter_derivatives[{k!r}]", (n,)) for k, x in parameter_derivatives.items()}
    moved = {k: _series(x, f"force_derivatives[{k!r}]", f.shape) for k, x in force_derivatives.items()}
    if unknown := sorted(set(moved) - set(slopes)):
        raise DataError(f"force_derivatives names {unknown[0]!r}, which parameter_derivatives lacks: give ∂U/∂λ too")
    # columns centred on their means, so that products of means do not cancel large numbers; the means are added last
    flat = f.reshape(n, -1)
    origin = flat.mean(axis=0)
    sizes = {"f": flat - origin, "u": (u - u.mean())[:, None], "v": (v - v.mean())[:, None]}
    for name, h in slopes.items():
        sizes[f"h:{name}"] = h[:, None]
    for name, df in moved.items():
        sizes[f"df:{name}"] = df.reshape(n, -1)
    if d is not None:
        sizes["d"] = d.reshape(n, -1)
    products = {"uu": ("u", "u"), "vv": ("v", "v"), "fv": ("f", "v"), "fvv": ("f", "v", "v")}
    products |= {"dv": ("d", "v")} if d is not None else {}
    products |= {f"fh:{name}": ("f", f"h:{name}") for name in slopes}
    for name, factors in products.items():
        sizes[name] = np.prod(np.broadcast_arrays(*(sizes[part] for part in factors)), axis=0)
    blocks, inefficiency = _blocks(sizes, n, block)
    labels = block_labels(n, blocks)
    starts = np.flatnonzero(np.diff(labels, prepend=-1))
    counts = np.bincount(labels)[:, None]
    sums = {name: np.add.reduceat(x, starts, axis=0) for name, x in sizes.items()}
    whole = _cumulants({name: s.sum(axis=0) / n for name, s in sums.items()}, temperature, slopes, moved)
    partial = {name: (s.sum(axis=0) - s) / (n - counts) for name, s in sums.items()}
    left_out = _cumulants(partial, temperature, slopes, moved)
    few = (blocks - 1) / (blocks - 3) * _shortness(n, blocks, inefficiency)
    out: Moments = {}
    for key, value in whole.items():
        mean = left_out[key].mean(axis=0)
        best = blocks * value - (blocks - 1) * mean
        shift = mean - left_out[key]
        error = np.sqrt(few * _skewness(shift) * (blocks - 1) / blocks * (shift**2).sum(axis=0))
        if key == "mean_force":
            best = best + origin
        if key == "mean_energy":
            best = best + u.mean()
        size = shape if "force" in key else ()
        out[key] = (best.reshape(size), error.reshape(size))
    return out


def conditional_labels(
    moments: Sequence[Mapping[str, tuple[ArrayLike, ArrayLike]]],
    positions: ArrayLike | None = None,
    *,
    variables: ArrayLike | None = None,
    temperature: float | ArrayLike,
    keys: Iterable[str] | None = None,
    **arguments: Any,
) -> Frames:
    """Frames of many R with the labels of :func:`conditional_moments` and their standard errors as noise.

    Parameters
    ----------
    moments
        n results of :func:`conditional_moments`; a row lacks the labels that its result lacks.
    positions, variables
        (n, beads, 3) or (n, d), the R of each; one of the two.
    temperature
        K, one number or (n,).
    keys
        Labels to keep; None: all but ``energy_variance``, which carries the same information as ``heat_capacity``.
    **arguments
        Further arguments of :meth:`~kernelfe.Frames.from_arrays` (``kinds``, ``masses``, ``parameters`` …).

    Raises
    ------
    DataError
        If a wanted label is in no row, labels of different rows differ in shape, and as in ``Frames.from_arrays``.
    """
    rows = list(moments)
    known = dict.fromkeys(key for row in rows for key in row)
    wanted = [key for key in known if key != "energy_variance"] if keys is None else list(keys)
    if absent := [key for key in wanted if key not in known]:
        raise DataError(f"no row has the label {absent[0]!r}; they have {', '.join(known) or 'none'}")
    labels, noise, present = {}, {}, {}
    for key in wanted:
        have = np.array([key in row for row in rows])
        shapes = {np.shape(row[key][0]) for row in rows if key in row}
        if len(shapes) > 1:
            raise DataError(f"label {key!r} has different shapes in different rows: {sorted(shapes)}")
        values, errors = np.full((2, len(rows), *shapes.pop()), np.nan)
        for k in np.flatnonzero(have):
            values[k], errors[k] = rows[k][key]
        labels[key], noise[key], present[key] = values, errors, have
    return Frames.from_arrays(
        positions,
        variables=variables,
        temperature=temperature,
        labels=labels,
        noise=noise,
        present=present,
        **arguments,
    )


def _cumulants(m: dict[str, FloatArray], t: float, slopes: Iterable[str], moved: Iterable[str]) -> dict[str, Any]:
    """Labels (..., columns) from averages of products; leading axes are carried along."""
    k, b = BOLTZMANN, 1.0 / (BOLTZMANN * t)
    variance = m["uu"] - m["u"] ** 2
    fv = m["fv"] - m["f"] * m["v"]
    fvv = m["fvv"] - m["f"] * m["vv"] - 2.0 * m["v"] * m["fv"] + 2.0 * m["f"] * m["v"] ** 2
    first, second = k * b**2 * fv, k**2 * (b**4 * fvv - 2.0 * b**3 * fv)
    if "d" in m:
        first = first + k * m["d"]
        second = second + 2.0 * k**2 * b**2 * (m["dv"] - m["d"] * m["v"])
    out = {
        "mean_force": m["f"],
        "mean_energy": m["u"],
        "heat_capacity": k * b**2 * variance,
        "energy_variance": variance,
        "thermal_response_force": first,
        "second_thermal_response_force": second,
    }
    for name in slopes:
        h = m[f"h:{name}"]
        out[f"parameter_derivative:{name}"] = h
        response = -b * (m[f"fh:{name}"] - m["f"] * h)
        out[f"parameter_response_force:{name}"] = response + (m[f"df:{name}"] if name in moved else 0.0)
    return out


def _shortness(n: int, blocks: int, inefficiency: float) -> float:
    """b Var(mean of all) over the scatter expected of b block means; correlation a^t with 2τ = (1 + a)/(1 − a)."""
    a = max(inefficiency - 1.0, 0.0) / (inefficiency + 1.0)

    def variance(length: float) -> float:
        return ((1.0 + a) / (1.0 - a) - 2.0 * a * (1.0 - a**length) / (length * (1.0 - a) ** 2)) / length

    return (blocks - 1) * variance(n) / (variance(n / blocks) - variance(n))


def _skewness(deviations: FloatArray) -> FloatArray:
    """1 + 2 γ²/b of deviations (b, ...) from their mean, γ with the correction for few (Fisher's G1)."""
    blocks = len(deviations)
    spread = (deviations**2).mean(axis=0)
    skew = (deviations**3).mean(axis=0) / np.where(spread > 0.0, spread, 1.0) ** 1.5
    return 1.0 + 2.0 * skew**2 * (blocks - 1) / (blocks - 2) ** 2


def _blocks(
    series: Mapping[str, FloatArray], n: int, inefficiency: float | None, fewest: int = 8, length: float = 4.0
) -> tuple[int, float]:
    """Number of blocks and 2τ; the series of products are those whose slow parts matter for the averages.

    A jackknife needs at least ``fewest`` blocks; they are ``length`` times 2τ long where that leaves as many.
    """
    if inefficiency is None:
        moving = np.concatenate([x[:, np.ptp(x, axis=0) > 0.0] for x in series.values()], axis=1)
        g = 2.0 * float(np.max(autocorrelation_time(moving))) if moving.shape[1] and n >= 4 else 1.0
    elif not (np.ndim(inefficiency) == 0 and 0.0 < float(numbers(inefficiency, "block")) < np.inf):
        raise DataError(f"block={inefficiency!r} must be a positive number of samples, the inefficiency 2τ, or None")
    else:
        g = float(inefficiency)
    require(
        n >= fewest * max(g, 1.0),
        f"{n} frames with a statistical inefficiency of {g:.3g} are fewer than {fewest} independent ones: "
        "no error bar follows from them; run longer, or state block= if the inefficiency is known to be smaller",
    )
    size = 1.0 if g <= 1.0 else min(length * g, n / fewest)
    return max(int(n / size), fewest), g


def _series(values: ArrayLike, name: str, shape: tuple[int, ...] | None = None) -> FloatArray:
    x = numbers(values, name)
    if shape is not None and x.shape != shape:
        raise DataError(f"{name} has shape {x.shape}, expected {shape}: one entry per frame of forces")
    require(
        x.ndim >= 1 and len(x) and math.prod(x.shape),
        f"{name} must hold one entry per frame, (s, ...), it has shape {x.shape}",
    )
    require_finite_frames(x, name)
    return x
