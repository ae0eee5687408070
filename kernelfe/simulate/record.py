"""Record of the samples of a run; samples are copied from a GPU in batches."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from .state import LangevinState


class Record:
    """Positions, energies and, if they have them, cells of the samples of a run.

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
        self._arrays = {name: np.empty((samples, *part.shape), kind) for name, part in self._parts(state).items()}
        self._done = 0
        self._waiting: list[dict[str, Tensor]] = []
        self._patience = max(1, self.WAITING_NUMBERS // state.positions.numel())

    @staticmethod
    def _parts(state: LangevinState) -> dict[str, Tensor]:
        """What is recorded of the replicas."""
        parts = {"positions": state.positions, "energy": state.energy}
        return parts if state.cell is None else parts | {"cell": state.cell}

    def take(self, state: LangevinState) -> None:
        """Record the present replicas."""
        if state.positions.is_cuda:
            self._waiting.append({name: part.clone() for name, part in self._parts(state).items()})
            if len(self._waiting) >= self._patience:
                self._fetch()
            return
        for name, part in self._parts(state).items():
            self._arrays[name][self._done] = part.numpy()
        self._done += 1

    @property
    def count(self) -> int:
        """Samples so far."""
        return self._done + len(self._waiting)

    def overwrite(self, last: int, replicas: Tensor, state: LangevinState) -> None:
        """Replace the ``last`` samples of some replicas by their present configurations."""
        rows, part = replicas.cpu().numpy(), slice(self._done - max(0, last - len(self._waiting)), self._done)
        for name, now in self._parts(state).items():
            for waiting in self._waiting[max(0, len(self._waiting) - last) :]:
                waiting[name][replicas] = now[replicas]
            self._arrays[name][part, rows] = now[replicas].cpu().numpy()

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Positions (samples so far, replicas, beads, 3), energies (samples so far, replicas), and cells or None."""
        self._fetch()
        cells = self._arrays.get("cell")
        kept = (self._arrays[name][: self._done] for name in ("positions", "energy"))
        return (*kept, None if cells is None else cells[: self._done])  # type: ignore[return-value]

    def _fetch(self) -> None:
        if not self._waiting:
            return
        part = slice(self._done, self._done + len(self._waiting))
        for name, array in self._arrays.items():
            array[part] = torch.stack([waiting[name] for waiting in self._waiting]).cpu().numpy()
        # on a GPU a run is not checked after every step: configurations after an instability are not samples
        unsound = np.flatnonzero(~np.isfinite(self._arrays["energy"][part]).all(1))
        self._done, self._waiting = part.start + int(unsound[0]) if len(unsound) else part.stop, []
