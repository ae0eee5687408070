"""Warning of angles in degrees where a period of 2π says radians."""

from __future__ import annotations

import math
import warnings

import numpy as np

from ..descriptors import Variables

_LARGE = 4.0 * math.pi  # torsions in radians that were not wrapped rarely reach it, angles in degrees nearly always do


def warn_of_degrees(terms, coordinates: np.ndarray) -> None:
    """Warn of variables with the period 2π whose values are too large for radians.

    Parameters
    ----------
    terms
        Name and spec of every term.
    coordinates
        (n, d), variables of the training frames.
    """
    if coordinates.ndim != 2 or not coordinates.size:
        return
    width = coordinates.shape[1]
    for name, term in terms:
        descriptor = Variables() if term.descriptor is None else term.descriptor
        if not isinstance(descriptor, Variables):
            continue
        columns = tuple(range(width)) if descriptor.columns is None else descriptor.columns
        of_kernel = getattr(term.kernel, "period", None)
        of_kernel = of_kernel if isinstance(of_kernel, tuple) and len(of_kernel) == len(columns) else (of_kernel,)
        known = descriptor.periodic or (of_kernel if len(of_kernel) == len(columns) else of_kernel * len(columns))
        for column, period in zip(columns, known, strict=False):
            largest = float(np.abs(coordinates[:, column]).max()) if column < width else 0.0
            if isinstance(period, float) and abs(period - 2.0 * math.pi) < 0.01 and largest > _LARGE:
                warnings.warn(
                    f"variable {column} of term {name!r} has the period 2π, and values up to {largest:.4g}: are they "
                    "degrees? Convert them with numpy.radians, or give the period 360",
                    stacklevel=4,
                )
