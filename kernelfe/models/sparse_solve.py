"""Solving a sparse model: by its normal equations or, where these lose digits, by its rows, streamed once more.

Both give the same posterior, mean weights and L with Λ = L Lᵀ. The choice is made by the condition number of Λ, with
its diagonal scaled to one: where that is above ``CONDITION_LIMIT`` or Λ cannot be factorized, the rows are factorized
themselves (:mod:`kernelfe.linalg.qr`), in which the condition number enters as its square root.
"""

from __future__ import annotations

import logging

import torch

from ..errors import SolverError
from ..linalg import CONDITION_LIMIT, Conditioning, TriangularEquations, precision_condition
from ..linalg.normal import Stacked
from .labels import LabelSet
from .sparse import SparseBasis, SparsePosterior, accumulate

logger = logging.getLogger(__name__)


def remark(posterior) -> str:
    """What the reason for a solver should add: how it compares with the exact one, and how it solved where unusual."""
    check, found = getattr(posterior, "check", None), getattr(posterior, "conditioning", None)
    out = "" if check is None else f"; {check}"
    return out + (f"; solved by {found}" if isinstance(found, Conditioning) and found.method == "qr" else "")


@torch.no_grad()
def solve_sparse(
    basis: SparseBasis, labels: list[LabelSet], stacked: Stacked, noise, block_rows: int, progress=None
) -> SparsePosterior:
    """The posterior of a basis, given all labels and what one pass over them left.

    Parameters
    ----------
    labels
        Streamed again if need be.
    stacked
        Their normal equations.
    noise
        :class:`~kernelfe.models.evidence.NoiseLevels`.

    Raises
    ------
    SolverError
        If the labels are beyond float64 either way.
    """
    try:
        posterior = SparsePosterior.fit(basis, stacked, noise)
        condition = precision_condition(posterior.lower)
    except SolverError:
        condition = float("inf")
    if condition <= CONDITION_LIMIT:
        posterior.conditioning = Conditioning("cholesky", condition)
        return posterior
    logger.warning(
        "the normal equations are ill-conditioned (%.0e > %.0e): the rows are streamed once more and factorized",
        condition,
        CONDITION_LIMIT,
    )
    return by_rows(basis, labels, noise, block_rows, progress=progress)


@torch.no_grad()
def by_rows(
    basis: SparseBasis,
    labels: list[LabelSet],
    noise,
    block_rows: int,
    before: SparsePosterior | None = None,
    progress=None,
) -> SparsePosterior:
    """The posterior by orthogonal factorization of the rows of all labels.

    Parameters
    ----------
    before
        A posterior of the same basis to which the labels are added; None: the prior.
    """
    equations = TriangularEquations(basis.ranks, basis.functions)
    triangles = accumulate(basis, labels, block_rows, progress=progress, equations=equations)
    levels = noise.levels(triangles.kinds, triangles.temperature) ** 2
    start, evidence = None, 0.0
    if before is not None:
        upper = before.lower.tril().T
        start, evidence = torch.cat([upper, (upper @ before.weights)[:, None]], 1), before.log_evidence
    weights, lower, gain = triangles.solve(basis.prior.variances(), levels, start)
    out = SparsePosterior(basis, weights, lower)
    out.log_evidence = evidence + gain
    out.conditioning = Conditioning("qr", precision_condition(lower))
    return out
