"""A preconditioner from a low-rank part and the neighbourhood of every row: P = F Fᵀ + L Lᵀ + (U Uᵀ)⁻¹.

L represents the smooth part: Nyström features on a few environments, mean functions. The remainder, A − L Lᵀ, decays
quickly with distance. Its inverse is approximated by Vecchia's factor U: group by group of rows, each conditioned
on a few near rows of earlier groups (Vecchia 1988; Katzfuss & Guinness 2021). Each row of the factor is exact given the
rows it depends on, so with all rows in one group P = A. The combination is that of Gyger, Furrer & Sigrist (2024). Its
low-rank part alone needs several times as many iterations if the kernel is neither very smooth nor very rough.

F holds functions of so large a prior variance that they are hardly penalised. Without F, P₀⁻¹ = V − V L (1 + Lᵀ V L)⁻¹
Lᵀ V with V = U Uᵀ. With F, P⁻¹ = Πᵀ P₀⁻¹ Π + G K² Gᵀ, where G = P₀⁻¹ F, K = (1 + GᵀF)⁻¹ and Π = 1 − F K Gᵀ. These
functions are projected out in double precision, before and after all steps in single precision, which would not
resolve them. (P₀⁻¹ Π is the same in exact arithmetic. In single precision it is not symmetric for F, and predicted
values were wrong by 1e-4 at a residual of 1e-6, with Πᵀ by less than 1e-6.)
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import SolverError

logger = logging.getLogger(__name__)


class LocalFactor:
    """Vecchia's sparse inverse factor: (U Uᵀ)⁻¹ ≈ B for a symmetric positive definite B.

    Rows are grouped in sites of equal size, all rows of a frame for example, which are read and written together.

    Parameters
    ----------
    sites
        Rows of each site, shape (sites, R); together every row once.
    index
        Sites that each group depends on, earlier ones first, its own last, shape (groups, k); padded on the left with
        arbitrary sites, whose factor is zero.
    factor
        U group by group, shape (groups, k·R, width); padded on the left with zero columns.
    own
        Rows of each group itself, shape (groups,).
    used
        Number of sites that each group depends on, including its own, shape (groups,).
    """

    #: Numbers gathered at a time when the factor is applied to several right-hand sides.
    GATHERED_NUMBERS: ClassVar[int] = 1 << 23
    #: Numbers gathered at a time for many right-hand sides, to stay in a cache.
    CACHED_NUMBERS: ClassVar[int] = 1 << 18
    #: Numbers of Uᵀ x in one piece.
    WHITENED_NUMBERS: ClassVar[int] = 1 << 22

    def __init__(self, sites: Tensor, index: Tensor, factor: Tensor, own: Tensor, used: Tensor):
        self.sites, self.index, self.factor, self.rows = sites, index, factor, sites.numel()
        self.own, self.used = own.tolist(), used.tolist()
        diagonal = factor[:, factor.shape[1] - factor.shape[2] :].diagonal(dim1=1, dim2=2)
        filled = torch.arange(factor.shape[2], device=own.device) < factor.shape[2] - own[:, None]
        self._logdet = -2.0 * float(
            diagonal.masked_fill(filled.to(diagonal.device), 1.0).to(torch.float64).abs().log().sum()
        )
        flat, order = sites.reshape(-1), torch.arange(self.rows, device=sites.device)
        self._place = None if torch.equal(flat, order) else torch.empty_like(flat).scatter_(0, flat, order)
        # groups that depend on a site, site by site: sums over them are sums of consecutive rows
        self._looks = index.reshape(-1).argsort(stable=True)
        self._first = torch.bincount(index.reshape(-1), minlength=len(sites)).cumsum(0)
        self._first = torch.cat([self._first.new_zeros(1), self._first[:-1]])
        self._transposed: Tensor | None = None

    @classmethod
    def of_groups(
        cls,
        own: list[Tensor],
        near: list[Tensor],
        block: Callable[[Tensor], Tensor],
        dtype: torch.dtype = torch.float64,
    ) -> LocalFactor:
        """Group by group, with sites of a single row.

        Parameters
        ----------
        own
            Rows of each group, in the order in which groups are conditioned on one another; together every row once.
        near
            Rows of earlier groups that each group depends on.
        block
            ``block(rows)`` gives B on these rows, shape (s, s).
        dtype
            Floating type of U and of its products.

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
        sizes = torch.tensor([len(mine) for mine in own], device=index.device)
        used = torch.tensor([len(mine) + len(others) for mine, others in zip(own, near, strict=True)], device="cpu")
        return cls(torch.arange(int(sizes.sum()), device=index.device)[:, None], index, factor, sizes, used)

    def solve(self, x: Tensor) -> Tensor:
        """U Uᵀ x, shape (N, k)."""
        (groups, looked_at), each = self.index.shape, self.sites.shape[1]
        step = max(1, self.GATHERED_NUMBERS // (groups * looked_at * each))
        if x.shape[1] > step:  # rows are gathered once for each group that depends on them
            return torch.cat([self.solve(part) for part in x.split(step, 1)], 1)
        if self._transposed is None:
            self._transposed = self.factor.mT.contiguous()
        # a row vector times a matrix takes half the time of the matrix times a column
        picked = self._picked(self._by_site(x.to(self.factor.dtype)), slice(None))
        back = torch.bmm(torch.bmm(picked.mT, self.factor), self._transposed)  # (groups, columns, k·R)
        back = back.unflatten(2, (looked_at, each)).permute(0, 2, 3, 1)
        back = back.reshape(-1).view(groups * looked_at, -1)  # single numbers would not be contiguous, and sums slow
        out = torch.nn.functional.embedding_bag(self._looks, back, self._first, mode="sum").view(self.rows, -1)
        return (out if self._place is None else out.index_select(0, self._place)).to(x.dtype)

    def whitened(self, x: Tensor) -> Iterator[Tensor]:
        """Uᵀ x for x of shape (N, k) with rows in the order of :attr:`sites`, some groups at a time.

        Rows of no group are zero.
        """
        height, width = self.factor.shape[1:]
        few = max(1, self.CACHED_NUMBERS // (height * x.shape[1]))  # gathered rows that stay in the cache
        many = max(1, self.WHITENED_NUMBERS // max(1, width * x.shape[1]))
        by_site = x.reshape(len(self.sites), -1)
        for outer in range(0, len(self.index), many):
            stop = min(len(self.index), outer + many)
            out = x.new_empty(stop - outer, width, x.shape[1])
            for start in range(outer, stop, few):
                part = slice(start, min(stop, start + few))
                at = slice(part.start - outer, part.stop - outer)
                torch.bmm(self.factor[part].mT.to(x), self._picked(by_site, part), out=out[at])
            yield out.flatten(0, 1)

    def _by_site(self, x: Tensor) -> Tensor:
        """Rows of a site in one row, shape (sites, R·k)."""
        x = x if self._place is None else x.index_select(0, self.sites.reshape(-1))
        return x.reshape(len(self.sites), -1)

    def _picked(self, by_site: Tensor, groups: slice) -> Tensor:
        """Rows that the groups depend on, shape (groups, k·R, columns)."""
        index = self.index[groups]
        found = by_site.index_select(0, index.reshape(-1))
        return found.view(len(index), self.factor.shape[1], -1)

    def columns(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Group by group, the rows that it depends on, its own last, and its columns of U, shape (rows, own)."""
        for g, (own, used) in enumerate(zip(self.own, self.used, strict=True)):
            rows = self.sites[self.index[g, -used:]].reshape(-1)
            yield rows, self.factor[g, -len(rows) :, -own:]

    def logdet(self) -> float:
        """log det (U Uᵀ)⁻¹."""
        return self._logdet

    def root(self, noise: Tensor) -> Tensor:
        """U⁻ᵀ ε: of covariance (U Uᵀ)⁻¹ for standard normal ε, shape (N, n), group by group."""
        out, at = torch.zeros_like(noise), 0
        for rows, columns in self.columns():
            count, factor = columns.shape[1], columns.to(noise.dtype)
            part = noise[at : at + count] - factor[:-count].mT @ out[rows[:-count]]
            at += count
            out[rows[-count:]] = torch.linalg.solve_triangular(factor[-count:].mT, part, upper=False)
        return out


def last_columns(blocks: Tensor, count: int) -> Tensor:
    """The last columns of C⁻ᵀ of blocks = C Cᵀ, shape (…, s, count): they make the last rows independent of the others.

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
    """P = F Fᵀ + L Lᵀ + (U Uᵀ)⁻¹ (see the module).

    Parameters
    ----------
    local
        U.
    low_rank
        L, shape (N, r), rows in the order of ``local.sites``, or None.
    left, right
        Faster functions for Φ a and Φᵀ x than a matrix product, for L = Φ S, or None; L is then not kept.
    root
        S, shape (r, r); None: one.
    broad
        F, shape (N, m) with few columns, or None.

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
        root: Tensor | None = None,
        broad: Tensor | None = None,
    ):
        self.local, self.rows = local, local.rows
        self._low_rank = self._broad = None
        if low_rank is not None and low_rank.shape[1]:
            self._low_rank = _LowRank(local, low_rank, left, right, root)
        if broad is not None and broad.shape[1]:
            self._broad = _Broad(broad, self._solve_others(broad))

    @property
    def rank(self) -> int:
        """Columns of L and F."""
        parts = [part for part in (self._low_rank, self._broad) if part is not None]
        return sum(part.rank for part in parts)

    def solve(self, x: Tensor) -> Tensor:
        """P⁻¹ x, shape (N, k)."""
        if self._broad is None:
            return self._solve_others(x)
        return self._broad.completed(self._solve_others(self._broad.without(x)), x)

    def _solve_others(self, x: Tensor) -> Tensor:
        """P₀⁻¹ x."""
        if self._low_rank is None:
            return self.local.solve(x)
        # subtracted from x, not from V x, whose differences U in single precision would not resolve
        return self.local.solve(x - self._low_rank.explained(self.local.solve(x)))

    def consistent(self, limit: float = 0.2, steps: int = 3) -> bool:
        """Check that Lᵀ P₀⁻¹ L = 1 − (1 + LᵀVL)⁻¹ holds to ``limit`` despite rounding.

        P₀⁻¹ is a difference: for a component that varies a million times more than U can resolve, a millionth remains.
        With U in single precision this may be zero, or negative. ``steps`` power iterations find the largest
        deviation.
        """
        low_rank = self._low_rank
        if low_rank is None:
            return True
        seeded = torch.Generator().manual_seed(0)
        x = torch.randn(low_rank.rank, 1, generator=seeded, dtype=torch.float64, device="cpu")
        x, size = x.to(low_rank.capacity.device), math.inf
        for _ in range(steps):
            x = x / x.norm()
            y = low_rank.left(x)
            found = low_rank.right(self.local.solve(y - low_rank.explained(self.local.solve(y))))
            x = found - x + torch.cholesky_solve(x, low_rank.capacity)
            size = float(x.norm())
            if not 0.0 < size < limit:
                break
        logger.debug("the inverse of the preconditioner violates its identities by %.1e", size)
        return size < limit

    def subtracted(self) -> Tensor | None:
        """W with P⁻¹ = U Uᵀ − W Wᵀ, shape (N, r + m); None without L and F."""
        parts = [] if self._low_rank is None else [self.local.solve(self._low_rank.explained_root())]
        if self._broad is not None:
            parts.append(self._broad.subtracted())
        return torch.cat(parts, 1) if parts else None

    def logdet(self) -> float:
        """log det P."""
        parts = [part for part in (self.local, self._low_rank, self._broad) if part is not None]
        return sum(part.logdet() for part in parts)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draws of N(0, P), shape (N, n)."""
        device = self.local.factor.device
        noise = torch.randn(self.rows + self.rank, n, generator=generator, dtype=torch.float64, device="cpu").to(device)
        out, at = self.local.root(noise[: self.rows]), self.rows
        for part in (self._low_rank, self._broad):
            if part is not None:
                out = out + part.left(noise[at : at + part.rank])
                at += part.rank
        return out


class _LowRank:
    """L, and 1 + LᵀVL; see :class:`LowRankAndLocal` for the parameters."""

    def __init__(self, local: LocalFactor, low_rank: Tensor, left, right, root: Tensor | None):
        self.rank, self._root = low_rank.shape[1], root
        unit = torch.eye(self.rank, dtype=torch.float64, device=low_rank.device)
        capacity = torch.zeros_like(unit)
        for part in local.whitened(low_rank):  # LᵀVL = (UᵀL)ᵀ UᵀL
            _add_square(capacity, part)
        self.capacity, info = torch.linalg.cholesky_ex(unit + capacity)
        if int(info):
            raise SolverError("the low-rank part of the preconditioner is not finite: check the hyperparameters")
        # Φ T (Φ T)ᵀ = L (1 + LᵀVL)⁻¹ Lᵀ: two products with T instead of two with S and two triangular solves
        inverse = torch.linalg.solve_triangular(self.capacity, unit, upper=False).mT
        self._inner = inverse if root is None else root @ inverse
        if left is None or right is None:
            matrix = low_rank[local.sites.reshape(-1).argsort()].to(torch.float64)
            left, right = (lambda a: matrix @ a), (lambda x: matrix.mT @ x)
        self._left, self._right = left, right

    def left(self, a: Tensor) -> Tensor:
        """L a."""
        return self._left(a if self._root is None else self._root @ a)

    def right(self, x: Tensor) -> Tensor:
        """Lᵀ x."""
        found = self._right(x)
        return found if self._root is None else self._root.mT @ found

    def explained(self, x: Tensor) -> Tensor:
        """L (1 + LᵀVL)⁻¹ Lᵀ x."""
        return self._left(self._inner @ (self._inner.mT @ self._right(x)))

    def explained_root(self) -> Tensor:
        """Φ T."""
        return self._left(self._inner)

    def logdet(self) -> float:
        """log det (1 + LᵀVL)."""
        return 2.0 * float(self.capacity.diagonal().log().sum())


class _Broad:
    """F and G = P₀⁻¹ F."""

    def __init__(self, broad: Tensor, solved: Tensor):
        self.rank, self._matrix, self._solved = broad.shape[1], broad, solved
        inner = solved.mT @ broad
        unit = torch.eye(self.rank, dtype=torch.float64, device=broad.device)
        self._factor, info = torch.linalg.cholesky_ex(unit + 0.5 * (inner + inner.mT))
        if int(info):
            raise SolverError("the preconditioner leaves the mean functions no positive variance: raise the noise")
        self._weights = torch.cholesky_solve(solved.mT, self._factor)

    def without(self, x: Tensor) -> Tensor:
        """Π x = x − F K Gᵀ x with K = (1 + GᵀF)⁻¹."""
        return torch.addmm(x, self._matrix, self._weights @ x, alpha=-1.0)

    def completed(self, found: Tensor, x: Tensor) -> Tensor:
        """Πᵀ found + G K² Gᵀ x."""
        more = self._weights @ x - self._matrix.mT @ found
        return torch.addmm(found, self._solved, torch.cholesky_solve(more, self._factor))

    def left(self, a: Tensor) -> Tensor:
        """F a."""
        return self._matrix @ a

    def subtracted(self) -> Tensor:
        """G C⁻ᵀ for 1 + GᵀF = C Cᵀ."""
        return torch.linalg.solve_triangular(self._factor.mT, self._solved, upper=True, left=False)

    def logdet(self) -> float:
        """log det (1 + GᵀF)."""
        return 2.0 * float(self._factor.diagonal().log().sum())


def _add_square(total: Tensor, part: Tensor, columns: int = 256) -> None:
    """Add partᵀ part; only one half of it is computed.

    ``columns`` are computed together: fewer waste less, more run faster.
    """
    part = part.to(total.dtype)  # the product is a million times larger than the identity that it is added to
    for start in range(0, len(total), columns):
        stop = min(start + columns, len(total))
        total[:stop, start:stop].addmm_(part[:, :stop].mT, part[:, start:stop])
        total[start:stop, :start] = total[:start, start:stop].mT


def _cholesky(blocks: Tensor) -> Tensor:
    """Factors of blocks, with the least relative jitter of some that leaves all of them positive definite."""
    jitters = (0.0, 1e-12, 1e-9, 1e-6) if blocks.dtype == torch.float64 else (0.0, 1e-6)
    diagonal = blocks.diagonal(dim1=1, dim2=2).clone()
    for jitter in jitters:
        blocks.diagonal(dim1=1, dim2=2).copy_(diagonal * (1.0 + jitter))
        lower, info = torch.linalg.cholesky_ex(blocks)
        if not bool(info.any()):
            return lower
    where = "not finite" if not math.isfinite(float(diagonal.sum())) else "not positive definite"
    raise SolverError(
        f"the covariance of {blocks.shape[1]} neighbouring labels is {where}: "
        "remove duplicated rows, or raise the noise of the labels; few labels can be fitted with Dense()"
    )
