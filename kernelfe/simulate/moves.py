"""Monte Carlo moves between Langevin steps: rigid rotations of fragments about bonds.

A move proposes R' from R with a symmetric proposal of unit Jacobian and is accepted with probability
min(1, exp(−[A(R';T) − A(R;T)]/kT)), which leaves exp(−A/kT) invariant exactly. Velocities are kept: in the target
density they are independent of R, so the joint density is invariant as well, and no kinetic energy enters the test.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from ..errors import DataError, require
from ..geometry.topology import dihedrals_of, fragment
from ..protocol import FreeEnergyModel
from ..specs import Bound, Each, OneOrMore, OrNone, Real, Spec, Whole
from ..units import BOLTZMANN
from .state import LangevinState, MoveStatistics, evaluate


class Move(Protocol):
    """Family of symmetric proposals of unit Jacobian."""

    @property
    def names(self) -> tuple[str, ...]:
        """One name per kind of move in the family, for the statistics."""
        ...

    def propose(self, positions: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Propose one move per replica.

        Parameters
        ----------
        positions
            (n, beads, 3), Å; must not be changed.
        generator
            The only source of randomness.

        Returns
        -------
        proposal, kind
            (n, beads, 3), Å, a new tensor; (n,) long, the index of the kind of move into ``names``.
        """
        ...


def metropolis(
    model: FreeEnergyModel,
    state: LangevinState,
    moves: Move,
    statistics: MoveStatistics | None = None,
    rounds: int = 1,
) -> Tensor:
    """Try moves in every replica, one after the other, and update the state in place.

    A round costs one call of the model. If it has the optional method ``energies``, proposals are judged by it, and
    forces are computed once, after the last round, of the replicas that have moved; otherwise, with cells, and on a
    GPU, which would have to wait to know them, every call gives energies and forces. A proposal whose energy is not
    finite is rejected.

    Parameters
    ----------
    model
        The free energy model.
    state
        Replicas; positions, energy and forces of accepted ones change.
    moves
        Family of moves.
    statistics
        Counters to add to.
    rounds
        Moves of each replica.

    Returns
    -------
    Tensor
        (n,) bool, True for replicas that accepted a move.
    """
    plain = not state.positions.is_cuda and state.cell is None
    energies = getattr(model, "energies", None) if plain else None
    moved = torch.zeros(len(state.positions), dtype=torch.bool, device=state.positions.device)
    for _ in range(rounds):
        proposal, kind = moves.propose(state.positions, state.generator)
        forces = None
        if energies is None:
            energy, forces = evaluate(model, proposal, state.model_temperature, state.cell)
        else:
            energy = energies(proposal, state.model_temperature).detach().to(proposal.dtype)
        exponent = (state.energy - energy) / (BOLTZMANN * state.temperature)
        uniform = torch.rand(exponent.shape, generator=state.generator, dtype=torch.float64, device=exponent.device)
        accept = torch.isfinite(energy) & (uniform.log() < exponent)
        state.positions.copy_(torch.where(accept[:, None, None], proposal, state.positions))
        state.energy = torch.where(accept, energy, state.energy)
        if forces is not None:
            state.forces = torch.where(accept[:, None, None], forces, state.forces)
        if statistics is not None:
            statistics.add(kind, accept)
        moved |= accept
    if energies is not None:
        _evaluate_moved(model, state, moved)
    return moved


def _evaluate_moved(model: FreeEnergyModel, state: LangevinState, moved: Tensor) -> None:
    """Energy and forces of the replicas that have moved."""
    rows = torch.nonzero(moved).flatten()
    if not len(rows):
        return
    at = state.model_temperature
    energy, forces = evaluate(model, state.positions[rows], at[rows] if isinstance(at, Tensor) else at)
    state.energy, state.forces = state.energy.clone(), state.forces.clone()  # the model's own, perhaps
    state.energy[rows], state.forces[rows] = energy, forces


