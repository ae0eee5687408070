"""Topology of a molecule from its bonds, and bonds from how stiff its distances are.

Bonds are pairs of bead indices; everything returned is sorted tuples of plain ints, ready to be parameters of
descriptors and baselines.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree, shortest_path

from ..arrays import real_array
from ..errors import DataError, require

Pair = tuple[int, int]


def infer_bonds(positions: np.ndarray) -> tuple[Pair, ...]:
    """Bonds of one molecule: the minimum spanning tree over how soft its pair distances are.

    The weight of a pair is mean(r)·(std(r) + 10⁻³ mean(r)). The factor mean(r) matters: by std(r)/mean(r) the
    1–3 distance across the stiff peptide angle of alanine dipeptide (1.86 %) passes for a bond before N–CA does
    (2.01 %), while by mean·std they differ threefold. The second summand decides between rigid distances. Distances
    that :func:`outlying` finds implausible, as in frames that were not unwrapped, do not count.

    Parameters
    ----------
    positions
        Positions of whole (unwrapped) molecules, shape (n, beads, 3), Å; at least 3 frames of thermal motion.

    Returns
    -------
    tuple of pairs
        beads − 1 bonds (i, j) with i < j, sorted. A tree: bonds that close a ring are not found, give those by hand.

    Raises
    ------
    DataError
        If the shape is wrong, frames are too few, or a position is not finite.
    """
    x = real_array(positions, "positions", "Å")
    require(x.ndim == 3 and x.shape[2] == 3, f"infer_bonds reads positions of shape (frames, beads, 3), not {x.shape}")
    require(
        len(x) >= 3,
        f"infer_bonds has {len(x)} frames: bonds show in fluctuations, give at least 3 frames or name the bonds",
    )
    require(np.isfinite(x).all(), "infer_bonds: positions hold values that are not finite; remove those frames")
    beads = x.shape[1]
    rows: list[int] = []
    columns: list[int] = []
    weights: list[float] = []
    for i in range(beads - 1):  # row by row: all pairs of all frames at once need not fit into memory
        r = np.linalg.norm(x[:, i + 1 :] - x[:, i : i + 1], axis=-1)
        wild = outlying(r.T).T
        mean, std = (r.mean(0, where=~wild), r.std(0, where=~wild)) if wild.any() else (r.mean(0), r.std(0))
        rows += [i] * len(mean)
        columns += range(i + 1, beads)
        weights += np.maximum(mean * (std + 1e-3 * mean), 1e-12).tolist()  # csgraph takes a weight of zero for no edge
    tree = minimum_spanning_tree(coo_array((weights, (rows, columns)), shape=(beads, beads)).tocsr()).tocoo()
    return tuple(sorted((min(i, j), max(i, j)) for i, j in zip(tree.row.tolist(), tree.col.tolist(), strict=True)))


def outlying(lengths: np.ndarray) -> np.ndarray:
    """Lengths that no thermal motion explains: ten robust standard deviations from the median, and twice or half of it.

    Parameters
    ----------
    lengths
        (pairs, n), Å.

    Returns
    -------
    ndarray of bool, (pairs, n)
    """
    middle = np.median(lengths, axis=1, keepdims=True)
    away = lengths - middle
    far = 14.826 * np.median(np.abs(away), axis=1, keepdims=True)  # ten standard deviations of a normal distribution
    return (away > np.maximum(far, middle)) | (-away > np.maximum(far, 0.5 * middle))


def joined_bonds(positions: np.ndarray, bonds: Iterable[Pair]) -> tuple[Pair, ...]:
    """Bonds, and of the pairs of nearest beads as few as join what they leave apart (a minimum spanning tree).

    Parameters
    ----------
    positions
        (n, beads, 3), Å, n ≥ 1.
    bonds
        Pairs of beads.
    """
    x, known, beads = real_array(positions, "positions", "Å"), _check(bonds), np.shape(positions)[1]
    if connected_components(_graph(known, beads), directed=False)[0] == 1:
        return known
    distance = np.mean([np.linalg.norm(frame[:, None] - frame[None], axis=-1) for frame in x], axis=0)
    i, j = np.array(known, dtype=int).reshape(-1, 2).T
    distance[i, j] = distance[j, i] = 1e-12  # csgraph takes a weight of zero for no edge
    tree = minimum_spanning_tree(coo_array(np.triu(distance, 1)).tocsr()).tocoo()
    return _check([*known, *zip(tree.row.tolist(), tree.col.tolist(), strict=True)])


def angles_of(bonds: Iterable[Pair]) -> tuple[tuple[int, int, int], ...]:
    """All angles (i, j, k), i < k, of two bonds that share bead j."""
    out = []
    for j, around in _neighbours(bonds).items():
        out += [(i, j, k) for i in around for k in around if i < k]
    return tuple(sorted(out))


def dihedrals_of(bonds: Iterable[Pair]) -> tuple[tuple[int, int, int, int], ...]:
    """All dihedrals (i, j, k, l), j < k, of three consecutive bonds; none across a ring of three."""
    near = _neighbours(bonds)
    out = []
    for j in near:
        for k in near[j]:
            if j < k:
                out += [(i, j, k, end) for i in near[j] for end in near[k] if i != k and end != j and i != end]
    return tuple(sorted(out))


def torsions_of(bonds: Iterable[Pair]) -> tuple[tuple[int, int, int, int], ...]:
    """One dihedral about each bond that has any: the first of :func:`dihedrals_of`."""
    first = {quad[1:3]: quad for quad in reversed(dihedrals_of(bonds))}
    return tuple(sorted(first.values()))


def impropers_of(bonds: Iterable[Pair]) -> tuple[tuple[int, int, int, int], ...]:
    """Impropers (centre, a, b, c) at every bead with at least three bonds.

    m neighbours give m − 2 impropers: the first two neighbours with each of the others, enough to fix the chirality.
    """
    out = []
    for centre, around in _neighbours(bonds).items():
        out += [(centre, around[0], around[1], other) for other in around[2:]]
    return tuple(sorted(out))


def separation(bonds: Iterable[Pair], beads: int | None = None) -> np.ndarray:
    """Number of bonds on the shortest path between each two beads.

    Parameters
    ----------
    bonds
        Pairs of beads.
    beads
        Number of beads; None: one more than the largest index.

    Returns
    -------
    ndarray
        Shape (beads, beads), floats; infinite between beads that no path joins.

    Raises
    ------
    DataError
        If a bond names a bead beyond ``beads``.
    """
    return shortest_path(_graph(bonds, beads), directed=False, unweighted=True)


def fragment(bonds: Iterable[Pair], i: int, j: int) -> tuple[int, ...]:
    """Beads on the side of j once the bond i–j is cut, j included.

    Parameters
    ----------
    bonds
        Pairs of beads.
    i, j
        The bond.

    Raises
    ------
    DataError
        If i–j is not a bond, or is part of a ring.
    """
    pairs = _check(bonds)
    cut = (min(i, j), max(i, j))
    if cut not in pairs:
        raise DataError(f"beads {i} and {j} are not bonded: fragment() cuts one of the bonds {list(pairs)}")
    remaining = [pair for pair in pairs if pair != cut]
    _, label = connected_components(_graph(remaining, 1 + max(map(max, pairs))), directed=False)
    require(
        label[i] != label[j],
        f"the bond {i}-{j} is part of a ring: cutting it leaves one fragment; choose a bond outside rings",
    )
    return tuple(np.flatnonzero(label == label[j]).tolist())


def _check(bonds: Iterable[Pair]) -> tuple[Pair, ...]:
    pairs = set()
    for bond in bonds:
        if len(bond) != 2 or bond[0] == bond[1] or min(bond) < 0:
            raise DataError(f"{tuple(bond)} is not a bond: give two different bead indices, counted from 0")
        pairs.add((int(min(bond)), int(max(bond))))
    return tuple(sorted(pairs))


def _neighbours(bonds: Iterable[Pair]) -> dict[int, list[int]]:
    near: dict[int, list[int]] = {}
    for i, j in _check(bonds):
        near.setdefault(i, []).append(j)
        near.setdefault(j, []).append(i)
    return {bead: sorted(near[bead]) for bead in sorted(near)}


def _graph(bonds: Iterable[Pair], beads: int | None):
    pairs = np.array(_check(bonds), dtype=int).reshape(-1, 2)
    size = 1 + int(pairs.max(initial=-1)) if beads is None else beads
    if pairs.max(initial=-1) >= size:
        raise DataError(f"a bond names bead {pairs.max()}, there are {size} beads (from 0)")
    return coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(size, size)).tocsr()
