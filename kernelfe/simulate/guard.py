"""Set back replicas that leave the training domain of their model, and stop a run in which too many do.

At regular intervals all replicas are scored by the model's domain (1 at the edge of the training data). Scores between
1 and ``stop`` are counted, since a few per mille of valid samples lie just outside the training frames. A replica that
scores beyond ``stop``, or becomes unstable, returns to its configuration at the last check, with its velocities
reversed. This is the rejection of a Metropolis move whose proposal is the dynamics between two checks (generalised
hybrid Monte Carlo; Horowitz, Phys. Lett. B 268, 247, 1991): configurations at checks sample exp(−A/kT) within the
domain. The samples of that replica since the last check repeat its configuration there, as rejections do. Samples
between two checks may lie outside, where a path leaves and returns: their averages differ by about the share of checks
that set back. Exchanges would tie replicas to each other: a check comes before each round of them, so that none lies
between two checks. The end of a run is checked as well.

If more than a share of all checks sets a replica back, the run ends with a :class:`~kernelfe.simulate.SamplingError`
that names a replica and its most unusual coordinate, and carries the state of the last check, from which the run can be
continued.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..errors import KernelfeError, require
from ..protocol import FreeEnergyModel
from ..specs import Bound, OrNone, PathName, Real, Spec, Whole
from .record import Record
from .state import LangevinState, SamplingError


@dataclass(frozen=True)
class DomainGuard(Spec):
    """Interval and limit of the checks of a run.

    Parameters
    ----------
    every
        Steps between checks. A check costs about two steps. Replica exchange checks before each round of swaps, too.
    stop
        Score beyond which a replica is set back; infinity: none. With 1 the extremes of training would be the limit.
    share
        The run ends when more than this share of the checks of single replicas set one back. 0: at the first.
    restart
        File to which the last sound state is written when the run ends early, for whatever reason; see
        :func:`~kernelfe.simulate.load_state`.

    Raises
    ------
    DataError
        If ``every`` is not a whole number of at least 1, ``stop`` not positive, ``share`` not from 0 to 1, or the
        folder of ``restart`` missing.
    """

    every: int = 50
    stop: float = 2.0
    share: float = 0.01
    restart: str | os.PathLike[str] | None = None

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        "every": Whole(least=1),
        "stop": Real(above=0.0, finite=False),
        "share": Real(least=0.0, most=1.0),
        "restart": OrNone(PathName("file")),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        file = None if self.restart is None else Path(self.restart)  # checked at once, not at the end of a long run
        require(
            file is None or (file.parent.is_dir() and not file.is_dir()),
            f"DomainGuard: restart={self.restart!r} must be the path of a file in a folder that exists",
        )


#: Default guard of samplers.
GUARD = DomainGuard()


class DomainWatch:
    """Action of a run that applies a :class:`DomainGuard`.

    Attributes
    ----------
    sound
        State at the last check.
    set_back
        (replicas,), how often each replica was set back, burn-in included.
    """

    mixes = False

    def __init__(self, guard: DomainGuard, model: FreeEnergyModel, state: LangevinState, record: Record):
        self.guard, self.every, self.record = guard, guard.every, record
        self.domain = getattr(model, "domain", None)
        self.sound, self._recorded = state.copy(), 0
        self.set_back, self._looks = np.zeros(len(state.energy), int), 1
        self.reset()
        if self.domain is not None:
            score = self.domain.score(state.positions, state.cell)
            bad = self._beyond(score)
            if bad:
                raise self._error(bad, score, state)
            outside = torch.nonzero(score > 1.0).flatten().tolist()
            if outside:
                warnings.warn(
                    f"{len(outside)} of {len(score)} replicas start outside the model's training data, replica "
                    f"{outside[0]} for example: {self.domain.culprit(state.positions[outside[0]])}",
                    stacklevel=4,
                )

    def reset(self) -> None:
        """Discard the counts of the burn-in."""
        self.checked = self.outside = 0

    @property
    def share(self) -> float | None:
        """Share of the checked configurations that score above 1; None where nothing was checked."""
        return self.outside / self.checked if self.checked else None

    def __call__(self, model: FreeEnergyModel, state: LangevinState) -> None:
        self._looks += 1
        if self.domain is not None:
            score = self.domain.score(state.positions, state.cell)
            bad = self._beyond(score)
            if bad:
                self._set_back(bad, state, self._error(bad, score, state))
            self.checked += len(score)
            self.outside += int((score > 1.0).sum())
        self.keep(state)

    def keep(self, state: LangevinState) -> None:
        """Take this state for that of the last check."""
        self.sound, self._recorded = state.copy(), self.record.count

    def rescue(self, error: SamplingError, state: LangevinState) -> None:
        """Set back the replicas of an instability; raise ``error`` if they are too many, or are not known."""
        # on a GPU instabilities are noticed late, when samples of them may have been recorded
        if not error.replicas or state.positions.is_cuda:
            raise error
        self._set_back(error.replicas, state, error)

    def report(self, state: LangevinState) -> None:
        """Warn of the replicas that were set back."""
        moved = np.flatnonzero(self.set_back)
        if len(moved):
            share = self.set_back.sum() / (self._looks * len(self.set_back))
            warnings.warn(
                f"{len(moved)} of {len(self.set_back)} replicas left the model's training data or became unstable and "
                f"were set back {self.set_back.sum()} times ({100 * share:.2g} % of all checks; replica {moved[0]} for "
                "example): the run is that within the training data. More training frames there, or a smaller "
                "timestep, avoid it",
                stacklevel=5,
            )

    def finish(self, error: BaseException) -> None:
        """Attach the last valid state to ``error`` and write it to the restart file."""
        error.state = self.sound  # type: ignore[attr-defined]
        if self.guard.restart is not None:
            try:
                self.sound.save(self.guard.restart)
            except (KernelfeError, OSError) as failed:  # must not replace the error that ended the run
                error.add_note(f"The restart file could not be written: {failed}")
            else:
                error.add_note(f"The state at step {self.sound.step} is in {os.fspath(self.guard.restart)}.")

    def _beyond(self, score: Tensor) -> list[int]:
        return torch.nonzero(~(score <= self.guard.stop)).flatten().tolist()

    def _set_back(self, bad: Sequence[int], state: LangevinState, error: SamplingError) -> None:
        """Return replicas to the last check, or raise ``error`` if that would be too many."""
        self.set_back[list(bad)] += 1
        if self.set_back.sum() > self.guard.share * self._looks * len(self.set_back):
            self.set_back[list(bad)] -= 1
            raise error
        rows = torch.as_tensor(list(bad), device=state.positions.device)
        sound = self.sound
        state.velocities[rows] = -sound.velocities[rows]
        state.positions[rows], state.energy[rows] = sound.positions[rows], sound.energy[rows]
        state.forces[rows] = sound.forces[rows]
        if state.cell is not None and sound.cell is not None:
            state.cell[rows] = sound.cell[rows]
        self.record.overwrite(self.record.count - self._recorded, rows, state)

    def _error(self, bad: list[int], score: Tensor, state: LangevinState) -> SamplingError:
        assert self.domain is not None
        worst = bad[int(score[bad].argmax())]
        return SamplingError(
            f"{len(bad)} of {len(score)} replicas are far outside the model's training data at step {state.step}; "
            f"replica {worst}: {self.domain.culprit(state.positions[worst])}. "
            + (
                "Start from configurations like those of training."
                if state.step == 0
                else f"With them more than {100 * self.guard.share:g} % of the checks set a replica back. Predictions "
                "are not reliable there. Try a smaller timestep or temperatures within those of training, add training "
                "frames there, or raise DomainGuard(stop=…) or its share=. The samples so far are in the exception's "
                ".trajectory, the last sound state in .state."
            ),
            bad,
            state.step,
        )


__all__ = ["GUARD", "DomainGuard", "DomainWatch"]
