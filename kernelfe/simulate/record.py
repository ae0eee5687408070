"""Record of the samples of a run; samples are copied from a GPU in batches."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from .state import LangevinState


class Record:
    """Positions and energies of the samples of a run.

    Parameters
    ----------
    samples
        Number of samples of the run.
    state
        The replicas.
    """

    #: Numbers kept on a GPU before they are copied to the CPU: half a gigabyte in double precision.
    WAITING_NUMBERS: ClassVar[int] = 1 << 26

    def __init__(self, samples: int, state: LangevinState):
        kind = np.float32 if state.positions.dtype == torch.float32 else np.float64
        self._positions = np.empty((samples, *state.positions.shape), kind)
        self._energies = np.empty((samples, len(state.energy)), kind)
        self._done = 0
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._patience = max(1, self.WAITING_NUMBERS // state.positions.numel())

    def take(self, state: LangevinState) -> None:
        """Record the present replicas."""
        if state.positions.is_cuda:
            self._waiting.append((state.positions.clone(), state.energy.clone()))
            if len(self._waiting) >= self._patience:
                self._fetch()
            return
        self._positions[self._done] = state.positions.numpy()
        self._energies[self._done] = state.energy.numpy()
        self._done += 1

    @property
    def count(self) -> int:
        """Samples so far."""
        return self._done + len(self._waiting)

    def overwrite(self, last: int, replicas: Tensor, state: LangevinState) -> None:
        """Replace the ``last`` samples of some replicas by their present configurations."""
        for positions, energy in self._waiting[max(0, len(self._waiting) - last) :]:
            positions[replicas], energy[replicas] = state.positions[replicas], state.energy[replicas]
        part = slice(self._done - max(0, last - len(self._waiting)), self._done)
        rows = replicas.cpu().numpy()
        self._positions[part, rows] = state.positions[replicas].cpu().numpy()
        self._energies[part, rows] = state.energy[replicas].cpu().numpy()

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions (samples so far, replicas, beads, 3) and energies (samples so far, replicas)."""
        self._fetch()
        return self._positions[: self._done], self._energies[: self._done]

    def _fetch(self) -> None:
        if not self._waiting:
            return
        part = slice(self._done, self._done + len(self._waiting))
        self._positions[part] = torch.stack([positions for positions, _ in self._waiting]).cpu().numpy()
        self._energies[part] = torch.stack([energy for _, energy in self._waiting]).cpu().numpy()
        # on a GPU a run is not checked after every step: configurations after an instability are not samples
        unsound = np.flatnonzero(~np.isfinite(self._energies[part]).all(1))
        self._done, self._waiting = part.start + int(unsound[0]) if len(unsound) else part.stop, []
