"""State of a batch of replicas, result of a run, and its error."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..arrays import real_array
from ..errors import DataError, KernelfeError, ModelFileError, require
from ..files.npz import load_npz, save_npz
from ..specs import SEED, checked
from ..units import BOLTZMANN, FEMTOSECOND


def uniform_masses(beads: int, mass: float = 12.0) -> np.ndarray:
    """Equal masses for sampling.

    Configurational averages do not depend on the masses: exp(−A/kT) contains none. Equal masses near 12 u are
    therefore a good choice for sampling and often a better one than physical masses, whose lightest bead limits the
    time step (ω·dt < 2, ω² = stiffness/mass). Physical masses matter only where time itself is read from the
    trajectory.

    Parameters
    ----------
    beads
        Number of beads.
    mass
        Mass of each, u.

    Returns
    -------
    ndarray
        (beads,), u.

    Raises
    ------
    DataError
        If ``beads`` is not positive, or ``mass`` is not positive and finite.
    """
    positive = beads >= 1 and mass > 0 and np.isfinite(mass)
    require(positive, f"uniform_masses(beads={beads!r}, mass={mass!r}): both must be positive")
    return np.full(int(beads), float(mass))


@dataclass
class LangevinState:
    """Replicas in the middle of a Langevin run; made by :func:`~kernelfe.simulate.langevin_init`.

    The state is complete: continuing from it gives bitwise what one longer run gives (on CPU).

    Parameters
    ----------
    positions, velocities, forces
        (n, beads, 3), Å, Å/(Å·sqrt(u/eV)), eV/Å; updated in place.
    energy
        (n,), A(R; T), eV.
    temperature
        (n,), K.
    masses
        (beads,), u.
    timestep, friction
        fs, 1/ps.
    generator
        Source of all random numbers of the run.
    step
        Steps done so far.
    kick, decay, noise
        Constants of the integrator, see :mod:`kernelfe.simulate.langevin`.
    cell
        (n, 3, 3), Å: cell of every replica, for periodic models; None where the model has one of its own, or none.
    """

    positions: Tensor
    velocities: Tensor
    energy: Tensor
    forces: Tensor
    temperature: Tensor
    masses: Tensor
    timestep: float
    friction: float
    generator: torch.Generator
    kick: Tensor
    decay: float
    noise: Tensor
    step: int = 0
    # one float if all replicas are at one temperature (a model may have a faster path), else the tensor
    model_temperature: float | Tensor = 0.0
    gauss: Tensor | None = field(default=None, repr=False)  # buffer of the noise
    cell: Tensor | None = None

    def copy(self) -> LangevinState:
        """Copy that further steps of this state do not change."""
        generator = torch.Generator(device=self.generator.device)
        generator.set_state(self.generator.get_state())
        changing = {name: getattr(self, name).clone() for name in ("positions", "velocities", "energy", "forces")}
        if self.cell is not None:
            changing["cell"] = self.cell.clone()
        return replace(self, generator=generator, gauss=None, **changing)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state to a .npz file, atomically; :func:`load_state` reads it.

        Raises
        ------
        DataError
            If the path cannot be written.
        """
        names = _SAVED if self.cell is None else (*_SAVED, "cell")
        arrays = {name: getattr(self, name).cpu().numpy() for name in names}
        numbers = np.array([self.timestep, self.friction, self.step])
        random = self.generator.get_state().cpu().numpy()
        save_npz(path, arrays | {"numbers": numbers, "generator": random, "format": np.array(_FORMAT)})

    def kinetic_temperature(self) -> Tensor:
        """Instantaneous kinetic temperature 2K/(3·beads·k) of each replica, (n,), K."""
        twice_kinetic = self.velocities.square().sum(-1).mv(self.masses)
        return twice_kinetic / (3 * self.positions.shape[1] * BOLTZMANN)


_FORMAT = "kernelfe-langevin 1"
_SAVED = ("positions", "velocities", "energy", "forces", "temperature", "masses")
#: Largest restart file that is read, bytes after decompression: protects the memory from damaged files.
MAX_STATE = 4 << 30


