"""Products with a radial kernel in few dimensions: moments of κ, κ' and κ'', nothing elementwise for every pair.

With z₁ = (z, 1), nodes z_j and v_j = (w_j, −z_j·w_j), q_ij = δ·w_j = Σ_a z₁_ia v_ja is linear in z₁_i, so that sums
over nodes of κ'' q_ij z_j (:mod:`kernelfe.kernels.products` says why) are Σ_a z₁_ia Σ_j κ''_ij v_ja z_jb. The inner
sums, moments of the kernel, are matrix products with all their columns at once: 2 (D + 1)² operations per pair
(and 4 (D + 1) more where κ' is not −κ), where q pair by pair takes 6 (D + 1) and several passes over all pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor


def moment_factors(
    nodes: Tensor, c: Tensor | None, w: Tensor | None, single: bool, slopes: bool
) -> list[Tensor | None]:
    """What the kernel's matrices are multiplied by.

    Parameters
    ----------
    nodes
        Embedded nodes, shape (m, D).
    c, w
        Coefficients, shapes (m, P) and (m, D, P), or None for zero.
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
    wanted = c is not None and (single or slopes)  # κ' c is of no use to values
    by_value = (x1[:, :, None] * c[:, None]).flatten(1) if wanted else None  # type: ignore[index]
    if w is None:
        return [by_value] if single else [by_value, None, c]
    offset = -(nodes[:, :, None] * w).sum(1)
    if single and c is not None:  # κ (c + q): the coefficient goes with the constant of q
        offset = offset + c
    v = torch.cat([w, offset[:, None]], 1)  # (m, a, P), the constant last
    if single:
        return [_times(v, x1)]
    first = v.flatten(1) if by_value is None else torch.cat([v.flatten(1), by_value], 1)
    return [first, _times(v, x1) if slopes else None, c]


def read_moments(
    z1: Tensor, sums: list[Tensor | None], size: int, single: bool, slopes: bool, sloped: bool
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
    sloped
        Whether there are coefficients w.
    """
    z, width = z1[:, :-1], z1.shape[1] - 1
    nothing = z.new_zeros(len(z), width + 1 if slopes else 1, size)
    spread = nothing[:, :width]  # Σ_j κ' w_j
    if single:
        every = sums[0].unflatten(1, (-1, nothing.shape[1], size))  # type: ignore[union-attr]
        radial = _along(z1, every) if sloped else every.reshape(nothing.shape)  # −Σ_j radial_ij z₁_j
        value = radial[:, -1]
        if sloped:
            spread = -every[:, :width, -1]
    else:
        first = z.new_zeros(len(z), 0, size) if sums[0] is None else sums[0].unflatten(1, (-1, size))
        by_slope, by_value = first[:, : (width + 1) * sloped], first[:, (width + 1) * sloped :]
        radial = nothing if sums[1] is None else _along(z1, sums[1].unflatten(1, (width + 1, -1, size)))
        if by_value.shape[1]:
            radial = radial - by_value
        value = nothing[:, 0] if sums[2] is None else sums[2]
        if sloped:
            value, spread = value - _along(z1, by_slope[:, :, None])[:, 0], by_slope[:, :width]
    if not slopes:
        return value, None
    return value, radial[:, :width] - z[:, :, None] * radial[:, -1:] - spread


def _times(v: Tensor, x1: Tensor) -> Tensor:
    """v_ja z₁_jb of every right-hand side, shape (m, a·b·P)."""
    return (v[:, :, None] * x1[:, None, :, None]).flatten(1)


def _along(z1: Tensor, moments: Tensor) -> Tensor:
    """Σ_a z₁_ia of moments (E, a, b, P), shape (E, b, P)."""
    return torch.bmm(z1[:, None], moments.flatten(2)).unflatten(2, moments.shape[2:])[:, 0]
