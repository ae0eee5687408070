"""Specifications of noise beyond one learned standard deviation per kind of label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ...errors import DataError
from ...frames.checks import numbers
from ...specs import AnyOf, Bound, Each, Flag, Real, Spec, Table, Whole


@dataclass(frozen=True)
class CorrelatedNoise(Spec):
    """Learned noise with the correlations that labels of single all-atom frames have; pass it as ``noise=``.

    It is for label kinds whose noise is learned; kinds for which the Frames state a noise keep that one, and other
    kinds than forces, generalised forces and mean energies keep a noise of their own per kind.

    Parameters
    ----------
    within_frame
        Learn the covariance of all numbers of a frame's forces and generalised forces, along axes that turn with the
        molecule, and whiten with it. It grows as a power of the temperature. For molecules and variables, not for
        frames with a cell.
    force_energy
        Use that force and energy of one frame have the noise covariance kT² dF/dT, as the model predicts it. Only for
        labels of single frames.
    time
        True: every stretch of rows with the same temperature is one trajectory, in order and equally spaced (several
        joined end to end do no harm); each kind of label then counts as n/g labels, g the statistical inefficiency of
        its residual noise. Rows in random order would pass for independent. Or g by label kind. False: n labels.
    rounds
        Rounds of fitting the noise, then the model, after a first fit with independent noise.
    shrinkage
        Shares of its diagonal towards which the covariance within a frame may be shrunk; cross-validation chooses.
    folds
        Blocks of frames of this cross-validation.
    sample
        Frames, spread over all, from which the mean posterior covariance of what the labels read is computed.
    balanced
        Size of the sum of the forces on all beads, relative to that of the forces, up to which they count as adding up
        to zero.

    Raises
    ------
    DataError
        If a parameter has another value.
    """

    within_frame: bool = True
    force_energy: bool = True
    time: bool | Mapping[str, float] = False
    rounds: int = 2
    shrinkage: tuple[float, ...] = (1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0)
    folds: int = 5
    sample: int = 200
    balanced: float = 1e-3

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        "within_frame": Flag(),
        "force_energy": Flag(),
        "time": AnyOf((Flag(), Table(Real(least=1.0), "statistical inefficiencies by label kind"))),
        "rounds": Whole(least=1),
        "shrinkage": Each(Real(least=0.0, most=1.0), least=1),
        "folds": Whole(least=2),
        "sample": Whole(least=1),
        "balanced": Real(least=0.0),
    }


class RelativeNoise:
    """Noise whose size is learned and whose relation from row to row is known: σ_i = σ₀ (T/T0)^p s_i.

    For rows that are averages of different numbers n_i of frames s_i = 1/sqrt(n_i). Pass it as the entry of a label
    kind, ``noise={"mean_energy": RelativeNoise(1 / np.sqrt(counts))}``.

    Parameters
    ----------
    scale
        s_i > 0, shape (n,) or that of the label.

    Raises
    ------
    DataError
        If it is not an array of positive numbers.
    """

    def __init__(self, scale: Any):
        self.scale = numbers(scale, "RelativeNoise")
        if not self.scale.ndim:
            raise DataError("RelativeNoise takes one number per row: leave the noise out to learn one for all rows")

    def __repr__(self) -> str:
        return f"RelativeNoise(<array of shape {self.scale.shape}>)"
