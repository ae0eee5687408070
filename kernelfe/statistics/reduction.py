"""Less noisy labels: subtract what zero-mean variates explain, fitted out of fold.

A label y and variates v of the same all-atom frames, ⟨v⟩_R = 0 at every R: y − β·v has the mean of y for any β that
does not know the frame. β is fitted by ridge regression on other blocks of frames (cross-fitting), so nothing is
biased; it is the best linear control variate when it minimises the variance of y − ⟨y⟩_R − β·v.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.linear_model import RidgeCV

from ..arrays import real_array, unwrapped
from ..errors import require
from ..frames.checks import require_finite_frames
from ..geometry.axes import choose_arms, local_axes
from ..specs import Whole, checked
from .series import block_labels

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class ReducedLabels:
    """Result of :func:`reduce_noise`.

    Parameters
    ----------
    values
        The labels, less noisy, of the shape they came in.
    std_before, std_after
        By component, root mean squares over frames of the residual of the labels out of fold: after the mean and the
        features, and after the variates as well. Both hold what the features miss of ⟨y⟩_R.
    """

    values: FloatArray
    std_before: FloatArray
    std_after: FloatArray


def reduce_noise(
    labels: ArrayLike | Callable[[NDArray[np.bool_]], ArrayLike],
    variates: ArrayLike,
    *,
    features: ArrayLike | None = None,
    mean: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    folds: int = 5,
) -> ReducedLabels:
    """Subtract from labels what variates explain of their noise.

    Parameters
    ----------
    labels
        (n,) or (n, ...): energies, generalised forces, forces in frames that turn with the molecule (see
        :func:`local_frames`): a coefficient multiplies a component, so components must mean the same in every frame.
        Labels that are fitted themselves (by a force map) are a function of the mask (n,) of the frames that may be
        used for the fit; it returns the labels of all frames, and is called once for each fold.
    variates
        (n, p), zero-mean at every R, of the same frames (:class:`~kernelfe.statistics.Variates`).
    features
        (n, q) functions of R and T alone on which ⟨y⟩_R depends, fitted together with the variates so that its
        variation is not taken for noise (:func:`distance_features`); what they explain is not subtracted.
    mean
        What is known of ⟨y⟩_R already, of the shape of ``labels``, for example predicted by a model.
    groups
        (n,) labels, best temperatures: every group has an average of its own and is cut into ``folds`` contiguous
        blocks. None: one group.
    folds
        Blocks of frames; coefficients used on a block come from the others. Frames of one run in their order in time.

    Returns
    -------
    ReducedLabels

    Raises
    ------
    DataError
        If shapes do not fit, numbers are not finite, or a group has fewer frames than folds.
    """
    if callable(labels):
        made, frames = labels, len(real_array(variates, "variates"))
    else:
        given = real_array(labels, "labels")
        require(given.ndim >= 1 and len(given), f"labels must be (n,) or (n, ...), they have shape {given.shape}")
        made, frames = lambda _: given, len(given)
    fold = fold_numbers(groups, frames, folds)
    y = real_array(made(fold != 0), "labels")
    flat = _table(y.reshape(len(y), -1), y, "labels")
    v = _unit_size(_table(variates, y, "variates"))
    known = np.zeros((len(y), 0)) if features is None else _unit_size(_table(features, y, "features"))
    require(flat.shape[1] and v.shape[1], f"labels {y.shape} and variates {v.shape} must have at least one column")
    shape = y.shape if mean is None else np.shape(mean)
    require(shape == y.shape, f"mean has shape {shape}, the labels have {y.shape}")
    expected = 0.0 if mean is None else _table(real_array(mean, "mean").reshape(len(y), -1), y, "mean")
    which = np.zeros(len(y)) if groups is None else np.asarray(unwrapped(groups, "groups"))
    members = [np.flatnonzero(which == value) for value in np.unique(which)]
    values, before, after = flat.copy(), np.empty_like(flat), np.empty_like(flat)
    both = np.concatenate([known, v], axis=1)
    for k in range(folds):
        out, inside = fold != k, fold == k
        if k and callable(labels):
            flat = _table(np.reshape(made(out), (len(y), -1)), y, "labels")
        values[inside] = flat[inside]
        residual, centred = flat - expected, both.copy()
        target = residual.copy()
        for rows in members:
            others = rows[out[rows]]
            target[rows] -= residual[others].mean(axis=0)
            # the mean of a variate is known to be zero; that of a feature is not
            centred[rows, : known.shape[1]] -= known[others].mean(axis=0)
        joint = _ridge(centred[out], target[out])
        after[inside] = target[inside] - centred[inside] @ joint
        before[inside] = target[inside]
        if known.shape[1]:
            before[inside] -= centred[inside][:, : known.shape[1]] @ _ridge(
                centred[out][:, : known.shape[1]], target[out]
            )
        values[inside] -= v[inside] @ joint[known.shape[1] :]
    shape = y.shape[1:]
    return ReducedLabels(
        values.reshape(y.shape),
        np.sqrt((before**2).mean(axis=0)).reshape(shape),
        np.sqrt((after**2).mean(axis=0)).reshape(shape),
    )


def fold_numbers(groups: ArrayLike | None, frames: int, folds: int) -> NDArray[np.intp]:
    """Number (frames,) of the block of each frame: every group is cut into ``folds`` contiguous blocks.

    Parameters
    ----------
    groups
        (frames,) labels, or None: one group.
    frames
        Number of frames.
    folds
        Number of blocks.

    Raises
    ------
    DataError
        If the groups do not fit, or one has fewer frames than folds.
    """
    folds = checked("folds", folds, Whole(least=2, strict=True))
    which = np.zeros(frames) if groups is None else np.asarray(unwrapped(groups, "groups"))
    require(which.dtype.kind != "f" or np.isfinite(which).all(), "groups hold a value that is not finite")
    require(which.shape == (frames,), f"groups has shape {which.shape}, expected one entry per frame, ({frames},)")
    fold = np.empty(frames, dtype=np.intp)
    for value in np.unique(which):
        rows = np.flatnonzero(which == value)
        fold[rows] = block_labels(len(rows), folds)
    return fold


def distance_features(positions: ArrayLike, degree: int = 2) -> FloatArray:
    """Distances between all beads and their products of pairs, standardised: a crude model of ⟨y⟩_R.

    Parameters
    ----------
    positions
        Beads (n, beads, 3), Å.
    degree
        1: distances; 2: also squares and products.

    Returns
    -------
    numpy.ndarray
        (n, q), q = p or p (p + 3)/2 for p distances.

    Raises
    ------
    DataError
        If the positions have another shape, or degree is not 1 or 2.
    """
    r = real_array(positions, "positions", "Å")
    require(
        r.ndim == 3 and r.shape[2] == 3 and degree in (1, 2),
        f"positions {r.shape} must be (n, beads, 3) and degree={degree} must be 1 or 2",
    )
    i, j = np.triu_indices(r.shape[1], 1)
    d = np.linalg.norm(r[:, i] - r[:, j], axis=-1)
    d = (d - d.mean(axis=0)) / np.maximum(d.std(axis=0), 1e-12)
    if degree == 1:
        return d
    a, b = np.triu_indices(d.shape[1])
    return np.concatenate([d, d[:, a] * d[:, b]], axis=1)


def _ridge(x: FloatArray, y: FloatArray) -> FloatArray:
    """Coefficients (columns of x, columns of y)."""
    penalties = np.logspace(-2.0, 5.0, 15)  # for variates of unit variance; chosen for each label by cross-validation
    fit = RidgeCV(penalties, fit_intercept=False, alpha_per_target=True).fit(x, y)
    return np.atleast_2d(fit.coef_).T


def _unit_size(x: FloatArray) -> FloatArray:
    scale = np.sqrt((x**2).mean(axis=0))
    return x / np.where(scale > 0.0, scale, 1.0)


def _table(x: ArrayLike, y: FloatArray, name: str) -> FloatArray:
    """A finite (n, columns) array with the frames of y."""
    out = real_array(x, name)
    require(
        out.ndim == 2 and len(out) == len(y),
        f"{name} must be (n, columns) for {len(y)} frames, they have shape {out.shape}",
    )
    require_finite_frames(out, name)
    return out


def local_frames(positions: ArrayLike) -> FloatArray:
    """Rotations (n, beads, 3, 3) into frames that turn with each bead and its two nearest neighbours.

    ``np.einsum("nbij,nbj->nbi", local_frames(R), f)`` are the forces on the beads in these frames; the transposed
    rotations turn back. A rotation that depends on R alone keeps means at fixed R, so labels reduced in the frames may
    be turned back.

    Parameters
    ----------
    positions
        Beads (n, beads, 3), at least three.

    Raises
    ------
    DataError
        If there are fewer than three beads, or a bead lies on a line with all others in some frame.
    """
    x = real_array(positions, "positions", "Å")
    return local_axes(x, choose_arms(x))
