"""Distances between two measured curves beside what two exact samples of the same sizes would give.

For curves f and g with standard errors σ_f and σ_g, two samples of one and the same liquid differ in a bin by a normal
number of variance σ_f² + σ_g². Its mean absolute value, √(2/π)·√(σ_f² + σ_g²), averaged over bins, is the floor: the
distance that an exact model would show. Bins are correlated with each other, which does not change that mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...statistics import series_mean

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Distance:
    """A distance between two curves.

    Attributes
    ----------
    value
        The distance.
    error
        Its standard error, to first order; near the floor the distance itself is biased upwards, by up to the floor.
    floor
        Distance that two exact samples of the same sizes would show on average.
    """

    value: float
    error: float
    floor: float

    def __str__(self) -> str:
        return f"{self.value:.4f} ± {self.error:.4f} (floor {self.floor:.4f})"


@dataclass(frozen=True, eq=False)
class Curve:
    """A curve measured on frames of several series.

    Attributes
    ----------
    value, error
        (bins,), with standard errors.
    frames
        (n, bins): numbers whose mean over frames is ``value``, for errors of what is derived from it.
    series
        (n,), number of the independent series of each frame.
    """

    value: FloatArray
    error: FloatArray
    frames: FloatArray
    series: NDArray[np.intp]


def curve_of(frames: FloatArray, series: NDArray[np.intp]) -> Curve:
    """The mean of per-frame curves (n, bins)."""
    mean = series_mean(frames, series, curve=True)
    return Curve(mean.value, mean.error, frames, series)


def ratio_curve(above: FloatArray, below: FloatArray, series: NDArray[np.intp]) -> Curve:
    """Σ above / Σ below, both (n, bins) or below (n, 1), linearised so that errors follow from per-frame values."""
    ratio = above.sum(axis=0) / below.sum(axis=0)
    return curve_of(ratio + (above - ratio * below) / below.mean(axis=0), series)


def curve_distance(curve: Curve, reference: Curve, bins: slice, weight: float) -> Distance:
    """Σ_bins weight·|Δ| between two curves with its error and floor; ``weight`` multiplies each bin."""
    difference = curve.value[bins] - reference.value[bins]
    sign = np.sign(difference)
    variance = 0.0
    for part in (curve, reference):
        along = part.frames[:, bins] @ sign
        variance += float(series_mean(along, part.series).error) ** 2
    both = np.hypot(curve.error[bins], reference.error[bins])
    return Distance(
        float(weight * np.abs(difference).sum()),
        weight * math.sqrt(variance),
        float(weight * math.sqrt(2.0 / math.pi) * both.sum()),
    )
