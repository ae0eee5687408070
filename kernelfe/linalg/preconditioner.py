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
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..errors import SolverError

#: Relative jitters tried in turn on the residual of a group.
JITTERS = (0.0, 1e-12, 1e-9, 1e-6)
#: Largest variance, in units of what is left to the local part, up to which that may be in single precision.
LARGEST_IN_SINGLE = 1e8
#: Numbers gathered at a time in applying the factor to several right-hand sides.
GATHERED_NUMBERS = 1 << 23
#: Numbers gathered at a time for many right-hand sides: what stays in a cache.
CACHED_NUMBERS = 1 << 18


class LocalFactor:
    """Vecchia's sparse inverse factor: (U Uᵀ)⁻¹ ≈ B for a symmetric positive definite B.

    Parameters
    ----------
    index
        Rows that each group looks at, earlier ones first, its own last, shape (groups, height); filled up on the left
        with any rows, whose factor is zero.
    factor
        U group by group, shape (groups, height, width); filled up on the left with zero columns.
    own
        Rows of each group itself, shape (groups,).
    used
        Rows that each group looks at, its own among them, shape (groups,).
    """

    def __init__(self, index: Tensor, factor: Tensor, own: Tensor, used: Tensor):
        self.index, self.factor, self.own, self.used = index, factor, own.tolist(), used.tolist()
        self.rows = int(own.sum())
        diagonal = factor[:, factor.shape[1] - factor.shape[2] :].diagonal(dim1=1, dim2=2)
        filled = torch.arange(factor.shape[2], device=own.device) < factor.shape[2] - own[:, None]
        self._logdet = -2.0 * float(
            diagonal.masked_fill(filled.to(diagonal.device), 1.0).to(torch.float64).abs().log().sum()
        )

    @classmethod
    def of_groups(
        cls,
        own: list[Tensor],
        near: list[Tensor],
        block: Callable[[Tensor], Tensor],
        dtype: torch.dtype = torch.float64,
    ) -> LocalFactor:
        """Group by group.

        Parameters
        ----------
        own
            Rows of each group, in the order in which groups are conditioned on one another; together every row once.
        near
            Rows of earlier groups that each group looks at.
        block
            ``block(rows)`` gives B on these rows, shape (s, s).
        dtype
            In which U is kept and applied.

        Raises
        ------
        SolverError
            If a block is not positive definite even with the largest relative jitter.
        """
        width, height = max(map(len, own)), max(len(a) + len(b) for a, b in zip(own, near, strict=True))
        height = max(height, width)
        index = torch.zeros(len(own), height, dtype=torch.long, device=own[0].device)
        factor = torch.zeros(len(own), height, width, dtype=dtype, device=own[0].device)
        for g, (mine, others) in enumerate(zip(own, near, strict=True)):
            rows = torch.cat([others, mine])
            index[g, height - len(rows) :] = rows
            found = last_columns(block(rows)[None], len(mine))[0]
            factor[g, height - len(rows) :, width - len(mine) :] = found
        used = torch.tensor([len(mine) + len(others) for mine, others in zip(own, near, strict=True)], device="cpu")
        return cls(index, factor, torch.tensor([len(mine) for mine in own], device=index.device), used)

    def solve(self, x: Tensor) -> Tensor:
        """U Uᵀ x, shape (N, k)."""
        step = max(1, GATHERED_NUMBERS // self.index.numel())
        if x.shape[1] > step:  # rows are gathered as often as they are looked at
            return torch.cat([self.solve(part) for part in x.split(step, 1)], 1)
        picked = x.to(self.factor.dtype)[self.index]  # (groups, height, k)
        back = torch.bmm(self.factor, torch.bmm(self.factor.mT, picked)).to(x.dtype)
        return torch.zeros_like(x).index_add_(0, self.index.reshape(-1), back.flatten(0, 1))

    def whitened(self, x: Tensor) -> Iterator[Tensor]:
        """Uᵀ x for x of shape (N, k), some groups at a time; rows of no group are zero."""
        height, width = self.factor.shape[1:]
        few = max(1, CACHED_NUMBERS // (height * x.shape[1]))  # gathered rows that stay in the cache
        many = max(1, (1 << 24) // max(1, width * x.shape[1]))
        for outer in range(0, len(self.index), many):
            stop = min(len(self.index), outer + many)
            out = x.new_empty(stop - outer, width, x.shape[1])
            for start in range(outer, stop, few):
                part = slice(start, min(stop, start + few))
                at = slice(part.start - outer, part.stop - outer)
                torch.bmm(self.factor[part].mT.to(x), x[self.index[part]], out=out[at])
            yield out.flatten(0, 1)

    def logdet(self) -> float:
        """log det (U Uᵀ)⁻¹."""
        return self._logdet

    def root(self, noise: Tensor) -> Tensor:
        """U⁻ᵀ ε: of covariance (U Uᵀ)⁻¹ for standard normal ε, shape (N, n), group by group."""
        out, at = torch.zeros_like(noise), 0
        for g, count in enumerate(self.own):
            factor, index = self.factor[g, :, -count:].to(noise.dtype), self.index[g]
            part = noise[at : at + count] - factor[:-count].mT @ out[index[:-count]]
            at += count
            out[index[-count:]] = torch.linalg.solve_triangular(factor[-count:].mT, part, upper=False)
        return out


def last_columns(blocks: Tensor, count: int) -> Tensor:
    """The last columns of C⁻ᵀ of blocks = C Cᵀ, shape (…, s, count): what makes the last rows independent of the rest.

    Raises
    ------
    SolverError
        If a block is not positive definite even with the largest relative jitter.
    """
    size = blocks.shape[-1]
    unit = blocks.new_zeros(len(blocks), size, count)
    unit[:, size - count :] = torch.eye(count, dtype=blocks.dtype, device=blocks.device)
    return torch.linalg.solve_triangular(_cholesky(blocks).mT, unit, upper=True)


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
        for part in local.whitened(low_rank):  # LᵀVL = (UᵀL)ᵀ UᵀL
            capacity.addmm_(part.mT, part)
        self.capacity, info = torch.linalg.cholesky_ex(capacity)
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

    def to_single(self) -> None:
        """Keep U in single precision, unless eigenvalues of 1 + LᵀVL are so large that P⁻¹ would lose its digits."""
        if not self.rank or float(self.capacity.square().sum(1).max()) < LARGEST_IN_SINGLE:
            self.local.factor = self.local.factor.to(torch.float32)

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
        noise = torch.randn(self.rows + self.rank, n, generator=generator, dtype=torch.float64, device="cpu").to(device)
        out = self.local.root(noise[: self.rows])
        return out + self._left(noise[self.rows :]) if self.rank else out


def _cholesky(blocks: Tensor) -> Tensor:
    diagonal = blocks.diagonal(dim1=1, dim2=2).clone()
    for jitter in JITTERS:
        blocks.diagonal(dim1=1, dim2=2).copy_(diagonal * (1.0 + jitter))
        lower, info = torch.linalg.cholesky_ex(blocks)
        if not bool(info.any()):
            return lower
    where = "not finite" if not math.isfinite(float(diagonal.sum())) else "not positive definite"
    raise SolverError(
        f"the covariance of {blocks.shape[1]} neighbouring labels is {where}: "
        "remove duplicated rows, or raise the noise of the labels"
    )
