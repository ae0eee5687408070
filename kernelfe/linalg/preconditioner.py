"""A preconditioner from a low-rank part and the neighbourhood of every row: P = L Lᵀ + (U Uᵀ)⁻¹.

L carries what is smooth: Nyström features on a few environments, mean functions. What is left, A − L Lᵀ, falls off
quickly with distance, and its inverse is approximated by Vecchia's factor U: group by group of rows, each conditioned
on a few near rows of groups before it (Vecchia 1988; Katzfuss & Guinness 2021). Each row of the factor is exact for the
rows it looks at, so with all rows in one group P = A. The combination is that of Gyger, Furrer & Sigrist (2024), whose
low-rank part alone needs several times as many iterations where the kernel is neither very smooth nor very rough.

P⁻¹ = V − V L (1 + Lᵀ V L)⁻¹ Lᵀ V with V = U Uᵀ.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import SolverError

#: Relative jitters tried in turn on the residual of a group.
JITTERS = (0.0, 1e-12, 1e-9, 1e-6)


@dataclass(frozen=True)
class Groups:
    """Groups of rows in the order in which they are conditioned on one another.

    Parameters
    ----------
    own
        Rows of each group; all groups together name every row once.
    near
        Rows of earlier groups that each group looks at.
    """

    own: list[Tensor]
    near: list[Tensor]


class LocalFactor:
    """Vecchia's sparse inverse factor: (U Uᵀ)⁻¹ ≈ B for a symmetric positive definite B.

    Parameters
    ----------
    groups
        Who looks at whom.
    block
        ``block(index)`` gives B on the rows ``index``, shape (s, s).
    dtype
        In which U is kept and applied.

    Raises
    ------
    SolverError
        If a block is not positive definite even with the largest relative jitter.
    """

    def __init__(self, groups: Groups, block: Callable[[Tensor], Tensor], dtype: torch.dtype = torch.float64):
        self.groups, count = groups, len(groups.own)
        self.rows = sum(len(own) for own in groups.own)
        width = max(len(own) for own in groups.own)
        height = width + max(len(near) for near in groups.near)
        device = groups.own[0].device
        # padded to one size, so that one batched product applies them all
        self.index = torch.zeros(count, height, dtype=torch.long, device=device)
        self.factor = torch.zeros(count, height, width, dtype=dtype, device=device)
        log_diagonal = 0.0
        for g, (own, near) in enumerate(zip(groups.own, groups.near, strict=True)):
            rows = torch.cat([near, own])
            lower = _cholesky(block(rows))
            size, last = len(rows), len(own)
            unit = lower.new_zeros(size, last)
            unit[size - last :] = torch.eye(last, dtype=lower.dtype, device=device)
            self.index[g, :size] = rows
            self.factor[g, :size, :last] = torch.linalg.solve_triangular(lower.mT, unit, upper=True).to(dtype)
            log_diagonal += float(lower.diagonal()[size - last :].log().sum())
        self._logdet = 2.0 * log_diagonal

    def solve(self, x: Tensor) -> Tensor:
        """U Uᵀ x, shape (N, k)."""
        picked = x.to(self.factor.dtype)[self.index]  # (groups, height, k)
        back = torch.bmm(self.factor, torch.bmm(self.factor.mT, picked)).to(x.dtype)
        return torch.zeros_like(x).index_add_(0, self.index.reshape(-1), back.flatten(0, 1))

    def logdet(self) -> float:
        """log det (U Uᵀ)⁻¹."""
        return self._logdet

    def root(self, noise: Tensor) -> Tensor:
        """U⁻ᵀ ε: of covariance (U Uᵀ)⁻¹ for standard normal ε, shape (N, n); rows of ε are in the groups' order."""
        out, at = torch.zeros_like(noise), 0
        for g, (own, near) in enumerate(zip(self.groups.own, self.groups.near, strict=True)):
            part = noise[at : at + len(own)]
            at += len(own)
            factor = self.factor[g].to(noise.dtype)
            above, diagonal = factor[: len(near), : len(own)], factor[len(near) : len(near) + len(own), : len(own)]
            part = part - above.mT @ out[near]
            out[own] = torch.linalg.solve_triangular(diagonal.mT, part, upper=False)
        return out


class LowRankAndLocal:
    """P = L Lᵀ + (U Uᵀ)⁻¹ (see the module).

    Parameters
    ----------
    local
        U.
    low_rank
        L, shape (N, r), or None.
    left, right
        Faster ways to L a and Lᵀ x than with the matrix, if there are any; the matrix is then not kept.

    Raises
    ------
    SolverError
        If 1 + Lᵀ V L is not positive definite.
    """

    def __init__(
        self,
        local: LocalFactor,
        low_rank: Tensor | None = None,
        left: Callable[[Tensor], Tensor] | None = None,
        right: Callable[[Tensor], Tensor] | None = None,
    ):
        self.local, self.rank, self.rows = local, 0 if low_rank is None else low_rank.shape[1], local.rows
        if low_rank is None or not self.rank:
            self.rank = 0
            return
        capacity = torch.eye(self.rank, dtype=torch.float64, device=low_rank.device)
        step = max(1, (1 << 24) // max(1, self.rows))
        for start in range(0, self.rank, step):  # V L a few columns at a time
            weighted = local.solve(low_rank[:, start : start + step].contiguous())
            capacity[:, start : start + step] += (low_rank.mT @ weighted).to(capacity.dtype)
        self.capacity, info = torch.linalg.cholesky_ex(0.5 * (capacity + capacity.mT))
        if int(info):
            raise SolverError("the low-rank part of the preconditioner is not finite: check the hyperparameters")
        if left is None or right is None:
            matrix = low_rank
            left, right = (lambda a: (matrix @ a.to(matrix)).to(a)), (lambda x: (matrix.mT @ x.to(matrix)).to(x))
        self._left, self._right = left, right

    def solve(self, x: Tensor) -> Tensor:
        """P⁻¹ x, shape (N, k)."""
        out = self.local.solve(x)
        if not self.rank:
            return out
        inner = torch.cholesky_solve(self._right(out), self.capacity)
        return out - self.local.solve(self._left(inner))

    def subtracted(self) -> Tensor | None:
        """W with P⁻¹ = U Uᵀ − W Wᵀ, shape (N, r); None without a low-rank part."""
        if not self.rank:
            return None
        unit = torch.eye(self.rank, dtype=self.capacity.dtype, device=self.capacity.device)
        root = torch.linalg.solve_triangular(self.capacity.mT, unit, upper=True)
        return self.local.solve(self._left(root))

    def logdet(self) -> float:
        """log det P."""
        more = 2.0 * float(self.capacity.diagonal().log().sum()) if self.rank else 0.0
        return self.local.logdet() + more

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draws of N(0, P), shape (N, n)."""
        device = self.local.factor.device
        noise = torch.randn(self.rows + self.rank, n, generator=generator, dtype=torch.float64).to(device)
        out = self.local.root(noise[: self.rows])
        return out + self._left(noise[self.rows :]) if self.rank else out


def _cholesky(block: Tensor) -> Tensor:
    diagonal = block.diagonal().clone()
    for jitter in JITTERS:
        block.diagonal().copy_(diagonal * (1.0 + jitter))
        lower, info = torch.linalg.cholesky_ex(block)
        if not int(info):
            return lower
    where = "not finite" if not math.isfinite(float(diagonal.sum())) else "not positive definite"
    raise SolverError(
        f"the covariance of {len(block)} neighbouring labels is {where}: "
        "remove duplicated rows, or raise the noise of the labels"
    )
