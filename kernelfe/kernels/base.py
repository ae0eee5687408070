"""Kernels on environments: hyperparameters, the map of environments into the kernel's own columns, covariances.

A kernel spec is made of plain numbers. For a fit, :meth:`Kernel.bound` gives a copy whose hyperparameters are
tensors; its methods read them through the same names, so that a kernel is written once. Every term first maps its
environments, jets and all, into the columns that the kernel works on (:meth:`Kernel.embed`: divided by the length
scales, laid on circles, …) and keeps them; all covariances are between embedded environments.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ..errors import DataError
from ..specs import Bound, OneOrMore, OrNone, Real, Spec, field_names
from .jets import Jets, linear


@dataclass(frozen=True)
class Embedding:
    """Environments in a kernel's own columns, and how derivatives go there and back.

    Parameters
    ----------
    z
        Embedded environments x(z), shape (E, D').
    push
        Turns gradient coefficients w by z, (E, r, D), into those by x, (E, r, D'): w_d ∂x/∂z_d summed over d.
    pull
        Turns gradients by x, (E, D'), into those by z, (E, D).
    """

    z: Tensor
    push: Callable[[Tensor], Tensor]
    pull: Callable[[Tensor], Tensor]


class Kernel(Spec):
    """Base of the kernels: a frozen dataclass of plain numbers with a Gram matrix of jets.

    A subclass must have :meth:`gram`, and a field ``lengthscale`` unless it has its own :meth:`embedding`. What is
    here follows from the two; faster versions may replace it.
    """

    #: Fields that are hyperparameters: positive numbers, or tuples of them, which a fit may change.
    POSITIVE: ClassVar[tuple[str, ...]] = ("lengthscale",)
    #: Whether κ(z, z) = 1 everywhere.
    STATIONARY: ClassVar[bool] = True
    #: Entries of a block of pairs in the products that are made of Gram matrices.
    PAIR_ENTRIES: ClassVar[int] = 1 << 22

    @classmethod
    def field_bounds(cls) -> dict[str, Bound]:
        """Bounds of the fields: hyperparameters are positive, length scales may be left to the data."""
        positive = OneOrMore(Real(above=0.0))
        own = {name: OrNone(positive) if name == "lengthscale" else positive for name in cls.POSITIVE}
        return {name: bound for name, bound in own.items() if name in field_names(cls)} | super().field_bounds()

    # ------------------------------------------------------------------ hyperparameters

    def hyperparameters(self) -> dict[str, tuple[float, ...] | None]:
        """Positive numbers by name, nested kernels as ``kernels__0__lengthscale``; None: to be set from the data."""
        values = {name: getattr(self, name) for name in self.POSITIVE}
        return {name: None if v is None else v if isinstance(v, tuple) else (float(v),) for name, v in values.items()}

    def directions(self) -> list[tuple[str, int | None]]:
        """Coordinates of a search by one coordinate at a time: a hyperparameter as a whole, or one of its numbers.

        The length scales of a kernel share one factor; everything else counts one by one.
        """
        out: list[tuple[str, int | None]] = []
        for name, value in self.hyperparameters().items():
            out += [(name, None)] if name == "lengthscale" else [(name, k) for k in range(len(value or ()))]
        return out

    def assigned(self, values: dict[str, Any]) -> Self:
        """A copy with other hyperparameters, named as in :meth:`hyperparameters`; nothing is checked."""
        out = copy.copy(self)
        for name, value in values.items():
            object.__setattr__(out, name, value)
        return out

    def with_numbers(self, values: dict[str, list[float]]) -> Self:
        """The spec with these numbers: a single one where one is enough."""
        return self.assigned({name: v[0] if len(v) == 1 else tuple(v) for name, v in values.items()})

    def bound(self, values: dict[str, Tensor], dimension: int) -> Self:
        """The kernel of a fit: a copy whose hyperparameters are the given tensors, shape (1,) or (numbers,).

        Parameters
        ----------
        values
            By the names of :meth:`hyperparameters`.
        dimension
            Columns D of the environments.
        """
        return self.assigned(values)

    def ready(self, dimension: int) -> Self:
        """The kernel with its own numbers, ready for environments of D columns; those that are None count as 1."""
        numbers = {name: (1.0,) if v is None else v for name, v in self.hyperparameters().items()}
        return self.bound({name: torch.tensor(v, dtype=torch.float64) for name, v in numbers.items()}, dimension)

    def completed(self, z: Tensor, per_column: bool, factor: float = 1.0) -> Self:
        """The spec with what it leaves to the data.

        Parameters
        ----------
        z
            Environments, shape (n, D).
        per_column
            Whether columns get length scales of their own, or share one.
        factor
            Multiplies the length scales.
        """
        if "lengthscale" not in self.POSITIVE or self.lengthscale is not None:  # type: ignore[attr-defined]
            return self
        scales = tuple(factor * v for v in self.spread(z, per_column))
        return replace(self, lengthscale=scales if per_column else scales[0])  # type: ignore[type-var]

    def spread(self, z: Tensor, per_column: bool) -> tuple[float, ...]:
        """Length scales from the spread of environments: D numbers, or one."""
        return spread(z.std(0, correction=0) if len(z) > 1 else torch.zeros_like(z).sum(0), z, per_column)

    def check(self, dimension: int) -> None:
        """Check the numbers against the columns of the environments.

        Raises
        ------
        DataError
            If one is missing, or there are more or fewer length scales than columns.
        """
        missing = [name for name, value in self.hyperparameters().items() if value is None]
        if missing:
            raise DataError(f"{type(self).__name__} lacks {', '.join(missing)}: set every number")
        count = len(self.hyperparameters().get("lengthscale") or (1.0,))
        if count not in (1, dimension):
            raise DataError(
                f"the kernel has {count} length scales, its descriptor {dimension} columns: "
                "give one number, or one per column"
            )

    # ------------------------------------------------------------------ environments

    def embedding(self, z: Tensor) -> Embedding:
        """Environments in the kernel's own columns: z/ℓ."""
        lengthscale: Any = self.lengthscale  # type: ignore[attr-defined]
        if lengthscale is None:
            return Embedding(z, lambda w: w, lambda g: g)
        scale = 1.0 / torch.as_tensor(lengthscale, dtype=z.dtype, device=z.device)
        return Embedding(z * scale, lambda w: w * scale, lambda g: g * scale)

    def embed(self, jets: Jets) -> Jets:
        """Jets in the kernel's own columns."""
        embedding = self.embedding(jets.z)
        return jets.moved(embedding.z, embedding.push)

    def inducing(self, z: Tensor, gradients: bool) -> Jets:
        """Embedded jets that read the value at z or, with ``gradients``, value and unit slopes along every column."""
        if not gradients:
            return self.embed(Jets.values(z))
        jets = self.embed(Jets.full(z))
        return jets.moved(jets.z, _normalized)

    # ------------------------------------------------------------------ covariances of embedded jets

    def gram(self, a: Jets, b: Jets, weight: Tensor | None = None) -> Tensor:
        """Covariances of all rows of ``a`` with all rows of ``b``.

        Parameters
        ----------
        weight
            Shape (E_a, E_b): multiplies the kernel, pair by pair (the thermal factors of the rows).

        Returns
        -------
        Tensor, shape (E_a, r_a, E_b, r_b)
        """
        raise NotImplementedError(f"{type(self).__name__} has no gram")

    def gram_of_sets(self, a: Jets, b: Jets) -> Tensor:
        """:meth:`gram` of many small sets of environments at once.

        Parameters
        ----------
        a, b
            Jets with a leading dimension: z (B, E, D), c (B, E, r) or None, w (B, E, r, D) or None.

        Returns
        -------
        Tensor, shape (B, E_a, r_a, E_b, r_b)
        """
        recorded = torch.is_grad_enabled()
        parts = {"az": a.z, "ac": a.c, "aw": a.w, "bz": b.z, "bc": b.c, "bw": b.w}
        given = {name: part if recorded else part.detach() for name, part in parts.items() if part is not None}

        def gram(part: dict[str, Tensor]) -> Tensor:
            return self.gram(*(Jets(part[s + "z"], part.get(s + "c"), part.get(s + "w")) for s in "ab"))

        with torch.enable_grad():  # kernels work in place without it, which vmap does row by row
            out = torch.vmap(gram)(given)
        return out if recorded else out.detach()

    def fill_gram(self, a: Jets, b: Jets, out: Tensor) -> None:
        """:meth:`gram` written into ``out``, shape (E_a r_a, E_b r_b), without gradients by hyperparameters."""
        out.copy_(self.gram(a, b).reshape(out.shape))

    def value(self, z: Tensor, nodes: Tensor) -> Tensor:
        """κ(z, z') of all pairs, shape (E, m)."""
        return self.gram(Jets.values(z), Jets.values(nodes))[:, 0, :, 0]

    def diagonal(self, a: Jets) -> Tensor:
        """Prior variance of every row, shape (E, r)."""
        rows = [self.gram(one, one)[0, :, 0].diagonal() for one in (a[i : i + 1] for i in range(len(a)))]
        return torch.stack(rows) if rows else a.z.new_zeros(0, a.rows)

    def jet_product(self, z: Tensor, nodes: Tensor, c: Tensor, w: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Value and gradient at ``z`` of expansions Σ_j [c_j κ(z, z_j) + w_j·∇' κ(z, z_j)] on ``nodes``.

        Parameters
        ----------
        z, nodes
            Embedded environments, shapes (E, D') and (m, D').
        c, w
            Coefficients, shapes (m, p) and (m, D', p): p right-hand sides in one pass.

        Returns
        -------
        Tensor, Tensor
            Values (E, p) and gradients by embedded columns (E, D', p).
        """
        size, columns = c.shape[1], z.shape[1]
        right = Jets(nodes, c, linear(lambda w: w.transpose(1, 2), w))  # one row per right-hand side
        out = z.new_zeros(len(z), 1 + columns, size)
        step = max(1, self.PAIR_ENTRIES // max(1, len(nodes) * size * (1 + columns)))
        for start in range(0, len(z), step):
            part = slice(start, start + step)
            out[part] = self.gram(Jets.full(z[part]), right).sum(2)
        return out[:, 0], out[:, 1:]

    # ------------------------------------------------------------------ composition, see composite.py

    def __add__(self, other: Kernel) -> Kernel:
        return NotImplemented

    def __mul__(self, other: Kernel) -> Kernel:
        return NotImplemented


def _normalized(w: Tensor) -> Tensor:
    """Gradient coefficients of unit length, except those that are zero."""
    norm = w.square().sum(2, keepdim=True).sqrt()
    return w / torch.where(norm > 0, norm, torch.ones_like(norm))


def spread(std: Tensor, z: Tensor, per_column: bool) -> tuple[float, ...]:
    """Twice the root mean squared distance of two environments; per column the columns share it.

    Parameters
    ----------
    std
        Standard deviation of every column, shape (D,).
    z
        The environments: columns that are constant to rounding count as of standard deviation 1.
    """
    std = torch.where(std > 1e-12 * (1.0 + z.abs().amax(0)), std, torch.ones_like(std))
    if per_column:
        return tuple((std * (2.0 * z.shape[1]) ** 0.5).tolist())
    return (float(2.0 * (2.0 * (std**2).sum()).sqrt()),)
