"""The variables themselves, with periodic ones as sine and cosine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import DataError
from ..specs import Bound, Each, OrNone, Real, Whole
from .base import Descriptor, Environments, Pullback


@dataclass(frozen=True)
class Variables(Descriptor):
    """z = the variables x of a frame, shape (d,); one environment per frame.

    Parameters
    ----------
    columns
        Variables that are read, in this order; None for all.
    periodic
        For each variable read, its period, or None where it is not periodic. A variable of period P enters as the
        two columns sin(2πx/P), cos(2πx/P). None: no variable is periodic.

    Raises
    ------
    DataError
        If a column repeats or is negative, or a period is not positive.
    """

    columns: tuple[int, ...] | None = None
    periodic: tuple[float | None, ...] | None = None

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        "columns": OrNone(Each(Whole(least=0), least=1, distinct=True)),
        "periodic": OrNone(Each(OrNone(Real(above=0.0)))),
    }

    def dimension(self, coordinate_shape: tuple[int, ...]) -> int:
        """Number of variables read, plus one for each periodic variable."""
        if len(coordinate_shape) != 1:
            raise DataError(
                f"Variables() reads variables of shape (frames, d), the frames have shape {tuple(coordinate_shape)}: "
                "use Distances() or InternalCoordinates() for bead positions"
            )
        d = coordinate_shape[0]
        if self.columns is not None and max(self.columns) >= d:
            raise DataError(f"Variables(columns={self.columns}) names column {max(self.columns)} of {d} (from 0)")
        read = d if self.columns is None else len(self.columns)
        if self.periodic is not None and len(self.periodic) != read:
            raise DataError(
                f"Variables(periodic={self.periodic}) gives {len(self.periodic)} periods for {read} variables"
            )
        return read + sum(p is not None for p in self.periodic or ())

    def environments(self, coordinates: Tensor, cell: Tensor | None = None) -> Environments:
        """The variables of each frame; see :meth:`Descriptor.environments`. The cell is not used."""
        z, slope, source = self._read(coordinates)
        if source is None:
            return Environments(z)
        jacobian = z.new_zeros(*z.shape, coordinates.shape[1])
        jacobian[:, torch.arange(z.shape[1], device=z.device), source] = 1.0 if slope is None else slope
        return Environments(z, jacobian)

    def values_and_pullback(self, coordinates: Tensor, cell: Tensor | None = None) -> tuple[Tensor, None, Pullback]:
        """See :meth:`Descriptor.values_and_pullback`."""
        z, slope, source = self._read(coordinates)

        def pullback(g: Tensor) -> Tensor:
            if source is None:
                return g.clone()
            return torch.zeros_like(coordinates).index_add_(1, source, g if slope is None else g * slope)

        return z, None, pullback

    def _read(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        # every column of z reads one variable, `source`, with slope dz/dx; None for slopes of one, all in order
        self.dimension(tuple(x.shape[1:]))
        if self.columns is None and self.periodic is None:
            return x.clone(), None, None
        source, wave, shift = _layout(self.columns, self.periodic, x.shape[1], (x.dtype, x.device))
        x = x.index_select(1, source)
        if self.periodic is None:
            return x, None, source
        phase, wrapped = x * wave + shift, wave > 0.0
        slope = torch.where(wrapped, wave * phase.cos(), torch.ones_like(x))
        return torch.where(wrapped, phase.sin(), x), slope, source


@lru_cache(maxsize=32)  # a memo of a pure function
def _layout(columns, periodic, d: int, like: tuple[torch.dtype, torch.device]) -> tuple[Tensor, Tensor, Tensor]:
    """Source, wave number 2π/P (0: not periodic) and phase shift of every column of z; cos x = sin(x + π/2)."""
    entries: list[tuple[int, float, float]] = []
    for column, period in zip(columns or range(d), periodic or (None,) * d, strict=False):
        if period is None:
            entries.append((column, 0.0, 0.0))
        else:
            entries += [(column, 2.0 * math.pi / period, 0.0), (column, 2.0 * math.pi / period, 0.5 * math.pi)]
    dtype, device = like
    with torch.inference_mode(False):
        source, wave, shift = zip(*entries, strict=True)
        return (
            torch.tensor(source, device=device),
            torch.tensor(wave, dtype=dtype, device=device),
            torch.tensor(shift, dtype=dtype, device=device),
        )
