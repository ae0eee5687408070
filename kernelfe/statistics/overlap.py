"""Overlap of the states that MBAR joins: samples that both sides of every cut share.

Sample n belongs to state i with the probability p_i(n) = N_i W_ni of MBAR's mixture. The states on the two sides of a
cut, S and the others, share c = Σ_n p_S(n) (1 − p_S(n)) samples, p_S = Σ_{i∈S} p_i; the free energy between the sides
is known to a standard deviation of √(1/c − 1/N_S − 1/N_rest) kT. Below a few shared samples MBAR gives no more than a
guess, and from 10⁻⁹ on its error bars become small again, since the covariance is then singular to rounding. c is read
from pymbar's overlap matrix, whose second eigenvalue near one means the same for the worst cut.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from ..errors import DataError, require

FloatArray = NDArray[np.float64]


def shared_samples(overlap: FloatArray, counts: NDArray[np.integer]) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Samples that the two sides of the weakest cuts share.

    Parameters
    ----------
    overlap
        (K, K), pymbar's overlap matrix O_ij = N_j Σ_n W_ni W_nj.
    counts
        (K,), samples of each state.

    Returns
    -------
    shared : (K − 1,)
        c of every edge of the spanning tree of largest overlaps, cut there.
    sides : (K − 1, K)
        True for the states on the side of fewer samples.
    """
    states = len(counts)
    shared = overlap * counts[:, None]
    shared = 0.5 * (shared + shared.T)
    np.fill_diagonal(shared, 0.0)
    shared = np.clip(np.nan_to_num(shared), 0.0, None)
    # csgraph has no edges of weight zero; all pairs are edges here, the largest overlaps the cheapest
    cost = 1.0 + shared.max(initial=0.0) - shared
    np.fill_diagonal(cost, 0.0)
    tree = minimum_spanning_tree(cost).tolil()
    sides = np.zeros((states - 1, states), bool)
    for k, (i, j) in enumerate(zip(*tree.nonzero(), strict=True)):
        kept, tree[i, j] = tree[i, j], 0.0
        side = connected_components(tree, directed=False)[1] == connected_components(tree, directed=False)[1][i]
        sides[k] = side if 2 * counts[side].sum() <= counts.sum() else ~side
        tree[i, j] = kept
    return ((sides @ shared) * ~sides).sum(1), sides


def require_overlap(solved: Any, least: float) -> None:
    """Refuse states that do not overlap.

    Parameters
    ----------
    solved
        pymbar's MBAR object.
    least
        Samples that the two sides of every cut must share: of independent samples, so that one state of a statistical
        inefficiency g needs g times as many. A tenth of the samples of the smaller side are always enough.

    Raises
    ------
    DataError
        If two groups of states share fewer samples, or the equations have not been solved.
    """
    counts = np.asarray(solved.N_k, int)
    if len(counts) < 2:
        return
    weights = np.asarray(solved.W_nk)
    solved_well = np.isfinite(weights).all() and np.allclose(weights.sum(0), 1.0, atol=1e-2)
    require(
        solved_well,
        "the MBAR equations have no solution in double precision: the states do not overlap; add windows or "
        "temperatures between them, or longer runs",
    )
    shared, sides = shared_samples((weights.T @ weights) * counts, counts)
    needed = np.minimum(least, 0.1 * (sides @ counts))
    worst = int(np.argmin(shared / needed))
    if shared[worst] < needed[worst]:
        names = [_named(np.flatnonzero(side)) for side in (sides[worst], ~sides[worst])]
        raise DataError(
            f"the samples of states {names[0]} and {names[1]} (counted from 0, temperatures in ascending order) hardly "
            f"overlap: they share {shared[worst]:.2g} samples, and {needed[worst]:.3g} are needed to join them. Add "
            "windows or temperatures between them, or longer runs"
        )


def _named(states: NDArray[np.integer]) -> str:
    """Numbers of states, the first few of them."""
    return ", ".join(map(str, states[:6])) + (", …" if len(states) > 6 else "")
