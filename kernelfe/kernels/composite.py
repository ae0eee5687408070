"""Sums and products of kernels, of all columns or of some each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ..errors import DataError, require
from ..specs import Bound, Each, Instance, OrNone, Real, Whole
from .base import Embedding, Kernel
from .scalars import Profile, Scalar, ScalarKernel

#: What can be combined, in words.
COMBINED = (
    "a kernel that can be combined: only radial and dot-product kernels, and sums and products of them, are functions "
    "of scalars"
)


@dataclass(frozen=True)
class Composite(ScalarKernel):
    """Base of the two: kernels that are functions of scalars, each on its columns.

    Parameters
    ----------
    kernels
        The parts.
    columns
        Columns of the environments that each part reads, a tuple per part; None: all of them read all.
    """

    kernels: tuple[ScalarKernel, ...] = ()
    columns: tuple[tuple[int, ...] | None, ...] | None = None

    POSITIVE: ClassVar[tuple[str, ...]] = ()
    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        "kernels": Each(Instance(ScalarKernel, COMBINED), least=1),
        "columns": OrNone(Each(OrNone(Each(Whole(least=0), least=1, distinct=True)))),
    }

    def __post_init__(self):
        super().__post_init__()
        require(
            self.columns is None or len(self.columns) == len(self.kernels),
            f"{type(self).__name__}: columns={self.columns!r} must hold an entry for each of the {len(self.kernels)} "
            "kernels",
        )

    @classmethod
    def of(cls, first: Kernel, second: Kernel) -> Self:
        """Two kernels as one; equal-weight composites of the same kind are taken apart."""
        parts: list[Any] = []
        for kernel in (first, second):
            plain = type(kernel) is cls and all(
                getattr(kernel, f.name) is None for f in fields(kernel) if f.name != "kernels"
            )
            parts += kernel.kernels if plain else [kernel]  # type: ignore[attr-defined]
        return cls(kernels=tuple(parts))

    @property
    def STATIONARY(self) -> bool:  # type: ignore[override]
        """True if all parts are stationary."""
        return all(kernel.STATIONARY for kernel in self.kernels)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameters by name; with ``deep`` also those of the parts, as ``kernels__0__lengthscale``."""
        params = super().get_params(deep)
        for k, kernel in enumerate(self.kernels if deep else ()):
            params[f"kernels__{k}"] = kernel
            params |= {f"kernels__{k}__{name}": value for name, value in kernel.get_params().items()}
        return params

    def set_params(self, **params: Any) -> Self:
        """Set parameters by name, those of the parts too, and return self."""
        own = {key: value for key, value in params.items() if not key.startswith("kernels__")}
        if len(own) == len(params):
            return super().set_params(**own)
        kernels = list(own.get("kernels", self.kernels))
        for key, value in params.items():
            if key in own:
                continue
            place, _, inner = key.removeprefix("kernels__").partition("__")
            if not place.isdecimal() or int(place) >= len(kernels):
                raise DataError(
                    f"{type(self).__name__} has no parameter {key!r}: it holds {len(kernels)} kernels, from 0"
                )
            # a copy of the part: other kernels may hold the same one
            kernels[int(place)] = copy(kernels[int(place)]).set_params(**{inner: value}) if inner else value
        return super().set_params(**own | {"kernels": tuple(kernels)})

    # ------------------------------------------------------------------ hyperparameters of all parts

    def hyperparameters(self) -> dict[str, tuple[float, ...] | None]:
        """Positive numbers by name, of the parts first."""
        out: dict[str, tuple[float, ...] | None] = {}
        for k, kernel in enumerate(self.kernels):
            out |= {f"kernels__{k}__{name}": value for name, value in kernel.hyperparameters().items()}
        return out | super().hyperparameters()

    def directions(self) -> list[tuple[str, int | None]]:
        """Coordinates of a search by one coordinate at a time."""
        parts = [
            (f"kernels__{k}__{name}", at) for k, kernel in enumerate(self.kernels) for name, at in kernel.directions()
        ]
        # of the weights only the ratios to the first count
        own = self.hyperparameters()
        return parts + [(name, at) for name in self.POSITIVE for at in range(1, len(own[name] or ()))]

    def _of(self, k: int, values: dict[str, Any]) -> dict[str, Any]:
        prefix = f"kernels__{k}__"
        return {name[len(prefix) :]: value for name, value in values.items() if name.startswith(prefix)}

    def _own(self, values: dict[str, Any]) -> dict[str, Any]:
        return {name: values[name] for name in self.POSITIVE if name in values}

    def with_numbers(self, values: dict[str, list[float]]) -> Self:
        """The spec with these numbers."""
        kernels = tuple(kernel.with_numbers(self._of(k, values)) for k, kernel in enumerate(self.kernels))
        return self.assigned({name: tuple(v) for name, v in self._own(values).items()} | {"kernels": kernels})

    def bound(self, values: dict[str, Tensor], dimension: int) -> Self:
        """The kernel of a fit, with its parts bound to their columns."""
        kernels = tuple(
            kernel.bound(self._of(k, values), len(self._columns(k, dimension))) for k, kernel in enumerate(self.kernels)
        )
        probe = torch.zeros(1, dimension, dtype=torch.float64)
        with torch.no_grad():
            widths = [
                kernel.embedding(probe[:, self._columns(k, dimension)]).z.shape[1] for k, kernel in enumerate(kernels)
            ]
        return self.assigned(self._own(values) | {"kernels": kernels, "_widths": tuple(widths)})

    def completed(self, z: Tensor, per_column: bool, factor: float = 1.0, finer: float = 0.3) -> Self:
        """The spec with what it leaves to the data.

        Each further part of the same form starts from ``finer`` times the length scale of the part before.
        """
        done: list[Any] = []
        for k, kernel in enumerate(self.kernels):
            part, own = z[:, self._columns(k, z.shape[1])], factor
            filled = kernel.completed(part, per_column, own)
            taken = [done[j] for j in range(k) if self._columns(j, z.shape[1]) == self._columns(k, z.shape[1])]
            while filled in taken and kernel.completed(part, per_column, finer * own) != filled:
                own *= finer
                filled = kernel.completed(part, per_column, own)
            done.append(filled)
        return replace(self, kernels=tuple(done))

    def check(self, dimension: int) -> None:
        """Check every part against its columns."""
        for k, kernel in enumerate(self.kernels):
            columns = self._columns(k, dimension)
            if max(columns) >= dimension:
                raise DataError(
                    f"{type(self).__name__}: kernel {k} reads column {max(columns)} of {dimension}, counted from 0"
                )
            kernel.check(len(columns))

    # ------------------------------------------------------------------ environments

    def _columns(self, k: int, dimension: int) -> list[int]:
        chosen = None if self.columns is None else self.columns[k]
        return list(range(dimension)) if chosen is None else list(chosen)

    def embedding(self, z: Tensor) -> Embedding:
        """The embeddings of the parts, side by side."""
        columns = [self._columns(k, z.shape[1]) for k in range(len(self.kernels))]
        parts = [kernel.embedding(z[:, at]) for kernel, at in zip(self.kernels, columns, strict=True)]
        widths = [part.z.shape[1] for part in parts]

        def pull(g: Tensor) -> Tensor:
            out = torch.zeros_like(z)
            for part, at, slope in zip(parts, columns, g.split(widths, 1), strict=True):
                out[:, at] += part.pull(slope)
            return out

        def push(w: Tensor) -> Tensor:
            return torch.cat([part.push(w[:, :, at]) for part, at in zip(parts, columns, strict=True)], 2)

        return Embedding(torch.cat([part.z for part in parts], 1), push, pull)

    def scalars(self, width: int) -> list[Scalar]:
        """The scalars of the parts.

        Raises
        ------
        DataError
            If the kernel was not bound: the columns of its parts are then undefined.
        """
        widths: tuple[int, ...] | None = getattr(self, "_widths", None)
        if widths is None:
            raise DataError(f"{type(self).__name__}: call ready(dimension) or bound(...) before computing with it")
        out, at = [], 0
        for kernel, size in zip(self.kernels, widths, strict=True):
            out += [scalar.moved(at) for scalar in kernel.scalars(size)]
            at += size
        return out

    def _profiles(self, s: list[Tensor]) -> tuple[list[Profile], list[int]]:
        """Profiles of the parts, and where the scalars of each begin."""
        out, starts, at = [], [], 0
        for kernel, size in zip(self.kernels, self._widths, strict=True):  # type: ignore[attr-defined]
            count = len(kernel.scalars(size))
            out.append(kernel.profile(s[at : at + count]))
            starts.append(at)
            at += count
        return out, starts


