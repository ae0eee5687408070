"""Fitting a sparse model: inducing environments, hyperparameters on a part of the labels, all labels streamed once."""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch import Tensor

from ....errors import ModelFileError
from ....runtime.checkpoint import Checkpoint
from ....runtime.processes import Processes
from ...observations.labels import LabelSet
from ...observations.levels import NoiseLevels, hyperparameters, share_hyperparameters
from ...prior.prior import Prior
from ..resume import START, sketch
from ..specs import SEEDED, Sparse
from .basis import SparseBasis
from .check import checked_basis, shared_check
from .evidence import fit_scales, fit_sparse
from .inducing import choose
from .orbits import orbit_size
from .posterior import SparsePosterior, solve_sparse
from .streaming import accumulate

logger = logging.getLogger(__name__)
#: Largest deviation from whiteness of a stored whitening: it is of the kernel as it was, which may be a user's class.
WHITE = 1e-6


def start(basis: SparseBasis, noise: NoiseLevels) -> dict[str, Tensor]:
    """What the sums over the labels depend on, by name."""
    out = hyperparameters(basis.prior, noise)
    for t, z in enumerate(basis.inducing):
        out |= {f"inducing.{t}": z, f"whitening.{t}": basis.whitenings[t].matrix}
    return {name: tensor.double() for name, tensor in out.items()}


def started(
    found: dict[str, Tensor], prior: Prior, noise: NoiseLevels, gradients: bool, own: bool = False
) -> SparseBasis:
    """The basis of a :func:`start`; hyperparameters are set in place.

    Parameters
    ----------
    own
        Whether it was just made, and needs no test.

    Raises
    ------
    ModelFileError
        If it does not fit the model.
    """
    wanted = hyperparameters(prior, noise)
    terms = range(len(prior.terms))
    names = {*wanted, *(f"{what}.{t}" for what in ("inducing", "whitening") for t in terms)}
    if set(found) != names or any(found[name].shape != tensor.shape for name, tensor in wanted.items()):
        raise ModelFileError("it holds other hyperparameters than the model has")
    found = {name: tensor.to(prior.device) for name, tensor in found.items()}
    before = {name: tensor.clone() for name, tensor in wanted.items()}
    for name, tensor in wanted.items():
        tensor.copy_(found[name])
    whitening = [found[f"whitening.{t}"] for t in terms]
    with torch.no_grad():
        basis = SparseBasis(prior, [found[f"inducing.{t}"] for t in terms], gradients, whitening)
        for t in () if own else terms:
            jets, matrix = basis.jets[t], whitening[t]
            gram = prior.terms[t].kernel.gram(jets, jets).flatten(2).flatten(0, 1)
            fits = len(gram) == len(matrix)
            error = (
                (matrix.T @ gram @ matrix - torch.eye(matrix.shape[1]).to(gram)).abs().max()
                if fits and len(gram)
                else 0.0
            )
            if not fits or not float(error) < WHITE:
                for name, tensor in wanted.items():
                    tensor.copy_(before[name])
                raise ModelFileError(f"the kernel of term {t} is another one than it was")
    return basis


def resumed_basis(
    checkpoint: Checkpoint | None, prior: Prior, noise: NoiseLevels, gradients: bool, processes: Processes
) -> tuple[SparseBasis, str] | None:
    """Basis and digest of the start in a checkpoint, on every process; None where there is none that can be used."""
    if checkpoint is None:
        return None
    found: dict[str, Tensor] = {}
    digest = ""
    with processes.section("reading the checkpoint"):
        if processes.first and checkpoint.path(START).exists():
            try:
                found, digest = checkpoint.read(START)
                started(found, prior, noise, gradients)
            except ModelFileError as error:
                logger.warning("%s; the fit starts anew", error)
                found, digest = {}, ""
    digest = processes.gather_bytes(digest.encode())[0].decode()
    if not digest:
        return None
    if processes.first:
        logger.warning("going on from %s: hyperparameters and inducing environments are there", checkpoint.folder)
    return started(processes.give(found), prior, noise, gradients, own=True), digest


