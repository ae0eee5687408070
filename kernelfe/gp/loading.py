"""Loading a fitted model as an estimator."""

from __future__ import annotations

import os
from dataclasses import replace

from ..errors import ModelFileError
from .file.read import read
from .regressor import FreeEnergyRegressor


def load(path: str | os.PathLike, classes: list[type] | None = None) -> FreeEnergyRegressor:
    """Read a fitted model that was written by ``save``.

    Parameters
    ----------
    path
        The file.
    classes
        Your own descriptor, kernel, solver or baseline classes that the model uses, if any.

    Raises
    ------
    ModelFileError
        If the file cannot be opened, is damaged, of another format or version, inconsistent, or names unknown
        classes.
    """
    stored = read(path, classes)
    try:
        out = FreeEnergyRegressor(**stored.parameters)
    except TypeError as error:
        raise ModelFileError(f"{path}: the file is inconsistent: {error}") from error
    out.model_ = replace(stored.model, temperature=float(out.temperature))
    if stored.columns is not None:
        out.n_features_in_ = stored.columns
    return out
