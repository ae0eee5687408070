"""The noise of a label set: given for every row, learned, in covariance blocks, or with likelihoods to a power.

What a solver does with noise is a method of it or of what :meth:`Noise.at` gives at some levels: variances of
independent rows, or blocks that the components of a frame share.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

#: Names under which :meth:`Noise.tensors` gives what describes the noise.
TENSORS = ("noise", "relative", "weight")


class RowNoise(ABC):
    """Noise covariance of the rows of a label set, at given levels."""

    @abstractmethod
    def add_to(self, covariance: Tensor, rows: Tensor, which: Tensor | None = None) -> None:
        """Add to a covariance matrix in place.

        Parameters
        ----------
        covariance
            One matrix or, with ``which``, several.
        rows, which
            Row of each label, and matrix of each label, shapes (n·m,).
        """

    @abstractmethod
    def take(self, frames: Tensor) -> RowNoise:
        """The noise of some frames, in the order given."""

    @abstractmethod
    def product(self, x: Tensor) -> Tensor:
        """The covariance times x of shape (n·m, k)."""

    @abstractmethod
    def diagonal(self) -> Tensor:
        """Variances, shape (n·m,)."""

    @abstractmethod
    def draw(self, normal: Callable[..., Tensor], count: int) -> Tensor:
        """Draws, shape (n·m, count), from a function that takes a device and a shape to standard normal numbers."""


@dataclass(frozen=True, eq=False)
class Independent(RowNoise):
    """Rows of independent noise, m for each frame, of variances (n·m,)."""

    variances: Tensor
    components: int

    def add_to(self, covariance: Tensor, rows: Tensor, which: Tensor | None = None) -> None:
        at = (rows, rows) if which is None else (which, rows, rows)
        covariance[at] += self.variances

    def take(self, frames: Tensor) -> RowNoise:
        return Independent(self.variances.unflatten(0, (-1, self.components))[frames].flatten(), self.components)

    def product(self, x: Tensor) -> Tensor:
        return self.variances[:, None] * x

    def diagonal(self) -> Tensor:
        return self.variances

    def draw(self, normal: Callable[..., Tensor], count: int) -> Tensor:
        return self.variances.sqrt()[:, None] * normal(self.variances.device, len(self.variances), count)


@dataclass(frozen=True, eq=False)
class FrameBlocks(RowNoise):
    """Rows whose noise is correlated within each frame, with covariances (n, m, m)."""

    covariance: Tensor

    def add_to(self, covariance: Tensor, rows: Tensor, which: Tensor | None = None) -> None:
        shape = self.covariance.shape[:2]
        here = rows.reshape(shape)
        at = (here[:, :, None], here[:, None, :])
        covariance[at if which is None else (which.reshape(shape)[:, :, None], *at)] += self.covariance

    def take(self, frames: Tensor) -> RowNoise:
        return FrameBlocks(self.covariance[frames])

    def product(self, x: Tensor) -> Tensor:
        return torch.bmm(self.covariance, x.reshape(*self.covariance.shape[:2], -1)).reshape(x.shape)

    def diagonal(self) -> Tensor:
        return self.covariance.diagonal(dim1=1, dim2=2).reshape(-1)

    def draw(self, normal: Callable[..., Tensor], count: int) -> Tensor:
        numbers = normal(self.covariance.device, *self.covariance.shape[:2], count)
        return (torch.linalg.cholesky(self.covariance) @ numbers).flatten(0, 1)


class Whitening(ABC):
    """Division of the rows of some frames by their noise at unit level.

    Attributes
    ----------
    log
        Σ log variance of the rows.
    """

    log: float | Tensor

    @abstractmethod
    def __call__(self, rows: Tensor) -> Tensor:
        """Whitened rows, (n·m,) or (n·m, k)."""

    @abstractmethod
    def slice(self, start: int, stop: int) -> Whitening:
        """The same of frames start…stop−1."""

    @abstractmethod
    def trace(self, missing: Tensor) -> Tensor:
        """Σ over rows of diag(noise⁻¹)·missing, (n·m,) or (n·m, k)."""


@dataclass(frozen=True, eq=False)
class Scaled(Whitening):
    """Rows of independent noise; ``inverse``: one over their standard deviations, (n·m,), or None for one."""

    inverse: Tensor | None
    components: int

    @property
    def log(self) -> float | Tensor:  # type: ignore[override]
        return 0.0 if self.inverse is None else -2.0 * self.inverse.log().sum()

    def __call__(self, rows: Tensor) -> Tensor:
        if self.inverse is None:
            return rows
        return rows * (self.inverse if rows.ndim == 1 else self.inverse[:, None])

    def slice(self, start: int, stop: int) -> Whitening:
        m = self.components
        return self if self.inverse is None else Scaled(self.inverse[start * m : stop * m], m)

    def trace(self, missing: Tensor) -> Tensor:
        return self(missing.new_ones(len(missing))) ** 2 @ missing


@dataclass(frozen=True, eq=False)
class Correlated(Whitening):
    """Rows whose noise is correlated within each frame.

    The trace of noise⁻¹ (K − Q) takes K − Q as diagonal: exact when the components of a frame miss nothing or miss it
    independently. Between correlated components the bound is an approximation, and no longer strictly one.
    """

    covariance: Tensor
    lower: Tensor

    @property
    def log(self) -> Tensor:  # type: ignore[override]
        return 2.0 * self.lower.diagonal(dim1=1, dim2=2).log().sum()

    def __call__(self, rows: Tensor) -> Tensor:
        blocks = rows.reshape(*self.lower.shape[:2], -1)
        return torch.linalg.solve_triangular(self.lower, blocks, upper=False).reshape(rows.shape)

    def slice(self, start: int, stop: int) -> Whitening:
        return Correlated(self.covariance[start:stop], self.lower[start:stop])

    def trace(self, missing: Tensor) -> Tensor:
        inverse = torch.linalg.inv(self.covariance).diagonal(dim1=1, dim2=2).reshape(-1)
        return (inverse @ missing.reshape(len(missing), -1)).reshape(missing.shape[1:])


class Noise(ABC):
    """Noise of n frames with m label components each."""

    #: Whether its size is a hyperparameter.
    learned: bool = False

    @abstractmethod
    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """The noise with a function applied to every array, all of which have frames first."""

    @abstractmethod
    def at(self, level: Tensor, shape: torch.Size) -> RowNoise:
        """The noise of labels of a shape (n, m) at a learned level, shape (n, 1); one where nothing is learned."""

    @abstractmethod
    def whitening(self, index: slice | Tensor, components: int) -> Whitening:
        """Whitening of the rows of some frames, at unit level."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """The arrays that describe it, by the names in :data:`TENSORS`."""

    def tempered(self, weight: Tensor) -> Noise:
        """The noise of rows that count for so many independent labels, shape (n, m); what is given stays as given."""
        return self

    def tempering(self, rows: RowNoise, like: Tensor) -> Tensor:
        """Contribution to the log evidence of likelihoods to a power, for these rows."""
        return like.new_zeros(())

    def counted(self, index: slice | Tensor, rows: int) -> tuple[float, float]:
        """Independent labels that some frames count for, and Σ w ln(relative variance) over their rows."""
        return float(rows), 0.0


class _Scale(Noise):
    """Noise of independent rows with known scales."""

    @abstractmethod
    def scale(self) -> Tensor | None:
        """Standard deviations at unit level, shape (n, m), or None for one."""

    def at(self, level: Tensor, shape: torch.Size) -> RowNoise:
        scale = self.scale()
        std = (level if scale is None else level * scale).expand(shape)
        return Independent((std**2).reshape(-1), shape[1])

    def whitening(self, index: slice | Tensor, components: int) -> Whitening:
        scale = self.scale()
        return Scaled(None if scale is None else 1.0 / scale[index].reshape(-1), components)


@dataclass(frozen=True, eq=False)
class Given(_Scale):
    """Noise of known standard deviations (n, m)."""

    std: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        return replace(self, std=function(self.std))

    def scale(self) -> Tensor | None:
        return self.std

    def tensors(self) -> dict[str, Tensor]:
        return {"noise": self.std}


@dataclass(frozen=True, eq=False)
class Learned(_Scale):
    """Noise of a level that is learned, times relative standard deviations (n, m), or None for one."""

    relative: Tensor | None = None
    learned = True

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        return self if self.relative is None else replace(self, relative=function(self.relative))

    def scale(self) -> Tensor | None:
        return self.relative

    def tensors(self) -> dict[str, Tensor]:
        return {} if self.relative is None else {"relative": self.relative}

    def tempered(self, weight: Tensor) -> Noise:
        return Tempered(self, weight)

    def counted(self, index: slice | Tensor, rows: int) -> tuple[float, float]:
        return float(rows), 0.0 if self.relative is None else 2.0 * float(self.relative[index].log().sum())


@dataclass(frozen=True, eq=False)
class Blocks(Noise):
    """Noise of known covariance within each frame, (n, m, m)."""

    covariance: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        return replace(self, covariance=function(self.covariance))

    def at(self, level: Tensor, shape: torch.Size) -> RowNoise:
        return FrameBlocks(self.covariance)

    def whitening(self, index: slice | Tensor, components: int) -> Whitening:
        covariance = self.covariance[index]
        return Correlated(covariance, torch.linalg.cholesky(covariance))

    def tensors(self) -> dict[str, Tensor]:
        return {"noise": self.covariance}


@dataclass(frozen=True, eq=False)
class Tempered(_Scale):
    """Noise with likelihoods to a power: row i counts for w_i independent labels.

    N(y | f, σ²)^w = N(y | f, σ²/w) · (2π σ²/w)^½ (2π σ²)^(−w/2): the row has the variance σ²/w, and the rest is
    :meth:`tempering`.

    Parameters
    ----------
    noise
        Learned noise.
    weight
        w, shape (n, m): for correlated rows 1/g, g the statistical inefficiency.
    """

    noise: Learned
    weight: Tensor

    @property
    def learned(self) -> bool:  # type: ignore[override]
        return self.noise.learned

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        return replace(self, noise=self.noise.map(function), weight=function(self.weight))

    def scale(self) -> Tensor | None:
        scale, root = self.noise.scale(), self.weight**-0.5
        return root if scale is None else scale * root

    def tensors(self) -> dict[str, Tensor]:
        return {**self.noise.tensors(), "weight": self.weight}

    def tempering(self, rows: RowNoise, like: Tensor) -> Tensor:
        logs = (2.0 * math.pi * rows.diagonal().reshape(self.weight.shape)).log()
        return 0.5 * (logs - self.weight * (logs + self.weight.log())).sum()

    def counted(self, index: slice | Tensor, rows: int) -> tuple[float, float]:
        weight, relative = self.weight[index], self.noise.relative
        log = 0.0 if relative is None else 2.0 * float((weight * relative[index].log()).sum())
        return float(weight.sum()), log


def noise_of(tensors: Mapping[str, Tensor]) -> Noise:
    """The noise that :meth:`Noise.tensors` describes."""
    if "noise" in tensors:
        return Blocks(tensors["noise"]) if tensors["noise"].ndim == 3 else Given(tensors["noise"])
    learned = Learned(tensors.get("relative"))
    return Tempered(learned, tensors["weight"]) if "weight" in tensors else learned
