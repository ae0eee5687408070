"""The sparse solver: inducing environments, hyperparameters on a part of the labels, one pass over all labels."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ....errors import ModelFileError
from ....kernels import SplineWeights
from ....runtime.checkpoint import Checkpoint
from ....runtime.devices import DEVICE
from ....runtime.processes import Processes
from ....specs import Bound, Choice, Flag, OrNone, PathName, Whole
from ...observations.labels import LabelSet
from ...observations.levels import NoiseLevels, hyperparameters, share_hyperparameters
from ...posterior import Posterior
from ...prior.prior import Prior
from ..base import Run, Solver
from ..evidence import random_subsets
from ..resume import START, sketch
from .basis import SparseBasis
from .check import CheckSettings, Comparison, SolverCheck, checked_basis, shared_check
from .evidence import choose_start, fit_scales, fit_sparse
from .inducing import SEEDED, SELECTIONS, choose
from .orbits import orbit_size
from .posterior import SparsePosterior, solve_sparse
from .streaming import accumulate

logger = logging.getLogger(__name__)


def start(basis: SparseBasis, noise: NoiseLevels) -> dict[str, Tensor]:
    """The numbers on which the sums over the labels depend, by name."""
    out = hyperparameters(basis.prior, noise)
    for t, z in enumerate(basis.inducing):
        out |= {f"inducing.{t}": z, f"whitening.{t}": basis.whitenings[t].matrix}
    return {name: tensor.double() for name, tensor in out.items()}


def started(
    found: dict[str, Tensor],
    prior: Prior,
    noise: NoiseLevels,
    gradients: bool,
    own: bool = False,
    white: float = 1e-6,
) -> SparseBasis:
    """The basis of a :func:`start`; hyperparameters are set in place.

    Parameters
    ----------
    own
        Whether it was made by this program just now, and needs no test.
    white
        Largest deviation from whiteness of a stored whitening, which a changed kernel (a user's class, say) exceeds.

    Raises
    ------
    ModelFileError
        If it does not fit the model.
    """
    wanted = hyperparameters(prior, noise)
    terms = range(len(prior.terms))
    names = {*wanted, *(f"{what}.{t}" for what in ("inducing", "whitening") for t in terms)}
    if set(found) != names or any(found[name].shape != tensor.shape for name, tensor in wanted.items()):
        raise ModelFileError("its hyperparameters are not those of the model")
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
            if not fits or not float(error) < white:
                for name, tensor in wanted.items():
                    tensor.copy_(before[name])
                raise ModelFileError(f"the kernel of term {t} has changed")
    return basis


def resumed_basis(
    checkpoint: Checkpoint | None, prior: Prior, noise: NoiseLevels, gradients: bool, processes: Processes
) -> tuple[SparseBasis, str] | None:
    """Basis and digest of the start in a checkpoint, on every process; None without a usable one."""
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
                logger.warning("%s; the fit starts from the beginning", error)
                found, digest = {}, ""
    digest = processes.gather_bytes(digest.encode())[0].decode()
    if not digest:
        return None
    if processes.first:
        logger.warning("resuming from %s (hyperparameters and inducing environments found)", checkpoint.folder)
    return started(processes.give(found), prior, noise, gradients, own=True), digest


@dataclass(frozen=True)
class Sparse(Solver):
    """Inducing environments and streamed normal equations: linear in the number of frames.

    Parameters
    ----------
    inducing
        Inducing environments per term.
    gradients
        Use value and gradient at each of them (1 + D inducing variables) instead of the value.
    block_rows
        Label rows in memory at a time.
    evidence_rows, evidence_inducing
        Label rows and inducing environments with which length scales are fitted.
    final_iterations
        Steps of the last fit of prior scales and noise, with all labels and all inducing environments.
    selection
        Which environments become inducing: ``"pivots"`` (least explained by those chosen), ``"farthest"``,
        ``"leverage"`` (at random by ridge leverage scores) or ``"kmeans"``.
    checkpoint
        Folder for intermediate results, from which an interrupted fit resumes; its files are removed when the fit is
        complete. None: nothing is kept. A saved model does not carry it.
    device
        Where the fit, and predictions by it, compute: "cpu", "cuda" or "cuda:1".
    """

    inducing: int = 600
    gradients: bool = False
    block_rows: int = 8192
    evidence_rows: int = 25_000
    evidence_inducing: int = 100
    final_iterations: int = 8
    selection: str = "pivots"
    checkpoint: str | None = None
    device: str = "cpu"
    shared: ClassVar[bool] = True
    keeps_labels: ClassVar[bool] = False
    #: Comparison with the exact answer in a fit with solver="auto". Not a field: nothing is compared otherwise.
    comparison: ClassVar[CheckSettings] = CheckSettings()

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        "inducing": Whole(least=1),
        "gradients": Flag(),
        "block_rows": Whole(least=1),
        "evidence_rows": Whole(least=1),
        "evidence_inducing": Whole(least=1),
        "final_iterations": Whole(least=0),
        "selection": Choice(SELECTIONS),
        "checkpoint": OrNone(PathName("folder")),
        "device": DEVICE,
    }

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, without the checkpoint: it belongs to a machine, not to a model."""
        out = super().to_dict()
        del out["checkpoint"]
        return out

    def fit(self, prior: Prior, labels: list[LabelSet], levels: NoiseLevels, run: Run) -> SparsePosterior:
        """Choose inducing environments, fit hyperparameters if ``run.evidence``, stream the labels and solve.

        With ``run.automatic``, the answer is compared with the exact one on a sample first, and the number of inducing
        environments is raised where necessary (:mod:`kernelfe.gp.solvers.sparse.check`); a fit that resumes from a
        checkpoint is not compared again.

        Processes of the default group share the pass over all labels. The evidence, of a part of them, and the
        comparison are computed by each process, and the result of process 0 is taken.
        """
        checkpoint, processes = self.kept(prior, labels, levels, run), Processes.current()
        processes.agree("labels", sketch(labels))
        # always drawn, so that later random numbers do not depend on whether a checkpoint is resumed
        choice = self._choice(prior, labels, run)
        few = random_subsets(labels, self.evidence_rows, run.rng) if run.evidence else []
        check, found = None, resumed_basis(checkpoint, prior, levels, self.gradients, processes)
        if found is None:
            if run.evidence:
                self._search(prior, few, levels, choice, run)
            share_hyperparameters(prior, levels, processes)
            basis, check = self._basis(prior, labels, levels, choice, run)
            first = checkpoint is not None and processes.first
            digest = checkpoint.write(START, start(basis, levels)) if first else ""  # type: ignore[union-attr]
            digest = processes.gather_bytes(digest.encode())[0].decode()
        else:
            basis, digest = found
        sums = None if checkpoint is None else checkpoint.belonging(digest)
        return self._streamed(basis, labels, levels, run, check, sums)

    def fit_hyperparameters(self, prior: Prior, labels: list[LabelSet], levels: NoiseLevels, run: Run) -> float:
        """Fit prior and noise levels, in place, by the evidence of a sparse model of ``evidence_rows`` label rows."""
        choice = self._choice(prior, labels, run)
        self._search(prior, random_subsets(labels, self.evidence_rows, run.rng), levels, choice, run)
        share_hyperparameters(prior, levels, Processes.current())
        return math.nan

    def condition(self, prior: Prior, labels: list[LabelSet], levels: NoiseLevels, run: Run) -> SparsePosterior:
        """The posterior given all labels, with the hyperparameters as they are."""
        run = replace(run, evidence=False)
        basis, check = self._basis(prior, labels, levels, self._choice(prior, labels, run), run)
        return self._streamed(basis, labels, levels, run, check)

    def posterior_from(
        self, prior: Prior, levels: NoiseLevels, labels: list[LabelSet] | None, tensors: dict[str, Tensor]
    ) -> SparsePosterior:
        """The posterior of a model file."""
        return SparsePosterior.from_tensors(prior, self.gradients, tensors, self.block_rows)

    def settled(self, posterior: Posterior) -> Sparse:
        """The spec with the inducing environments that the comparison with the exact answer has chosen."""
        more = posterior.check is not None and posterior.check.inducing > self.inducing
        return replace(self, inducing=posterior.check.inducing) if more else self

    def _choice(self, prior: Prior, labels: list[LabelSet], run: Run) -> Callable[[int], list[Tensor]]:
        """Inducing environments of every term, given how many, from a random pool."""
        pools = environment_pools(prior, labels, run.rng)
        seed = int(run.rng.integers(2**31)) if self.selection in SEEDED else 0

        @torch.no_grad()
        def inducing(count: int) -> list[Tensor]:
            terms = zip(prior.terms, pools, strict=True)
            return [_inducing(term, z, count, self.selection, seed) for term, z in terms]

        return inducing

    def _search(self, prior: Prior, few: list[LabelSet], levels: NoiseLevels, choice: Callable, run: Run) -> None:
        """Fit the hyperparameters, in place, by the evidence of a part of the labels."""
        processes = Processes.current()
        with (
            processes.section("the evidence"),
            progress_bar(run.progress and processes.first, "evidence", None) as bar,
        ):
            count = min(self.evidence_inducing, self.inducing)
            options: dict[str, Any] = {"gradients": self.gradients, "block_rows": self.block_rows}
            choose_start(prior, few, levels, choice, count, **options)
            fit_sparse(prior, few, levels, choice(count), progress=bar, **options)

    def _basis(
        self, prior: Prior, labels: list[LabelSet], levels: NoiseLevels, choice: Callable, run: Run
    ) -> tuple[SparseBasis, SolverCheck | None]:
        """The basis, the same on all processes, and its comparison with the exact answer if ``run.automatic``."""
        processes, check = Processes.current(), None
        with processes.section("the choice of inducing environments"), torch.no_grad():
            if run.automatic:  # a generator of its own: the comparison changes no other random choice
                comparison = Comparison(prior, labels, levels, run.rng.spawn(1)[0], self.comparison)
                basis, check = checked_basis(comparison, choice, self.inducing, self.gradients, self.block_rows)
            else:
                basis = SparseBasis(prior, choice(self.inducing), self.gradients)
        if processes.size > 1:  # eigenvectors of equal matrices differ by signs between machines
            given = processes.give(start(basis, levels), prior.device)
            basis = started(given, prior, levels, self.gradients, own=True)
            check = shared_check(check, processes)
        return basis, check

    def _streamed(
        self,
        basis: SparseBasis,
        labels: list[LabelSet],
        levels: NoiseLevels,
        run: Run,
        check: SolverCheck | None = None,
        sums: Checkpoint | None = None,
    ) -> SparsePosterior:
        """The posterior by one pass over all labels; ``sums``: files for the sums over parts of them."""
        processes, prior = Processes.current(), basis.prior
        total = sum(len(label) for label in labels) // processes.size
        with progress_bar(run.progress and processes.first, "labels", total) as bar:
            stacked = accumulate(basis, labels, self.block_rows, bar, processes=processes, checkpoint=sums)
        if run.evidence:  # a richer basis explains more: scales and noise once more, with all of it
            fit_scales(prior, levels, stacked, self.final_iterations)
            share_hyperparameters(prior, levels, processes)
        prior.requires_grad_(False)
        posterior = solve_sparse(basis, labels, stacked, levels, self.block_rows)
        posterior.check = check
        return posterior


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
        z = torch.cat([part.values(term.spec.descriptor).z for part in parts])
        if len(z) > size:
            copies = orbit_size(term)  # orbits are kept whole
            kept = np.sort(rng.permutation(len(z) // copies)[: max(1, size // copies)])
            z = z.unflatten(0, (-1, copies))[torch.from_numpy(kept).to(device)].flatten(0, 1)
        out.append(z)
    return out


def _inducing(term, z: torch.Tensor, count: int, selection: str, seed: int) -> torch.Tensor:
    """Inducing environments of a term: ``count`` of them, or all copies of as many orbits; of a linear term all."""
    if isinstance(term.spec.kernel, SplineWeights):
        return term.kernel.inverse_factor()
    copies = orbit_size(term)
    scaled = term.kernel.embedding(z).z.unflatten(0, (-1, copies))
    chosen = choose(scaled, term.kernel, count, selection, seed)
    return z.unflatten(0, (-1, copies))[chosen].flatten(0, 1)


def progress_bar(show: bool, name: str, total: int | None):
    from tqdm import tqdm

    return tqdm(total=total, desc=name, disable=not show, leave=False)
