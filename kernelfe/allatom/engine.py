"""OpenMM systems whose beads are held or restrained. OpenMM is imported only when one is built.

Two ways to hold linear beads R = M x:

* **held** atoms, for beads that are atoms: their mass is set to 10¹⁸ u, so that neither forces nor thermostat nor rigid
  bonds move them by more than 10⁻⁷ Å. (OpenMM's own way, zero mass, does not allow rigid bonds to held atoms.)
* a **restraint** (K/2)|M x − R0|², for any linear beads, in a force group of its own: energies and forces of the
  molecule are read without it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, MissingDependencyError, require
from ..units import factor

FloatArray = NDArray[np.float64]

#: Mass of held atoms, u: thermal velocities of 10⁻⁹ nm/ps, and still a normal number in single precision.
HELD_MASS = 1e18
#: Names of the restraint's per-bead and global parameters.
_RESTRAINT = "0.5*k*((x1-x0-move*dx)^2+(y1-y0-move*dy)^2+(z1-z0-move*dz)^2)"
_PER_BEAD = ("k", "x0", "y0", "z0", "dx", "dy", "dz")
#: eV and eV/Å² per OpenMM unit.
_KJ = factor("kJ/mol")
_FORCE = _KJ / 10.0  # kJ/mol/nm
_STIFFNESS = _KJ / 100.0  # kJ/mol/nm²


def openmm() -> Any:
    """The module ``openmm``.

    Raises
    ------
    MissingDependencyError
        If it is not installed.
    """
    try:
        import openmm as module
    except ImportError:
        raise MissingDependencyError(
            "restrained all-atom runs need OpenMM: pip install 'kernelfe[openmm]' (or conda install openmm)"
        ) from None
    return module


def masses_of(system: Any) -> FloatArray:
    """(atoms,), u."""
    return np.array([system.getParticleMass(a)._value for a in range(system.getNumParticles())])


def constraints_of(system: Any) -> list[tuple[int, int]]:
    """Pairs of atoms at a constrained distance."""
    return [tuple(system.getConstraintParameters(k)[:2]) for k in range(system.getNumConstraints())]


def unstable(timestep: float) -> DataError:
    """Error for a run whose numbers are no longer finite."""
    return DataError(
        "the run became unstable: its beads cannot be reached from this start, or the time step of "
        f"{timestep:g} fs is too long"
    )


class Engine:
    """An OpenMM system with its beads held or restrained; a context is made for every configuration.

    Parameters
    ----------
    system
        ``openmm.System``; it is copied.
    position_map
        (beads, atoms), M.
    stiffness
        K of the restraint, eV/Å²; None holds the bead atoms.
    timestep, friction
        fs and 1/ps.
    platform
        Name of the OpenMM platform.

    Raises
    ------
    DataError
        If the system has a barostat or virtual sites among held atoms, or the restraint is too stiff for the time step.
    """

    def __init__(
        self,
        system: Any,
        position_map: FloatArray,
        stiffness: float | None,
        timestep: float,
        friction: float,
        platform: str,
    ):
        mm = openmm()
        self.map, self.stiffness, self.platform = position_map, stiffness, platform
        self.timestep, self.friction = timestep, friction
        self.system = copy.deepcopy(system)
        self.periodic = bool(system.usesPeriodicBoundaryConditions())
        for k in reversed(range(self.system.getNumForces())):
            force = self.system.getForce(k)
            if isinstance(force, mm.CMMotionRemover):
                self.system.removeForce(k)  # removing it would move held beads; it has no configurational effect
            elif "Barostat" in force.getName():
                raise DataError("the system has a barostat: conditional averages are taken at fixed volume, remove it")
        self._restraint: tuple[Any, int] | None = None
        if stiffness is None:
            self.held = np.flatnonzero(position_map.any(axis=0))
            for atom in self.held.tolist():
                require(
                    not self.system.isVirtualSite(atom),
                    f"bead atom {atom} is a virtual site: it cannot be held, restrain it instead",
                )
                self.system.setParticleMass(atom, HELD_MASS)
        else:
            self.held = np.zeros(0, int)
            self._add_restraint(mm, stiffness)

    def _add_restraint(self, mm: Any, stiffness: float) -> None:
        masses = masses_of(self.system)
        with np.errstate(divide="ignore"):
            inertia = 1.0 / np.where(self.map != 0.0, self.map**2 / masses, 0.0).sum(axis=1)
        product = np.sqrt(stiffness / _STIFFNESS / inertia.min()) * self.timestep * 1e-3
        if not product < 1.0:
            raise DataError(
                f"stiffness={stiffness:g} eV/Å² and a time step of {self.timestep:g} fs give bead {inertia.argmin()} "
                f"(mass {inertia.min():.3g} u) ω·dt = {product:.2f}, keep it below 1: lower one of the two"
            )
        require(
            not (self.periodic and self.platform not in ("Reference", "CPU")),
            "restraints in periodic systems need platform 'CPU' or 'Reference', which do not wrap atoms",
        )
        force = mm.CustomCentroidBondForce(1, _RESTRAINT)
        force.addGlobalParameter("move", 1.0)
        for name in _PER_BEAD:
            force.addPerBondParameter(name)
        for row in self.map:
            atoms = np.flatnonzero(row).tolist()
            force.addBond([force.addGroup(atoms, row[atoms].tolist())], [0.0] * len(_PER_BEAD))
        used = {f.getForceGroup() for f in self.system.getForces()}
        free = sorted(set(range(32)) - used)
        require(free, "the system's forces use all 32 force groups: leave one for the restraint")
        force.setForceGroup(free[0])
        self.system.addForce(force)
        self._restraint = (force, free[0])

    def start(self, atoms: FloatArray, target: FloatArray, temperature: float, seed: int, cell: Any = None) -> Context:
        """A context at ``atoms`` (atoms, 3), whose beads are then to be brought to ``target`` (beads, 3), Å."""
        mm = openmm()
        integrator = mm.LangevinMiddleIntegrator(temperature, self.friction, self.timestep * 1e-3)
        integrator.setRandomNumberSeed(seed)
        integrator.setConstraintTolerance(1e-7)
        beads = self.map @ atoms
        if self._restraint is not None:
            force, _ = self._restraint
            for bead, (at, shift) in enumerate(zip(0.1 * beads, 0.1 * (target - beads), strict=True)):
                groups = force.getBondParameters(bead)[0]
                force.setBondParameters(bead, groups, [self.stiffness / _STIFFNESS, *at, *shift])  # type: ignore[operator]
        try:
            platform = mm.Platform.getPlatformByName(self.platform)
        except mm.OpenMMException:
            raise DataError(f"OpenMM has no platform {self.platform!r} here; try 'CPU' or 'Reference'") from None
        context = mm.Context(self.system, integrator, platform)
        if cell is not None:
            context.setPeriodicBoxVectors(*(0.1 * np.asarray(cell, float)))
        context.setPositions(0.1 * atoms)
        context.applyConstraints(1e-7)
        context.setVelocitiesToTemperature(temperature, seed)
        return Context(self, context, integrator, beads, target)


class Context:
    """A running configuration; made by :meth:`Engine.start`."""

    def __init__(self, engine: Engine, context: Any, integrator: Any, beads: FloatArray, target: FloatArray):
        self._engine, self._context, self._integrator = engine, context, integrator
        self._from, self._to = beads, target
        self._alone = None if engine._restraint is None else 1 << engine._restraint[1]
        self._molecule = 0xFFFFFFFF & ~(self._alone or 0)  # force groups as bits

    def ramp(self, largest_step: float, steps: int) -> int:
        """Bring the beads to the target in moves of at most ``largest_step`` Å; ``steps`` time steps follow each.

        Returns the number of time steps made.
        """
        moves = max(1, int(np.ceil(np.linalg.norm(self._to - self._from, axis=1).max() / largest_step)))
        self._integrator.setFriction(20.0)  # takes away the heat of the moves
        held = self._engine.held
        atoms = self._engine.map[:, held].argmax(axis=1) if len(held) else None
        for k in range(1, moves + 1):
            if atoms is None:
                self._context.setParameter("move", k / moves)
            else:
                x = self.positions()
                x[held[atoms]] = self._from + (k / moves) * (self._to - self._from)
                self._context.setPositions(0.1 * x)
                self._context.applyConstraints(1e-7)
            self.step(steps)
        self._integrator.setFriction(self._engine.friction)
        return moves * steps

    def step(self, steps: int) -> None:
        """Advance.

        Raises
        ------
        DataError
            If OpenMM meets positions that are not numbers.
        """
        try:
            self._integrator.step(steps)
        except openmm().OpenMMException as error:
            if "is nan" not in str(error).lower():
                raise
            raise unstable(self._engine.timestep) from error

    def positions(self) -> FloatArray:
        """(atoms, 3), Å."""
        return 10.0 * self._context.getState(positions=True).getPositions(asNumpy=True)._value

    def frame(self) -> tuple[FloatArray, FloatArray, float, float]:
        """Positions (Å), forces (eV/Å) and energy (eV) of the molecule alone, and the energy of the restraint (eV)."""
        state = self._context.getState(positions=True, forces=True, energy=True, groups=self._molecule)
        restraint = 0.0
        if self._alone is not None:
            alone = self._context.getState(energy=True, groups=self._alone)
            restraint = alone.getPotentialEnergy()._value * _KJ
        return (
            10.0 * state.getPositions(asNumpy=True)._value,
            state.getForces(asNumpy=True)._value * _FORCE,
            state.getPotentialEnergy()._value * _KJ,
            restraint,
        )


def held_beads(position_map: FloatArray) -> Sequence[int] | None:
    """The atom of each bead if every bead is one atom, else None."""
    rows = position_map != 0.0
    if (rows.sum(axis=1) != 1).any():
        return None
    atoms = rows.argmax(axis=1)
    return atoms.tolist()
