"""The arrays that Frames hold: what file formats and the joining of frames work on."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..functionals import get
from .pairs import PairLabels


@dataclass(eq=False, repr=False)
class FrameArrays:
    """Configurations, thermodynamic states and labels as arrays; :class:`kernelfe.Frames` describes every field."""

    positions: np.ndarray | None
    variables: np.ndarray | None
    temperature: np.ndarray
    parameters: dict[str, np.ndarray] = field(default_factory=dict)
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    present: dict[str, np.ndarray] = field(default_factory=dict)
    noise: dict[str, float | np.ndarray] = field(default_factory=dict)
    displacements: np.ndarray | None = None
    kinds: tuple[str, ...] | None = None
    masses: np.ndarray | None = None
    cell: np.ndarray | None = None
    bonds: tuple[tuple[int, int], ...] | None = None
    pairs: PairLabels = field(default_factory=PairLabels)

    @property
    def coordinates(self) -> np.ndarray:
        """``positions`` or ``variables``, whichever is set."""
        return self.variables if self.positions is None else self.positions  # type: ignore[return-value]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the coordinates."""
        return self.coordinates.shape

    def label_shape(self, key: str) -> tuple[int, ...]:
        """Shape of one frame's value of quantity ``key`` for these frames."""
        return get(key).shape(self.shape[1:], None if self.displacements is None else self.displacements.shape[1])

    def __len__(self) -> int:
        return len(self.coordinates)
