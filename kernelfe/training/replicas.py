"""Samples of a model whose averages are its own, not those of their start.

Replicas start among the frames. Until they have lost the memory of it, populations of torsional basins are those of the
frames, whatever the model says. How long that takes depends on the model, so it is measured: half of the replicas start
with their torsions scrambled, and a run counts only if its averages depend neither on the half nor on the coordinates
at the start. A run that fails is taken as the start of one of twice the length.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ..protocol import LinearModel
from ..simulate import LangevinProtocol, Trajectory, langevin_init, run_langevin, sample
from ..simulate.moves import Move, metropolis
from ..statistics import samples_per_replica
from .sides import SlowVariables


@dataclass(frozen=True)
class Equilibration:
    """When a run counts as one of the model.

    Parameters
    ----------
    memory
        Correlation of averages with the start that is accepted, beyond what chance gives.
    forgotten
        Independent samples of each replica that are wanted.
    longest
        Most steps of production of a round.
    hot
        Temperature of the scrambling of torsions, in units of that of the replica.
    turns
        Torsion moves of each replica while it is scrambled.
    rare
        Share of the replicas on one side of a torsion below which its population is not followed.
    """

    memory: float
    forgotten: float
    longest: int
    hot: float = 4.0
    turns: int = 30
    rare: float = 0.01


@dataclass(frozen=True)
class Draws:
    """Samples of one model.

    Parameters
    ----------
    positions
        (samples, replicas, beads, 3), Å.
    found
        Slow variables of the samples at each temperature.
    independent
        Independent samples of each replica, for each temperature.
    memory
        Largest correlation of an average over a replica with its start, beyond chance.
    steps
        Steps of production.
    settled
        True if the start is forgotten.
    """

    positions: np.ndarray
    found: list[SlowVariables]
    independent: list[float]
    memory: float
    steps: int
    settled: bool


class Replicas:
    """Replicas at several temperatures, ``share`` at each, that go from model to model.

    Parameters
    ----------
    read
        Positions (n, beads, 3) → their slow variables.
    start
        (temperatures · share, beads, 3), Å.
    temperatures, share
        K, and replicas at each.
    protocol
        First length of a round and its burn-in, dynamics and moves.
    masses
        (beads,), u.
    rule
        When a run counts.
    rng
        Source of the seeds.
    """

    def __init__(
        self,
        read: Callable[[np.ndarray], SlowVariables],
        start: np.ndarray,
        temperatures: list[float],
        protocol: LangevinProtocol,
        masses: np.ndarray,
        rule: Equilibration,
        rng: np.random.Generator,
    ):
        self.read, self.start, self.protocol = read, start, protocol
        self.masses, self.rule, self.rng = masses, rule, rng
        self.temperatures, self.share = temperatures, len(start) // len(temperatures)
        self.kelvin = np.repeat(temperatures, self.share)
        self.scrambled = np.arange(len(start)) % 2 == 1

    def sample(self, model: LinearModel) -> Draws:
        """Samples of a model, from a run as long as the samples themselves ask for."""
        protocol = replace(self.protocol, seed=int(self.rng.integers(2**62)))
        start = self.start.copy()
        if protocol.moves is not None:
            start[self.scrambled] = self._scramble(model, start[self.scrambled], self.kelvin[self.scrambled], protocol)
        before = self._columns(start[None])[0][0]
        run = run_langevin(model, start, self.kelvin, protocol, masses=self.masses, progress=False)
        while True:
            draws = self._assess(before, run, protocol.steps)
            if draws.settled and min(draws.independent) >= self.rule.forgotten:
                break
            if 2 * protocol.steps > self.rule.longest:
                break
            # as many samples, twice as far apart
            protocol = replace(protocol, steps=2 * protocol.steps, stride=2 * protocol.stride)
            assert run.state is not None
            run = sample(model, run.state, burn_in=0, progress=False, **_length(protocol))
        self.start = run.positions[-1]
        self.protocol = replace(protocol, burn_in=max(self.protocol.burn_in, protocol.steps // 2))
        return draws

    def _scramble(
        self, model: LinearModel, positions: np.ndarray, kelvin: np.ndarray, protocol: LangevinProtocol
    ) -> np.ndarray:
        """Turn torsions at a high temperature of acceptance: bonds and angles stay as they are."""
        state = langevin_init(
            model, positions, kelvin, seed=protocol.seed, timestep=protocol.timestep, masses=self.masses
        )
        state.temperature = self.rule.hot * state.temperature  # of the acceptance only: A is that of the replica
        moves: Move = protocol.moves  # type: ignore[assignment]
        metropolis(model, state, moves, rounds=self.rule.turns)
        return state.positions.cpu().numpy()

    def _columns(self, positions: np.ndarray) -> tuple[np.ndarray, list[SlowVariables]]:
        """Columns (samples, replicas, k) about their means at each temperature, in units of their spread there."""
        out, found = [], []
        for k in range(len(self.temperatures)):
            part = positions[:, k * self.share : (k + 1) * self.share]
            one = self.read(part.reshape(-1, *part.shape[2:]))
            found.append(one)
            out.append(np.concatenate([one.columns, one.torsions > 0.0], 1).reshape(*part.shape[:2], -1))
        return np.concatenate(out, 1), found

    def _assess(self, before: np.ndarray, run: Trajectory, steps: int) -> Draws:
        after, found = self._columns(run.positions)
        independent, memory, count = [], 0.0, 0
        total, spread = np.zeros((2, after.shape[2])), 0.0
        for k, one in enumerate(found):
            rows = slice(k * self.share, (k + 1) * self.share)
            x, y = before[rows], after[:, rows]
            sides = one.torsions.shape[1]
            used = np.ones(x.shape[1], bool)
            if sides:
                crowd = np.minimum(y[..., -sides:].mean((0, 1)), 1.0 - y[..., -sides:].mean((0, 1)))
                used[-sides:] = crowd >= self.rule.rare
            independent.append(float(samples_per_replica(y[..., used]).min()) if used.any() else float(len(y)))
            mean, scale = y.mean(0), y.std((0, 1))
            mean = np.where(used & (scale > 0.0), (mean - mean.mean(0)) / np.where(scale > 0.0, scale, 1.0), 0.0)
            half = self.scrambled[rows]
            for row, cause in enumerate((x, np.repeat(half[:, None], x.shape[1], 1).astype(float))):
                sd = cause.std(0)
                total[row] += ((cause - cause.mean(0)) / np.where(sd > 0.0, sd, 1.0) * mean).sum(0)
            spread += mean.var(0) * self.share  # type: ignore[assignment]
            count += self.share
        # averages of replicas that have forgotten scatter about zero correlation by their own spread
        chance = np.sqrt(spread / count**2 * 2.0 * math.log(4.0 * max(1, after.shape[2])))
        memory = max(0.0, float((np.abs(total / count) - chance).max())) if after.shape[2] else 0.0
        return Draws(run.positions, found, independent, memory, steps, memory <= self.rule.memory)


def _length(protocol: LangevinProtocol) -> dict:
    """Options of a continued run: all but those of its state."""
    names = ("steps", "stride", "moves", "moves_every", "move_rounds", "guard")
    return {name: getattr(protocol, name) for name in names}


__all__ = ["Draws", "Equilibration", "Replicas"]