@dataclass(frozen=True)
class Sum(Composite):
    """κ = Σ_k q_k κ_k / Σ_k q_k: a sum of independent functions (Rasmussen & Williams 2006, § 4.2.4).

    Parameters
    ----------
    kernels
        The parts, functions of scalars; ``k1 + k2`` is ``Sum((k1, k2))``.
    columns
        Columns of the environments that each part reads, a tuple per part; None: all of them read all.
    weights
        Shares q_k of the variance, whose ratios alone count: hyperparameters. None: equal, then fitted.
    """

    weights: tuple[float, ...] | None = None

    POSITIVE: ClassVar[tuple[str, ...]] = ("weights",)

    BOUNDS: ClassVar[Mapping[str, Bound]] = {"weights": OrNone(Each(Real(above=0.0)))}

    def __post_init__(self):
        super().__post_init__()
        require(
            self.weights is None or len(self.weights) == len(self.kernels),
            f"Sum: weights={self.weights!r} must be {len(self.kernels)} numbers, one per kernel",
        )

    def hyperparameters(self) -> dict[str, tuple[float, ...] | None]:
        """Positive numbers by name; weights that were not given are equal."""
        return super().hyperparameters() | {"weights": self.weights or (1.0,) * len(self.kernels)}

    def profile(self, s: list[Tensor]) -> Profile:
        """F = Σ_k q_k F^k / Σ_k q_k."""
        profiles, starts = self._profiles(s)
        weights: Any = self.weights
        total, first = torch.zeros(()), []
        second: dict[tuple[int, int], Tensor] = {}
        for (f, slopes, curvatures), start, weight in zip(profiles, starts, weights / weights.sum(), strict=True):
            total = total + weight * f
            first += [weight * g for g in slopes]
            second |= {(i + start, j + start): weight * g for (i, j), g in curvatures.items()}
        return total, first, second


