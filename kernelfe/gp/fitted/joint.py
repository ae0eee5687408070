"""Joint predictions: any linear functionals of A, at any places and temperatures, with their full covariance.

Everything that is linear in A is jointly normal under the posterior. A :class:`Query` names some of it; queries add,
scale and combine by matrices, and the covariance of combinations is taken after combining the rows, so that an average
over ten thousand configurations costs no covariance of ten thousand rows beyond the prior's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ... import functionals
from ...arrays import real_array
from ...errors import DataError
from ...functionals import Functional, Spatial
from ...runtime.seeds import random_numbers
from ..observations.labels import baseline_rows
from ..posterior import predict_mean
from ..prior.rows import RowBlock, frame_chunks
from ..states import States

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Part:
    X: Any
    functional: Functional
    temperature: Any
    parameters: dict[str, Any] | None
    matrix: FloatArray | None  # (rows of the query, n·m); None for the identity


class Query:
    """Linear functionals of A that are predicted together: one quantity at n configurations, or combinations.

    Queries of as many rows add and subtract row by row, numbers scale them, and ``matrix @ query`` makes linear
    combinations of their rows, across quantities, places and temperatures.

    Parameters
    ----------
    X
        Frames or array of n configurations.
    quantity
        Quantity key or :class:`~kernelfe.functionals.Functional` of m numbers per configuration; rows are ordered
        frame by frame, components within.
    temperature
        K, number or (n,); None: that of the Frames, or the model's for arrays.
    parameters
        Values of λ for arrays; Frames carry their own.
    """

    __array_ufunc__ = None  # numpy then leaves array @ query and number * query to this class

    def __init__(self, X, quantity="free_energy", temperature=None, parameters=None):
        self._parts: tuple[_Part, ...] = (_Part(X, functionals.get(quantity), temperature, parameters, None),)

    @classmethod
    def _of(cls, parts: tuple[_Part, ...]) -> Query:
        out = cls.__new__(cls)
        out._parts = parts
        return out

    def _mapped(self, change) -> Query:
        return self._of(
            tuple(_Part(p.X, p.functional, p.temperature, p.parameters, change(p.matrix)) for p in self._parts)
        )

    def __add__(self, other: Query) -> Query:
        return self._of(self._parts + other._parts) if isinstance(other, Query) else NotImplemented

    def __sub__(self, other: Query) -> Query:
        return self + (-1.0) * other if isinstance(other, Query) else NotImplemented

    def __neg__(self) -> Query:
        return -1.0 * self

    def __mul__(self, factor: float) -> Query:
        if np.ndim(factor) != 0:
            return NotImplemented
        number = float(factor)
        return self._of(
            tuple(
                _Part(p.X, number * p.functional, p.temperature, p.parameters, None)
                if p.matrix is None
                else _Part(p.X, p.functional, p.temperature, p.parameters, number * p.matrix)
                for p in self._parts
            )
        )

    __rmul__ = __mul__

    def __rmatmul__(self, matrix: ArrayLike) -> Query:
        """Rows of the new query are combinations of those of this one; a vector makes one row."""
        left = np.atleast_2d(real_array(matrix, "matrix"))
        if left.ndim != 2 or not np.isfinite(left).all():
            raise DataError(f"rows are combined by a finite matrix, one column per row of the query; got {left.shape}")

        def change(right: FloatArray | None) -> FloatArray:
            if right is None:
                return left
            if left.shape[1] != len(right):
                raise DataError(f"a matrix of shape {left.shape} cannot combine a query of {len(right)} rows")
            return left @ right

        return self._mapped(change)


@dataclass(frozen=True, eq=False)
class Joint:
    """Posterior of several queries: a multivariate normal distribution.

    Attributes
    ----------
    mean, covariance
        (rows,) and (rows, rows): all queries, one after the other. Free energies are absolute values: what data leave
        open (a function of T alone, where labels are forces) is in the covariance.
    sizes
        Rows of each query.
    """

    mean: FloatArray
    covariance: FloatArray
    sizes: tuple[int, ...]

    @property
    def std(self) -> FloatArray:
        """Marginal standard deviations, (rows,)."""
        return np.sqrt(np.maximum(np.diag(self.covariance), 0.0))

    def rows(self, query: int) -> slice:
        """Slice of the rows of a query."""
        start = sum(self.sizes[:query])
        return slice(start, start + self.sizes[query])

    def block(self, first: int, second: int) -> FloatArray:
        """Covariance of the rows of two queries."""
        return self.covariance[self.rows(first), self.rows(second)]

    def combined(self, matrix: ArrayLike) -> Joint:
        """The joint posterior of linear combinations of the rows; a vector makes one."""
        a = np.atleast_2d(real_array(matrix, "matrix"))
        return Joint(a @ self.mean, a @ self.covariance @ a.T, (len(a),))

    def sample(self, n: int, seed=0) -> FloatArray:
        """Independent draws, (n, rows).

        Directions whose variance is negative by rounding are left out; rows may be in different units.
        """
        noise = random_numbers(seed).standard_normal((n, len(self.mean)))
        return self.mean + noise @ covariance_root(self.covariance).T


def covariance_root(covariance: FloatArray) -> FloatArray:
    """A with A Aᵀ = covariance, which may be singular, or indefinite by rounding."""
    scale = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    inverse = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0.0)
    values, vectors = np.linalg.eigh(covariance * inverse[:, None] * inverse)
    return scale[:, None] * vectors * np.sqrt(np.maximum(values, 0.0))


def joint(model, *queries: Query) -> Joint:
    """Posterior means and covariance of all rows of several queries.

    Parameters
    ----------
    model
        A :class:`~kernelfe.gp.FreeEnergy`.
    queries
        What to predict together: any quantities, configurations and temperatures.

    Raises
    ------
    DataError
        If a query adds parts of different numbers of rows, or does not fit the model.
    """
    if not queries or not all(isinstance(q, Query) for q in queries):
        raise DataError("joint predicts one or several kernelfe.gp.Query, such as Query(X, 'entropy')")
    posterior = model.posterior
    with torch.no_grad():
        read = [_read_query(model, query) for query in queries]
        means, sizes = [], []
        for parts in read:
            total = sum(_apply(matrix, mean) for _, mean, matrix in parts)
            means.append(total)
            sizes.append(len(total))
        features = [sum(_apply(matrix, posterior.features(block)) for block, _, matrix in parts) for parts in read]
        stacked = torch.cat(features)
        out = -posterior.explained(stacked, stacked)
        at = np.concatenate([[0], np.cumsum(sizes)])
        for i, first in enumerate(read):
            for j in range(i, len(read)):
                prior = sum(
                    _combined_gram(posterior.prior, a, left, b, right)
                    for a, _, left in first
                    for b, _, right in read[j]
                )
                out[at[i] : at[i + 1], at[j] : at[j + 1]] += prior
                if j > i:
                    out[at[j] : at[j + 1], at[i] : at[i + 1]] += prior.T
    covariance = out.cpu().numpy()
    return Joint(torch.cat(means).cpu().numpy(), 0.5 * (covariance + covariance.T), tuple(sizes))


def _read_query(model, query: Query) -> list[tuple[RowBlock, Tensor, Tensor | None]]:
    """Row blocks, means and matrices of the parts of a query."""
    out, sizes = [], set()
    for part in query._parts:
        block, states, baseline = model.rows(part.X, part.functional, part.temperature, part.parameters)
        mean = predict_mean(model.posterior, block) + baseline_rows(baseline, part.functional, states)
        matrix = None if part.matrix is None else torch.from_numpy(np.ascontiguousarray(part.matrix)).to(mean)
        if matrix is not None and matrix.shape[1] != len(block):
            raise DataError(
                f"a matrix of shape {tuple(matrix.shape)} cannot combine the {len(block)} rows of "
                f"{part.functional.key!r}"
            )
        sizes.add(len(block) if matrix is None else len(matrix))
        out.append((block, mean, matrix))
    if len(sizes) != 1:
        raise DataError(f"queries of {sorted(sizes)} rows cannot be added: combine their rows by matrices first")
    return out


def _apply(matrix: Tensor | None, rows: Tensor) -> Tensor:
    return rows if matrix is None else matrix @ rows


def _combined_gram(
    prior, a: RowBlock, left: Tensor | None, b: RowBlock, right: Tensor | None, entries: int = 1 << 22
) -> Tensor:
    """left · prior covariance · rightᵀ, ``entries`` of the covariance at a time."""
    step = max(1, entries // max(1, len(b) * a.components))
    parts = []
    for start, stop in frame_chunks(a.frames, step):
        gram = prior.gram(a.slice(start, stop), b)
        gram = gram if right is None else gram @ right.T
        columns = slice(start * a.components, stop * a.components)
        parts.append(gram if left is None else left[:, columns] @ gram)
    return torch.cat(parts) if left is None else torch.stack(parts).sum(0)


def undefined_rows(functional: Functional, states: States) -> Tensor:
    """Rows that do not exist because beads coincide, shape (n·m,): distances have no direction there.

    A derivative by the position of a bead that lies exactly on another one is read as zero by every descriptor, with
    certainty; an error bar of zero would be a lie.

    Parameters
    ----------
    functional, states
        What is read, and where.
    """
    m = int(torch.Size(functional.shape(states.coordinate_shape, states.field_count)).numel())
    x = states.coordinates
    out = torch.zeros(len(states), m, dtype=torch.bool, device=x.device)
    if functional.spatial is Spatial.VALUE or x.ndim != 3 or x.shape[1] < 2:
        return out.reshape(-1)
    first = x[:, :, 0].sort(dim=1).values  # coincident beads share their first coordinate: rarely more to be done
    for frame in torch.nonzero((first.diff(dim=1) == 0.0).any(1))[:, 0].tolist():
        _, where, count = torch.unique(x[frame], dim=0, return_inverse=True, return_counts=True)
        beads = count[where] > 1
        out[frame] = beads.repeat_interleave(3) if functional.spatial is Spatial.GRADIENT else bool(beads.any())
    return out.reshape(-1)
