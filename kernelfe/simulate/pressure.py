"""Langevin dynamics at constant pressure: Monte Carlo moves of the volume between the steps.

At pressure P and temperature T, N beads at R in a cell of volume V have the weight

    exp(−b [A(R, V; T) + P V]) dR dV  =  V^(N+1) exp(−b [A(s V^(1/3), V; T) + P V]) ds d ln V,

with scaled positions s, b = 1/kT. A move changes ln V by δ, uniform in [−w, w), at constant s: cell vectors and
positions are multiplied by exp(δ/3), and it is accepted with probability min(1, exp(−b [ΔA + P ΔV] + (N + 1) δ)). For
centres of mass this is molecular scaling; velocities are independent of positions and stay. A must depend on the volume
as the average over the eliminated coordinates does: stress or pressure labels see to that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, require
from ..protocol import PeriodicFreeEnergyModel
from ..runtime.threads import one_thread
from ..specs import Real, Whole, checked
from ..units import BOLTZMANN, factor
from .langevin import drive, langevin_init, move_actions
from .protocol import LangevinProtocol, chosen
from .state import LangevinState, MoveStatistics, Trajectory, as_tensor, evaluate


class VolumeMoves:
    """Moves of the volume of every replica, every ``every`` steps.

    Parameters
    ----------
    pressure
        eV/Å³.
    every
        Steps between moves.
    width
        w, largest change of ln V.
    burn_in
        Whether the run begins with a burn-in: then w is fitted to the acceptance until it ends.
    """

    mixes = False
    #: Moves after which w is fitted, and the acceptance that is aimed at.
    adapt_every, aim = 20, 0.4

    def __init__(self, pressure: float, every: int, width: float, burn_in: bool):
        self.pressure, self.every, self.width, self._adapting = pressure, every, width, burn_in
        self._seen = np.zeros(2)
        self._clear()

    def _clear(self) -> None:
        self.statistics = MoveStatistics(("volume",), np.zeros(1, int), np.zeros(1, int))

    def reset(self) -> None:
        """End of the burn-in: w is fixed from now on."""
        self._adapting = False
        self._clear()

    def __call__(self, model: PeriodicFreeEnergyModel, state: LangevinState) -> None:
        assert state.cell is not None
        n, beads = state.positions.shape[:2]
        options = {"generator": state.generator, "dtype": torch.float64, "device": state.positions.device}
        change = self.width * (2.0 * torch.rand(n, **options) - 1.0)
        scale = (change / 3.0).exp().to(state.positions)[:, None, None]
        positions, cell = state.positions * scale, state.cell * scale
        energy, forces = evaluate(model, positions, state.model_temperature, cell)
        volume = torch.linalg.det(state.cell.double()).abs()
        work = energy - state.energy + self.pressure * volume * change.expm1()
        exponent = (beads + 1) * change - work / (BOLTZMANN * state.temperature)
        accept = torch.isfinite(energy) & (torch.rand(n, **options).log() < exponent)
        rows = accept[:, None, None]
        state.positions.copy_(torch.where(rows, positions, state.positions))
        state.cell.copy_(torch.where(rows, cell, state.cell))
        state.energy = torch.where(accept, energy, state.energy)
        state.forces = torch.where(rows, forces, state.forces)
        self.statistics.add(torch.zeros_like(accept, dtype=torch.long), accept)
        if self._adapting:
            self._adapt(int(accept.sum()), n)

    def _adapt(self, accepted: int, tried: int) -> None:
        self._seen += accepted, tried
        if self._seen[1] >= self.adapt_every:
            ratio = self._seen[0] / self._seen[1]
            self.width = min(0.3, self.width * math.exp(min(max(ratio - self.aim, -0.5), 0.5)))
            self._seen[:] = 0.0


@one_thread()
def run_npt(
    model: PeriodicFreeEnergyModel,
    positions: np.ndarray | Tensor,
    cell: np.ndarray | Tensor,
    temperature: float | Sequence[float] | np.ndarray | Tensor,
    pressure: float,
    protocol: LangevinProtocol | None = None,
    *,
    masses: Sequence[float] | np.ndarray | Tensor,
    volume_every: int = 10,
    volume_width: float = 0.02,
    progress: bool = True,
    **options: Any,
) -> Trajectory:
    """Sample exp(−b [A(R, V; T) + P V]) by Langevin dynamics and isotropic moves of the volume, in one batch.

    Parameters
    ----------
    model
        A periodic model, for example ``model.frozen()`` of an estimator; not a
        :class:`~kernelfe.protocol.FixedCell`.
    positions
        (replicas, beads, 3), Å.
    cell
        Starting cells, (3, 3) or (replicas, 3, 3), Å, lattice vectors as rows.
    temperature
        K; one number or (replicas,).
    pressure
        bar.
    protocol
        Time step, length, guard and seed of the run. During its burn-in the width of the moves is fitted to an
        acceptance of 40 %; without a burn-in it stays.
    masses, progress, **options
        As of :func:`~kernelfe.simulate.run_langevin`.
    volume_every
        Steps between moves of the volume. A move costs one evaluation of the model.
    volume_width
        Largest change of ln V in a move; of the first ones with a burn-in.

    Returns
    -------
    Trajectory
        With ``cells`` (samples, replicas, 3, 3), Å. Positions are not wrapped: those of one cell are scaled by every
        change of the volume, so that their scaled coordinates are continuous. ``acceptance`` is that of the moves of
        the volume, unless the protocol has other moves.

    Raises
    ------
    DataError
        If an argument has a wrong shape or value, or the model takes no cell.
    SamplingError
        As of :func:`~kernelfe.simulate.run_langevin`.
    """
    require(
        hasattr(model, "energy_forces_stress"),
        f"run_npt needs a model that takes a cell, not {type(model).__name__}: pass model.frozen() of an estimator of "
        "periodic frames, without FixedCell",
    )
    bar = checked("pressure", pressure, Real(), "run_npt")
    every = checked("volume_every", volume_every, Whole(least=1), "run_npt")
    width = checked("volume_width", volume_width, Real(above=0.0, most=0.3), "run_npt")
    protocol = chosen(protocol, options)
    start, box = as_tensor(positions, "positions", "Å"), as_tensor(cell, "cell", "Å").to(torch.float64)
    fits = box.shape in ((3, 3), (len(start), 3, 3)) and bool(torch.isfinite(box).all())
    if not fits or not bool((torch.linalg.det(box).abs() > 0.0).all()):
        raise DataError(
            f"cell must hold three independent lattice vectors, (3, 3) or ({len(start)}, 3, 3), not {tuple(box.shape)}"
        )
    state = langevin_init(model, start, temperature, protocol, masses=masses, cell=box)
    volume = VolumeMoves(bar * factor("bar"), every, width, protocol.burn_in > 0)
    actions: list[Any] = [*move_actions(protocol, model), volume]
    run = drive(model, state, protocol, actions, progress)
    if run.acceptance is None:
        run.acceptance = volume.statistics
    return run


__all__ = ["VolumeMoves", "run_npt"]
