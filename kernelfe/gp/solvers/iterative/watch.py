"""Progress bar, log and checkpoint of a long solve."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from tqdm import tqdm

from ....linalg import Step
from ....runtime.progress import ResidualTrend, duration
from ..resume import KeptSolution

logger = logging.getLogger(__name__)


class SolveWatch:
    """Called at every iteration of conjugate gradients.

    Parameters
    ----------
    bar
        A bar of tqdm's kind.
    tolerance, max_iterations
        Where the solve ends.
    clock
        Seconds.
    """

    #: Seconds between two lines in the log.
    log_interval: ClassVar[float] = 30.0

    def __init__(self, bar, tolerance: float, max_iterations: int, clock: Callable[[], float] = time.perf_counter):
        self.bar, self.tolerance, self.clock = bar, tolerance, clock
        self.trend = ResidualTrend(0.5 * tolerance, max_iterations)  # a sweep ends a little below the tolerance
        self._start = self._logged = clock()
        self._shown = 0

    def __call__(self, step: Step) -> None:
        """Show iterations, residual and the estimated remaining time."""
        now = self.clock()
        self.trend.add(step.iteration, step.residual, now - self._start)
        left = self.trend.remaining()
        said = "" if left is None else f", about {duration(left[1])} left (estimate)"
        self.bar.set_postfix_str(f"residual {step.residual:.1e} of {self.tolerance:.0e}{said}", refresh=False)
        self.bar.update(step.iteration - self._shown)  # products for true residuals count as well
        self._shown = step.iteration
        if now - self._logged >= self.log_interval:
            self._logged = now
            logger.info(
                "conjugate gradients: %d products, residual %.1e of %.0e%s",
                step.iteration,
                step.residual,
                self.tolerance,
                said,
            )


@dataclass(frozen=True)
class Watched:
    """Progress display and checkpoint of a solve.

    Parameters
    ----------
    progress
        Show a bar with iterations, residual and estimated remaining time.
    kept
        Where the solution is written from time to time, and on an interrupt, and may be there to start from.
    """

    progress: bool = False
    kept: KeptSolution | None = None

    @contextmanager
    def solve(
        self, b: Tensor, start: Tensor | None, tolerance: float, max_iterations: int
    ) -> Iterator[tuple[Tensor | None, Callable[[Step], None]]]:
        """Context of the solve of A x = b: the x to start from, and the callback of every iteration."""
        kept = self.kept
        found = None if kept is None else kept.first(b)
        with (
            tqdm(desc="conjugate gradients", disable=not self.progress, leave=False) as bar,
            nullcontext() if kept is None else kept.guarding(),
        ):
            watch = SolveWatch(bar, tolerance, max_iterations)

            def callback(step: Step) -> None:
                watch(step)
                if kept is not None:
                    kept.keep(step)

            yield (start if found is None else found), callback
