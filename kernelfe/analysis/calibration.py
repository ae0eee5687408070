"""Calibration of error bars: coverage, squared z, and uniformity of probability integral transforms.

A prediction N(μ, σ²) of a quantity with the true value y gives one draw of z = (y − μ)/σ, and of the probability
integral transform (PIT) Φ(z), which is uniform on (0, 1) if the distribution is right (Dawid, J. R. Stat. Soc. A 147,
278, 1984; Gneiting, Balabdaoui & Raftery, J. R. Stat. Soc. B 69, 243, 2007). Against noisy labels σ² is the variance
of the prediction plus that of the noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr
from scipy.stats import kstest

from ..arrays import real_array, unwrapped
from ..errors import DataError, require
from ..frames import Frames
from ..runtime.seeds import random_numbers
from .parity import Parity, parity

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Calibration:
    """Agreement of true values with predicted distributions.

    Attributes
    ----------
    z
        (n,): (truth − mean)/σ.
    pit
        (n,): predicted probability of a smaller value than the truth, in (0, 1).
    groups
        (n,) whole numbers: predictions of one group (components of one frame, points of one simulated data set) are
        not independent. Standard errors are over groups, and tests take one prediction of each.
    """

    z: FloatArray
    pit: FloatArray
    groups: NDArray[np.int64]

    #: Levels of a reliability diagram.
    LEVELS: ClassVar[tuple[float, ...]] = (*(round(0.05 * k, 2) for k in range(1, 20)), 0.99)

    def __len__(self) -> int:
        return len(self.z)

    @property
    def size(self) -> int:
        """Independent groups."""
        return len(np.unique(self.groups))

    def coverage(self, level: float = 0.95) -> float:
        """Fraction of truths within the central predicted interval of a probability."""
        return float(np.mean(self._inside(level)))

    def coverage_error(self, level: float = 0.95) -> float:
        """Standard error of the coverage, from the scatter over groups."""
        return self._error(self._inside(level))

    @property
    def mean_squared_z(self) -> float:
        """Mean of z²: 1 if error bars have the right size."""
        return float(np.mean(self.z**2))

    @property
    def mean_squared_z_error(self) -> float:
        """Standard error of :attr:`mean_squared_z`, from the scatter over groups."""
        return self._error(self.z**2)

    @property
    def bias(self) -> float:
        """Mean z: 0 unless predictions are biased."""
        return float(np.mean(self.z))

    @property
    def kurtosis(self) -> float:
        """Excess kurtosis of z: 0 for normal errors, positive if outliers are more frequent."""
        centred = self.z - self.z.mean()
        return float(np.mean(centred**4) / np.mean(centred**2) ** 2 - 3.0)

    def reliability(self, levels: Sequence[float] = LEVELS) -> FloatArray:
        """Coverage at each level, (levels,): equal to the level if error bars are right at every width."""
        return np.array([self.coverage(level) for level in levels])

    def uniformity(self, seed=0) -> float:
        """p value of the Kolmogorov–Smirnov test for uniform PITs, with one random prediction per group."""
        return float(kstest(self.pit[self.independent(seed)], "uniform").pvalue)

    def independent(self, seed=0) -> NDArray[np.int64]:
        """Index of one random row of each group, (groups,)."""
        order = random_numbers(seed).permutation(len(self.groups))
        _, first = np.unique(self.groups[order], return_index=True)
        return np.sort(order[first])

    def summary(self) -> dict[str, float]:
        """All numbers, for files and tables."""
        return {
            "predictions": float(len(self)),
            "groups": float(self.size),
            "coverage95": self.coverage(),
            "coverage95_error": self.coverage_error(),
            "mean_squared_z": self.mean_squared_z,
            "mean_squared_z_error": self.mean_squared_z_error,
            "bias": self.bias,
            "kurtosis": self.kurtosis,
            "uniformity": self.uniformity(),
        }

    def _inside(self, level: float) -> NDArray[np.bool_]:
        require(0.0 < level < 1.0, f"level={level!r} must be a probability between 0 and 1")
        return np.abs(self.pit - 0.5) <= 0.5 * level

    def _error(self, values: NDArray[Any]) -> float:
        _, at = np.unique(self.groups, return_inverse=True)
        count = np.bincount(at)
        if len(count) < 2:
            return float("nan")
        # the mean is Σ sums / Σ counts: scatter of the sums about their expectation, also for groups of unequal size
        residual = np.bincount(at, real_array(values, "values")) - count * np.mean(values)
        return float(np.sqrt(len(count) / (len(count) - 1) * np.sum(residual**2)) / count.sum())


def calibration_of(
    truth: ArrayLike,
    mean: ArrayLike,
    std: ArrayLike,
    noise: ArrayLike = 0.0,
    *,
    groups: ArrayLike | None = None,
    pit: ArrayLike | None = None,
) -> Calibration:
    """Compare normal predictions with true values.

    Parameters
    ----------
    truth, mean, std
        Same shape: true values (or labels), predicted means and standard deviations.
    noise
        Standard deviation of the labels' noise, which is added in quadrature; 0 for the truth itself.
    groups
        Groups of predictions that are not independent: whole numbers that broadcast to the shape of ``truth``.
        None: predictions along the first axis are independent, those along other axes are not.
    pit
        Predicted probabilities of values below the truth; None: those of normal distributions.

    Raises
    ------
    DataError
        If shapes do not fit, a number is not finite, or a total standard deviation is zero.
    """
    y = np.atleast_1d(real_array(truth, "truth"))
    given = [real_array(v, name) for v, name in ((mean, "mean"), (std, "std"), (noise, "noise"))]
    try:
        m, s, e = (np.broadcast_to(v, y.shape) for v in given)
        which = (
            np.arange(len(y)).reshape(-1, *(1,) * (y.ndim - 1))
            if groups is None
            else np.asarray(unwrapped(groups, "groups"))
        )
        which = np.broadcast_to(which, y.shape)
    except ValueError as error:
        raise DataError(f"mean, std, noise and groups must have the shape of truth, {y.shape}") from error
    total = np.hypot(s, e)
    require(
        y.size and (np.isfinite(y) & np.isfinite(m) & np.isfinite(total)).all() and (total > 0.0).all(),
        "calibration needs finite numbers and standard deviations above zero",
    )
    z = ((y - m) / total).ravel()
    p = ndtr(z) if pit is None else real_array(pit, "pit").ravel()
    require(
        p.shape == z.shape and ((p >= 0.0) & (p <= 1.0)).all(),
        f"pit must hold one probability for each of the {len(z)} predictions",
    )
    return Calibration(z, p, which.ravel().astype(np.int64))


def parity_calibration(found: Parity) -> Calibration:
    """Calibration of a comparison with labels; components of a frame make one group.

    Raises
    ------
    DataError
        If the comparison has no standard deviations.
    """
    if found.std is None:
        raise DataError("parity was computed without standard deviations: call parity(…, std=True)")
    return calibration_of(found.label, found.prediction, found.std, found.noise)


def label_calibration(model: Any, frames: Frames, kind: str) -> Calibration:
    """Calibration of a model's predictions of held-out labels, including the noise of the labels.

    The noise is the one stated in the frames, or the one that the model learned. Noise of single frames is hardly ever
    normal, and frames of one run are correlated in time. Use coverage and squared z; the test of uniformity rejects
    in both cases.

    Parameters
    ----------
    model
        A fitted :class:`~kernelfe.FreeEnergyRegressor`.
    frames
        Frames not used in training.
    kind
        Quantity key of the label.
    """
    return parity_calibration(parity(model, frames, kind))
