"""Fitting a sparse model: inducing environments, hyperparameters on a part of the labels, all labels streamed once."""

from __future__ import annotations

import numpy as np
import torch

from .evidence import NoiseLevels, fit_scales, fit_sparse
from .inducing import choose
from .labels import LabelSet
from .orbits import orbit_size
from .solver_check import checked_basis
from .solvers import SEEDED, Sparse
from .sparse import SparseBasis, SparsePosterior, accumulate
from .sparse_solve import solve_sparse


def fit_sparse_posterior(
    solver: Sparse,
    prior,
    labels: list[LabelSet],
    noise: NoiseLevels,
    rng: np.random.Generator,
    evidence: bool,
    progress: bool,
    automatic: bool = False,
) -> SparsePosterior:
    """Choose inducing environments, fit hyperparameters if ``evidence``, stream the labels and solve.

    With ``automatic``, the answer is compared with the exact one on a sample first, and the number of inducing
    environments raised where that asks for it (:mod:`kernelfe.models.solver_check`).
    """
    pools = environment_pools(prior, labels, rng)
    seed = int(rng.integers(2**31)) if solver.selection in SEEDED else 0

    def inducing(count):
        with torch.no_grad():
            return [
                _inducing(term, z, count, solver.selection, seed) for term, z in zip(prior.terms, pools, strict=True)
            ]

    if evidence:
        few = random_subsets(labels, solver.evidence_rows, rng)
        with progress_bar(progress, "evidence", None) as bar:
            fit_sparse(
                prior,
                few,
                noise,
                inducing(min(solver.evidence_inducing, solver.inducing)),
                gradients=solver.gradients,
                block_rows=solver.block_rows,
                progress=bar,
            )
    check = None
    if automatic:  # a generator of its own: the check changes no other random choice
        basis, check = checked_basis(prior, labels, noise, inducing, solver, rng.spawn(1)[0])
    else:
        with torch.no_grad():
            basis = SparseBasis(prior, inducing(solver.inducing), solver.gradients)
    with progress_bar(progress, "labels", sum(len(label) for label in labels)) as bar:
        stacked = accumulate(basis, labels, solver.block_rows, progress=bar)
    if evidence:  # a richer basis explains more: scales and noise once more, with all of it
        fit_scales(prior, noise, stacked, solver.final_iterations)
    prior.requires_grad_(False)
    posterior = solve_sparse(basis, labels, stacked, noise, solver.block_rows)
    posterior.check = check
    return posterior


def random_subsets(labels: list[LabelSet], rows: int, rng: np.random.Generator) -> list[LabelSet]:
    """Random frames of every kind, with about ``rows`` rows in all; the same frames where kinds share them."""
    total = sum(len(label) for label in labels)
    if total <= rows:
        return labels
    fraction, out = rows / total, []
    seed = int(rng.integers(2**31))
    for label in labels:
        n = len(label.y)
        keep = max(1, min(n, round(fraction * n)))
        index = np.sort(np.random.default_rng(seed).permutation(n)[:keep])
        out.append(label.subset(torch.from_numpy(index)))
    return out


def environment_pools(prior, labels: list[LabelSet], rng: np.random.Generator, size: int = 5000) -> list[torch.Tensor]:
    """Environments of random frames of every molecule, from which inducing ones are chosen."""
    longest: dict = {}
    for label in labels:
        found = longest.setdefault(label.states.molecule, label.states)
        longest[label.states.molecule] = label.states if len(label.states) > len(found) else found
    share = max(1, size // len(longest))
    parts = [s[torch.from_numpy(np.sort(rng.permutation(len(s))[:share]))] for s in longest.values()]
    out = []
    for term in prior.terms:
        z = torch.cat([part.environments(term.spec.descriptor).z for part in parts])
        if len(z) > size:
            copies = orbit_size(term)  # orbits are kept whole
            kept = np.sort(rng.permutation(len(z) // copies)[: max(1, size // copies)])
            z = z.unflatten(0, (-1, copies))[torch.from_numpy(kept)].flatten(0, 1)
        out.append(z)
    return out


def _inducing(term, z: torch.Tensor, count: int, selection: str, seed: int) -> torch.Tensor:
    """Inducing environments of a term: ``count`` of them, or all copies of as many orbits."""
    copies = orbit_size(term)
    scaled = term.kernel.embedding(z).z.unflatten(0, (-1, copies))
    chosen = choose(scaled, term.kernel, count, selection, seed)
    return z.unflatten(0, (-1, copies))[chosen].flatten(0, 1)


def progress_bar(show: bool, name: str, total: int | None):
    from tqdm import tqdm

    return tqdm(total=total, desc=name, disable=not show, leave=False)
