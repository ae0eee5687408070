"""Inducing variables of terms that average over permutations of like beads: one for each orbit of an environment.

All P copies of an environment carry the same information about a symmetric term. Its inducing variables are therefore
sums over copies, u_m = Σ_p g(z_mp): M of them are as many unknowns as M environments of a plain term, not P times as
many.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ....kernels import Jets
from ....linalg import Whitening


def choose_orbits(z: Tensor, kernel, count: int, rounding: float = 1e-13) -> Tensor:
    """Greedy choice of ``count`` orbits: always the one least explained by those chosen.

    The pivot order of a partial Cholesky factorization of the kernel of orbits, k(m, n) = Σ_pq κ(z_mp, z_nq): of
    several frames that are images of one another only one is taken.

    Parameters
    ----------
    z
        Candidates in units of the length scale, shape (n, P, D).
    kernel
        Anything with the ``gram`` of jets.
    count
        Orbits wanted.
    rounding
        Share of the largest variance of a sum over an orbit that may be left of one which is then not worth inducing.

    Returns
    -------
    Tensor
        Indices of at most ``count`` orbits; fewer when the rest is explained to rounding.
    """
    size, copies = z.shape[:2]
    count = min(count, size)
    flat = Jets.values(z.flatten(0, 1))

    def column(pivot: int) -> Tensor:
        gram = kernel.gram(flat, Jets.values(z[pivot]))
        return gram.reshape(size, copies * copies).sum(1)

    residual = norms(z, kernel)
    least = rounding * float(residual.max())
    rows, chosen = z.new_zeros(count, size), []
    for k in range(count):
        pivot = int(residual.argmax())
        if residual[pivot] <= least:
            break
        row = column(pivot) - rows[:k, pivot] @ rows[:k]
        rows[k] = row / residual[pivot].sqrt()
        residual = (residual - rows[k] ** 2).clamp_min(0.0)
        residual[pivot] = 0.0
        chosen.append(pivot)
    return torch.tensor(chosen, dtype=torch.long, device=z.device)


def orbit_size(term) -> int:
    """Environments of a term that are images of one another and follow each other."""
    return getattr(term.spec.descriptor, "copies", 1)


def whitening_of_orbits(gram: Tensor, copies: int) -> Whitening:
    """Whitening of sums over ``copies`` successive environments, as columns on all of them.

    Parameters
    ----------
    gram
        Kernel matrix of all environments, orbit by orbit, shape (M P, M P).

    Returns
    -------
    Whitening
        Its matrix has shape (M P, rank), rank at most M; rows of one orbit are equal.
    """
    if copies == 1:
        return Whitening.of(gram)
    orbits = len(gram) // copies
    summed = gram.reshape(orbits, copies, orbits, copies).sum((1, 3))
    return Whitening(Whitening.of(summed).matrix.repeat_interleave(copies, 0))


def norms(z: Tensor, kernel, block: int = 128) -> Tensor:
    """Σ_pq κ(z_p, z_q) of each orbit, shape (n,), from the kernels of ``block`` environments with each other.

    Only the part of them within orbits is used.
    """
    copies, out = z.shape[1], []
    for part in torch.split(z, max(1, block // copies)):
        jets = Jets.values(part.flatten(0, 1))
        gram = kernel.gram(jets, jets).reshape(len(part), copies, len(part), copies)
        out.append(gram.diagonal(dim1=0, dim2=2).sum((0, 1)))
    return torch.cat(out)