def load_state(
    path: str | os.PathLike[str], seed: int | None = None, device: str | torch.device = "cpu"
) -> LangevinState:
    """Read a state written by :meth:`LangevinState.save`, to be continued with :func:`~kernelfe.simulate.sample`.

    Parameters
    ----------
    path
        The file.
    seed
        Continue with other random numbers than the stored ones: for a run that failed, and required between CPU and
        GPU, whose generators differ.
    device
        Device of the continued run: that of the model.

    Raises
    ------
    ModelFileError
        If the file is damaged, inconsistent, or not such a state.
    DataError
        If the seed is not a whole number.
    """
    seed = checked("seed", seed, SEED)
    arrays = load_npz(path, max_bytes=MAX_STATE)
    found = str(arrays.get("format", ""))
    require(
        found == _FORMAT, f"{path} is not a state of a Langevin run: write one with LangevinState.save", ModelFileError
    )
    try:
        names = (*_SAVED, "cell") if "cell" in arrays else _SAVED
        tensors = {name: torch.from_numpy(np.array(arrays[name])).to(device) for name in names}
        n, beads, _ = tensors["positions"].shape
        wanted = {"energy": (n,), "temperature": (n,), "masses": (beads,), "cell": (n, 3, 3)}
        fits = n > 0 and beads > 0
        fits &= all(tuple(t.shape) == wanted.get(name, (n, beads, 3)) for name, t in tensors.items())
        kind = tensors["positions"].dtype
        fits &= kind in (torch.float32, torch.float64) and all(t.dtype == kind for t in tensors.values())
        fits &= all(bool(torch.isfinite(t).all()) for t in tensors.values())
        fits &= all(bool((tensors[name] > 0).all()) for name in ("temperature", "masses"))
        timestep, friction, step = arrays["numbers"].tolist()
        if not (fits and 0 < timestep < np.inf and 0 <= friction < np.inf and 0 <= step < 2**53):
            raise ValueError("inconsistent shapes or numbers")
        generator = torch.Generator(device=tensors["positions"].device)
        if seed is None:
            random = torch.from_numpy(np.array(arrays["generator"]))
            if random.shape != generator.get_state().shape:
                raise ValueError("its random numbers belong to another kind of device, pass seed=")
            generator.set_state(random)
        else:
            generator.manual_seed(int(seed))
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise ModelFileError(f"{path} is not a valid state of a Langevin run ({error}); write it again") from error
    return LangevinState(
        **tensors,
        timestep=timestep,
        friction=friction,
        generator=generator,
        step=int(step),
        **integrator_constants(tensors["temperature"], tensors["masses"], timestep, friction),
    )


def integrator_constants(temperature: Tensor, masses: Tensor, timestep: float, friction: float) -> dict[str, Any]:
    """Fields of a :class:`LangevinState` that follow from others.

    Parameters
    ----------
    temperature, masses
        (n,), K, and (beads,), u.
    timestep, friction
        fs, 1/ps.
    """
    shape = (len(temperature), len(masses), 3)
    damping = friction * 1e-3 * timestep
    uniform = bool((temperature == temperature[0]).all())
    thermal = (BOLTZMANN * temperature[:, None, None] / masses[:, None]).sqrt().expand(shape).contiguous()
    return {
        # full shape, not broadcast: an inner dimension of 3 with stride 0 is ten times slower
        "kick": (0.5 * timestep * FEMTOSECOND / masses[:, None]).expand(shape).contiguous(),
        "decay": math.exp(-damping),
        "noise": thermal.mul_(math.sqrt(-math.expm1(-2 * damping))),
        "model_temperature": float(temperature[0]) if uniform else temperature.clone(),
    }


class MoveStatistics:
    """Attempts and acceptances of each kind of Monte Carlo move, burn-in excluded.

    Parameters
    ----------
    names
        One name per kind of move, for example ``"torsion 1-2"``.
    attempts, accepted
        (kinds,) counts over all replicas.
    """

    def __init__(self, names: tuple[str, ...], attempts: np.ndarray, accepted: np.ndarray):
        self.names = names
        self._counts = np.stack([attempts, accepted])
        self._waiting: Tensor | None = None  # on the device of the replicas: nothing waits for them

    def add(self, kind: Tensor, accept: Tensor) -> None:
        """Count moves of these kinds and the accepted ones, shapes (n,)."""
        if self._waiting is None:
            self._waiting = kind.new_zeros(2, len(self.names))
        self._waiting[0].index_add_(0, kind, torch.ones_like(kind))
        self._waiting[1].index_add_(0, kind, accept.to(kind.dtype))

    @property
    def counts(self) -> np.ndarray:
        """Attempts and acceptances, (2, kinds)."""
        if self._waiting is not None:
            self._counts, self._waiting = self._counts + self._waiting.cpu().numpy(), None
        return self._counts

    @property
    def attempts(self) -> np.ndarray:
        """(kinds,)."""
        return self.counts[0]

    @property
    def accepted(self) -> np.ndarray:
        """(kinds,)."""
        return self.counts[1]

    @property
    def rate(self) -> np.ndarray:
        """Fraction accepted, (kinds,), NaN where nothing was tried."""
        return np.divide(self.accepted, self.attempts, out=np.full(len(self.names), np.nan), where=self.attempts > 0)