@dataclass(frozen=True)
class Product(Composite):
    """κ = Π_k κ_k (Rasmussen & Williams 2006, § 4.2.4): on different columns, a function of all of them together.

    Parameters
    ----------
    kernels
        The parts, functions of scalars; ``k1 * k2`` is ``Product((k1, k2))``.
    columns
        Columns of the environments that each part reads, a tuple per part; None: all of them read all.
    """

    def profile(self, s: list[Tensor]) -> Profile:
        """F = Π_k F^k; its derivatives by the product rule."""
        profiles, starts = self._profiles(s)

        def others(*left_out: int) -> Any:  # a product, not a quotient: a factor may vanish
            return math.prod(f for k, (f, _, _) in enumerate(profiles) if k not in left_out)

        first, second = [], {}  # type: tuple[list[Tensor], dict[tuple[int, int], Tensor]]
        for k, ((_, slopes, curvatures), start) in enumerate(zip(profiles, starts, strict=True)):
            rest = others(k)
            first += [rest * g for g in slopes]
            second |= {(i + start, j + start): rest * g for (i, j), g in curvatures.items()}
            for m in range(k + 1, len(profiles)):
                both = others(k, m)
                for i, g in enumerate(slopes):
                    for j, h in enumerate(profiles[m][1]):
                        second[i + start, j + starts[m]] = both * g * h
        return math.prod(f for f, _, _ in profiles), first, second


def _sum(first: Kernel, second: Kernel) -> Kernel:
    return Sum.of(first, second) if isinstance(second, Kernel) else NotImplemented


def _product(first: Kernel, second: Kernel) -> Kernel:
    return Product.of(first, second) if isinstance(second, Kernel) else NotImplemented


# Set here because the base cannot import the classes that derive from it.
Kernel.__add__, Kernel.__mul__ = _sum, _product  # type: ignore[method-assign]
