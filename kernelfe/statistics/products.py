"""Product labels of single frames: thermal response forces and heat capacities, cross-fitted.

With F(R) and Ū(R) models of the means ⟨q⟩_R and ⟨U⟩_R, b = 1/kT, and q = f (+ kT div w for nonlinear variables),

    k b² (q − F)(U − Ū) + k div w     has mean  d⟨q⟩/dT + k b² e_F e_U,
    k b² (U − Ū)²                     has mean  C + k b² e_U²,

e_F and e_U the errors of the models at R, provided that they do not know the frame: models fitted to the frame itself
shrink the product. But e_F and e_U are correlated when one set of frames fitted both: with p parameters and n frames
the product is then off by the fraction p/n, upwards out of fold and downwards in sample. So each fold is predicted
twice, by models of **two disjoint halves** of the other frames, A and B, and the labels are

    k b² ½ [(q − F_A)(U − Ū_B) + (q − F_B)(U − Ū_A)] + k div w    and    k b² (U − Ū_A)(U − Ū_B),

from whose means the noise of the fits drops out; what is left is the product of what either model cannot represent.
Labels share the noise of the models, so the scatter of labels underestimates the error of their average by order p/n.

Zero-mean variates of products follow from those of forces: v = f·w + kT D has ⟨v⟩ = 0 at every temperature, so
0 = d⟨v⟩/dT = k b² ⟨v (U − Ū)⟩ + k ⟨D⟩ for every Ū(R).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arrays import unwrapped
from ..errors import DataError, require
from ..frames.checks import numbers
from ..specs import Real, Whole, checked
from ..units import BOLTZMANN
from .series import block_labels

FloatArray = NDArray[np.float64]
Rows = NDArray[np.intp]
#: ``fit_predict(train, rows)``: one array, or a tuple of arrays, for ``rows`` by models fitted to the rows ``train``.
FitPredict = Callable[[Rows, Rows], Any]


def cross_fit(
    fit_predict: FitPredict, frames: int, *, groups: ArrayLike | None = None, folds: int = 5, gap: int = 0
) -> tuple[tuple[FloatArray, FloatArray], ...]:
    """Out-of-fold predictions, two of each quantity, from models of disjoint halves of the other folds.

    Parameters
    ----------
    fit_predict
        Given row numbers to fit and row numbers to predict, returns predictions (rows, ...), or a tuple of several
        quantities, best the mean force and the mean energy. Called 2·folds times.
    frames
        Number of frames, n, in their order in time within each group.
    groups
        (n,), for example temperatures or runs: each is cut into blocks of time of its own. None: one group.
    folds
        Blocks of time; each is predicted from the others.
    gap
        Frames of a group next to a block that are fitted by neither half: about the correlation time.

    Returns
    -------
    tuple of pairs
        For each quantity the two predictions, each (n, ...).

    Raises
    ------
    DataError
        If there are too few frames, or a prediction has another length or is not finite.
    """
    frames = checked("frames", frames, Whole(least=1))
    folds = checked("folds", folds, Whole(least=3))  # two halves of the others are fitted
    checked("gap", gap, Real(least=0.0, finite=False))
    which = np.zeros(frames) if groups is None else np.asarray(unwrapped(groups, "groups"))
    require(which.shape == (frames,), f"groups has shape {which.shape}, expected one entry per frame, ({frames},)")
    fold, half = np.empty(frames, int), np.full((folds, frames), -1)  # −1: fitted by neither
    for value in np.unique(which):
        rows = np.flatnonzero(which == value)
        fold[rows] = block_labels(len(rows), folds)
        for k in range(folds):
            held = np.flatnonzero(fold[rows] == k)
            place = np.arange(len(rows))
            others = rows[(place < held[0] - gap) | (place > held[-1] + gap)]
            # blocks of half a fold alternate between the sides, so that both halves span the run
            half[k, others] = (np.arange(len(others)) * 2 * (folds - 1) // max(len(others), 1)) % 2
    pairs: list[list[Any]] = []
    for part in (0, 1):
        outs: list[FloatArray] = []
        for k in range(folds):
            train = np.flatnonzero(half[k] == part)
            test = np.flatnonzero(fold == k)
            if not len(train):
                raise DataError(f"gap={gap} leaves no frames to fit for block {k}: lower it, or use fewer folds")
            predicted = fit_predict(train, test)
            quantities = predicted if isinstance(predicted, tuple) else (predicted,)
            if k and len(quantities) != len(outs):
                raise DataError(f"fit_predict returned {len(quantities)} quantities for block {k}, {len(outs)} before")
            for number, values in enumerate(quantities):
                array = numbers(values, "the prediction of fit_predict")
                if array.shape[:1] != (len(test),) or not np.isfinite(array).all():
                    raise DataError(f"fit_predict must return ({len(test)}, ...) finite numbers, got {array.shape}")
                if len(outs) == number:
                    outs.append(np.empty((frames, *array.shape[1:])))
                if array.shape[1:] != outs[number].shape[1:]:
                    raise DataError(f"fit_predict returned {array.shape} for block {k}, another shape before")
                outs[number][test] = array
        pairs.append(outs)
    return tuple(zip(*pairs, strict=True))


def response_labels(
    forces: ArrayLike,
    energies: ArrayLike,
    temperature: float | ArrayLike,
    mean_force: Any,
    mean_energy: Any,
    *,
    divergences: ArrayLike | None = None,
) -> FloatArray:
    """Single-frame labels of ``thermal_response_force``, the shape of ``forces``, eV/Å/K.

    Parameters
    ----------
    forces
        (n, ...), mapped forces or q, without restraint forces.
    energies
        (n,), eV.
    temperature
        K, one number or (n,).
    mean_force, mean_energy
        F and Ū out of fold: the pair of predictions of :func:`cross_fit`; or one array each, from models that know
        neither these frames nor one another's.
    divergences
        div w, the shape of ``forces``, where these hold kT div w.

    Raises
    ------
    DataError
        If shapes do not fit or a number is not finite.
    """
    f, u, t = _frames(forces, energies, temperature)
    d = 0.0 if divergences is None else _like(divergences, f, "divergences")
    first, second = _pair(mean_force, f, "mean_force"), _pair(mean_energy, u, "mean_energy")
    axes = (len(f), *([1] * (f.ndim - 1)))
    total = sum((f - a) * (u - b).reshape(axes) for a, b in zip(first, second[::-1], strict=True))
    return 0.5 * total / (BOLTZMANN * t.reshape(axes) ** 2) + BOLTZMANN * d


def heat_capacity_labels(energies: ArrayLike, temperature: float | ArrayLike, mean_energy: Any) -> FloatArray:
    """Single-frame labels of ``heat_capacity``, (n,), eV/K: k b² (U − Ū_A)(U − Ū_B).

    Parameters
    ----------
    energies, temperature, mean_energy
        As in :func:`response_labels`. With one Ū only, the labels are too large by k b² times its squared error.

    Raises
    ------
    DataError
        If shapes do not fit or a number is not finite.
    """
    u, _, t = _frames(energies, energies, temperature)
    first, second = _pair(mean_energy, u, "mean_energy")
    return (u - first) * (u - second) / (BOLTZMANN * t**2)


def response_variates(
    values: ArrayLike,
    divergences: ArrayLike,
    energies: ArrayLike,
    temperature: float | ArrayLike,
    mean_energy: Any,
) -> FloatArray:
    """Zero-mean variates k b² v (U − Ū) + k D of product labels, (n, p), eV/K.

    To be passed to :func:`~kernelfe.statistics.reduce_noise` together with the variates v. For a harmonic molecule
    they take all noise out of heat-capacity labels.

    Parameters
    ----------
    values, divergences
        (n, p), variates v and their D: :meth:`Variates.evaluate` and :meth:`Variates.divergences`.
    energies, temperature, mean_energy
        As in :func:`response_labels`; any Ū(R) that does not know the frame keeps the mean zero.

    Raises
    ------
    DataError
        If shapes do not fit or a number is not finite.
    """
    v, u, t = _frames(values, energies, temperature)
    require(v.ndim == 2, f"variates must be (n, p), they have shape {v.shape}")
    d = _like(divergences, v, "divergences")
    excess = u - 0.5 * sum(_pair(mean_energy, u, "mean_energy"))
    return v * (excess / (BOLTZMANN * t**2))[:, None] + BOLTZMANN * d


def _frames(values: ArrayLike, energies: ArrayLike, temperature: ArrayLike) -> tuple[FloatArray, ...]:
    f, u = numbers(values, "forces or variates"), numbers(energies, "energies", None, "eV")
    require(
        f.ndim >= 1 and u.ndim == 1 and len(f) == len(u), f"energies {u.shape} must be (n,) for the frames of {f.shape}"
    )
    require(
        np.shape(temperature) in ((), u.shape),
        f"temperature has shape {np.shape(temperature)}: pass a number, or one per frame, {u.shape}",
    )
    t = np.broadcast_to(numbers(temperature, "temperature", None, "K"), u.shape)
    for name, array in (("forces or energies", f), ("energies", u), ("temperature", t)):
        require(np.isfinite(array).all(), f"{name} hold a value that is not finite: drop the frame or repair it")
    require((t > 0.0).all(), "temperature must be positive (K) in every frame")
    return f, u, t


def _like(values: ArrayLike, reference: FloatArray, name: str) -> FloatArray:
    out = numbers(values, name)
    require(
        out.shape == reference.shape and np.isfinite(out).all(),
        f"{name} must be finite and of shape {reference.shape}, they have {out.shape}",
    )
    return out


def _pair(means: Any, reference: FloatArray, name: str) -> tuple[FloatArray, FloatArray]:
    """Two predictions; a single array stands for both."""
    if isinstance(means, (tuple, list)) and len(means) == 2 and np.shape(means[0]) == reference.shape:
        return _like(means[0], reference, name), _like(means[1], reference, name)
    one = _like(means, reference, name)
    return one, one
