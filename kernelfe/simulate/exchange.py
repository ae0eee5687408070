"""Temperature replica exchange for a free energy that depends on temperature.

At temperature T replicas sample exp(−b A(R; T)), b = 1/kT. Swapping the configurations of two temperatures leaves the
joint density invariant if it is accepted with probability min(1, exp(−Δ)),

    Δ = b1 A(R2; T1) + b2 A(R1; T2) − b1 A(R1; T1) − b2 A(R2; T2).

The textbook exponent (b1 − b2)(A(R1) − A(R2)) is its special case for an A that does not depend on T and is wrong for a
coarse-grained free energy. The cross terms need one more evaluation of the model per round, for all replicas at once at
the temperature of their partner; accepted replicas take energy and forces from it. Terms of A that depend on T alone
cancel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..arrays import real_array
from ..errors import DataError, require
from ..protocol import FreeEnergyModel
from ..runtime.threads import one_thread
from ..units import BOLTZMANN
from .langevin import drive, langevin_init, move_actions
from .protocol import LangevinProtocol, chosen
from .state import LangevinState, Trajectory, as_tensor, evaluate


def exchange_exponent(own: Tensor, cross: Tensor, beta: Tensor, partner: Tensor) -> Tensor:
    """−Δ of the swap of every replica with its partner, see the module's formula.

    Parameters
    ----------
    own
        (n,), A(R_r; T_r), eV.
    cross
        (n,), A(R_r; T_partner(r)), eV.
    beta
        (n,), 1/kT_r, 1/eV.
    partner
        (n,) long, index of the partner, an involution; a replica without partner names itself.

    Returns
    -------
    Tensor
        (n,), equal for both members of a pair.
    """
    mine = beta[partner] * cross - beta * own
    return -(mine + mine[partner])


class ExchangeAction:
    """Swap neighbouring temperatures, alternately even and odd pairs, in every ladder.

    Replica ``ladder * rungs + rung`` always has the temperature of its rung; swaps move configurations. Alternating
    even and odd pairs keeps the target density invariant and mixes faster than random pairs (Syed et al., J. R. Stat.
    Soc. B 84, 321, 2022).
    """

    mixes = True

    def __init__(self, ladders: int, rungs: int, every: int):
        self.ladders, self.rungs, self.every = ladders, rungs, every
        self.round = 0
        self.walker = torch.arange(ladders * rungs)  # walker in each replica
        # per walker, the end of the ladder it visited last: 1 bottom, −1 top, 0 neither yet
        self.heading = torch.zeros(ladders * rungs, dtype=torch.long)
        self._partners = [self.partners(parity) for parity in (0, 1)]
        self.reset()

    def reset(self) -> None:
        """Discard the statistics of the burn-in."""
        # counted on the device of the replicas: nothing waits for the numbers
        self._counts = self.walker.new_zeros(2, self.rungs)
        self.half_trips = torch.zeros_like(self.walker)

    @property
    def attempts(self) -> np.ndarray:
        """Swaps of rungs k and k + 1 that were tried, (rungs − 1,)."""
        return self._counts[0, :-1].cpu().numpy()

    @property
    def accepted(self) -> np.ndarray:
        """Those that were accepted, (rungs − 1,)."""
        return self._counts[1, :-1].cpu().numpy()

    def _to(self, device: torch.device) -> None:
        if self.walker.device != device:
            self.walker, self.heading = self.walker.to(device), self.heading.to(device)
            self._counts, self.half_trips = self._counts.to(device), self.half_trips.to(device)
            self._partners = [self.partners(parity).to(device) for parity in (0, 1)]

    def partners(self, parity: int) -> Tensor:
        """(ladders·rungs,) long: partner of every replica when pairs start at rung ``parity``."""
        rung = torch.arange(self.rungs)
        low = rung[parity : self.rungs - 1 : 2]
        partner = rung.clone()
        partner[low], partner[low + 1] = low + 1, low
        return (torch.arange(self.ladders)[:, None] * self.rungs + partner).flatten()

    def __call__(self, model: FreeEnergyModel, state: LangevinState) -> None:
        parity = self.round % 2 if self.rungs > 2 else 0
        self.round += 1
        device = state.positions.device
        self._to(device)
        partner = self._partners[parity]
        cross, cross_forces = evaluate(model, state.positions, state.temperature[partner])
        beta = 1 / (BOLTZMANN * state.temperature)
        exponent = exchange_exponent(state.energy, cross, beta, partner)
        uniform = torch.rand(len(partner), generator=state.generator, dtype=torch.float64, device=device)
        replica = torch.arange(len(partner), device=device)
        draw = uniform[torch.minimum(replica, partner)]  # one number per pair
        # an A that is not finite at the other temperature has no weight there
        accept = torch.isfinite(exponent) & (draw.log() < exponent) & (partner != replica)
        origin = torch.where(accept, partner, replica)
        scale = (state.temperature / state.temperature[origin]).sqrt()
        state.positions = state.positions[origin]
        state.velocities = state.velocities[origin] * scale[:, None, None]  # exact: v/sqrt(T) keeps its distribution
        state.energy = torch.where(accept, cross[origin], state.energy)
        state.forces = torch.where(accept[:, None, None], cross_forces[origin], state.forces)
        self._count(partner, accept, origin)

    def _count(self, partner: Tensor, accept: Tensor, origin: Tensor) -> None:
        replica = torch.arange(len(partner), device=partner.device)
        lower = partner > replica
        both = torch.stack([lower, lower & accept]).long()
        self._counts += both.reshape(2, self.ladders, self.rungs).sum(1)
        self.walker = self.walker[origin]
        ends = self.walker.reshape(self.ladders, self.rungs)
        for walkers, heading in ((ends[:, 0], 1), (ends[:, -1], -1)):
            self.half_trips[walkers] += self.heading[walkers] == -heading
            self.heading[walkers] = heading


@dataclass
class ExchangeResult:
    """Result of a replica exchange.

    Parameters
    ----------
    trajectories
        One :class:`~kernelfe.simulate.Trajectory` per temperature, in the order given; its replicas are the ladders.
    temperatures
        (rungs,), K.
    swap_acceptance
        (rungs − 1,), accepted fraction of swaps between neighbours, burn-in excluded; NaN where none was tried.
    round_trips
        (ladders, rungs), journeys bottom–top–bottom (or top–bottom–top) completed by each walker in production.
    seconds
        Wall-clock time.
    state
        State after the last step, replica = ladder·rungs + rung.
    """

    trajectories: tuple[Trajectory, ...]
    temperatures: np.ndarray
    swap_acceptance: np.ndarray
    round_trips: np.ndarray
    seconds: float
    state: LangevinState

    def __len__(self) -> int:
        return len(self.trajectories)

    def __getitem__(self, rung: int) -> Trajectory:
        return self.trajectories[rung]


@one_thread()
def run_replica_exchange(
    model: FreeEnergyModel,
    positions: np.ndarray | Tensor,
    temperatures: Sequence[float] | np.ndarray,
    protocol: LangevinProtocol | None = None,
    *,
    masses: Sequence[float] | np.ndarray | Tensor,
    swap_every: int = 20,
    ladders: int = 1,
    progress: bool = True,
    **options: Any,
) -> ExchangeResult:
    """Sample exp(−A(R; T)/kT) at several temperatures with swaps between neighbours, many ladders in one batch.

    Parameters
    ----------
    model
        The free energy model; called with one temperature per replica.
    positions
        Å; (beads, 3) for all, (rungs, beads, 3) for every ladder, or (ladders, rungs, beads, 3).
    temperatures
        (rungs,), K, strictly monotonic, at least two.
    protocol, masses, progress, **options
        As in :func:`~kernelfe.simulate.run_langevin`.
    swap_every
        Steps between rounds of swaps; rounds alternate between even and odd pairs.
    ladders
        Independent ladders.

    Returns
    -------
    ExchangeResult

    Raises
    ------
    DataError
        If an argument has a wrong shape or value.
    SamplingError
        If the run becomes unstable; its ``trajectory`` (one, with replica = ladder·rungs + rung) holds the samples so
        far.
    """
    ladder = real_array(temperatures, "temperatures", "K")
    require(
        ladder.ndim == 1 and len(ladder) >= 2 and (np.all(np.diff(ladder) > 0) or np.all(np.diff(ladder) < 0)),
        f"temperatures={temperatures!r}: expected at least two, strictly monotonic, K",
    )
    require(ladders >= 1 and swap_every >= 1, f"ladders={ladders} and swap_every={swap_every} must be at least 1")
    protocol = chosen(protocol, options)
    rungs = len(ladder)
    start = as_tensor(positions, "positions", "Å")
    try:
        beads = start.shape[-2:]
        start = start.expand(ladders, rungs, *beads).reshape(ladders * rungs, *beads)
    except (RuntimeError, IndexError, TypeError) as error:
        raise DataError(
            f"positions have shape {tuple(start.shape)}, expected (beads, 3), ({rungs}, beads, 3) or "
            f"({ladders}, {rungs}, beads, 3)"
        ) from error
    state = langevin_init(model, start, np.tile(ladder, ladders), protocol, masses=masses)
    swaps = ExchangeAction(ladders, rungs, swap_every)
    joint = drive(model, state, protocol, [*move_actions(protocol, model), swaps], progress)
    shape = (len(joint), ladders, rungs)
    positions_by_rung = joint.positions.reshape(*shape, *joint.positions.shape[2:])
    energies_by_rung = joint.energies.reshape(shape)
    return ExchangeResult(
        trajectories=tuple(
            Trajectory(
                positions=positions_by_rung[:, :, rung],
                energies=energies_by_rung[:, :, rung],
                temperature=np.full(ladders, ladder[rung]),
                interval=joint.interval,
                seconds=joint.seconds,
                acceptance=joint.acceptance,
                outside=joint.outside,
                set_back=None if joint.set_back is None else joint.set_back.reshape(ladders, rungs)[:, rung],
            )
            for rung in range(rungs)
        ),
        temperatures=ladder,
        swap_acceptance=np.divide(
            swaps.accepted, swaps.attempts, out=np.full(rungs - 1, np.nan), where=swaps.attempts > 0
        ),
        round_trips=(swaps.half_trips // 2).reshape(ladders, rungs).cpu().numpy(),
        seconds=joint.seconds,
        state=state,
    )


__all__ = ["ExchangeResult", "exchange_exponent", "run_replica_exchange"]
