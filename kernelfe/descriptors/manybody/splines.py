"""Cubic B-splines on uniform knots: a basis of functions of a distance with two continuous derivatives."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class UniformSplines:
    """Cubic B-splines B_a(r) = β((r − first)/step − a), a < count, with β the spline of the knots 0, 1, 2, 3, 4.

    Every spline vanishes, with two derivatives, outside (first + a·step, first + (a + 4)·step). At every r between
    first + 3 step and first + count·step the splines add up to one.

    Parameters
    ----------
    first
        First knot of the first spline, Å.
    step
        Distance of knots, Å.
    count
        Number of splines.
    """

    first: float
    step: float
    count: int

    @classmethod
    def between(cls, start: float, stop: float, spacing: float, open_start: bool = False) -> UniformSplines:
        """The splines that vanish, with two derivatives, at ``stop`` and, unless ``open_start``, at ``start``.

        Parameters
        ----------
        start, stop
            Å.
        spacing
            Distance of knots, Å, made smaller such that a whole number of them fits.
        open_start
            Keep the three splines that begin before ``start``, so that functions have any value there.
        """
        intervals = max(1, round((stop - start) / spacing))
        step = (stop - start) / intervals
        return cls(start - 3.0 * step, step, intervals) if open_start else cls(start, step, intervals - 3)

    @property
    def stop(self) -> float:
        """End of the last spline, Å."""
        return self.first + (self.count + 3) * self.step

    @property
    def centres(self) -> tuple[float, ...]:
        """Maximum of each spline, Å."""
        return tuple(self.first + (a + 2.0) * self.step for a in range(self.count))

    def local(self, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The four splines that may differ from zero at each distance.

        Parameters
        ----------
        r
            Distances, shape (E,).

        Returns
        -------
        index, value, slope
            Numbers of the splines, values and derivatives by r, each (E, 4). Where a spline of such a number does not
            exist the index is 0, value and slope are zero.
        """
        u = (r - self.first) / self.step
        # clamped first: the whole part of what is far away, or not finite, is not defined
        interval = torch.nan_to_num(u.detach()).clamp(-1.0, self.count + 4.0).floor()
        f = u - interval
        g = 1.0 - f
        value = torch.stack([g**3, 3.0 * f**3 - 6.0 * f**2 + 4.0, 3.0 * g**3 - 6.0 * g**2 + 4.0, f**3], -1).div(6.0)
        slope = torch.stack([-(g**2), 3.0 * f**2 - 4.0 * f, 4.0 * g - 3.0 * g**2, f**2], -1).div(2.0 * self.step)
        index = interval.long()[:, None] + torch.arange(-3, 1, device=r.device)
        there = (index >= 0) & (index < self.count)
        zero = value.new_zeros(())
        return torch.where(there, index, 0), torch.where(there, value, zero), torch.where(there, slope, zero)

    def dense(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """Values and derivatives by r of all splines, each (E, count)."""
        index, value, slope = self.local(r)
        empty = value.new_zeros(len(r), self.count)
        return empty.scatter_add(1, index, value), empty.scatter_add(1, index, slope)
