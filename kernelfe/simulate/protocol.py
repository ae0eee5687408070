"""The specification of a Langevin run, shared by samplers, trainers and the command line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch

from ..errors import DataError, require
from ..specs import SEED, Bound, Choice, Instance, OrNone, Real, Spec, Whole
from ..units import FEMTOSECOND
from .guard import GUARD, DomainGuard
from .moves import Move, TorsionMoves


@dataclass(frozen=True)
class LangevinProtocol(Spec):
    """Time step, length, Monte Carlo moves and random numbers of a Langevin run.

    Functions that sample take a protocol, or its fields as keyword arguments, which replace those of the protocol:
    ``run_langevin(model, x, 300.0, LangevinProtocol(timestep=2.0), masses=m, steps=500)``.

    Parameters
    ----------
    timestep
        fs. None: 5 fs, less where the stiffest bond of the model's baseline requires it (see :meth:`time_step`).
    friction
        1/ps; 0 gives velocity Verlet at constant energy.
    steps, stride, burn_in
        Production steps, steps between samples, and steps before production that are not recorded.
    moves
        Monte Carlo moves (:class:`~kernelfe.simulate.TorsionMoves`), None for none, or "auto": torsion moves about the
        bonds of the molecule that can turn.
    moves_every, move_rounds
        Steps between moves, and rounds of moves each time.
    guard
        Check that replicas stay within the training data of the model, and set back the few that do not; None: no
        check. Replicas of a model without a ``domain`` are set back only if they become unstable.
    seed
        Seed of all random numbers; the same seed gives the same trajectory, bitwise on one CPU. None: other random
        numbers in every run.
    dtype
        Floating type of the run: "float64" or "float32" (or the torch type).
    largest_phase
        Largest ω·dt of the stiffest bond with ``timestep=None``; dynamics is stable below 2.

    Raises
    ------
    DataError
        If a number is out of range.
    """

    timestep: float | None = None
    friction: float = 5.0
    steps: int = 1000
    stride: int = 10
    burn_in: int = 0
    moves: Move | str | None = None
    moves_every: int = 10
    move_rounds: int = 1
    guard: DomainGuard | None = GUARD
    seed: int | None = 0
    dtype: Any = "float64"
    largest_phase: float = 1.4

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        "timestep": OrNone(Real(above=0.0)),
        "friction": Real(least=0.0),
        **dict.fromkeys(("steps", "stride", "moves_every", "move_rounds"), Whole(least=1)),
        "burn_in": Whole(least=0),
        "seed": SEED,
        "guard": OrNone(Instance(DomainGuard, "a DomainGuard")),
        "dtype": Choice(("float64", "float32")),
        "largest_phase": Real(above=0.0, below=2.0),
    }

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", str(self.dtype).removeprefix("torch."))
        super().__post_init__()
        require(
            self.moves in (None, "auto") or hasattr(self.moves, "propose"),
            f"moves={self.moves!r}: use 'auto', None, or moves such as kernelfe.simulate.TorsionMoves",
        )
        require(
            self.steps >= self.stride,
            f"steps={self.steps} is less than stride={self.stride}: nothing would be recorded",
        )

    def with_options(self, **options: Any) -> LangevinProtocol:
        """Copy with some fields replaced; a name that is not a field is a TypeError that states it."""
        return replace(self, **options) if options else self

    def for_bonds(self, bonds: Sequence[tuple[int, int]] | None) -> LangevinProtocol:
        """Copy whose ``moves="auto"`` are torsion moves about these bonds, None where no bond can turn."""
        if self.moves != "auto":
            return self
        try:
            return replace(self, moves=None if bonds is None else TorsionMoves(bonds))
        except DataError:  # rings, or too few beads
            return replace(self, moves=None)

    def time_step(self, model: Any, masses: Sequence[float] | np.ndarray) -> float:
        """Time step in fs for a model and the masses (beads,) in u of its beads.

        With ``timestep=None`` it is 5 fs, or the step at which ω·dt of the stiffest of the model's ``stiff_bonds``
        equals ``largest_phase``.
        """
        if self.timestep is not None:
            return float(self.timestep)
        fastest = 0.0
        for i, j, stiffness in getattr(model, "stiff_bonds", None) or ():
            fastest = max(fastest, math.sqrt(stiffness * (1.0 / masses[i] + 1.0 / masses[j])) * FEMTOSECOND)
        return min(5.0, self.largest_phase / fastest) if fastest > 0.0 else 5.0

    @property
    def torch_dtype(self) -> torch.dtype:
        """Floating type of the run."""
        return torch.float32 if self.dtype == "float32" else torch.float64


#: Fields of a protocol that prepare replicas; the others belong to the run.
OF_THE_STATE = ("timestep", "friction", "seed", "dtype", "largest_phase")


def chosen(protocol: LangevinProtocol | None, options: dict[str, Any]) -> LangevinProtocol:
    """Protocol of a call: that given, or the default one, with the fields named in ``options`` replaced."""
    return (LangevinProtocol() if protocol is None else protocol).with_options(**options)


__all__ = ["LangevinProtocol", "chosen"]
