"""Collective variables of atoms: distances, angles, dihedrals, or any differentiable torch function of positions.

A variable is a callable ξ(x) → (n,) or (n, d) on a tensor x of shape (n, atoms, 3), Å, each frame on its own. Its
gradients and Hessians are those of automatic differentiation, exact to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import DataError
from ...geometry.internal import torsion_angle

#: A function of positions (n, atoms, 3) that returns (n,) or (n, d).
Variable = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Distance:
    """|x_j − x_i|, Å.

    Parameters
    ----------
    i, j
        Atoms.
    """

    i: int
    j: int

    def __call__(self, positions: Tensor) -> Tensor:
        """(n,) for positions (n, atoms, 3)."""
        return torch.linalg.vector_norm(positions[:, self.j] - positions[:, self.i], dim=-1)


@dataclass(frozen=True)
class Angle:
    """The angle at j between i and k, rad, in (0, π).

    Parameters
    ----------
    i, j, k
        Atoms.
    """

    i: int
    j: int
    k: int

    def __call__(self, positions: Tensor) -> Tensor:
        """(n,) for positions (n, atoms, 3)."""
        a, b = (positions[:, end] - positions[:, self.j] for end in (self.i, self.k))
        # atan2 keeps its precision where acos loses it, near 0 and π
        return torch.atan2(torch.linalg.vector_norm(torch.linalg.cross(a, b), dim=-1), (a * b).sum(-1))


@dataclass(frozen=True)
class Dihedral:
    """The dihedral of i, j, k, l about j–k, rad, in (−π, π], IUPAC sign.

    Parameters
    ----------
    i, j, k, l
        Atoms.
    """

    i: int
    j: int
    k: int
    l: int  # noqa: E741

    #: 2π: the variable is an angle around the circle.
    period = 2.0 * math.pi

    def __call__(self, positions: Tensor) -> Tensor:
        """(n,) for positions (n, atoms, 3)."""
        a, b, c, d = (positions[:, atom] for atom in (self.i, self.j, self.k, self.l))
        return torsion_angle(b - a, c - b, d - c)


def periods(variables: Sequence[Variable], widths: Sequence[int] | None = None) -> tuple[float | None, ...]:
    """Period of each column, None where it has none: ready for ``descriptors.Variables(periodic=...)``.

    Parameters
    ----------
    variables
        An attribute ``period`` of a variable is taken for all of its columns.
    widths
        Number of columns of each variable; None: one.
    """
    columns = [1] * len(variables) if widths is None else list(widths)
    return tuple(getattr(v, "period", None) for v, k in zip(variables, columns, strict=True) for _ in range(k))


class Derivatives:
    """Values, gradients and Hessians of variables at some frames.

    Parameters
    ----------
    variables
        Callables, see the module.
    positions
        (n, atoms, 3), float64.
    first
        Number of the first of these frames, for messages.

    Attributes
    ----------
    values : Tensor (n, d)
    gradients : Tensor (n, d, atoms, 3)
        With the graph of their own derivatives.
    widths : tuple of int
        Columns of each variable.
    atoms : Tensor
        Atoms that any gradient of these frames moves.

    Raises
    ------
    DataError
        If a variable is not (n,) or (n, d), not differentiable twice, or not finite.
    """

    def __init__(self, variables: Sequence[Variable], positions: Tensor, first: int = 0):
        self.first = first
        self.positions = positions.detach().clone().requires_grad_()
        n, columns, widths = len(positions), [], []
        for number, variable in enumerate(variables):
            value = variable(self.positions)
            if not isinstance(value, Tensor) or value.ndim not in (1, 2) or len(value) != n:
                raise DataError(
                    f"variable {number} ({variable!r}) must return a tensor (n,) or (n, d) for {n} frames, it returned "
                    f"{tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__}"
                )
            columns += list(value.reshape(n, -1).unbind(1))
            widths.append(value.reshape(n, -1).shape[1])
        self.widths = tuple(widths)
        if not columns:
            raise DataError("there are no variables: give at least one, such as Dihedral(4, 6, 8, 14)")
        self.values = torch.stack([column.detach() for column in columns], 1)
        self._check(self.values, "value")
        gradients = [self._gradient(column, k) for k, column in enumerate(columns)]
        self.gradients = torch.stack(gradients, 1)
        self._check(self.gradients, "gradient")
        self.atoms = torch.nonzero((self.gradients.detach() != 0.0).any(dim=3).any(dim=1).any(dim=0)).ravel()

    def hessian(self, column: int, atoms: Tensor) -> Tensor:
        """Second derivatives of one variable by the coordinates of ``atoms``, (n, 3 atoms, 3 atoms)."""
        gradient = self.gradients[:, column][:, atoms].flatten(1)
        rows = []
        for k in range(gradient.shape[1]):
            row = self._derivative(gradient[:, k], column)
            rows.append(torch.zeros_like(gradient) if row is None else row[:, atoms].flatten(1))
        hessian = torch.stack(rows, 1)
        self._check(hessian, "second derivative")
        return hessian

    def _gradient(self, value: Tensor, column: int) -> Tensor:
        gradient = self._derivative(value, column, create_graph=True)
        if gradient is None:
            raise DataError(f"variable {column} does not depend on the positions by torch operations: it has no field")
        return gradient

    def _derivative(self, value: Tensor, column: int, create_graph: bool = False) -> Tensor | None:
        if not value.requires_grad:
            return None
        try:
            found = torch.autograd.grad(
                value.sum(), self.positions, create_graph=create_graph, retain_graph=True, allow_unused=True
            )
        except RuntimeError as error:
            raise DataError(
                f"variable {column} cannot be differentiated twice by torch ({error}); write it with other operations "
                "(torch.cdist, for one, has no second derivative)"
            ) from error
        return found[0]

    def _check(self, values: Tensor, what: str) -> None:
        finite = torch.isfinite(values.detach()).flatten(1).all(1)
        if not bool(finite.all()):
            frame = self.first + int(torch.nonzero(~finite)[0])
            raise DataError(
                f"a {what} of the variables is not finite at frame {frame}: atoms coincide or lie on a line"
            )
