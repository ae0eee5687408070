"""Frames as the models see them: torch tensors of configurations and thermodynamic states."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..arrays import real_array
from ..descriptors import Environments
from ..errors import DataError
from ..functionals import Read
from .molecules import Molecule

#: Frames of a liquid whose pairs and triplets are in memory together.
SUMMED_FRAMES = 16


@dataclass
class States:
    """A batch of states (R, T, λ), with fields and cells for the functionals that need them.

    Parameters
    ----------
    coordinates
        Shape (n, beads, 3) or (n, d).
    temperature
        Shape (n,), K.
    parameters
        Values of each parameter, shape (n,).
    counts
        Beads or molecules of each kind, shape (n, X).
    fields
        Displacement fields, shape (n, k, coordinates of a frame), or None.
    cell
        Shape (n, 3, 3), or None.
    molecule
        The molecule of these configurations; descriptors are bound to its beads. None: they are used as they are.
    """

    coordinates: Tensor
    temperature: Tensor
    parameters: dict[str, Tensor]
    counts: Tensor
    fields: Tensor | None = None
    cell: Tensor | None = None
    molecule: Molecule | None = None
    _environments: dict[Any, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def from_frames(
        cls, frames, temperature=None, counts=None, device: str | torch.device = "cpu", molecule=None
    ) -> States:
        """Convert Frames (or a slice of them); ``temperature`` replaces theirs.

        On the CPU the tensors share memory with the arrays of the Frames (:func:`without_copy`) and must not be
        changed in place: a fit needs no second copy of its frames.
        """

        def tensor(array):
            return None if array is None else without_copy(array).to(device)

        size = len(frames)
        t = frames.temperature if temperature is None else real_array(temperature, "temperature", "K").copy()
        if t.shape not in ((), (1,), (size,)):
            raise DataError(f"temperature has shape {t.shape}: pass a number, or one per frame, shape ({size},)")
        t = np.broadcast_to(t, (size,))
        if not (np.isfinite(t).all() and (t > 0).all()):
            raise DataError("temperature must be positive and finite, in kelvin")
        fields = tensor(frames.displacements)
        return cls(
            tensor(frames.coordinates),
            tensor(t),
            {name: tensor(value) for name, value in frames.parameters.items()},
            tensor(np.ones((size, 1)) if counts is None else counts),
            None if fields is None else fields.flatten(2),
            tensor(frames.cell),
            molecule,
        )

    def __len__(self) -> int:
        return len(self.coordinates)

    @property
    def coordinate_shape(self) -> tuple[int, ...]:
        """(beads, 3) or (d,)."""
        return tuple(self.coordinates.shape[1:])

    @property
    def field_count(self) -> int | None:
        """Displacement fields per frame, or None."""
        return None if self.fields is None else self.fields.shape[1]

    @property
    def volume(self) -> Tensor | None:
        """Cell volumes, shape (n,)."""
        return None if self.cell is None else torch.linalg.det(self.cell).abs()

    def resolve(self, read: Read) -> Read:
        """Replace the parameter ``"*"`` of a read by the only parameter there is."""
        if read.parameter != "*":
            if read.parameter is not None and read.parameter not in self.parameters:
                raise DataError(f"unknown parameter {read.parameter!r}; the data have {sorted(self.parameters)}")
            return read
        if len(self.parameters) != 1:
            raise DataError(
                f"the data have {len(self.parameters)} parameters {sorted(self.parameters)}: "
                "say which one is meant, as in 'parameter_derivative:NAME'"
            )
        return replace(read, parameter=next(iter(self.parameters)))

    def environments(self, descriptor):
        """Environments of a descriptor, computed once for all functionals read on these states."""
        if descriptor not in self._environments:
            bound = descriptor if self.molecule is None else self.molecule.bound(descriptor)
            self._environments[descriptor] = bound.environments(self.coordinates, cell=self.cell)
        return self._environments[descriptor]

    def values(self, descriptor):
        """Environments of a descriptor for functionals that read values only; sums over a basis without Jacobians."""
        if descriptor in self._environments or getattr(descriptor, "weight_nodes", None) is None:
            return self.environments(descriptor)
        bound = descriptor if self.molecule is None else self.molecule.bound(descriptor)
        cells = [None] * len(self) if self.cell is None else self.cell.split(SUMMED_FRAMES)
        blocks = zip(self.coordinates.split(SUMMED_FRAMES), cells, strict=False)
        parts = [bound.values_and_pullback(x, cell=cell)[0] for x, cell in blocks]
        return Environments(torch.cat(parts) if parts else self.environments(descriptor).z)

    def to(self, device: torch.device) -> States:
        """The same states on a device."""
        if self.temperature.device == device:
            return self
        return States(
            self.coordinates.to(device),
            self.temperature.to(device),
            {name: value.to(device) for name, value in self.parameters.items()},
            self.counts.to(device),
            None if self.fields is None else self.fields.to(device),
            None if self.cell is None else self.cell.to(device),
            self.molecule,
        )

    def __getitem__(self, index) -> States:
        return States(
            self.coordinates[index],
            self.temperature[index],
            {name: value[index] for name, value in self.parameters.items()},
            self.counts[index],
            None if self.fields is None else self.fields[index],
            None if self.cell is None else self.cell[index],
            self.molecule,
        )


def without_copy(array: np.ndarray) -> Tensor:
    """A tensor of an array of numbers, on the memory of the array where that is all its own.

    A part of a larger array is copied, since it would keep all of that alive; so is what is not float64 in C order.
    """
    own = array.base is None or getattr(array.base, "nbytes", np.inf) <= array.nbytes
    if not own or array.dtype != np.float64 or not array.flags.c_contiguous:
        return torch.from_numpy(np.array(array, dtype=np.float64, order="C"))
    return torch.from_numpy(np.asarray(_Writable(array)))


class _Writable:
    """The memory of an array, declared writable: arrays of Frames are read-only, of which torch would warn."""

    def __init__(self, array: np.ndarray):
        self.array = array  # lives as long as the tensor does
        self.__array_interface__ = {**array.__array_interface__, "data": (array.ctypes.data, False)}
