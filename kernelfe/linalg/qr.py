"""Streamed orthogonal factorization of the rows of a sparse model, for ill-conditioned normal equations.

Let rows Φ w = y with unit noise read weights w ~ N(0, 1). The posterior of w is the least-squares solution of

    [Φ; 1] w ≈ [y; 0],   [Φ y; 1 0] = Q [R c; 0 ρ],   Λ = RᵀR,   R w = c,   yᵀ(1 + ΦΦᵀ)⁻¹y = ρ².

Λ = 1 + ΦᵀΦ squares the condition number of the rows; R does not. Rows need not be stored: the triangle of all previous
rows is stacked on the next block and factorized again (Demmel, Grigori, Hoemmen and Langou, SIAM J. Sci. Comput. 34,
A206, 2012). As in :class:`~kernelfe.linalg.NormalEquations`, labels that share their factors f of state have features
f ⊗ ψ, and Q of the ψ is also Q of these: one triangle of the ψ for each group serves every prior scale and noise.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from scipy.linalg import lapack
from torch import Tensor

from ..errors import SolverError
from .normal import NormalEquations, Stacked

#: Condition number of Λ, with a diagonal of one, above which rows are factorized instead: means lose eleven digits.
CONDITION_LIMIT = 1e11
#: Above this, the condition number of the triangle, its square root, is also beyond float64.
HOPELESS = 1e24


@dataclass(frozen=True)
class Conditioning:
    """Method of the solution for a sparse posterior, and its conditioning.

    Parameters
    ----------
    method
        "cholesky" of the normal equations, or "qr" of the rows.
    condition
        Condition number of the precision Λ of the whitened weights, its diagonal scaled to one.
    """

    method: str
    condition: float

    def __str__(self) -> str:
        if self.method == "cholesky":
            return f"normal equations (condition number {self.condition:.1e})"
        return f"orthogonal factorization of the rows (condition number of the normal equations {self.condition:.1e})"


def precision_condition(lower: Tensor) -> float:
    """Condition number of Λ = L Lᵀ scaled to a diagonal of one, from an estimate of that of L (LAPACK's trcon).

    The scaling is free: it changes neither a Cholesky factorization nor a triangular solve (Demmel 1989; Higham,
    *Accuracy and Stability of Numerical Algorithms*, 2002, section 10.1).
    """
    if not len(lower):
        return 1.0
    scaled = lower.tril()
    norms = scaled.norm(dim=1, keepdim=True)
    if not bool((torch.isfinite(norms) & (norms > 0.0)).all()):
        return float("inf")
    scaled /= norms
    # columns first, as LAPACK reads them, this is the upper triangle Lᵀ, whose ∞-norm is the 1-norm of L: no copy
    rcond, _ = lapack.dtrcon(scaled.cpu().numpy().T, norm="I", uplo="U")
    return float("inf") if rcond == 0.0 else float(rcond) ** -2


class Triangle:
    """Triangle of all rows so far; its size does not depend on the number of rows.

    Parameters
    ----------
    width
        Columns k of the rows.
    """

    def __init__(self, width: int):
        self.width, self._rows = width, 0
        self._root: Tensor | None = None
        self._waiting: list[Tensor] = []

    def add(self, rows: Tensor) -> None:
        """Add rows, shape (n, k); they are factorized when there are twice as many as columns."""
        self._waiting.append(rows.clone())
        self._rows += len(rows)
        if self._rows >= 2 * self.width:
            self._factorize()

    @property
    def root(self) -> Tensor:
        """R, shape (at most k, k), with RᵀR = Σ rowᵀrow."""
        self._factorize()
        return self._root  # type: ignore[return-value]

    def _factorize(self) -> None:
        if self._waiting:
            kept = self._waiting if self._root is None else [self._root, *self._waiting]
            self._root = torch.linalg.qr(torch.cat(kept), mode="r").R
            self._waiting, self._rows = [], 0


class TriangularEquations:
    """Accumulate the sums of :class:`~kernelfe.linalg.NormalEquations` as triangles instead of sums of squares.

    Parameters
    ----------
    ranks, functions
        Whitened features and functions of state of each block.
    """

    def __init__(self, ranks: list[int], functions: list[int]):
        self.ranks = ranks
        # everything but features: for the evidence
        self._rest = NormalEquations([0] * len(ranks), functions)
        self._groups: dict[tuple, Triangle] = {}
        self._wide: dict[tuple, Triangle] = {}

    def add(self, key, factors, features, y, missing, log_weight, count=None, outside=0.0) -> None:
        """Add labels to a group; parameters as of :meth:`NormalEquations.add`."""
        count = float(len(y)) if count is None else count
        self._rest.add(key, factors, features[:0, :0], y[:0], missing, log_weight, count, outside)
        _push(self._groups, key, features, y)

    def add_wide(self, kind, temperature, features, y, missing, log_weight, count=None) -> None:
        """Add expanded rows; parameters as of :meth:`NormalEquations.add_wide`."""
        count = float(len(y)) if count is None else count
        self._rest.add_wide(kind, temperature, features[:0, :0], y[:0], missing, log_weight, count)
        _push(self._wide, (kind, temperature), features, y)

    def stacked(self) -> Triangles:
        """The triangles, for solutions with any scales and noises."""
        rest = self._rest.stacked()
        return Triangles(self.ranks, rest, [t.root for t in (*self._groups.values(), *self._wide.values())])


def _push(triangles: dict[tuple, Triangle], key: tuple, features: Tensor, y: Tensor) -> None:
    triangle = triangles.setdefault(key, Triangle(features.shape[1] + 1))
    triangle.add(torch.cat([features, y[:, None]], 1))


@dataclass
class Triangles:
    """Triangles of all groups of a fit.

    Parameters
    ----------
    ranks
        Whitened features of each block.
    rest
        Counts, weights and missed variances of the groups; without features.
    roots
        Triangles of all groups, shape (at most Σ ranks + 1, Σ ranks + 1), and of all wide groups: features, then
        labels.
    """

    ranks: list[int]
    rest: Stacked
    roots: list[Tensor] = field(default_factory=list)

    @property
    def kinds(self) -> list[str]:
        """Kinds of labels of the groups."""
        return self.rest.kinds

    @property
    def temperature(self) -> Tensor:
        """Temperatures of the groups, K."""
        return self.rest.temperature

    def rows(self, variances: list[Tensor], noise: Tensor) -> Tensor:
        """Rows [Φ y] of unit noise equivalent to all labels, shape (n, W + 1), weights ordered as in Stacked."""
        grouped, out = len(self.rest.gram), []
        for g, root in enumerate(self.roots):
            parts, at = [], 0
            for t, (rank, v) in enumerate(zip(self.ranks, variances, strict=True)):
                amplitude = v.sqrt()
                if g < grouped:
                    scale = amplitude * self.rest.factors[t][g]
                    parts.append((scale[None, :, None] * root[:, None, at : at + rank]).flatten(1))
                    at += rank
                else:
                    size = rank * len(amplitude)
                    parts.append(root[:, at : at + size] * amplitude.repeat_interleave(rank))
                    at += size
            out.append(torch.cat([*parts, root[:, -1:]], 1) / noise[g].sqrt())
        return torch.cat(out)

    def solve(
        self, variances: list[Tensor], noise: Tensor, start: Tensor | None = None
    ) -> tuple[Tensor, Tensor, float]:
        """Posterior mean of the weights, L with Λ = L Lᵀ, and the log evidence (its collapsed bound).

        Parameters
        ----------
        start
            [Lᵀ Lᵀμ], shape (W, W + 1), of a posterior to be extended; None: that of the prior, [1 0].

        Raises
        ------
        SolverError
            If even the triangle is singular to float64.
        """
        rows = self.rows(variances, noise)
        width = rows.shape[1] - 1
        before = 0.0
        if start is None:
            start = torch.eye(width, width + 1, dtype=rows.dtype, device=rows.device)
        else:
            before = float(start[:, :width].diagonal().log().sum())
        # large rows first: small ones then keep their digits (Cox and Higham, ACM Trans. Math. Softw. 24, 1998)
        r = torch.linalg.qr(torch.cat([rows, start]), mode="r").R
        square = float(r[width, width] ** 2) if len(r) > width else 0.0
        sign = torch.where(r.diagonal()[:width] < 0.0, -1.0, 1.0).to(r.dtype)
        upper, c = sign[:, None] * r[:width, :width], sign * r[:width, width]
        lower = upper.T.contiguous()
        condition = precision_condition(lower)
        if not condition < HOPELESS:
            raise SolverError(
                "the labels of the sparse model are beyond float64 even by orthogonal factorization (condition "
                f"number {condition**0.5:.0e}): the noise is too small against the prior; raise it"
            )
        weights = torch.linalg.solve_triangular(upper, c[:, None], upper=True)[:, 0]
        evidence = before - float(upper.diagonal().log().sum()) - 0.5 * square
        return weights, lower, evidence + float(self.rest.log_norm(variances, noise))
