"""Predictions and noisy labels: the model's share of the scatter, and the calibration of the error bars."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import real_array
from ..errors import DataError
from ..frames import Frames

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Parity:
    """Labels of one kind and their predictions.

    Attributes
    ----------
    kind
        Quantity key.
    label, prediction
        (n, m), components of a frame's label in columns.
    std
        (n, m), posterior standard deviation of the prediction; None when it was not computed.
    noise
        (n, m), standard deviation of the labels' noise.
    log_density
        Mean log predictive density of a number of the labels, ln N(y; prediction, std² + noise²); None without std.
    z_rms
        Root mean square of (y − prediction)/sqrt(std² + noise²), 1 if errors have the predicted size; None without std.
    coverage95
        Fraction of labels within 1.96 such standard deviations, 0.95 for Gaussian errors; None without std.
    """

    kind: str
    label: FloatArray
    prediction: FloatArray
    std: FloatArray | None
    noise: FloatArray

    @property
    def rmse(self) -> float:
        """Root mean square difference of label and prediction; the noise of the labels bounds it from below."""
        return float(np.sqrt(np.mean((self.label - self.prediction) ** 2)))

    @property
    def noise_floor(self) -> float:
        """Root mean square noise of the labels: the rmse of a perfect model."""
        return float(np.sqrt(np.mean(self.noise**2)))

    @property
    def r2(self) -> float:
        """1 − residual sum of squares over the variance of the labels (each component about its own mean)."""
        return 1.0 - self.rmse**2 / self._variance()

    @property
    def r2_ceiling(self) -> float:
        """R² of a perfect model, 1 − noise²/variance."""
        return 1.0 - self.noise_floor**2 / self._variance()

    @property
    def corrected_rmse(self) -> float:
        """sqrt(rmse² − noise²): the error of the model itself; 0 if the labels scatter less than their noise."""
        return float(np.sqrt(max(0.0, self.rmse**2 - self.noise_floor**2)))

    @property
    def corrected_rmse_limit(self) -> float:
        """The corrected rmse with rmse² raised by two standard errors over frames: an upper limit of the error."""
        per_frame = np.mean((self.label - self.prediction) ** 2, axis=1)
        error = per_frame.std(ddof=1) / np.sqrt(len(per_frame)) if len(per_frame) > 1 else np.inf
        return float(np.sqrt(max(0.0, self.rmse**2 + 2.0 * error - self.noise_floor**2)))

    @property
    def log_density(self) -> float | None:
        """Mean log predictive density of the labels; None without std."""
        if self.std is None:
            return None
        return float(np.mean(-0.5 * self._z() ** 2 - 0.5 * np.log(2.0 * np.pi * self._variances())))

    @property
    def z_rms(self) -> float | None:
        """Root mean square of the standardised differences; None without std."""
        return None if self.std is None else float(np.sqrt(np.mean(self._z() ** 2)))

    @property
    def coverage95(self) -> float | None:
        """Fraction of labels within 1.96 standard deviations; None without std."""
        return None if self.std is None else float(np.mean(np.abs(self._z()) < 1.96))

    def summary(self) -> dict[str, Any]:
        """All numbers, for files: internal units."""
        names = (
            "rmse",
            "noise_floor",
            "corrected_rmse",
            "corrected_rmse_limit",
            "r2",
            "r2_ceiling",
            "log_density",
            "z_rms",
            "coverage95",
        )
        return {"frames": len(self.label)} | {name: getattr(self, name) for name in names}

    def _variance(self) -> float:
        # one component at a time: forces have mean zero, energies do not
        value = float(np.mean(self.label.var(axis=0)))
        return value if value > 0.0 else float("nan")

    def _variances(self) -> FloatArray:
        return self.noise**2 + np.zeros_like(self.noise) if self.std is None else self.noise**2 + self.std**2

    def _z(self) -> FloatArray:
        return (self.label - self.prediction) / np.sqrt(self._variances())


def learned_noise(model: Any, frames: Frames, kind: str) -> FloatArray:
    """Standard deviations of the labels of a kind: those stated in the frames, otherwise those the model learned.

    Parameters
    ----------
    model
        A fitted :class:`~kernelfe.FreeEnergyRegressor`.
    frames
        n frames that hold the label.
    kind
        Quantity key.

    Returns
    -------
    numpy.ndarray
        (n, m), in the unit of the label. A covariance block gives its diagonal.

    Raises
    ------
    DataError
        If the noise is neither stated nor learned.
    """
    shape = frames.labels[kind].reshape(len(frames), -1).shape
    stated = frames.noise.get(kind)
    if stated is not None:
        given = real_array(stated, "stated")
        if given.ndim == 3 and given.shape == (*shape, shape[1]) and shape[1] > 1:
            return np.sqrt(np.einsum("nii->ni", given))
        given = given.reshape(shape[0], -1) if given.ndim else given
        return np.broadcast_to(given, shape).copy()
    if kind not in model.noise_:
        raise DataError(
            f"the noise of {kind!r} is unknown: the model was not trained on it and the frames state none; "
            "state it with noise= when building the Frames"
        )
    level, power = model.noise_[kind]
    return np.tile((level * (frames.temperature / model.noise_temperature_) ** power)[:, None], (1, shape[1]))


def parity(model: Any, frames: Frames, kind: str, std: bool = True) -> Parity:
    """Compare predictions with the labels of one kind.

    Energies are compared without a shift: mean functions include their zero and their rise with temperature.

    Parameters
    ----------
    model
        A fitted :class:`~kernelfe.FreeEnergyRegressor`.
    frames
        Frames not used in training; rows without the label are omitted.
    kind
        Quantity key.
    std
        Also predict standard deviations, which costs most of the time.

    Raises
    ------
    DataError
        If no frame has the label, or its noise is unknown.
    """
    if kind not in frames.labels or not frames.present[kind].any():
        raise DataError(f"no frame has a label {kind!r}; they have {', '.join(frames.labels) or 'none'}")
    part = frames[np.flatnonzero(frames.present[kind])]
    noise = learned_noise(model, part, kind)
    options = {"reference": None} if kind == "free_energy" else {}
    found = model.predict(part, kind, return_std=std, **options)
    mean, deviation = found if std else (found, None)
    rows = len(part)
    return Parity(
        kind,
        part.labels[kind].reshape(rows, -1).copy(),
        mean.reshape(rows, -1),
        None if deviation is None else deviation.reshape(rows, -1),
        noise,
    )
