"""Both implementations of the loops, and sums by brute force over images with automatic differentiation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from numpy.polynomial import legendre

from kernelfe.compiled import loading, plain


@pytest.fixture(params=["compiled", "plain"])
def loops(request, monkeypatch):
    """Each implementation in turn; the compiled one where numba is installed."""
    if request.param == "compiled":
        pytest.importorskip("numba")
        return loading.loops()
    monkeypatch.setattr(loading, "loops", lambda: plain)
    return plain


def spline(u: torch.Tensor) -> torch.Tensor:
    """Cubic B-spline on [0, 4] by truncated powers."""
    return sum(c * torch.relu(u - k) ** 3 for k, c in enumerate((1.0, -4.0, 6.0, -4.0, 1.0))) / 6.0


def splines(r: torch.Tensor, grid) -> torch.Tensor:
    """Values (..., size) of the splines of a grid."""
    return spline(((r - grid.start) / grid.spacing)[..., None] - torch.arange(grid.size))


def all_vectors(x: torch.Tensor, cell: torch.Tensor, cutoff: float):
    """i, j (E,) and v (E, 3) of every ordered pair and image closer than the cutoff, a bead and itself left out."""
    heights = 1.0 / torch.linalg.inv(cell).norm(dim=0)
    scaled = (x @ torch.linalg.inv(cell)).detach()
    most = [int(torch.ceil(cutoff / h + (scaled.amax(0) - scaled.amin(0)).max())) for h in heights]
    images = torch.tensor(list(itertools.product(*(range(-m, m + 1) for m in most))), dtype=x.dtype)
    v = x[None, :, None] - x[:, None, None] + images @ cell
    r = v.detach().norm(dim=-1)
    i, j, n = torch.nonzero((r < cutoff) & (r > 1e-6), as_tuple=True)
    return i, j, v[i, j, n]


def strained(x: torch.Tensor, cell: torch.Tensor, e: torch.Tensor):
    """Positions and cell under a strain in Voigt order with engineering shear."""
    change = e[torch.tensor([[0, 5, 4], [5, 1, 3], [4, 3, 2]])] * torch.eye(3, dtype=x.dtype).add(1.0).div(2.0)
    full = torch.eye(3, dtype=x.dtype) + change
    return x @ full, cell @ full


def reference_pairs(x, cell, kinds, grid, columns, size):
    """z of pairs by brute force."""
    i, j, v = all_vectors(x, cell, grid.stop)
    kinds, columns = torch.as_tensor(kinds), torch.as_tensor(columns)
    base = columns[kinds[i], kinds[j]].long()
    kept = base >= 0
    column = base[kept, None] + torch.arange(grid.size)
    values = 0.5 * splines(v[kept].norm(dim=-1), grid)
    return torch.zeros(size, dtype=x.dtype).index_add(0, column.flatten(), values.flatten())


def reference_triplets(x, cell, kinds, grid, columns, top, size):
    """z of triplets by brute force: all pairs of different neighbours of every bead."""
    centre, other, v = all_vectors(x, cell, grid.stop)
    first, second = torch.triu_indices(len(v), len(v), 1)
    same = centre[first] == centre[second]
    first, second, kinds = first[same], second[same], torch.as_tensor(kinds)
    of_kinds = kinds[centre[first]], kinds[other[first]], kinds[other[second]]
    base, local = torch.as_tensor(columns.base)[of_kinds].long(), torch.as_tensor(columns.local)[of_kinds].long()
    kept = base >= 0
    first, second, base, local = first[kept], second[kept], base[kept], local[kept]
    vj, vk = v[first], v[second]
    rj, rk = vj.norm(dim=-1), vk.norm(dim=-1)
    cosine = (vj * vk).sum(-1) / (rj * rk)
    polynomials: list = [legendre.leg2poly([0.0] * k + [1.0]) for k in range(top)]
    angle = torch.stack([sum(c * cosine**m for m, c in enumerate(p)) for p in polynomials], -1)
    bj, bk = splines(rj, grid), splines(rk, grid)
    products = torch.einsum("ta,tb,tl->tabl", bj, bk, angle)
    column = base[:, None, None, None] + local[..., None] + torch.arange(top)
    return torch.zeros(size, dtype=x.dtype).index_add(0, column.flatten(), products.flatten())


CELLS = {
    "cubic": np.eye(3) * 4.7,
    "triclinic": np.array([[4.2, 0.0, 0.0], [1.9, 4.0, 0.0], [-1.2, 0.8, 4.4]]),
    "left-handed": np.array([[0.0, 4.3, 0.3], [4.6, 0.2, 0.0], [0.1, 0.4, 4.5]]),
    "unreduced": np.array([[4.5, 0.0, 0.0], [9.3, 4.4, 0.0], [4.1, -8.6, 4.3]]),
}


def beads(seed: int, cell: np.ndarray, count: int = 5, least: float = 1.6) -> np.ndarray:
    """Positions, some outside the cell, without overlaps."""
    rng, found = np.random.default_rng(seed), []
    images = np.array(list(itertools.product((-2, -1, 0, 1, 2), repeat=3))) @ cell
    while len(found) < count:
        point = rng.uniform(-1.0, 2.0, 3) @ cell
        if all(np.linalg.norm(images + point - other, axis=1).min() > least for other in found):
            found.append(point)
    return np.array(found)
