"""The kernel of functions that are linear in their environments: weights with a smooth normal prior."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import DataError, require
from ..specs import Bound, Each, Flag, OrNone, Real, Whole
from .base import Embedding, Kernel
from .jets import Jets, plus


@dataclass(frozen=True)
class SplineWeights(Kernel):
    """κ(z, z') = zᵀ M z': functions f(z) = w·z whose weights w are normally distributed with the covariance M.

    Weight k belongs to a node ν_k, such as the distance at which a B-spline is largest, and M makes weights of near
    nodes alike,

        M_kl ∝ δ(g_k, g_l) exp(−‖ν_k − ν_l‖²/2ℓ²) + nugget δ_kl,   M_kk = 1 + nugget,

    so that f is, up to the resolution of the basis, a Gaussian process of the kernel exp(−‖ν − ν'‖²/2ℓ²) on the
    functions that the basis sums up. The prior is exact with as many inducing environments as there are weights: see
    :class:`~kernelfe.gp.solvers.WeightSpace`.

    Parameters
    ----------
    nodes
        ν_k, shape (D, p).
    groups
        g_k, shape (D,): weights of different groups are independent. None: all in one.
    symmetric
        With p = 2, functions of two distances do not change when these are exchanged.
    lengthscale
        ℓ, in the unit of the nodes; fitted.
    nugget
        Share of independent variance of every weight: how far the kernel of the nodes may be off.
    """

    nodes: tuple[tuple[float, ...], ...]
    groups: tuple[int, ...] | None = None
    symmetric: bool = False
    lengthscale: float = 0.45
    nugget: float = 1e-4

    POSITIVE: ClassVar[tuple[str, ...]] = ("lengthscale",)
    STATIONARY: ClassVar[bool] = False
    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        "nodes": Each(Each(Real())),
        "groups": OrNone(Each(Whole(least=0))),
        "symmetric": Flag(),
        "lengthscale": Real(above=0.0),
        "nugget": Real(above=0.0, most=1.0),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        wide = {len(node) for node in self.nodes}
        require(len(wide) == 1 and 0 not in wide, "SplineWeights: nodes must all have the same number of coordinates")
        require(
            self.groups is None or len(self.groups) == len(self.nodes),
            f"SplineWeights: {len(self.groups or ())} groups for {len(self.nodes)} nodes: one for each is needed",
        )
        require(not self.symmetric or wide == {2}, "SplineWeights: symmetric=True needs nodes of two coordinates")

    def check(self, dimension: int) -> None:
        """Check the number of nodes against the columns of the environments."""
        super().check(dimension)
        if len(self.nodes) != dimension:
            raise DataError(f"SplineWeights has {len(self.nodes)} nodes, its descriptor {dimension} columns")

    def covariance(self) -> Tensor:
        """M, shape (D, D), differentiable by the length scale."""
        same, nodes = _table(self.nodes, self.groups)
        scale = torch.as_tensor(self.lengthscale, dtype=torch.float64)
        nodes, same = nodes.to(scale.device) / scale, same.to(scale.device)

        def between(other: Tensor) -> Tensor:
            squared = (nodes[:, None] - other[None]).square().sum(2)
            return torch.exp(-0.5 * squared)

        out = between(nodes)
        if self.symmetric:
            out = out + between(nodes.flip(1))
            root = out.diagonal().rsqrt()
            out = root[:, None] * out * root
        return same * out + self.nugget * torch.eye(len(nodes), dtype=torch.float64, device=scale.device)

    def factor(self) -> Tensor:
        """Lower Cholesky factor L of M = L Lᵀ."""
        return torch.linalg.cholesky(self.covariance())

    def inverse_factor(self) -> Tensor:
        """L⁻¹, whose rows are environments of independent unit weights: their embedding is the identity."""
        lower = self.factor()
        return torch.linalg.solve_triangular(lower, torch.eye(len(lower)).to(lower), upper=False)

    # ------------------------------------------------------------------ the kernel's methods

    def embedding(self, z: Tensor) -> Embedding:
        """x = Lᵀ z: the kernel is the dot product of x."""
        lower = self.factor().to(z)
        return Embedding(z @ lower, lambda w: w @ lower, lambda g: g @ lower.T)

    def gram(self, a: Jets, b: Jets, weight: Tensor | None = None) -> Tensor:
        """Covariances of rows: products of the weights' coefficients, (E_a, r_a, E_b, r_b)."""
        out = torch.einsum("aid,bjd->aibj", _coefficients(a), _coefficients(b))
        return out if weight is None else out * weight[:, None, :, None]

    def fill_gram(self, a: Jets, b: Jets, out: Tensor) -> None:
        """:meth:`gram` written into ``out``."""
        torch.mm(_coefficients(a).flatten(0, 1), _coefficients(b).flatten(0, 1).T, out=out)

    def gram_of_sets(self, a: Jets, b: Jets) -> Tensor:
        """:meth:`gram` of many small sets of environments at once."""
        left, right = (plus(_values(j), j.w) for j in (a, b))
        return torch.einsum("xaid,xbjd->xaibj", left, right)

    def diagonal(self, a: Jets) -> Tensor:
        """Prior variance of every row, (E, r)."""
        return _coefficients(a).square().sum(2)

    def jet_product(self, z: Tensor, nodes: Tensor, c: Tensor, w: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Value (E, p) and gradient (E, D, p) of expansions on nodes: a linear function."""
        total = plus(nodes.T @ c, None if w is None else w.sum(0))
        assert total is not None
        return z @ total, total.expand(len(z), *total.shape)


def _values(jets: Jets) -> Tensor | None:
    return None if jets.c is None else jets.c[..., None] * jets.z[..., None, :]


def _coefficients(jets: Jets) -> Tensor:
    """Coefficients of the weights in every row, c z + w, shape (E, r, D)."""
    out = plus(_values(jets), jets.w)
    assert out is not None
    return out


@lru_cache(maxsize=64)  # a memo of a pure function: every evaluation of the evidence asks
def _table(nodes: Any, groups: Any) -> tuple[Tensor, Tensor]:
    where = torch.tensor(nodes, dtype=torch.float64)
    number = torch.zeros(len(nodes)) if groups is None else torch.tensor(groups)
    return (number[:, None] == number[None]).double(), where
