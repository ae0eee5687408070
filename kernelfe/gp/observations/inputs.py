"""Training data from what users pass to ``fit``: Frames, lists of Frames, arrays with labels."""

from __future__ import annotations

import os

import numpy as np
from sklearn.utils.validation import validate_data

from ...arrays import real_array, unwrapped
from ...errors import DataError
from ...frames import Frames
from ..molecules import is_several
from .molecules import MoleculeSet


def training_data(estimator, X, y) -> MoleculeSet:
    """The training data of ``fit(X, y)``.

    Parameters
    ----------
    estimator
        The regressor; scikit-learn stores the number of columns of a table on it.
    X, y
        As of :meth:`~kernelfe.FreeEnergyRegressor.fit`.

    Raises
    ------
    DataError
        If the data are incomplete or inconsistent.
    """
    if isinstance(X, (str, os.PathLike)):
        raise DataError(f"fit takes Frames, not the name of a file: fit(kernelfe.Frames.read({os.fspath(X)!r}, …))")
    if isinstance(X, Frames) or is_several(X):
        if y is not None:
            raise DataError("Frames carry their labels: call fit(frames) without y")
        _forget_columns(estimator)
        return MoleculeSet([X] if isinstance(X, Frames) else X)
    if isinstance(y, dict):
        _forget_columns(estimator)
        labels = dict(y)
        if "temperature" not in labels:
            raise DataError("labels given as a dict need a 'temperature' entry (K): no temperature is assumed")
        extra = {k: labels.pop(k) for k in ("temperature", "displacements", "parameters") if k in labels}
        X = plain_array(X)
        return MoleculeSet(
            [Frames.from_arrays(**{"positions" if X.ndim == 3 else "variables": X}, labels=labels, **extra)]
        )
    if y is not None and _dimensions(X) == 3:  # scikit-learn checks tables only
        _forget_columns(estimator)
        frames = Frames.from_arrays(plain_array(X), temperature=estimator.temperature, labels={"free_energy": y})
        return MoleculeSet([frames])
    X, y = unwrapped(X, "X"), unwrapped(y, "y", "eV")
    X, y = validate_data(estimator, X, y, y_numeric=True, dtype=np.float64, multi_output=False)
    frames = Frames.from_arrays(variables=X, temperature=float(estimator.temperature), labels={"free_energy": y})
    return MoleculeSet([frames])


def plain_array(X) -> np.ndarray:
    """X as an array of floats.

    Raises
    ------
    DataError
        If its rows have different shapes, or are not plain real numbers.
    """
    return real_array(X, "X", "Å" if _dimensions(X) == 3 else None)


def _forget_columns(estimator) -> None:
    """Delete the number of columns that scikit-learn stored in an earlier fit to plain arrays."""
    for name in ("n_features_in_", "feature_names_in_"):
        estimator.__dict__.pop(name, None)


def _dimensions(X) -> int:
    """Number of axes of an array-like; 0 for other things, which scikit-learn refuses with better words."""
    try:
        return np.ndim(X)
    except (TypeError, ValueError):
        return 0
