"""Samples of a liquid with all that is compared: positions, cells, kinds, virials, energies."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...arrays import real_array
from ...errors import DataError, require
from ...frames import Frames
from .configurations import Configurations, configurations
from .interleaved import replicas_in_turns
from .pressure import excess_of

logger = logging.getLogger(__name__)
FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LiquidSamples:
    """Periodic samples of a model, or all-atom frames mapped to beads, at one temperature.

    Attributes
    ----------
    frames
        Checked positions, cells and kinds.
    virials
        (n,) −dA/dlnV (of a model) or −dU/dlnV (of all-atom frames), eV; None if not known.
    """

    frames: Configurations
    virials: FloatArray | None = None

    @classmethod
    def from_arrays(
        cls,
        positions: ArrayLike,
        cell: ArrayLike | None,
        *,
        kinds: Sequence[str] | None = None,
        series: ArrayLike | None = None,
        virials: ArrayLike | None = None,
        stress: ArrayLike | None = None,
        excess: ArrayLike | None = None,
    ) -> LiquidSamples:
        """Samples from arrays.

        Parameters
        ----------
        positions
            (n, beads, 3), Å, wrapped or not; or (steps, replicas, beads, 3) as samplers return them: each replica is
            then a series of its own.
        cell
            (3, 3), or one per frame, (n, 3, 3) or (steps, replicas, 3, 3), Å.
        kinds
            Kind of each bead.
        series
            (n,), label of the independent series of each frame. Without it, replicas whose frames come in turns are
            recognised where beads move less between frames than across the cell, with a warning.
        virials
            One per frame, −dA/dlnV or −dU/dlnV, eV.
        stress
            Instead of virials: excess stress of each frame, (..., 6) in ASE's order or (..., 3, 3), eV/Å³.
        excess
            Instead of both: excess pressure of each frame, −∂A/∂V, eV/Å³.

        Raises
        ------
        DataError
            If shapes do not fit, or a frame is wrong; names the frame.
        """
        x = real_array(positions, "positions", "Å")
        box = cell if cell is None else real_array(cell, "cell", "Å")
        if x.ndim == 4:
            require(
                series is None, "positions (steps, replicas, beads, 3) hold one series per replica: leave series out"
            )
            steps, replicas = x.shape[:2]
            series, x = np.tile(np.arange(replicas), steps), x.reshape(-1, *x.shape[2:])
            box = box if box is None or box.ndim == 2 else box.reshape(-1, 3, 3)
        frames = configurations(x, box, kinds, series)
        if series is None and (turns := replicas_in_turns(frames)) > 1:
            logger.warning(
                "frames of %d replicas come in turns, and are taken as series of their own; pass series=, or positions "
                "of shape (steps, replicas, beads, 3)",
                turns,
            )
            frames = replace(frames, series=np.arange(len(x)) % turns)
        w = None
        if (given := excess_of(stress, virials, excess)) is not None:
            value, per_volume = given
            require(value.size == len(x), f"{value.size} stresses or virials for {len(x)} frames: give one per frame")
            w = value.reshape(-1) * (frames.volumes if per_volume else 1.0)
        return cls(frames, w)

    @classmethod
    def from_frames(cls, frames: Frames, series: ArrayLike | None = None) -> LiquidSamples:
        """Samples from :class:`~kernelfe.Frames` with a cell: complete stress or excess pressure labels become virials.

        Parameters
        ----------
        frames
            At one temperature.
        series
            (n,), label of the independent series of each frame.

        Raises
        ------
        DataError
            If the frames have no positions, no cell, or several temperatures.
        """
        require(isinstance(frames, Frames), f"expected kernelfe.Frames, got {type(frames).__name__}")
        if frames.positions is None:
            raise DataError("the frames hold variables, not positions of beads")
        require(
            np.ptp(frames.temperature) == 0.0,
            "the frames are at several temperatures: take those of one, frames[frames.temperature == T]",
        )
        labels: dict[str, Any] = {
            name: frames.labels[key]
            for name, key in (("excess", "excess_pressure"), ("stress", "stress"))
            if key in frames.labels and frames.present[key].all()
        }
        name = next(iter(labels), None)
        return cls.from_arrays(
            frames.positions,
            frames.cell,
            kinds=frames.kinds,
            series=series,
            stress=labels["stress"] if name == "stress" else None,
            excess=labels["excess"] if name == "excess" else None,
        )

    def __len__(self) -> int:
        return len(self.frames.positions)
