"""Descriptor of a term for a molecule in which it does not occur: no environments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..specs import Bound, Whole
from .base import Descriptor, Environments


@dataclass(frozen=True)
class Absent(Descriptor):
    """No environments, of ``columns`` columns.

    Parameters
    ----------
    columns
        Columns of the environments that there are in other molecules.
    """

    columns: int = 1

    BOUNDS: ClassVar[Mapping[str, Bound]] = {"columns": Whole(least=1)}

    def dimension(self, coordinate_shape: tuple[int, ...]) -> int:
        """``columns``."""
        return self.columns

    def environments(self, coordinates: Tensor, cell: Tensor | None = None) -> Environments:
        """Empty; see :meth:`Descriptor.environments`."""
        z = coordinates.new_zeros(0, self.columns)
        none = torch.zeros(0, dtype=torch.long, device=z.device)
        strain = None if cell is None else z.new_zeros(0, self.columns, 6)
        return Environments(z, z.new_zeros(0, self.columns, 1), none[:, None], none, strain)
