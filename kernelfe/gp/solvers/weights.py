"""The solver of models that are linear in their environments: exact, by sums over the labels that are made once.

With kernels κ(z, z') = zᵀ L Lᵀ z' (:class:`~kernelfe.kernels.SplineWeights`) the free energy is linear in a few hundred
weights, and ψ = Lᵀz are its whitened features without any approximation. The normal equations Σψψᵀ of one length scale
are those of any other after a product with L₀⁻¹L from both sides, so that one pass over the labels serves the search of
all hyperparameters, by gradients, and the posterior.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ...errors import DataError
from ...kernels import SplineWeights
from ...linalg.normal import Stacked
from ...runtime.devices import DEVICE
from ...runtime.processes import Processes
from ...specs import Bound, Choice, OrNone, PathName, Whole
from ..observations.labels import LabelSet
from ..observations.levels import NoiseLevels, share_hyperparameters
from ..prior.prior import Prior
from .base import Run, Solver
from .evidence import restore
from .maximise import maximise
from .scores import by_scatter
from .sparse.basis import SparseBasis
from .sparse.fit import progress_bar
from .sparse.posterior import SparsePosterior, solve_sparse
from .sparse.streaming import accumulate

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WeightSpace(Solver):
    """Exact conditioning in the space of weights, for terms whose kernels are all :class:`SplineWeights`.

    The cost is linear in the number of labels, and memory does not grow with it; hyperparameters are fitted by the
    evidence of all labels, without a further pass over them.

    Parameters
    ----------
    block_rows
        Label rows in memory at a time.
    iterations
        Most steps of each search of hyperparameters.
    errors
        ``"frames"``: error bars from the scatter of whole frames, which is right if labels of a frame, or successive
        frames, are correlated (:mod:`kernelfe.gp.solvers.scores`). ``"rows"``: from independent noise of every row.
    evidence_rows
        Not used: the evidence of all labels costs nothing more.
    checkpoint
        Folder for intermediate sums, from which an interrupted fit resumes.
    device
        Where the fit, and predictions by it, compute: "cpu", "cuda" or "cuda:1".
    """

    block_rows: int = 8192
    iterations: int = 100
    errors: str = "frames"
    evidence_rows: int | None = None
    checkpoint: str | None = None
    device: str = "cpu"
    shared: ClassVar[bool] = True
    keeps_labels: ClassVar[bool] = False
    #: Starts of the search: factors of all length scales.
    starts: ClassVar[tuple[float, ...]] = (1.0, 0.4, 2.5)

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        "block_rows": Whole(least=1),
        "iterations": Whole(least=1),
        "errors": Choice(("frames", "rows")),
        "evidence_rows": OrNone(Whole(least=1)),
        "checkpoint": OrNone(PathName("folder")),
        "device": DEVICE,
    }

    def fit(self, prior: Prior, labels: list[LabelSet], levels: NoiseLevels, run: Run) -> SparsePosterior:
        """Stream the labels once, fit the hyperparameters if ``run.evidence``, and solve."""
        _require_linear(prior)
        first = exact_basis(prior)
        with torch.no_grad():
            factors = [term.kernel.factor() for term in prior.terms]
        stacked = self._sums(first, labels, prior, levels, run)
        if run.evidence:
            self._search(prior, levels, stacked, factors)
            share_hyperparameters(prior, levels, Processes.current())
        prior.requires_grad_(False)
        with torch.no_grad():
            stacked = turned(stacked, prior, factors)
        posterior = solve_sparse(exact_basis(prior), labels, stacked, levels, self.block_rows)
        found = by_scatter(posterior, labels, levels) if self.errors == "frames" else None
        if found is None:
            return posterior
        logger.info("%s", found[1])
        return found[0]

    def condition(self, prior: Prior, labels: list[LabelSet], levels: NoiseLevels, run: Run) -> SparsePosterior:
        """The posterior given all labels, with the hyperparameters as they are."""
        return self.fit(prior, labels, levels, replace(run, evidence=False))

    def fit_hyperparameters(self, prior: Prior, labels: list[LabelSet], levels: NoiseLevels, run: Run) -> float:
        """Fit prior and noise levels, in place, by the evidence of all labels."""
        _require_linear(prior)
        with torch.no_grad():
            factors = [term.kernel.factor() for term in prior.terms]
        value = self._search(prior, levels, self._sums(exact_basis(prior), labels, prior, levels, run), factors)
        share_hyperparameters(prior, levels, Processes.current())
        return value

    def posterior_from(
        self, prior: Prior, levels: NoiseLevels, labels: list[LabelSet] | None, tensors: dict[str, Tensor]
    ) -> SparsePosterior:
        """The posterior of a model file."""
        return SparsePosterior.from_tensors(prior, False, tensors, self.block_rows)

    def _sums(self, basis: SparseBasis, labels: list[LabelSet], prior: Prior, levels: NoiseLevels, run: Run) -> Stacked:
        processes, checkpoint = Processes.current(), self.kept(prior, labels, levels, run)
        total = sum(len(label) for label in labels) // processes.size
        with progress_bar(run.progress and processes.first, "labels", total) as bar:
            return accumulate(basis, labels, self.block_rows, bar, processes=processes, checkpoint=checkpoint)

    def _search(self, prior: Prior, levels: NoiseLevels, stacked: Stacked, factors: list[Tensor]) -> float:
        """Maximise the evidence from several starts of the length scales, and keep the best."""
        free = [p for p in (*prior.parameters(), *(levels.parameters() if levels.kinds else ())) if p.requires_grad]
        lengths = [term.log_hyperparameter("lengthscale") for term in prior.terms]
        origin, scale = [p.detach().clone() for p in free], float(stacked.count.sum())

        def objective() -> Tensor:
            noise = levels.levels(stacked.kinds, stacked.temperature) ** 2
            evidence = turned(stacked, prior, factors).log_evidence(prior.variances(), noise, bound=False)
            return evidence + prior.hyperpriors() + levels.hyperprior()

        best: tuple[float, list[Tensor]] | None = None
        for factor in self.starts:
            restore(free, origin)
            with torch.no_grad():
                for length in lengths:
                    if length.requires_grad:
                        length.add_(torch.log(torch.tensor(factor)))
            value = maximise(objective, free, self.iterations, scale=scale)
            logger.info("length scales from %g times the start: log evidence %.6g", factor, value)
            if best is None or value > best[0]:
                best = value, [p.detach().clone() for p in free]
        assert best is not None
        restore(free, best[1])
        return best[0]


def exact_basis(prior: Prior) -> SparseBasis:
    """The basis of all weights: inducing environments L⁻¹, whose embedding is the identity, with nothing to whiten."""
    with torch.no_grad():
        inducing = [term.kernel.inverse_factor() for term in prior.terms]  # type: ignore[operator]
        ones = [torch.eye(len(z)).to(z) for z in inducing]
        return SparseBasis(prior, inducing, False, ones)


def turned(stacked: Stacked, prior: Prior, factors: list[Tensor]) -> Stacked:
    """Normal equations of the present length scales from those of the Cholesky factors L₀; differentiable."""
    blocks = []
    for term, before in zip(prior.terms, factors, strict=True):
        blocks.append(torch.linalg.solve_triangular(before, term.kernel.factor(), upper=False))  # type: ignore
    if prior.mean is not None:
        blocks.append(torch.eye(stacked.ranks[-1], dtype=torch.float64, device=stacked.rhs.device))
    turn = torch.block_diag(*blocks)
    wide = []
    if stacked.wide:
        sizes = zip(blocks, stacked.functions, strict=True)
        whole = torch.block_diag(*(block for block, size in sizes for _ in range(size)))
        wide = [replace(g, gram=whole.T @ g.gram @ whole, rhs=whole.T @ g.rhs) for g in stacked.wide]
    return replace(stacked, gram=turn.T @ stacked.gram @ turn, rhs=stacked.rhs @ turn, wide=wide)


def linear(prior: Prior) -> bool:
    """True if all terms have kernels of weights."""
    return all(isinstance(term.spec.kernel, SplineWeights) for term in prior.terms)


def _require_linear(prior: Prior) -> None:
    if not linear(prior):
        other = sorted(
            {type(t.spec.kernel).__name__ for t in prior.terms if not isinstance(t.spec.kernel, SplineWeights)}
        )
        raise DataError(
            f"WeightSpace takes terms on PairSplines and TripletSplines (kernel SplineWeights) only; here are also "
            f"{', '.join(other)}: use solver='sparse', or 'auto'"
        )
