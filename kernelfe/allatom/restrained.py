"""Conditional ensembles: all-atom runs whose beads stay where they are put, and the labels these determine.

With the beads at R, averages over the eliminated coordinates are those that map to R, so

    ⟨f⟩ = −∇A,   k b² Cov(f, U) = dF/dT,   ⟨U⟩ = ∂(bA)/∂b,   k b² Var U = −T ∂²A/∂T²,

with errors that fall as 1/√time at every R, also where free dynamics never goes. f is the mapped force of the molecule
without the forces that hold the beads. Beads that are atoms are held exactly; any linear beads can be restrained by
(K/2)|M x − R0|². A restrained run has ensemble averages of its own, O(1/K) away; its labels are given at ⟨M x⟩ rather
than at R0, and Cov(f, U + restraint energy) is exactly the response of its own ⟨f⟩.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from ..arrays import real_array
from ..errors import DataError, require
from ..frames import Frames
from ..frames.checks import numbers
from ..runtime.seeds import whole_seed
from ..specs import Bound, OrNone, Real, Spec, Text, Whole, checked
from ..statistics import Field, check_force_map, conditional_labels, conditional_moments, generalized_forces
from ..statistics.moments import MOMENTS
from ..units import BOLTZMANN
from .engine import Engine, constraints_of, held_beads, masses_of, unstable
from .measure import HeldMeasure, cluster
from .starts import nearest_starts

FloatArray = NDArray[np.float64]

#: Labels that :meth:`RestrainedEnsemble.sample` gives by default, and those that come with fields.
LABELS = ("mean_force", "mean_energy", "heat_capacity", "thermal_response_force")
FIELD_LABELS = {"mean_force": "generalized_force", "thermal_response_force": "generalized_thermal_response"}


@dataclass(frozen=True)
class RestrainedProtocol(Spec):
    """Protocol of conditional ensembles: LangevinMiddle dynamics of the eliminated coordinates.

    Parameters
    ----------
    timestep
        fs. Beads that are held do not limit it.
    friction
        1/ps. Eliminated coordinates are fast and decorrelate best with a few per picosecond.
    equilibration
        ps of every run that are thrown away once the beads have arrived.
    stride
        Time steps between frames; some tens of femtoseconds, as products f·U decorrelate faster than f and U.
    ramp
        Å by which beads move at most at a time on the way to their target; twenty time steps follow each move.
    stiffness
        K of the restraints, eV/Å²; None holds bead atoms exactly, which needs beads that are atoms.
    platform
        OpenMM platform. "Reference" is the fastest for some tens of atoms, "CPU" for more.
    """

    timestep: float = 2.0
    friction: float = 5.0
    equilibration: float = 2.0
    stride: int = 15
    ramp: float = 0.02
    stiffness: float | None = None
    platform: str = "Reference"

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        **dict.fromkeys(("timestep", "friction", "ramp"), Real(above=0.0)),
        "equilibration": Real(least=0.0),
        "stride": Whole(least=1),
        "stiffness": OrNone(Real(above=0.0)),
        "platform": Text(),
    }


@dataclass(frozen=True, eq=False)
class ConditionalRun:
    """All-atom frames of one bead configuration, in their order in time.

    Attributes
    ----------
    positions, forces
        (frames, atoms, 3), Å and eV/Å; forces without those of constraints and of the restraint.
    energies, restraint_energies
        (frames,), eV; U without the restraint, and the restraint's energy (zero for held beads).
    temperature
        K.
    """

    positions: FloatArray
    forces: FloatArray
    energies: FloatArray
    restraint_energies: FloatArray
    temperature: float


class RestrainedEnsemble:
    """All-atom runs at given bead configurations, and the labels of :class:`~kernelfe.Frames` they determine.

    Parameters
    ----------
    system
        ``openmm.System`` of the whole molecule or box. Its masses and constraints are those whose measure the labels
        are of; a remover of centre-of-mass motion is dropped.
    position_map
        (beads, atoms), R = M x, for example :func:`~kernelfe.statistics.slice_map`.
    force_map
        (beads, atoms), F. None: each bead's atoms and all that rigid bonds tie to them. Another admissible map has the
        same averages and other noise.
    fields
        Fields of generalised forces, for beads that are atoms; see
        :func:`~kernelfe.statistics.generalized_forces`.
    protocol
        How to simulate.

    Raises
    ------
    DataError
        If maps do not fit the system, beads to be held are not atoms, the measure of rigid bonds at held atoms
        is not known, or a restraint is too stiff for the time step.
    MissingDependencyError
        If OpenMM is not installed.
    """

    def __init__(
        self,
        system: Any,
        position_map: ArrayLike,
        force_map: ArrayLike | None = None,
        fields: Sequence[Field] = (),
        protocol: RestrainedProtocol | None = None,
    ):
        self.protocol = RestrainedProtocol() if protocol is None else protocol
        m = real_array(position_map, "position_map")
        atoms = system.getNumParticles()
        require(
            m.ndim == 2 and m.shape[1] == atoms and np.allclose(m.sum(axis=1), 1.0),
            f"position_map has shape {m.shape}: expected (beads, {atoms}) with rows that sum to 1",
        )
        constraints = constraints_of(system)
        self.position_map = m
        self.force_map = _tied_map(m, constraints) if force_map is None else real_array(force_map, "force_map")
        check_force_map(m, self.force_map, constraints)
        self.fields, self.bead_atoms = tuple(fields), held_beads(m)
        require(
            self.bead_atoms is not None or not self.fields, "fields of generalised forces need beads that are atoms"
        )
        self._measure = None
        if self.protocol.stiffness is None:
            if self.bead_atoms is None:
                raise DataError("beads of several atoms cannot be held: give RestrainedProtocol(stiffness=...)")
            self._measure = HeldMeasure(constraints, masses_of(system), self.bead_atoms)
        p = self.protocol
        self._engine = Engine(system, m, p.stiffness, p.timestep, p.friction, p.platform)
        #: All-atom time simulated by this object so far, with approach and equilibration, ps.
        self.simulated = 0.0

    def run(
        self,
        beads: ArrayLike,
        start: ArrayLike,
        temperature: float,
        picoseconds: float = 20.0,
        *,
        seed: int = 0,
        cell: ArrayLike | None = None,
    ) -> ConditionalRun:
        """The conditional ensemble of one bead configuration.

        Parameters
        ----------
        beads
            R, (beads, 3), Å.
        start
            An all-atom structure, (atoms, 3), Å; its beads are moved to R first. Best one of
            :func:`nearest_starts`: what lies between is crossed, not chosen.
        temperature
            K.
        picoseconds
            Length of the run after equilibration.
        seed
            Of thermostat and starting velocities. On platform "Reference" the same seed gives the same numbers.
        cell
            (3, 3), Å, for periodic systems.

        Raises
        ------
        DataError
            If shapes do not fit, or the run becomes unstable.
        """
        p = self.protocol
        r, x = numbers(beads, "beads"), numbers(start, "start")
        picoseconds, seed = checked("picoseconds", picoseconds, Real()), whole_seed(seed)
        count = int(picoseconds * 1e3 / (p.timestep * p.stride))
        require(
            r.shape == (len(self.position_map), 3) and x.shape == (self.position_map.shape[1], 3),
            f"beads {r.shape} and start {x.shape} must be ({len(self.position_map)}, 3) and "
            f"({self.position_map.shape[1]}, 3)",
        )
        require(
            np.isfinite(r).all() and np.isfinite(x).all() and np.isfinite(temperature) and temperature > 0.0,
            "beads and start must be finite, and the temperature positive",
        )
        require(count >= 1, f"picoseconds={picoseconds} is shorter than one stride of {p.stride} steps")
        seeds = np.random.SeedSequence(seed).spawn(2)
        rng = np.random.default_rng(seeds[0])
        # OpenMM takes a seed of zero for "choose one yourself"
        context = self._engine.start(
            x, r, float(temperature), 1 + int(seeds[1].generate_state(1)[0]) % (2**31 - 2), cell
        )
        steps = context.ramp(p.ramp, _RAMP_STEPS)
        equilibration = round(p.equilibration * 1e3 / p.timestep)
        context.step(equilibration)
        steps += equilibration
        positions, forces = np.empty((2, count, *x.shape))
        energies, restraints = np.empty((2, count))
        for k in range(count):
            while True:
                context.step(p.stride)
                steps += p.stride
                positions[k], forces[k], energies[k], restraints[k] = context.frame()
                # rejecting frames at random is an exact weight; almost all are accepted
                if self._measure is None or rng.random() < self._measure.acceptance(positions[k : k + 1])[0]:
                    break
                if not np.isfinite(energies[k]):
                    break
            if not np.isfinite(energies[k]):
                raise unstable(p.timestep)
        self.simulated += steps * p.timestep * 1e-3
        return ConditionalRun(positions, forces, energies, restraints, float(temperature))

    def moments(self, run: ConditionalRun) -> dict[str, tuple[FloatArray, FloatArray]]:
        """Label to (value, standard error) of one run, by :func:`~kernelfe.statistics.conditional_moments`."""
        forces = np.matmul(self.force_map, run.forces)
        shape = forces.shape[1:]
        columns, divergences = forces.reshape(len(forces), -1), None
        if self.fields:
            assert self.bead_atoms is not None
            args = (self.fields, self.bead_atoms)
            torques, _ = generalized_forces(run.positions, run.forces, *args, run.temperature)
            # without forces it is kT (div w − div_R t) that is left
            thermal, _ = generalized_forces(run.positions, np.zeros_like(run.forces), *args, run.temperature)
            divergences = np.concatenate([np.zeros_like(columns), thermal / (BOLTZMANN * run.temperature)], axis=1)
            columns = np.concatenate([columns, torques], axis=1)
        found = conditional_moments(
            columns,
            run.energies,
            run.temperature,
            restraint_energies=None if self._measure is not None else run.restraint_energies,
            divergences=divergences,
        )
        size = int(np.prod(shape))
        out = {
            k: (v[:size].reshape(shape), e[:size].reshape(shape)) if v.ndim else (v, e) for k, (v, e) in found.items()
        }
        if self.fields:
            for key, name in FIELD_LABELS.items():
                value, error = found[key]
                out[name] = value[size:], error[size:]
        return out

    def sample(
        self,
        frames: Frames,
        start: ArrayLike,
        picoseconds: float = 20.0,
        *,
        seed: int = 0,
        labels: Iterable[str] = LABELS,
        progress: bool = True,
    ) -> Frames:
        """Labels, with their standard errors as noise, at the configurations and temperatures of ``frames``.

        Parameters
        ----------
        frames
            Bead positions, temperatures, and optionally cells; old labels are not looked at.
        start
            (m, atoms, 3), Å: all-atom structures of whole molecules, of which each run takes the nearest
            (:func:`nearest_starts`).
        picoseconds
            Length of each run after equilibration.
        seed
            Each row has a stream of its own, from this number and its row.
        labels
            Quantity keys of :func:`~kernelfe.statistics.conditional_moments`.
        progress
            Show a progress bar.

        Returns
        -------
        Frames
            One row per row of ``frames``. Positions are those asked for; with restraints, the mean of those met.

        Raises
        ------
        DataError
            As in :meth:`run`, and if a label is unknown or a run is too short for error bars.

        Notes
        -----
        Whatever interrupts the runs (one that fails, Ctrl-C) leaves with the rows completed so far as its attribute
        ``labelled``, Frames or None: what was simulated is not lost.
        """
        if frames.positions is None:
            raise DataError("all-atom runs need bead positions, these frames hold general variables")
        keys, seed = tuple(labels), whole_seed(seed)
        if unknown := [key for key in keys if key not in MOMENTS]:
            raise DataError(f"labels: {unknown[0]!r} is not one of {', '.join(MOMENTS)}")
        starts, _, _ = nearest_starts(frames.positions, start, self.position_map, self._engine.periodic)
        rows: list[Any] = []
        where = np.array(frames.positions)
        shifts: list[FloatArray] = []

        def labelled() -> Frames:
            done = frames[: len(rows)]
            return conditional_labels(
                rows,
                where[: len(rows)],
                temperature=done.temperature,
                keys=dict.fromkeys((*keys, *(FIELD_LABELS.values() if self.fields else ()))),
                displacements=np.array(shifts) if self.fields else None,
                kinds=done.kinds,
                masses=done.masses,
                bonds=done.bonds,
                cell=done.cell,
                parameters=done.parameters,
            )

        try:
            for k in tqdm(range(len(frames)), desc="restrained runs", disable=not progress):
                cell = None if frames.cell is None else frames.cell[k]
                try:
                    run = self.run(
                        where[k], starts[k], frames.temperature[k], picoseconds, seed=hash_seed(seed, k), cell=cell
                    )
                    found = self.moments(run)
                except DataError as error:
                    raise DataError(f"restrained run of frame {k}: {error}") from error
                if self._measure is None:
                    where[k] = (self.position_map @ run.positions).mean(axis=0)
                if self.fields:
                    x = run.positions[:1].copy()
                    x[0, self.bead_atoms] = where[k]
                    shifts.append(np.stack([field.displacements(x)[0, self.bead_atoms] for field in self.fields]))
                rows.append(found)
        except BaseException as error:
            error.labelled = labelled() if rows else None  # type: ignore[attr-defined]
            raise
        return labelled()


#: Time steps after each move of the ramp.
_RAMP_STEPS = 20


def hash_seed(seed: int, row: int) -> int:
    """A seed for one row, the same whatever other rows there are."""
    return int(np.random.SeedSequence([seed, row]).generate_state(1)[0])


def _tied_map(position_map: FloatArray, constraints: Sequence[tuple[int, int]]) -> FloatArray:
    """Sum over the atoms of each bead and all that constraints tie to them."""
    partners: dict[int, list[int]] = {}
    for a, b in constraints:
        partners.setdefault(a, []).append(b)
        partners.setdefault(b, []).append(a)
    out = np.zeros_like(position_map)
    for bead, row in enumerate(position_map):
        for atom in np.flatnonzero(row).tolist():
            out[bead, cluster(partners, atom)] = 1.0
    return out
