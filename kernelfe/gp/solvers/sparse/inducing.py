"""Choice of inducing environments from a pool: four ways, all deterministic for a given seed.

Candidates are embedded environments (a kernel's own columns), or orbits of P of them that are images of one another
(:mod:`kernelfe.gp.solvers.sparse.orbits`), shape (n, P, D), whose kernel is k(m, n) = Σ_pq κ(z_mp, z_nq).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ....errors import DataError
from ....kernels import Jets
from ....linalg import Whitening
from ....specs import Choice, checked
from .orbits import choose_orbits, norms

#: Ways to select inducing environments, and those of them that use a seed.
SELECTIONS = ("pivots", "farthest", "leverage", "kmeans")
SEEDED = ("leverage", "kmeans")


def choose(z: Tensor, kernel, count: int, selection: str = "pivots", seed: int = 0) -> Tensor:
    """Indices of inducing environments, or orbits.

    Parameters
    ----------
    z
        Candidates in the kernel's own columns, shape (n, P, D).
    kernel
        The kernel.
    count
        How many to choose.
    selection
        ``"pivots"``: always the one least explained by those chosen (:func:`choose_inducing`).
        ``"farthest"``: always the one farthest from those chosen (:func:`farthest_points`).
        ``"leverage"``: at random, by their ridge leverage scores (:func:`leverage_scores`).
        ``"kmeans"``: the candidates nearest to the centres of k-means.
    seed
        Of the random ones.

    Returns
    -------
    Tensor
        At most ``count`` different indices: fewer where candidates repeat each other.

    Raises
    ------
    DataError
        If ``selection`` is unknown, or k-means is to be applied to orbits.
    """
    selection = checked("selection", selection, Choice(SELECTIONS))
    if not len(z) or selection == "pivots":
        return choose_inducing(z[:, 0], kernel, count) if z.shape[1] == 1 else choose_orbits(z, kernel, count)
    if selection == "farthest":
        return farthest_points(z, count)
    if selection == "leverage":
        return _by_leverage(z, kernel, count, seed)
    if z.shape[1] > 1:
        raise DataError(
            "selection='kmeans' has no meaning for a term that averages over permutations of like beads: the mean of "
            "images of one environment is not one of them; use 'pivots', 'farthest' or 'leverage'"
        )
    return _nearest_to_centres(z[:, 0], count, seed)


def choose_inducing(z: Tensor, kernel, count: int, rounding: float = 1e-13) -> Tensor:
    """Greedy choice of ``count`` rows of ``z``: always the environment least explained by those chosen.

    This is the pivot order of a partial Cholesky factorization of the kernel matrix (Fine & Scheinberg
    2001): deterministic, spread out like farthest-point sampling, but aware of the kernel.

    Parameters
    ----------
    z
        Candidates in the kernel's own columns, shape (n, D).
    kernel
        The kernel.
    count
        How many to choose.
    rounding
        Share of the largest variance that may be left of an environment which is then not worth inducing.

    Returns
    -------
    Tensor
        Indices, at most ``count``; fewer when the rest is explained to rounding.
    """
    size = len(z)
    count = min(count, size)
    chosen = torch.zeros(count, dtype=torch.long, device=z.device)
    if not count:
        return chosen
    residual = kernel.diagonal(Jets.values(z))[:, 0].clone()
    negligible = rounding * residual.max()
    rows, left = z.new_zeros(count, size), z.new_zeros(count)
    for k in range(count):
        pivot = residual.argmax().reshape(1)  # a tensor: a GPU does not wait for the number
        left[k : k + 1] = best = residual[pivot]
        if not z.is_cuda and bool(best < negligible):  # on a GPU the rest is chosen, and cut off at the end
            break
        row = kernel.value(z, z[pivot])[:, 0] - rows[:k].index_select(1, pivot)[:, 0] @ rows[:k]
        rows[k] = row / best.clamp_min(1e-300).sqrt()
        residual = (residual - rows[k] ** 2).clamp_min(0.0)
        residual[pivot] = 0.0
        chosen[k : k + 1] = pivot
    explained = torch.nonzero(left < negligible)  # the rest falls from pivot to pivot
    return chosen[: int(explained[0])] if len(explained) else chosen


def farthest_points(z: Tensor, count: int) -> Tensor:
    """Greedy choice of the candidate farthest from those chosen (Gonzalez 1985): within twice the best covering radius.

    Parameters
    ----------
    z
        Shape (n, P, D). The distance of two orbits is the least between their members. The first one chosen is that
        nearest to the mean of the first members.
    count
        How many to choose.

    Returns
    -------
    Tensor
        Indices; fewer than ``count`` when nothing is left at a distance.
    """
    first = z[:, 0]
    count = min(count, len(z))
    chosen = torch.zeros(count, dtype=torch.long, device=z.device)
    pivot = (first - first.mean(0)).square().sum(1).argmin().reshape(1)  # a tensor: a GPU does not wait for it
    nearest, far = first.new_full((len(z),), torch.inf), first.new_ones(count)
    for k in range(count):
        if not z.is_cuda and k and bool(far[k] == 0.0):  # on a GPU the rest is chosen, and cut off at the end
            break
        chosen[k : k + 1] = pivot
        for member in z[pivot][0]:
            nearest = torch.minimum(nearest, (first - member).square().sum(1))
        nearest[pivot] = 0.0
        pivot = nearest.argmax().reshape(1)
        far[k + 1 : k + 2] = nearest[pivot][: count - 1 - k]
    repeated = torch.nonzero(far == 0.0)
    return chosen[: int(repeated[0])] if len(repeated) else chosen


def leverage_scores(
    z: Tensor, kernel, count: int, seed: int, landmarks_each: int = 2, most_landmarks: int = 1500
) -> Tensor:
    """Approximate ridge leverage scores ℓ_i = [K (K + λ)⁻¹]_ii with Σ ℓ_i = count, shape (n,), each at most 1.

    K is replaced by its Nyström approximation B Bᵀ from random landmarks, and what that misses of the diagonal is added
    in full: ℓ_i = [B (BᵀB + λ)⁻¹ Bᵀ]_ii + (k_ii − b_ii)/λ, at most 1 (Alaoui and Mahoney 2015; Musco and Musco 2017).

    Parameters
    ----------
    z
        Shape (n, P, D).
    kernel
        The kernel.
    count
        Effective dimension that λ is set for.
    seed
        Of the landmarks.
    landmarks_each, most_landmarks
        Landmarks for each unit of ``count``, and at most.
    """
    n = len(z)
    if count >= n:
        return z.new_ones(n)
    some = torch.randperm(n, generator=torch.Generator().manual_seed(seed), device="cpu")[
        : min(n, most_landmarks, landmarks_each * count)
    ]
    landmarks = z[some.to(z.device).sort().values]
    features = _gram(z, landmarks, kernel) @ Whitening.of(_gram(landmarks, landmarks, kernel)).matrix
    missed = (norms(z, kernel) - features.square().sum(1)).clamp_min(0.0)
    values, vectors = torch.linalg.eigh(features.T @ features)
    squares, values = (features @ vectors).square(), values.clamp_min(0.0)

    def scores(log_ridge: float) -> Tensor:
        ridge = 10.0**log_ridge
        return (squares @ (1.0 / (values + ridge)) + missed / ridge).clamp_max(1.0)

    high = float(values[-1].log10()) + 2.0
    low = high - 18.0
    for _ in range(60):  # Σ ℓ falls as λ grows
        middle = 0.5 * (low + high)
        low, high = (middle, high) if float(scores(middle).sum()) > count else (low, middle)
    return scores(high)


def _by_leverage(z: Tensor, kernel, count: int, seed: int) -> Tensor:
    scores = leverage_scores(z, kernel, count, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    clock = torch.empty(len(z), dtype=z.dtype, device="cpu").exponential_(generator=generator).to(z.device)
    # without replacement: the first of exponential clocks that run at these rates
    return torch.argsort(clock / scores.clamp_min(1e-300))[:count]


def _nearest_to_centres(z: Tensor, count: int, seed: int) -> Tensor:
    import warnings

    from sklearn.cluster import MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning

    points = z.cpu().numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct candidates than centres: nothing is lost
        found = MiniBatchKMeans(min(count, len(z)), random_state=seed, n_init=1, batch_size=4096).fit(points)
    centres = torch.from_numpy(found.cluster_centers_).to(z)
    return torch.unique(torch.cdist(centres, z).argmin(1))


def _gram(a: Tensor, b: Tensor, kernel, entries: int = 1 << 22) -> Tensor:
    """Σ_pq κ(a_mp, b_nq), shape (len(a), len(b)); ``entries`` kernel values are in memory at a time."""
    copies, right = a.shape[1], b.flatten(0, 1)
    step = max(1, entries // max(1, len(right) * copies))
    out = [
        kernel.value(part.flatten(0, 1), right).reshape(len(part), copies, len(b), copies).sum((1, 3))
        for part in torch.split(a, step)
    ]
    return torch.cat(out)
