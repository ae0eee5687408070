"""Operations and bytes of the measured parts of ``gpu.py``, and the time that they take at the rates of a device.

A count is a sequence of passes: matrix products and elementwise work on large arrays, each with the bytes that it reads
and writes. Small arrays are omitted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from kernelfe.linalg.normal import WIDE_PANEL


@dataclass(frozen=True)
class Count:
    """Work as a sequence of passes: (operations of matrix products, bytes) of each."""

    passes: tuple[tuple[float, float], ...]

    @property
    def flops(self) -> float:
        """Operations of all matrix products."""
        return sum(flops for flops, _ in self.passes)

    @property
    def bytes(self) -> float:
        """Bytes of the large arrays, read and written."""
        return sum(moved for _, moved in self.passes)

    def times(self, factor: float) -> Count:
        """The same work, repeated."""
        return Count(tuple((factor * flops, factor * moved) for flops, moved in self.passes))

    def __add__(self, other: Count) -> Count:
        return Count(self.passes + other.passes)


def kernel_count(pairs: float, dimension: int, item: int = 8) -> Count:
    """κ of all pairs: half squared distances by one product, four elementwise passes.

    In single precision there is also a conversion and one more pass, which sets numbers that are too small to zero.
    """
    one = 8.0 * pairs
    passes = [(2.0 * dimension * pairs, one), (0, 2 * one), (0, 2 * one), (0, 2 * one), (0, 2 * one)]
    return Count(tuple(passes) if item == 8 else (*passes, (0, one + item * pairs), (0, 2.0 * item * pairs)))


def product_count(pairs: float, dimension: int, columns: int = 1, item: int = 8, kept: bool = True) -> Count:
    """Gradients at E environments of expansions with slopes on m nodes, E·m pairs, Gaussian kernel, D > 4.

    Per right-hand side: q = z w (depth D + 1) written; κ∘q: two arrays read and one written; (κ∘q)(z, 1) read; and for
    for all of them κ w. The last two are padded to a multiple of eight columns.
    """
    one = float(item) * pairs
    summed, spread = (8 * math.ceil(number / 8) for number in (dimension + 1, dimension * columns))
    each = ((2.0 * (dimension + 1) * pairs, one), (0.0, 3 * one), (2.0 * summed * pairs, one))
    out = Count(each * columns + ((2.0 * spread * pairs, one),))
    return out if kept else kernel_count(pairs, dimension, item) + out


def iteration_count(configurations: int, dimension: int, kept: bool, item: int = 8, group: int = 130) -> Count:
    """One step of conjugate gradients: a product, the local preconditioner (two passes over its factor), vectors."""
    rows = float(configurations) * dimension
    height = (max(0, group // dimension - 1) + 1) * dimension
    factor = 8.0 * rows * height
    local = Count(((2.0 * rows * height, factor), (2.0 * rows * height, factor), (0.0, 12 * 8.0 * rows)))
    return product_count(float(configurations) ** 2, dimension, 1, item, kept) + local


def sparse_count(frames: int, dimension: int, inducing: int, rank: int | None = None, panel: int = WIDE_PANEL) -> Count:
    """Accumulating force rows: covariances with the inducing environments, whitening, their squares, noise, and Σψψᵀ.

    ``rank``: features after whitening, as many as inducing environments unless these repeat each other.
    """
    rows, m, r = float(frames) * dimension, float(inducing), float(inducing if rank is None else rank)
    kernel, covariance, features = 8.0 * frames * m, 8.0 * rows * m, 8.0 * rows * r
    starts = range(0, int(r), panel)
    triangle = sum(2.0 * min(panel, r - k) * (r - k) for k in starts)
    reads = sum((min(panel, r - k) + r - k) / r for k in starts)
    return Count(
        (
            (2.0 * dimension * frames * m, kernel),
            *[(0.0, 2 * kernel)] * 6,  # κ' of each pair, as of half squared distances
            (2.0 * (dimension + 1) * rows * m, covariance),
            (0.0, 2 * covariance + kernel),
            (2.0 * rows * m * r, covariance + features),
            (0.0, 3 * features),
            (0.0, features),
            (0.0, 2 * features),
            (rows * triangle, reads * features),
            (0.0, features),
        )
    )


def step_count(replicas: int, dimension: int, nodes: int) -> Count:
    """Energies and forces of replicas with one environment each, on value nodes.

    Half squared distances by one product of depth D + 2, exponentiated in place by one pass, and one product with
    the coefficients.
    """
    pairs = float(replicas) * nodes
    one = 8.0 * pairs
    passes = ((2.0 * (dimension + 2) * pairs, one), (0.0, 2 * one))
    return Count((*passes, (2.0 * (1 + dimension) * pairs, one)))


@dataclass(frozen=True)
class Rates:
    """Operations and bytes per second of a device."""

    name: str
    fp64: float
    fp32: float
    copy: float

    def seconds(self, count: Count, single: bool = False) -> float:
        """Time of counted work: each pass over memory or matrix product takes the longer of its two times."""
        rate = self.fp32 if single else self.fp64
        return sum(max(flops / rate, moved / self.copy) for flops, moved in count.passes)