def _rotatable(bonds: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    """Bonds outside rings with further beads on both sides, directed towards the smaller side."""
    axes = []
    for i, j in sorted({dihedral[1:3] for dihedral in dihedrals_of(bonds)}):
        try:
            before, behind = len(fragment(bonds, j, i)), len(fragment(bonds, i, j))
        except DataError:  # part of a ring
            continue
        axes.append((i, j) if behind <= before else (j, i))
    return tuple(axes)


@dataclass(frozen=True, repr=False)
class TorsionMoves(Spec):
    """Rotate the fragment behind a bond rigidly about that bond, one random bond per replica and round.

    Let i–j be the bond, u its direction and S the beads on one side of it. The proposal turns every bead of S by an
    angle θ about the line through i and j: bond lengths and angles stay, the torsions about i–j shift by θ. Beads i and
    j do not move, so the map is a fixed rotation of the other beads: unit Jacobian; bond and θ are drawn independently
    of R, and θ and −θ are equally likely: symmetric. Replicas therefore hop over torsional barriers with exact detailed
    balance. Energies of proposals are used without a check: the model must be repulsive where beads overlap (a
    baseline), since moves reach configurations that dynamics would not.

    Parameters
    ----------
    bonds
        Pairs of beads that are bonded.
    axes
        Pairs (i, j) to rotate about, the side of j turning. None: every bond outside rings with at least one further
        bead on both sides, the smaller side turning.
    width
        θ is uniform in [−width, width), rad. A sequence of widths draws one of them for each proposal (for example
        ``(0.3, math.pi)``: half small steps, half hops); a mixture of symmetric proposals is symmetric.

    Raises
    ------
    DataError
        If an axis is not a bond or lies in a ring, if there is nothing to rotate, or a width is outside (0, π].
    """

    bonds: Sequence[tuple[int, int]]
    axes: Sequence[tuple[int, int]] | None = None
    width: float | Sequence[float] = math.pi

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        "bonds": Each(Each(Whole(least=0), count=2)),
        "axes": OrNone(Each(Each(Whole(least=0), count=2))),
        "width": OneOrMore(Real(above=0.0, most=math.pi)),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rotated", "_sides", "_beads"):  # computed again after set_params
            self.__dict__.pop(name, None)
        derived = "no bond outside rings has further beads on both sides"
        missing = derived if self.axes is None else "axes is empty"
        require(self.rotated, f"TorsionMoves: {missing}; pass axes, pairs of beads that are bonded")
        for (i, j), side in zip(self.rotated, self._sides, strict=True):
            require(side, f"TorsionMoves: nothing turns behind bead {j} of axis ({i}, {j}); try ({j}, {i})")

    @cached_property
    def rotated(self) -> tuple[tuple[int, int], ...]:
        """Axes that fragments turn about: those given, or found from the bonds."""
        return _rotatable(tuple(self.bonds)) if self.axes is None else tuple(self.axes)

    @property
    def names(self) -> tuple[str, ...]:
        """One name per axis."""
        return tuple(f"torsion {i}-{j}" for i, j in self.rotated)

    @cached_property
    def _sides(self) -> tuple[tuple[int, ...], ...]:
        """Beads that turn about each axis."""
        bonds = tuple(self.bonds)
        return tuple(tuple(bead for bead in fragment(bonds, i, j) if bead != j) for i, j in self.rotated)

    @property
    def _widths(self) -> tuple[float, ...]:
        return self.width if isinstance(self.width, tuple) else (self.width,)  # type: ignore[return-value]

    @cached_property
    def _beads(self) -> int:
        return 1 + max(max(bond) for bond in self.bonds)

    def __repr__(self) -> str:
        return f"TorsionMoves(axes={self.rotated}, width={self.width})"

    def propose(self, positions: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Turn one random fragment of every replica by a random angle; see :class:`Move`.

        Raises
        ------
        DataError
            If the positions have fewer beads than the bonds name.
        """
        n, beads, _ = positions.shape
        if beads < self._beads:  # checked here: moves are made before the positions are known
            raise DataError(f"TorsionMoves: bonds name bead {self._beads - 1}, the positions have {beads} beads")
        device = positions.device
        mask, ends, widths = _constants(self.rotated, self._sides, self._widths, beads, (positions.dtype, device))
        kind = torch.randint(len(self._sides), (n,), generator=generator, device=device)
        width = widths[torch.randint(len(widths), (n,), generator=generator, device=device)]
        angle = (2 * torch.rand(n, generator=generator, dtype=positions.dtype, device=device) - 1) * width

        frame = torch.arange(n, device=device)
        # (3, beads, n): every operation runs over contiguous replicas
        x, origin = positions.permute(2, 1, 0).contiguous(), positions[frame, ends[kind, 0]].T.contiguous()
        axis = positions[frame, ends[kind, 1]].T - origin
        axis = axis / torch.linalg.vector_norm(axis, dim=0)
        arm, cosine = x - origin[:, None], angle.cos()
        # Rodrigues: x cosθ + (u × x) sinθ + u (u·x)(1 − cosθ)
        along = (arm * axis[:, None]).sum(0) * (1 - cosine)
        turned = arm * cosine + axis[:, None] * along + origin[:, None]
        (rx, ry, rz), (ux, uy, uz) = arm, axis * angle.sin()
        turned[0] += uy * rz - uz * ry
        turned[1] += uz * rx - ux * rz
        turned[2] += ux * ry - uy * rx
        return torch.where(mask[kind].T, turned, x).permute(2, 1, 0).contiguous(), kind


@lru_cache(maxsize=32)  # a memo of a pure function, called in every round
def _constants(axes, sides, width, beads: int, like: tuple[torch.dtype, torch.device]) -> tuple[Tensor, Tensor, Tensor]:
    """Beads that each kind of move turns, (kinds, beads); the ends of its axis, (kinds, 2); widths."""
    dtype, device = like
    with torch.inference_mode(False):
        mask = torch.zeros(len(axes), beads, dtype=torch.bool, device="cpu")
        for row, side in zip(mask, sides, strict=True):
            row[list(side)] = True
        return mask.to(device), torch.tensor(axes, device=device), torch.tensor(width, dtype=dtype, device=device)


__all__ = ["Move", "TorsionMoves", "metropolis"]
