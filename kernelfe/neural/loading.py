"""Loading a fitted model of any kind as an estimator."""

from __future__ import annotations

import os

from ..errors import ModelFileError
from ..files.tensors import format_name
from ..gp import FreeEnergyRegressor
from ..gp import load as load_kernel_model
from .file import CONTENT, read, with_temperature
from .regressor import NeuralFreeEnergyRegressor


def load(path: str | os.PathLike, classes: list[type] | None = None) -> FreeEnergyRegressor | NeuralFreeEnergyRegressor:
    """Read a fitted model that was written by ``save``: of Gaussian processes or of networks.

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
    if format_name(path) != CONTENT.name:
        return load_kernel_model(path, classes)
    stored = read(path, classes)
    try:
        out = NeuralFreeEnergyRegressor(**stored.parameters)
    except TypeError as error:
        raise ModelFileError(f"{path}: the file is inconsistent: {error}") from error
    out.model_ = with_temperature(stored)
    if stored.columns is not None:
        out.n_features_in_ = stored.columns
    return out
