"""Remaining time of an iterative solve, from the recent decrease of its residual."""

from __future__ import annotations

import math
from collections import deque


class ResidualTrend:
    """Remaining iterations and time by a straight line through the logarithms of the last residuals.

    An estimate: conjugate gradients converge faster as extreme eigenvalues are found, and their residual does not fall
    at every step. So the line is a least-squares fit, and is continued from its own end, not from the last residual.

    Parameters
    ----------
    goal
        Residual at which the solve ends.
    limit
        Iteration at which it is given up.
    window, fewest
        Number of last iterations in the fit, and the smallest number that gives a slope.

    Examples
    --------
    >>> trend = ResidualTrend(goal=1e-6, limit=1000)
    >>> for k in range(1, 11):
    ...     trend.add(k, 10.0 ** (-0.2 * k), seconds=3.0 * k)
    >>> trend.remaining()  # 10^(-0.2 · 30) = 1e-6: 20 iterations of 3 s
    (20, 60.0)
    """

    def __init__(self, goal: float, limit: int, window: int = 30, fewest: int = 5):
        self.goal, self.limit, self.fewest = goal, limit, fewest
        self._points: deque[tuple[int, float, float]] = deque(maxlen=window)

    def add(self, iteration: int, residual: float, seconds: float) -> None:
        """A residual, and the time since the start at which it was reached."""
        if 0.0 < residual < math.inf:
            self._points.append((iteration, math.log(residual), seconds))

    def remaining(self) -> tuple[int, float] | None:
        """Iterations and seconds to the goal or the limit, whichever comes first; None without a trend."""
        points = self._points
        if len(points) < self.fewest:
            return None
        middle = sum(i for i, _, _ in points) / len(points)
        mean = sum(r for _, r, _ in points) / len(points)
        slope = sum((i - middle) * (r - mean) for i, r, _ in points) / sum((i - middle) ** 2 for i, _, _ in points)
        last, _, seconds = points[-1]
        if slope >= 0.0 or last == points[0][0]:
            return None
        here = mean + slope * (last - middle)
        # as a float first: a flat line may need more iterations than an integer of a machine holds
        wanted = min(max(0.0, (here - math.log(self.goal)) / -slope), float(self.limit - last))
        count = max(0, math.ceil(wanted - 1e-9))
        return count, count * (seconds - points[0][2]) / (last - points[0][0])


def duration(seconds: float) -> str:
    """A time to be read: "12 s", "3.4 min", "2.1 h"."""
    if seconds < 100.0:
        return f"{seconds:.0f} s"
    return f"{seconds / 60.0:.1f} min" if seconds < 6000.0 else f"{seconds / 3600.0:.1f} h"