@dataclass
class Trajectory:
    """Samples of a run.

    Parameters
    ----------
    positions
        (samples, replicas, beads, 3), Å, in the floating type of the run. Positions are not wrapped and the centre of
        mass is free to diffuse.
    energies
        (samples, replicas), A(R; T), eV.
    temperature
        (replicas,), K.
    interval
        fs between samples.
    seconds
        Wall-clock time of the run.
    acceptance
        Statistics of the Monte Carlo moves, None without moves.
    state
        State after the last step, for continuing with :func:`~kernelfe.simulate.sample`; None for one temperature out
        of a replica exchange.
    outside
        Share of the configurations checked in production that were outside the model's training data (score above 1,
        see :class:`~kernelfe.simulate.DomainGuard`), over all replicas; None where nothing was checked.
    set_back
        (replicas,), how often each replica left the training data or became unstable and was set back to the last
        check, burn-in included; None without a guard.
    cells
        (samples, replicas, 3, 3), Å, of runs at constant pressure; None where cells do not change.
    """

    positions: np.ndarray
    energies: np.ndarray
    temperature: np.ndarray
    interval: float
    seconds: float = 0.0
    acceptance: MoveStatistics | None = None
    state: LangevinState | None = field(default=None, repr=False)
    outside: float | None = None
    set_back: np.ndarray | None = None
    cells: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.positions)

    def flat(self) -> np.ndarray:
        """All configurations of all replicas, (samples·replicas, beads, 3), Å, sample by sample."""
        return self.positions.reshape(-1, *self.positions.shape[2:])


class SamplingError(KernelfeError, RuntimeError):
    """Instability of a run, or departure from the training data of its model.

    Attributes
    ----------
    replicas
        Indices of the replicas concerned.
    step
        Step, burn-in included, at which it was detected.
    trajectory
        Samples collected before that.
    state
        State at the last check before that, None without one; :meth:`LangevinState.save` writes it.
    """

    def __init__(self, message: str, replicas: Sequence[int] = (), step: int = 0, trajectory: Trajectory | None = None):
        super().__init__(message)
        self.replicas = tuple(replicas)
        self.step = step
        self.trajectory = trajectory
        self.state: LangevinState | None = None


def as_tensor(values: object, name: str, unit: str) -> Tensor:
    """A detached tensor of an array, sequence or number; only tensors share memory with the argument.

    Parameters
    ----------
    values, name, unit
        As of :func:`kernelfe.arrays.real_array`.
    """
    if isinstance(values, Tensor) and not values.is_complex():
        return values.detach()
    return torch.from_numpy(np.array(real_array(values, name, unit)))  # a copy: torch warns about read-only arrays


def evaluate(
    model: Any, positions: Tensor, temperature: float | Tensor, cell: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Call the model and check what it returns.

    Parameters
    ----------
    model
        The free energy model.
    positions
        (n, beads, 3), Å.
    temperature
        K; one number or (n,).
    cell
        (n, 3, 3), Å, for a :class:`~kernelfe.protocol.PeriodicFreeEnergyModel`; None for any other.

    Returns
    -------
    energy, forces
        (n,), eV, and (n, beads, 3), eV/Å, detached from any graph, in the floating type of the positions.

    Raises
    ------
    DataError
        If a shape is not that of the protocol.
    """
    if cell is None:
        energy, forces = model.energy_and_forces(positions, temperature)
    else:
        energy, forces, _ = model.energy_forces_stress(positions, cell, temperature)
    if energy.shape != positions.shape[:1] or forces.shape != positions.shape:
        raise DataError(
            f"{type(model).__name__}.energy_and_forces returned shapes {tuple(energy.shape)} and {tuple(forces.shape)} "
            f"for positions {tuple(positions.shape)}; expected (n,) and (n, beads, 3)"
        )
    return energy.detach().to(positions.dtype), forces.detach().to(positions.dtype)


__all__ = [
    "FEMTOSECOND",
    "LangevinState",
    "MoveStatistics",
    "SamplingError",
    "Trajectory",
    "as_tensor",
    "evaluate",
    "integrator_constants",
    "load_state",
    "uniform_masses",
]