def fit_sparse_posterior(
    solver: Sparse,
    prior,
    labels: list[LabelSet],
    noise: NoiseLevels,
    rng: np.random.Generator,
    evidence: bool,
    progress: bool,
    automatic: bool = False,
    checkpoint: Checkpoint | None = None,
) -> SparsePosterior:
    """Choose inducing environments, fit hyperparameters if ``evidence``, stream the labels and solve.

    With ``automatic``, the answer is compared with the exact one on a sample first, and the number of inducing
    environments raised where that asks for it (:mod:`kernelfe.gp.solvers.sparse.check`); a fit that goes on from a
    checkpoint is not compared again.

    Processes of the default group share the pass over all labels; the evidence, of a part of them, and the comparison
    each does for itself, and the result of process 0 is taken.
    """
    processes = Processes.current()
    progress = progress and processes.first
    processes.agree("labels", sketch(labels))
    # drawn in any case: what comes after finds the generator as it would be
    pools = environment_pools(prior, labels, rng)
    seed = int(rng.integers(2**31)) if solver.selection in SEEDED else 0
    few = random_subsets(labels, solver.evidence_rows, rng) if evidence else []

    def inducing(count):
        with torch.no_grad():
            return [
                _inducing(term, z, count, solver.selection, seed) for term, z in zip(prior.terms, pools, strict=True)
            ]

    check = None
    found = resumed_basis(checkpoint, prior, noise, solver.gradients, processes)
    if found is None:
        if evidence:
            with processes.section("the evidence"), progress_bar(progress, "evidence", None) as bar:
                fit_sparse(
                    prior,
                    few,
                    noise,
                    inducing(min(solver.evidence_inducing, solver.inducing)),
                    gradients=solver.gradients,
                    block_rows=solver.block_rows,
                    progress=bar,
                )
        share_hyperparameters(prior, noise, processes)
        with processes.section("the choice of inducing environments"), torch.no_grad():
            if automatic:  # a generator of its own: the comparison changes no other random choice
                basis, check = checked_basis(prior, labels, noise, inducing, solver, rng.spawn(1)[0])
            else:
                basis = SparseBasis(prior, inducing(solver.inducing), solver.gradients)
        if processes.size > 1:  # eigenvectors of equal matrices differ by signs between machines
            basis = started(processes.give(start(basis, noise), prior.device), prior, noise, solver.gradients, own=True)
            check = shared_check(check, processes)
        digest = checkpoint.write(START, start(basis, noise)) if checkpoint is not None and processes.first else ""
        digest = processes.gather_bytes(digest.encode())[0].decode()
    else:
        basis, digest = found
    nodes = None if checkpoint is None else checkpoint.belonging(digest)
    with progress_bar(progress, "labels", sum(len(label) for label in labels) // processes.size) as bar:
        stacked = accumulate(basis, labels, solver.block_rows, bar, processes=processes, checkpoint=nodes)
    if evidence:  # a richer basis explains more: scales and noise once more, with all of it
        fit_scales(prior, noise, stacked, solver.final_iterations)
        share_hyperparameters(prior, noise, processes)
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
        out.append(label.subset(torch.from_numpy(index).to(label.y.device)))
    return out


def environment_pools(prior, labels: list[LabelSet], rng: np.random.Generator, size: int = 5000) -> list[torch.Tensor]:
    """Environments of random frames of every molecule, from which inducing ones are chosen."""
    longest: dict = {}
    for label in labels:
        found = longest.setdefault(label.states.molecule, label.states)
        longest[label.states.molecule] = label.states if len(label.states) > len(found) else found
    share = max(1, size // len(longest))
    device = prior.device
    parts = [s[torch.from_numpy(np.sort(rng.permutation(len(s))[:share])).to(device)] for s in longest.values()]
    out = []
    for term in prior.terms:
        z = torch.cat([part.environments(term.spec.descriptor).z for part in parts])
        if len(z) > size:
            copies = orbit_size(term)  # orbits are kept whole
            kept = np.sort(rng.permutation(len(z) // copies)[: max(1, size // copies)])
            z = z.unflatten(0, (-1, copies))[torch.from_numpy(kept).to(device)].flatten(0, 1)
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
