"""Streamed, whitened normal equations of a sparse model, grouped so that most of the work can be reused.

A sparse model is linear in weights: label i reads Σ_t Σ_k a_tk f_itk ψ_it·w_tk, with ψ_it the whitened
features of block t (kernel columns K_im L⁻ᵀ), f_itk plain factors of the thermodynamic state and a_tk
prior scales. Labels of one kind at one state share their factors, so with one **group** g per (kind, state)

    Λ = I + Σ_g σ_g⁻² (a∘f_g)(a∘f_g)ᵀ ⊗ G_g,   G_g = Σ_{i∈g} ψ_i ψ_iᵀ,   b = Σ_g σ_g⁻² (a∘f_g) ⊗ Σ_i ψ_i y_i.

One pass over the data fills the G_g; changing noise or prior scales afterwards costs no pass at all, and
the pass itself is (functions of state)² cheaper than with expanded rows. Memory does not grow with the
number of labels.

The collapsed bound on the log evidence (Titsias 2009) is log N(y | 0, Q + σ²) − ½ Σ_i (k_ii − q_ii)/σ_i².
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import SolverError
from .blocked import factorize

#: Columns of Σψψᵀ that are summed at a time, on a CPU and on a GPU.
PANEL, WIDE_PANEL = 64, 1024


@dataclass(frozen=True)
class Whitening:
    """Features ψ = k P with P = V Λ^(−½), from the eigenvectors of the inducing Gram K = V Λ Vᵀ.

    Parameters
    ----------
    matrix
        P, shape (m, rank).
    """

    matrix: Tensor

    @classmethod
    def of(cls, gram: Tensor, tolerance: float = 1e-12) -> Whitening:
        """Whiten a symmetric Gram, shape (m, m).

        Directions below ``tolerance`` × the largest eigenvalue are dropped: they carry no variance that
        float64 could resolve, so duplicated or crowded inducing environments need no jitter.

        Raises
        ------
        SolverError
            If the Gram is not finite.
        """
        if not bool(torch.isfinite(gram).all()):
            raise SolverError("the Gram of the inducing environments is not finite: check the descriptors")
        if not len(gram):  # no environment was in range
            return cls(gram)
        values, vectors = torch.linalg.eigh(gram)
        keep = values > tolerance * values[-1]
        return cls(vectors[:, keep] / values[keep].sqrt())

    @property
    def rank(self) -> int:
        """Number of whitened features."""
        return self.matrix.shape[1]


@dataclass
class Group:
    """Sums over labels that share their kind and their factors (see the module's formulas)."""

    kind: str
    temperature: float
    factors: list[Tensor]  # per block, (functions of state,)
    gram: Tensor
    rhs: Tensor
    square: float | Tensor = 0.0  # Σ y²
    count: float = 0.0  # of independent labels
    missing: Tensor | None = None  # per block, Σ_i (k_ii − q_ii) of the unit-variance kernel
    log_weight: float | Tensor = 0.0  # Σ_i w_i log of the relative noise variance of row i, with its weight w_i

    def sums(self) -> dict[str, Tensor]:
        """All sums over labels, by name; in the group's own memory if it has any."""
        assert self.missing is not None
        numbers = self.gram.new_zeros(3)
        for k, value in enumerate((self.square, self.count, self.log_weight)):
            numbers[k].fill_(value)  # numbers or, on the device of the rows, tensors: no synchronisation
        return {"gram": self.gram, "rhs": self.rhs, "missing": self.missing, "numbers": numbers}

    @classmethod
    def from_sums(cls, kind: str, temperature: float, factors: list[Tensor], sums: dict[str, Tensor]) -> Group:
        """The inverse of :meth:`sums`."""
        square, count, log_weight = sums["numbers"].tolist()
        return cls(kind, temperature, factors, sums["gram"], sums["rhs"], square, count, sums["missing"], log_weight)


class NormalEquations:
    """Accumulates groups and assembles Λ and b for given scales and noise.

    Parameters
    ----------
    ranks
        Whitened features of each block.
    functions
        Functions of state of each block.
    """

    def __init__(self, ranks: list[int], functions: list[int]):
        self.ranks, self.functions = ranks, functions
        self.groups: dict[tuple, Group] = {}
        self.wide: dict[tuple[str, float], Group] = {}

    def add(
        self,
        key: tuple,
        factors: list[Tensor],
        features: Tensor,
        y: Tensor,
        missing: Tensor,
        log_weight: float,
        count: float | None = None,
        outside: float = 0.0,
    ):
        """Add labels to the group ``key`` = (kind, temperature, state).

        Parameters
        ----------
        factors
            Per block, shape (functions,).
        features
            Whitened features of all blocks side by side, shape (n, Σ ranks), divided by the relative noise.
        y
            Labels divided by the relative noise, shape (n,).
        missing
            Per block, Σ (k_ii − q_ii) over the rows.
        log_weight
            Σ log of the relative noise variances.
        count
            Number of independent labels that the rows represent; None: one each.
        outside
            Σ y² of the part of the labels that no features reach (:mod:`kernelfe.gp.solvers.sparse.row_reduction`).
        """
        group = self.groups.get(key)
        if group is None:
            size = features.shape[1]
            group = Group(key[0], key[1], factors, features.new_zeros(size, size), features.new_zeros(size))
            group.missing = torch.zeros_like(missing)
            self.groups[key] = group
        _accumulate(group, features, y, missing, log_weight, count)
        group.square += outside

    def add_wide(
        self,
        kind: str,
        temperature: float,
        features: Tensor,
        y: Tensor,
        missing: Tensor,
        log_weight: float,
        count: float | None = None,
    ):
        """Add labels whose rows are already expanded: sums of reads, or a state of its own per label.

        Parameters
        ----------
        features
            Shape (n, W): per block the products f_itk ψ_it, function by function, without prior scales.
        missing
            Shape (Σ functions,): Σ_i f_itk² (k_ii − q_ii), block by block.
        """
        wide = self.wide.get((kind, temperature))
        if wide is None:
            size = features.shape[1]
            wide = Group(kind, temperature, [], features.new_zeros(size, size), features.new_zeros(size))
            wide.missing = torch.zeros_like(missing)
            self.wide[kind, temperature] = wide
        _accumulate(wide, features, y, missing, log_weight, count)

    def stacked(self) -> Stacked:
        """The groups as stacked tensors, for assembly with any scales and noises."""
        groups, wide = list(self.groups.values()), list(self.wide.values())
        if not groups and not wide:
            raise SolverError("no labels were given to the normal equations")
        both = groups + wide
        size, like = sum(self.ranks), both[0].rhs
        grams = like.new_empty(len(groups), size, size)
        for group, gram in zip(groups, grams, strict=True):
            _mirrored(group.gram, gram)

        def numbers(values) -> Tensor:
            return torch.tensor(list(values), dtype=torch.float64, device=like.device)

        return Stacked(
            self.ranks,
            self.functions,
            [group.kind for group in both],
            numbers(group.temperature for group in both),
            [
                torch.stack([g.factors[t] for g in groups]) if groups else like.new_zeros(0, p)
                for t, p in enumerate(self.functions)
            ],
            grams,
            torch.stack([g.rhs for g in groups]) if groups else like.new_zeros(0, size),
            [replace(g, gram=_mirrored(g.gram, torch.empty_like(g.gram))) for g in wide],
            numbers(float(group.square) for group in both),
            numbers(float(group.count) for group in both),
            torch.stack([g.missing for g in groups]) if groups else like.new_zeros(0, len(self.ranks)),
            sum(float(group.log_weight) for group in both),
        )


def _mirrored(upper: Tensor, out: Tensor) -> Tensor:
    """The symmetric matrix whose upper triangle was summed, written to ``out``."""
    torch.triu(upper, out=out)
    out += upper.triu(1).mT
    return out


def _accumulate(
    group: Group, features: Tensor, y: Tensor, missing: Tensor, log_weight: float, count: float | None
) -> None:
    size, width = len(group.gram), PANEL if features.device.type == "cpu" else WIDE_PANEL
    for start in range(0, size, width):  # the upper triangle, panel by panel, in half the operations of a full product
        panel = slice(start, start + width)
        group.gram[panel, start:].addmm_(features[:, panel].T, features[:, start:])
    group.rhs.addmv_(features.T, y)
    group.square = group.square + y @ y  # on the device of y: no synchronisation
    group.count += len(y) if count is None else count
    group.missing += missing
    group.log_weight += log_weight


@dataclass
class Stacked:
    """All groups of a fit: the sufficient statistics of a sparse model with fixed inducing environments."""

    ranks: list[int]
    functions: list[int]
    kinds: list[str]  # of the groups, then of the wide groups
    temperature: Tensor  # likewise; used only by the noise model
    factors: list[Tensor]  # per block, (groups, functions)
    gram: Tensor  # (groups, R, R)
    rhs: Tensor  # (groups, R)
    wide: list[Group]
    square: Tensor
    count: Tensor
    missing: Tensor  # (groups, blocks)
    log_weight: float

    def precision(self, variances: list[Tensor], noise: Tensor) -> tuple[Tensor, Tensor]:
        """Λ and b for prior variances a² per block, shape (functions,), and noise variances per group.

        The weights are ordered block by block, function by function, feature by feature.
        """
        grouped = len(self.gram)
        amplitudes = [f * v.sqrt() for f, v in zip(self.factors, variances, strict=True)]
        offsets = [0]
        for rank in self.ranks:
            offsets.append(offsets[-1] + rank)
        rows, rhs = [], []
        for t, left in enumerate(amplitudes):
            part_t = slice(offsets[t], offsets[t + 1])
            row = []
            for s, right in enumerate(amplitudes):
                part_s = slice(offsets[s], offsets[s + 1])
                weight = (left[:, :, None] * right[:, None, :]) / noise[:grouped, None, None]
                row.append(_expanded(weight, self.gram[:, part_t, part_s]))
            rows.append(torch.cat(row, 1))
            rhs.append(((left / noise[:grouped, None]).T @ self.rhs[:, part_t]).reshape(-1))
        del row  # of the size of Λ, as are the next two
        precision, b = torch.cat(rows, 0), torch.cat(rhs)
        del rows
        precision.diagonal().add_(1.0)
        if self.wide:
            amplitude = torch.cat([v.sqrt().repeat_interleave(r) for v, r in zip(variances, self.ranks, strict=True)])
            for k, group in enumerate(self.wide):
                precision = precision + amplitude[:, None] * group.gram * amplitude / noise[grouped + k]
                b = b + amplitude * group.rhs / noise[grouped + k]
        return precision, b

    def log_evidence(self, variances: list[Tensor], noise: Tensor, bound: bool = True) -> Tensor:
        """Log evidence of the sparse model; differentiable in variances and noise.

        Parameters
        ----------
        bound
            True: the collapsed lower bound on the log evidence of the exact model. False: without its trace
            term, the exact log evidence log N(y | 0, Q + σ²) of the sparse model itself.
        """
        return _GaussianIntegral.apply(*self.precision(variances, noise)) + self.log_norm(variances, noise, bound)

    def log_norm(self, variances: list[Tensor], noise: Tensor, bound: bool = True) -> Tensor:
        """The log evidence without ½ bᵀΛ⁻¹b − ½ log det Λ, the part that changes with further labels."""
        out = -0.5 * (
            (self.square / noise).sum()
            + (self.count * noise.log()).sum()
            + self.log_weight
            + self.count.sum() * math.log(2.0 * math.pi)
        )
        return out - 0.5 * self._trace(variances, noise) if bound else out

    def _trace(self, variances: list[Tensor], noise: Tensor) -> Tensor:
        """Σ_i (k_ii − q_ii)/σ_i²: the prior variance of the labels that the features do not represent."""
        parts = [(f**2) @ v * self.missing[:, t] for t, (f, v) in enumerate(zip(self.factors, variances, strict=True))]
        trace = (torch.stack(parts).sum(0) / noise[: len(self.gram)]).sum()
        for k, group in enumerate(self.wide):
            trace = trace + (torch.cat(variances) @ group.missing) / noise[len(self.gram) + k]
        return trace

    def solve(self, variances: list[Tensor], noise: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean of the whitened weights and the lower Cholesky factor of Λ."""
        precision, b = self.precision(variances, noise)
        lower = _cholesky(precision)
        del precision  # the solve needs a copy of the factor, of the same size
        return torch.cholesky_solve(b[:, None], lower)[:, 0], lower


def _expanded(weight: Tensor, gram: Tensor) -> Tensor:
    """Σ_g weight_g ⊗ G_g: of shapes (groups, p, q) and (groups, r, s), shape (p r, q s)."""
    _, p, q = weight.shape
    _, r, s = gram.shape
    blocks = weight.flatten(1).T @ gram.flatten(1)
    return blocks.reshape(p, q, r, s).transpose(1, 2).reshape(p * r, q * s)


class _GaussianIntegral(torch.autograd.Function):
    """½ bᵀ Λ⁻¹ b − ½ log det Λ with its gradient in closed form, a third of the cost of autograd's.

    With μ = Λ⁻¹ b: ∂/∂Λ = −½ (Λ⁻¹ + μ μᵀ), ∂/∂b = μ.
    """

    @staticmethod
    def forward(ctx, precision: Tensor, b: Tensor) -> Tensor:
        lower = _cholesky(precision)
        mean = torch.cholesky_solve(b[:, None], lower)[:, 0]
        ctx.save_for_backward(lower, mean)
        return 0.5 * (b @ mean) - lower.diagonal().log().sum()

    @staticmethod
    def backward(ctx, gradient: Tensor):  # type: ignore[override]
        lower, mean = ctx.saved_tensors
        return (-0.5 * gradient) * torch.cholesky_inverse(lower).addr_(mean, mean), gradient * mean


def _cholesky(precision: Tensor) -> Tensor:
    if precision.is_cuda:
        lower, info = torch.linalg.cholesky_ex(precision)
    else:
        lower = precision.clone()
        info = factorize(lower)
    if int(info):
        raise SolverError(
            "the normal equations of the sparse model are not positive definite in float64: "
            "the noise is too small against the prior; raise it, or use solver='dense'"
        )
    return lower
