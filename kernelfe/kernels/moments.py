"""Products with a radial kernel in few dimensions: moments of κ, κ' and κ'', nothing elementwise for every pair.

With z₁ = (z, 1), nodes z_j and v_j = (w_j, −z_j·w_j), q_ij = δ·w_j = Σ_a z₁_ia v_ja is linear in z₁_i, so that sums
over nodes of κ'' q_ij z_j (see :mod:`kernelfe.kernels.products`) are Σ_a z₁_ia Σ_j κ''_ij v_ja z_jb. The inner
sums, moments of the kernel, are matrix products with all their columns at once: 2 (D + 1)² operations per pair
(and 4 (D + 1) more where κ' is not −κ), where q pair by pair takes 6 (D + 1) and several passes over all pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor


def moment_factors(nodes: Tensor, c: Tensor | None, w: Tensor, single: bool, slopes: bool) -> list[Tensor | None]:
    """Factors that the matrices of the kernel are multiplied by.

    Parameters
    ----------
    nodes
        Embedded nodes, shape (m, D).
    c, w
        Coefficients, shapes (m, P), or None for zero, and (m, D, P).
    single
        Whether κ' = −κ and κ'' = κ: then κ alone is multiplied.
    slopes
        Whether gradients are wanted, or values only.

    Returns
    -------
    list of Tensor or None
        For κ, or for κ', κ'' and κ: shape (m, …·P), or None where nothing is multiplied.
    """
    ones = torch.ones_like(nodes[:, :1])
    x1 = torch.cat([nodes, ones], 1) if slopes else ones  # (m, b), the constant last
    offset = -(nodes[:, :, None] * w).sum(1)
    if single and c is not None:  # κ (c + q): the coefficient goes with the constant of q
        offset = offset + c
    v = torch.cat([w, offset[:, None]], 1)  # (m, a, P), the constant last
    if single:
        return [_times(v, x1)]
    first = v.flatten(1)
    if c is not None and slopes:
        first = torch.cat([first, (x1[:, :, None] * c[:, None]).flatten(1)], 1)
    return [first, _times(v, x1) if slopes else None, c]


def read_moments(
    z1: Tensor, sums: list[Tensor | None], size: int, single: bool, slopes: bool
) -> tuple[Tensor, Tensor | None]:
    """Values (E, P) and gradients (E, D, P) at environments from the products with :func:`moment_factors`.

    Parameters
    ----------
    z1
        Environments and a one, shape (E, D + 1).
    sums
        κ, or κ', κ'' and κ, times their factors, or None.
    size
        P.
    single, slopes
        As for :func:`moment_factors`.
    """
    z, width = z1[:, :-1], z1.shape[1] - 1
    assert sums[0] is not None
    if single:
        every = sums[0].unflatten(1, (width + 1, -1, size))
        radial = _along(z1, every)  # −Σ_j radial_ij z₁_j
        value, spread = radial[:, -1], -every[:, :width, -1]  # spread: Σ_j κ' w_j
    else:
        first = sums[0].unflatten(1, (-1, size))
        by_slope, by_value = first[:, : width + 1], first[:, width + 1 :]
        value = -_along(z1, by_slope[:, :, None])[:, 0]
        value, spread = value if sums[2] is None else value + sums[2], by_slope[:, :width]
        if sums[1] is not None:
            radial = _along(z1, sums[1].unflatten(1, (width + 1, -1, size)))
            radial = radial - by_value if by_value.shape[1] else radial
    if not slopes:
        return value, None
    return value, radial[:, :width] - z[:, :, None] * radial[:, -1:] - spread


def _times(v: Tensor, x1: Tensor) -> Tensor:
    """v_ja z₁_jb of every right-hand side, shape (m, a·b·P)."""
    return (v[:, :, None] * x1[:, None, :, None]).flatten(1)


def _along(z1: Tensor, moments: Tensor) -> Tensor:
    """Σ_a z₁_ia of moments (E, a, b, P), shape (E, b, P)."""
    return torch.bmm(z1[:, None], moments.flatten(2)).unflatten(2, moments.shape[2:])[:, 0]
