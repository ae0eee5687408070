"""Base class of the descriptors: a map from configurations to environments z(R), with its derivatives.

A configuration has one environment per molecule, one per pair, or whatever the descriptor decides. Functionals
read environments through ``Descriptor.environments`` (dense Jacobians, used in fits); samplers go through
``Descriptor.values_and_pullback``, which never builds one.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import DataError
from ..specs import Bound, Spec, hold

#: z (E, D) → the gradient with respect to z (E, D) is pulled back to the coordinates (n, *coordinate shape).
Pullback = Callable[[Tensor], Tensor]
#: One configuration → z, shape (D,), and the product with Jᵀ as a function of gradients, (D,).
Single = Callable[[NDArray[np.float64]], tuple[NDArray[np.float64], Callable[..., NDArray[np.float64]]]]


@dataclass(frozen=True)
class WeightNodes:
    """Meaning of each column of an environment, where a free energy is linear in the environments.

    Parameters
    ----------
    nodes
        Place of every column, (D, p): for a B-spline the distance at which it is largest, Å.
    groups
        Columns of different groups are unrelated, (D,); None: all are of one group.
    symmetric
        With p = 2: the order of the two coordinates does not matter.
    spacing
        Distance of neighbouring nodes, Å.
    """

    nodes: tuple[tuple[float, ...], ...]
    groups: tuple[int, ...] | None = None
    symmetric: bool = False
    spacing: float = 1.0


@dataclass(frozen=True)
class Environments:
    """The environments of a batch of n configurations, frame by frame.

    Parameters
    ----------
    z
        Environments, shape (E, D).
    jacobian
        ∂z/∂(coordinates named by ``columns``), shape (E, D, q), or None for the identity.
    columns
        Flat coordinates (3·bead + xyz, or the variable) that the last axis of ``jacobian`` refers to, shape (E, q),
        or None for all flat coordinates of the frame, in order. A coordinate may be named twice: its entries add.
    frame
        Frame of each environment, ascending, shape (E,), or None for exactly one per frame, in order.
    strain
        ∂z/∂strain at fixed scaled coordinates, shape (E, D, 6), Voigt order xx, yy, zz, yz, xz, xy with engineering
        shear (ε₄ = 2 ε_yz), so that V·stress = ∂E/∂strain in ASE's sense; None without a cell.

    Raises
    ------
    DataError
        If the shapes contradict each other.
    """

    z: Tensor
    jacobian: Tensor | None = None
    columns: Tensor | None = None
    frame: Tensor | None = None
    strain: Tensor | None = None

    def __post_init__(self) -> None:
        size, dimension = self.z.shape
        q = dimension if self.jacobian is None else self.jacobian.shape[-1]
        wanted = {
            "jacobian": (self.jacobian, (size, dimension, q)),
            "columns": (self.columns, (size, q)),
            "frame": (self.frame, (size,)),
            "strain": (self.strain, (size, dimension, 6)),
        }
        for name, (tensor, shape) in wanted.items():
            if tensor is not None and tuple(tensor.shape) != shape:
                raise DataError(
                    f"the descriptor returned {name} of shape {tuple(tensor.shape)}: with z of shape "
                    f"{(size, dimension)} it must be {shape}"
                )

    @property
    def owner(self) -> Tensor:
        """Frame of every environment, also where there is one per frame, shape (E,)."""
        return torch.arange(len(self.z), device=self.z.device) if self.frame is None else self.frame

    def pull(self, g: Tensor, coordinates: Tensor) -> Tensor:
        """Jᵀg summed into frames.

        Parameters
        ----------
        g
            Gradient with respect to z, shape (E, D).
        coordinates
            The configurations, (n, beads, 3) or (n, d); only their shape counts.

        Returns
        -------
        Tensor
            The gradient with respect to the coordinates, of their shape.
        """
        frames, flat = len(coordinates), coordinates[0].numel() if len(coordinates) else 0
        w = g if self.jacobian is None else torch.einsum("eaq,ea->eq", self.jacobian, g)
        if self.frame is None and self.columns is None:
            return w.reshape(coordinates.shape)
        columns = torch.arange(flat, device=g.device).expand(len(w), flat) if self.columns is None else self.columns
        out = g.new_zeros(frames * flat)
        out.index_add_(0, (self.owner[:, None] * flat + columns).reshape(-1), w.reshape(-1))
        return out.reshape(coordinates.shape)


class Descriptor(Spec):
    """Base of descriptors: frozen dataclasses of plain numbers.

    A new descriptor needs ``dimension`` and ``environments``. ``values_and_pullback`` then works through the dense
    Jacobian; overriding it makes sampling fast. Tensors are float64, batched, on any device; outputs are new
    tensors on the device of the input.
    """

    def dimension(self, coordinate_shape: tuple[int, ...]) -> int:
        """Columns D of an environment for frames of shape (beads, 3) or (d,).

        Raises
        ------
        DataError
            If the descriptor does not apply to such frames.
        """
        raise NotImplementedError(f"{type(self).__name__} must define dimension(coordinate_shape)")

    def environments(self, coordinates: Tensor, cell: Tensor | None = None) -> Environments:
        """Environments of a batch with their Jacobians.

        Parameters
        ----------
        coordinates
            (n, beads, 3) in Å, or variables (n, d).
        cell
            Lattice vectors as rows, (n, 3, 3) or (3, 3), Å; None without periodic boundaries.

        Raises
        ------
        DataError
            If the shapes do not fit the descriptor.
        """
        raise NotImplementedError(f"{type(self).__name__} must define environments(coordinates, cell)")

    def values_and_pullback(
        self, coordinates: Tensor, cell: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None, Pullback]:
        """The fast path of sampling: environments and the product with Jᵀ, without a dense Jacobian.

        Parameters
        ----------
        coordinates, cell
            As in :meth:`environments`.

        Returns
        -------
        z
            (E, D).
        frame
            (E,), or None for one environment per frame.
        pullback
            Maps g (E, D) to Jᵀg summed into frames, shape of ``coordinates``. Valid until the coordinates change.
        """
        environments = self.environments(coordinates, cell)
        return environments.z, environments.frame, lambda g: environments.pull(g, coordinates)

    def single(self, coordinate_shape: tuple[int, ...]) -> Single | None:
        """The fastest path, of one configuration with one environment, in NumPy; None for descriptors without it.

        Parameters
        ----------
        coordinate_shape
            (beads, 3) or (d,).

        Returns
        -------
        function or None
            Maps a configuration of that shape, without a cell, to z, shape (D,), and the product with Jᵀ, from (D,) to
            the shape of the configuration.
        """
        return None

    def bind(self, kinds: tuple[str, ...] | None) -> Descriptor:
        """This descriptor with the kinds of the beads of the data filled in where it needs them."""
        return self

    def for_molecule(self, kinds: tuple[str, ...] | None, bonds: tuple[tuple[int, int], ...] | None) -> Descriptor:
        """This descriptor with kinds and bonds of a molecule filled in where it needs them."""
        return self.bind(kinds)

    def occurs_in(self, kinds: tuple[str, ...]) -> bool:
        """True unless a molecule with beads of these kinds has no environments; False saves the search for them."""
        return True

    @property
    def weight_nodes(self) -> WeightNodes | None:
        """Places of the columns, of descriptors that sum up a basis of functions; None for all others."""
        return None

    @property
    def weight(self) -> float:
        """Factor of the environments in a term, f = weight · Σ_e g(z_e)."""
        return 1.0

    @property
    def copies(self) -> int:
        """Number of successive environments that are images of one another under permutations of like beads."""
        return 1


def single_of(descriptor: Any, coordinate_shape: tuple[int, ...]) -> Single | None:
    """The :meth:`Descriptor.single` of a descriptor; None if a subclass has changed what it is a faster form of."""
    kinds = type(descriptor).__mro__

    def place(name: str) -> int:
        return next((k for k, kind in enumerate(kinds) if name in vars(kind)), len(kinds))

    own = place("single")
    if own == len(kinds) or own > min(place("environments"), place("values_and_pullback")):
        return None
    return descriptor.single(coordinate_shape)


def check_beads(name: str, shape: tuple[int, ...]) -> int:
    """Return the number of beads of frames of shape (beads, 3).

    Raises
    ------
    DataError
        If the frames hold no bead positions.
    """
    if len(shape) != 2 or shape[1] != 3:
        raise DataError(
            f"{name} reads bead positions of shape (frames, beads, 3), the frames have shape {tuple(shape)}: "
            "use Variables() for plain variables"
        )
    return shape[0]


@dataclass(frozen=True)
class Beads(Bound):
    """Tuples of ``size`` different bead indices; numbers that are not of an integer type are refused."""

    size: int

    def __call__(self, value: Any) -> tuple[tuple[int, ...], ...]:
        # operator.index: int would make a bead of any number, 1 of 1.9
        rows = tuple(tuple(operator.index(bead) for bead in row) for row in value)
        hold(all(len(row) == len(set(row)) == self.size and min(row, default=0) >= 0 for row in rows))
        plain = type(value) is tuple and all(type(row) is tuple and all(type(b) is int for b in row) for row in value)
        return value if plain else rows

    def __str__(self) -> str:
        return f"tuples of {self.size} different bead indices, counted from 0"
