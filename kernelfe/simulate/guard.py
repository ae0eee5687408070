"""Stop a run that leaves the training domain of its model.

At regular intervals all replicas are scored by the model's domain (1 at the edge of the training data). Scores between
1 and ``stop`` are counted, since a few per mille of valid samples lie just outside the training frames; beyond ``stop``
the run ends with a :class:`~kernelfe.simulate.SamplingError` that names the replica and its most unusual coordinate,
and carries the state of the last check, from which the run can be continued.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import KernelfeError, require
from ..protocol import FreeEnergyModel
from ..specs import Bound, OrNone, PathName, Real, Spec, Whole
from .state import LangevinState, SamplingError


@dataclass(frozen=True)
class DomainGuard(Spec):
    """Interval and limit of the checks of a run.

    Parameters
    ----------
    every
        Steps between checks. A check costs about two steps.
    stop
        Score beyond which the run ends; infinity: never. With 1 the extremes of training would be the limit.
    restart
        File to which the last sound state is written when the run ends early, for whatever reason; see
        :func:`~kernelfe.simulate.load_state`.

    Raises
    ------
    DataError
        If ``every`` is not a whole number of at least 1, ``stop`` not positive, or the folder of ``restart`` missing.
    """

    every: int = 50
    stop: float = 2.0
    restart: str | os.PathLike[str] | None = None

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        "every": Whole(least=1),
        "stop": Real(above=0.0, finite=False),
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
    """Action of a run that applies a :class:`DomainGuard`."""

    def __init__(self, guard: DomainGuard, model: FreeEnergyModel, state: LangevinState):
        self.guard, self.every = guard, guard.every
        self.domain = getattr(model, "domain", None)
        self.sound = state.copy()
        self.reset()
        if self.domain is not None:
            score = self.domain.score(state.positions)
            self._stop_beyond(score, state)
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
        if self.domain is not None:
            score = self.domain.score(state.positions)
            self._stop_beyond(score, state)
            self.checked += len(score)
            self.outside += int((score > 1.0).sum())
        self.sound = state.copy()

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

    def _stop_beyond(self, score: Tensor, state: LangevinState) -> None:
        bad = torch.nonzero(~(score <= self.guard.stop)).flatten().tolist()
        if not bad:
            return
        assert self.domain is not None
        worst = bad[int(score[bad].argmax())]
        raise SamplingError(
            f"{len(bad)} of {len(score)} replicas are far outside the model's training data at step {state.step}; "
            f"replica {worst}: {self.domain.culprit(state.positions[worst])}. "
            + (
                "Start from configurations like those of training."
                if state.step == 0
                else "Predictions are not reliable there. Try a smaller timestep or temperatures within those of "
                "training, add training frames there, or raise DomainGuard(stop=…). The samples so far are in the "
                "exception's .trajectory, the last sound state in .state."
            ),
            bad,
            state.step,
        )


__all__ = ["GUARD", "DomainGuard", "DomainWatch"]
