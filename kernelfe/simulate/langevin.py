"""Batched Langevin dynamics on A(R; T) with the BAOAB splitting.

One step of length dt, with friction γ, masses m, c = exp(−γ dt) and standard normal ξ:

    B   v += (dt/2m) F          A   x += (dt/2) v          O   v ← c v + sqrt((1 − c²) kT/m) ξ
    A   x += (dt/2) v           F ← F(x)                   B   v += (dt/2m) F

One force evaluation per step. Positions sample exp(−A/kT) with an error of fourth order in dt at high friction, and
without any error for harmonic A at every stable dt (Leimkuhler & Matthews, J. Chem. Phys. 138, 174102, 2013).
Nothing removes the motion of the centre of mass: that would leave 3 degrees of freedom without a thermostat.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..errors import require
from ..protocol import FreeEnergyModel
from ..runtime.seeds import whole_seed
from ..runtime.threads import one_thread
from ..specs import field_names
from ..units import BOLTZMANN
from .guard import DomainWatch
from .moves import Move, metropolis
from .protocol import OF_THE_STATE, LangevinProtocol, chosen
from .record import Record
from .stability import check_stability
from .state import (
    FEMTOSECOND,
    LangevinState,
    MoveStatistics,
    SamplingError,
    Trajectory,
    as_tensor,
    evaluate,
    integrator_constants,
)


@one_thread()
def langevin_init(
    model: FreeEnergyModel,
    positions: np.ndarray | Tensor,
    temperature: float | Sequence[float] | np.ndarray | Tensor,
    protocol: LangevinProtocol | None = None,
    *,
    masses: Sequence[float] | np.ndarray | Tensor,
    cell: Tensor | None = None,
    **options: Any,
) -> LangevinState:
    """Prepare replicas: evaluate the model and draw velocities from the Maxwell–Boltzmann distribution.

    Parameters
    ----------
    model
        The free energy model.
    positions
        (replicas, beads, 3), Å; copied to the device of the model, if it has one.
    temperature
        K; one number or (replicas,).
    protocol
        Time step, friction, seed and floating type of the run.
    masses
        (beads,), u; see :func:`~kernelfe.simulate.uniform_masses`.
    cell
        (3, 3) or (replicas, 3, 3), Å, of a periodic model, for replicas in cells of their own.
    **options
        Fields of the protocol to replace, of those four.

    Returns
    -------
    LangevinState

    Raises
    ------
    DataError
        If an argument has a wrong shape or value.
    SamplingError
        If the model is not finite at the start.
    """
    unused = sorted(field_names(LangevinProtocol) & set(options) - set(OF_THE_STATE))
    require(not unused, f"langevin_init prepares replicas and does not use {', '.join(unused)}: give it to sample")
    require(
        hasattr(model, "energy_and_forces"),
        f"{type(model).__name__} has no energy_and_forces(positions, temperature): pass model.frozen() of an estimator",
    )
    protocol = chosen(protocol, options)
    dtype = protocol.torch_dtype
    start = as_tensor(positions, "positions", "Å")
    start = start.to(device=getattr(model, "device", None), dtype=dtype, copy=True).contiguous()
    require(
        start.ndim == 3 and start.shape[-1] == 3 and 0 not in start.shape,
        f"positions have shape {tuple(start.shape)}, expected (replicas, beads, 3); "
        "use positions[None].repeat(replicas, 0) to start several replicas from one configuration",
    )
    n, beads, _ = start.shape
    weight = as_tensor(masses, "masses", "u").to(start).reshape(-1)
    require(
        weight.shape == (beads,) and bool((torch.isfinite(weight) & (weight > 0)).all()),
        f"masses must be {beads} positive numbers (u), one per bead; see simulate.uniform_masses",
    )
    kelvin = as_tensor(temperature, "temperature", "K").to(start)
    require(kelvin.shape in ((), (n,)), f"temperature has shape {tuple(kelvin.shape)}, expected one number or ({n},)")
    require((torch.isfinite(kelvin) & (kelvin > 0)).all(), "temperature must be positive and finite (K)")
    require(torch.isfinite(start).all(), "positions contain a non-finite value")

    kelvin = kelvin.expand(n).clone()
    timestep, friction = protocol.time_step(model, weight.tolist()), float(protocol.friction)
    constants = integrator_constants(kelvin, weight, timestep, friction)
    generator = torch.Generator(device=start.device).manual_seed(whole_seed(protocol.seed))
    thermal = (BOLTZMANN * kelvin[:, None, None] / weight[:, None]).sqrt()
    velocities = torch.randn(start.shape, generator=generator, dtype=dtype, device=start.device).mul_(thermal)
    if cell is not None:
        cell = cell.to(start).expand(n, 3, 3).clone()
    energy, forces = evaluate(model, start, constants["model_temperature"], cell)
    state = LangevinState(
        positions=start,
        velocities=velocities,
        energy=energy,
        forces=forces,
        temperature=kelvin,
        masses=weight,
        timestep=timestep,
        friction=friction,
        generator=generator,
        cell=cell,
        **constants,
    )
    check_stability(state, kinetic=False)
    return state


def langevin_step(model: FreeEnergyModel, state: LangevinState, check_every: int = 20) -> LangevinState:
    """Advance all replicas by one BAOAB step, in place, with one call of the model.

    On CPUs the normal numbers are drawn in single precision, four times faster: their moments are those of a normal
    distribution to 1e-6, their largest absolute value is 5.8.

    Parameters
    ----------
    model
        The free energy model.
    state
        Replicas; updated.
    check_every
        Steps between checks of the kinetic temperature; energies and forces are checked at every step. On a GPU both
        are checked at this interval, since every check waits for the queued work. Changes no result of a stable run.

    Returns
    -------
    LangevinState
        The same object.

    Raises
    ------
    SamplingError
        If energies or forces are no longer finite, or kinetic energies explode.
    """
    x, v = state.positions, state.velocities
    half = 0.5 * state.timestep * FEMTOSECOND
    v.addcmul_(state.forces, state.kick)
    x.add_(v, alpha=half)
    if state.friction > 0:
        if state.gauss is None:
            state.gauss = torch.empty_like(v, dtype=torch.float32 if v.device.type == "cpu" else v.dtype)
        gauss = state.gauss.normal_(generator=state.generator)
        v.mul_(state.decay).addcmul_(gauss.to(v.dtype), state.noise)
    x.add_(v, alpha=half)
    state.energy, state.forces = evaluate(model, x, state.model_temperature, state.cell)
    v.addcmul_(state.forces, state.kick)
    state.step += 1
    kinetic = state.step % check_every == 0
    if kinetic or not x.is_cuda:  # on a GPU every check waits for the queue; non-finite values stay non-finite
        check_stability(state, kinetic)
    return state


class Action(Protocol):
    """Something done between steps, such as Monte Carlo moves or exchanges."""

    every: int
    #: True if replicas take part in each other's steps: they cannot be set back one by one to a state before that.
    mixes: bool

    def __call__(self, model: FreeEnergyModel, state: LangevinState) -> None:
        """Act on the state in place."""

    def reset(self) -> None:
        """Discard the statistics of the burn-in."""


class MoveAction:
    """Rounds of Metropolis moves every ``every`` steps, with statistics."""

    mixes = False

    def __init__(self, moves: Move, every: int, rounds: int = 1):
        self.moves, self.every, self.rounds = moves, every, rounds
        self.reset()

    def __call__(self, model: FreeEnergyModel, state: LangevinState) -> None:
        metropolis(model, state, self.moves, self.statistics, self.rounds)

    def reset(self) -> None:
        kinds = len(self.moves.names)
        self.statistics = MoveStatistics(tuple(self.moves.names), np.zeros(kinds, int), np.zeros(kinds, int))


def move_actions(protocol: LangevinProtocol, model: FreeEnergyModel) -> list[Action]:
    """The Monte Carlo moves of a protocol as an action; "auto" turns about the stiff bonds of the model."""
    bonds = [(i, j) for i, j, _ in getattr(model, "stiff_bonds", None) or ()]
    moves = protocol.for_bonds(bonds or None).moves
    return [] if moves is None else [MoveAction(moves, protocol.moves_every, protocol.move_rounds)]  # type: ignore[arg-type]


def drive(
    model: FreeEnergyModel,
    state: LangevinState,
    protocol: LangevinProtocol,
    actions: Sequence[Action],
    progress: bool,
) -> Trajectory:
    """Run burn-in and production, apply the actions, record every ``stride`` production steps.

    Whatever interrupts the run (an instability, an error in the model, Ctrl-C) carries the samples collected so far
    as its attribute ``trajectory`` and, with a guard, the last sound state as ``state``.
    """
    steps, stride, burn_in = protocol.steps, protocol.stride, protocol.burn_in
    record, begin = Record(steps // stride, state), time.perf_counter()
    watch = None if protocol.guard is None else DomainWatch(protocol.guard, model, state, record)
    actions = [*actions] if watch is None else [*actions, watch]

    def collect() -> Trajectory:
        moved = [action.statistics for action in actions if isinstance(action, MoveAction)]
        positions, energies, cells = record.arrays()
        return Trajectory(
            positions=positions,
            energies=energies,
            temperature=state.temperature.cpu().numpy().astype(float),
            interval=stride * state.timestep,
            seconds=time.perf_counter() - begin,
            acceptance=moved[0] if moved else None,
            state=state,
            outside=None if watch is None else watch.share,
            set_back=None if watch is None else watch.set_back,
            cells=cells,
        )

    try:
        with tqdm(total=burn_in + steps, disable=not progress, unit="step", mininterval=0.5) as bar:
            for index in range(1, burn_in + steps + 1):
                try:
                    langevin_step(model, state)
                except SamplingError as unstable:
                    if watch is None:
                        raise
                    watch.rescue(unstable, state)
                for action in actions:
                    if state.step % action.every:
                        continue
                    if watch is not None and action.mixes:
                        watch(model, state)
                    action(model, state)
                    if watch is not None and action.mixes:
                        watch.keep(state)
                if index == burn_in:
                    for action in actions:
                        action.reset()
                if index > burn_in and (index - burn_in) % stride == 0:
                    record.take(state)
                bar.update()
        if watch is not None and watch.sound.step != state.step:
            watch(model, state)
    except BaseException as error:
        error.trajectory = collect()  # type: ignore[attr-defined]
        if watch is not None:
            watch.finish(error)
        raise
    if watch is not None:
        watch.report(state)
    return collect()


@one_thread()
def sample(
    model: FreeEnergyModel,
    state: LangevinState,
    protocol: LangevinProtocol | None = None,
    *,
    progress: bool = True,
    **options: Any,
) -> Trajectory:
    """Continue from a state, for example the ``state`` of an earlier trajectory.

    Time step, friction, random numbers and floating type are those of the state, not of the protocol.

    Parameters
    ----------
    model
        The free energy model.
    state
        Replicas; advanced in place.
    protocol
        Length of the run, moves and guard.
    progress
        Show a progress bar.
    **options
        Fields of the protocol to replace.

    Returns
    -------
    Trajectory

    Raises
    ------
    DataError
        If an option belongs to the state.
    """
    unused = sorted(set(options) & set(OF_THE_STATE))
    require(not unused, f"sample continues from a state, which has its own {', '.join(unused)}: see langevin_init")
    protocol = chosen(protocol, options)
    return drive(model, state, protocol, move_actions(protocol, model), progress)


def run_langevin(
    model: FreeEnergyModel,
    positions: np.ndarray | Tensor,
    temperature: float | Sequence[float] | np.ndarray | Tensor,
    protocol: LangevinProtocol | None = None,
    *,
    masses: Sequence[float] | np.ndarray | Tensor,
    progress: bool = True,
    **options: Any,
) -> Trajectory:
    """Sample exp(−A(R; T)/kT) with BAOAB Langevin dynamics, all replicas in one batch.

    Parameters
    ----------
    model
        The free energy model.
    positions
        (replicas, beads, 3), Å.
    temperature
        K; one number or (replicas,).
    protocol
        Time step, length, moves, guard and seed of the run; None: ``LangevinProtocol()``.
    masses
        (beads,), u; :func:`~kernelfe.simulate.uniform_masses` where only averages matter.
    progress
        Show a progress bar.
    **options
        Fields of the protocol to replace, for example ``timestep=2.0, steps=5000``.

    Returns
    -------
    Trajectory
        positions (steps // stride, replicas, beads, 3), energies (steps // stride, replicas).

    Raises
    ------
    DataError
        If an argument has a wrong shape or value.
    SamplingError
        If more replicas become unstable or leave the training data than the guard sets back, or any without a guard;
        its ``trajectory`` holds the samples so far, its ``state`` the last sound state.
    """
    protocol = chosen(protocol, options)
    state = langevin_init(model, positions, temperature, protocol, masses=masses)
    return sample(model, state, protocol, progress=progress)


__all__ = ["langevin_init", "langevin_step", "run_langevin", "sample"]
