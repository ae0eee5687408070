"""What users pass to the regressor, as Frames: checks of arrays, of labels by name and of lists of molecules."""

from __future__ import annotations

import numpy as np
from sklearn.utils.validation import validate_data

from ...errors import DataError
from ...frames import Frames
from ..fitted.view import is_several
from .molecules import MoleculeSet


def training_frames(model, X, y) -> Frames | MoleculeSet:
    """The training data of ``fit(X, y)``."""
    if isinstance(X, Frames) or is_several(X):
        if y is not None:
            raise DataError("Frames carry their labels: call fit(frames) without y")
        _forget_columns(model)
        if isinstance(X, Frames) or len(X) == 1:
            return X if isinstance(X, Frames) else X[0]
        found = MoleculeSet(X)
        return found.parts[0] if len(found.parts) == 1 else found
    if isinstance(y, dict):
        _forget_columns(model)
        labels = dict(y)
        if "temperature" not in labels:
            raise DataError("labels given as a dict need a 'temperature' entry (K): no temperature is assumed")
        extra = {k: labels.pop(k) for k in ("temperature", "displacements", "parameters") if k in labels}
        X = _numbers(X)
        return Frames.from_arrays(**{"positions" if X.ndim == 3 else "variables": X}, labels=labels, **extra)
    if y is not None and _dimensions(X) == 3:  # scikit-learn checks tables only
        _forget_columns(model)
        return Frames.from_arrays(_numbers(X), temperature=model.temperature, labels={"free_energy": y})
    X, y = validate_data(model, X, y, y_numeric=True, dtype=np.float64, multi_output=False)
    return Frames.from_arrays(variables=X, temperature=float(model.temperature), labels={"free_energy": y})


def prediction_frames(model, X, temperature, parameters) -> Frames:
    """The configurations of ``predict(X)``, for a model of one molecule."""
    if isinstance(X, Frames):
        check_frames(model, X)
        if parameters:
            raise DataError("Frames carry their parameters: use frames.replace(parameters=…) to change them")
        return X
    if model.periodic_:
        raise DataError("the model was fitted to frames with a cell: pass Frames with cell= instead of an array")
    t = model.temperature if temperature is None else temperature
    if len(model.coordinate_shape_) == 2:
        X = _numbers(X)
        if X.ndim == 2:
            X = X[None]
        if X.shape[1:] != model.coordinate_shape_:
            raise DataError(f"positions must have shape (n, {model.coordinate_shape_[0]}, 3), these have {X.shape}")
        return Frames.from_arrays(positions=X, temperature=t, parameters=parameters or {})
    if hasattr(model, "n_features_in_"):
        X = validate_data(model, X, reset=False, dtype=np.float64)
    X = _numbers(X)
    if X.ndim != 2 or X.shape[1:] != model.coordinate_shape_:
        raise DataError(f"variables must have shape (n, {model.coordinate_shape_[0]}), these have {X.shape}")
    return Frames.from_arrays(variables=X, temperature=t, parameters=parameters or {})


def check_frames(model, frames: Frames) -> None:
    """Raise DataError unless Frames hold configurations of the molecule of a model."""
    if tuple(frames.coordinates.shape[1:]) != model.coordinate_shape_:
        raise DataError(
            f"the model was fitted to configurations of shape {model.coordinate_shape_}, "
            f"these have {tuple(frames.coordinates.shape[1:])}"
        )
    if None not in (frames.kinds, model.kinds_) and frames.kinds != model.kinds_:
        raise DataError(f"the model was fitted to beads {model.kinds_}, these are {frames.kinds}: another molecule")
    if (frames.cell is not None) != model.periodic_:
        fitted, given = ("with", "no") if model.periodic_ else ("without", "a")
        raise DataError(f"the model was fitted to frames {fitted} a cell, these have {given} cell")


def _forget_columns(model) -> None:
    """What scikit-learn remembers of an earlier fit to plain arrays."""
    for name in ("n_features_in_", "feature_names_in_"):
        model.__dict__.pop(name, None)


def _dimensions(X) -> int:
    """Axes of an array-like; 0 for what is none, which others refuse with better words."""
    try:
        return np.ndim(X)
    except (TypeError, ValueError):
        return 0


def _numbers(X) -> np.ndarray:
    try:
        return np.asarray(X, dtype=float)
    except (TypeError, ValueError) as error:
        raise DataError("X is no rectangular array of numbers: every row must have the same shape") from error
