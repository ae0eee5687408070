"""The iterative solver: the exact fit without a Gram, by one process or several.

Hyperparameters come from a part of the label rows, by every process for itself, and those of process 0 are taken; or
from all rows. Then, and in the solve for the labels, process 0 leads and the other processes compute their share of the
products (:mod:`kernelfe.runtime.leading`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ....linalg import LanczosSettings
from ....runtime.devices import DEVICE
from ....runtime.leading import Call, lead
from ....runtime.processes import Processes
from ....specs import Bound, Choice, OrNone, PathName, Real, Whole
from ...observations.labels import LabelSet
from ...observations.levels import NoiseLevels, hyperparameters, share_hyperparameters
from ...prior.prior import Prior
from ..base import Run, Solver
from ..evidence import fit_dense, random_subsets
from ..exact import stored_weights
from ..resume import KeptSolution, sketch
from .evidence import LabelCovariance, covariance_builder, fit_lanczos
from .operator import JetGram, SharedProducts
from .posterior import IterativePosterior
from .preconditioner import precondition
from .settings import PreconditionerSettings
from .watch import Watched


@dataclass(frozen=True)
class Iterative(Solver):
    """Exact conditioning by preconditioned conjugate gradients: memory linear in the label rows, no Gram is formed.

    Means are exact to ``tolerance``; every error bar costs a solve of its own, many at a time (or use
    :func:`~kernelfe.gp.pathwise_draws`).

    Parameters
    ----------
    tolerance
        Relative residual of every solve, √(rᵀP⁻¹r / bᵀP⁻¹b).
    max_iterations
        Products with the covariance that a solve may take.
    rank
        Columns of the preconditioner's low-rank part; None: as many as pay for themselves.
    precision
        "mixed": products in single precision, refined until the residual in double precision passes; or "double".
    cache_gigabytes
        Memory for kernel matrices that are kept between products; what does not fit is computed again.
    evidence_rows
        Label rows (whole frames, chosen at random) on which hyperparameters are fitted; None: all of them, with the
        evidence and its gradient by stochastic Lanczos (:mod:`kernelfe.gp.solvers.iterative.evidence`).
    evidence_error
        Standard error of the log evidence by Lanczos that is good enough to choose hyperparameters by: one standard
        deviation of a hyperparameter changes it by 0.5.
    checkpoint
        Folder in which the hyperparameters and, every half minute and on Ctrl-C, the present solution are kept. An
        interrupted fit resumes from there; the files are removed when it is complete. None: nothing is kept. A saved
        model does not carry it.
    device
        Where the fit, and predictions by it, compute: "cpu", "cuda" or "cuda:1".
    """

    tolerance: float = 1e-6
    max_iterations: int = 2000
    rank: int | None = None
    precision: str = "mixed"
    cache_gigabytes: float = 1.0
    evidence_rows: int | None = 1500
    checkpoint: str | None = None
    device: str = "cpu"
    evidence_error: float = 0.5
    shared: ClassVar[bool] = True
    #: Settings of the preconditioner. Not a field: it changes the time of a fit, and results within the tolerance.
    preconditioner: ClassVar[PreconditionerSettings] = PreconditionerSettings()

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        "tolerance": Real(above=0.0, below=1.0),
        "max_iterations": Whole(least=1),
        "rank": OrNone(Whole(least=0)),
        "precision": Choice(("mixed", "double")),
        "cache_gigabytes": Real(least=0.0),
        "evidence_rows": OrNone(Whole(least=1)),
        "checkpoint": OrNone(PathName("folder")),
        "device": DEVICE,
        "evidence_error": Real(above=0.0),
    }

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, without the checkpoint: it belongs to a machine, not to a model."""
        out = super().to_dict()
        del out["checkpoint"]
        return out

    def kept_settings(self, evidence: bool) -> dict[str, Any]:
        """The settings on which the content of a checkpoint depends.

        A solution of conjugate gradients is a start for any other tolerance or limit, however it is computed.
        """
        free = ["max_iterations", "cache_gigabytes", "precision", "device"]
        if not evidence or self.evidence_rows is not None:  # with Lanczos, hyperparameters depend on these
            free += ["tolerance", "rank", "evidence_error"]
        return {name: value for name, value in self.to_dict().items() if name not in free}

    def fit(self, prior: Prior, labels: list[LabelSet], levels: NoiseLevels, run: Run) -> IterativePosterior:
        """Fit the hyperparameters if ``run.evidence``, in place, and solve, both with the default group of processes.

        An earlier attempt in the ``checkpoint`` is resumed.
        """
        checkpoint, processes = self.kept(prior, labels, levels, run), Processes.current()
        processes.agree("labels", sketch(labels))
        # always drawn, so that later random numbers do not depend on whether a checkpoint is resumed
        chosen = self._chosen(labels, run) if run.evidence else None
        kept = None if checkpoint is None else KeptSolution(checkpoint, processes)
        value = None if kept is None else kept.resume(prior, levels)
        resumed = value is not None
        if value is None:
            value = math.nan if chosen is None else self._search(prior, labels, levels, chosen)
        share_hyperparameters(prior, levels, processes)
        if kept is not None and not resumed:
            kept.begin(prior, levels, value)
        prior.requires_grad_(False)
        posterior = self._solve(prior, labels, levels, Watched(run.progress and processes.first, kept))
        posterior.log_evidence = value
        return posterior

    def fit_hyperparameters(self, prior: Prior, labels: list[LabelSet], levels: NoiseLevels, run: Run) -> float:
        """Fit prior and noise levels, in place; the log evidence where all labels are used, nan otherwise."""
        value = self._search(prior, labels, levels, self._chosen(labels, run))
        share_hyperparameters(prior, levels, Processes.current())
        return value

    def condition(self, prior: Prior, labels: list[LabelSet], levels: NoiseLevels, run: Run) -> IterativePosterior:
        """The posterior given all labels, with the hyperparameters as they are."""
        return self._solve(prior, labels, levels, Watched(run.progress and Processes.current().first))

    def posterior_from(
        self, prior: Prior, levels: NoiseLevels, labels: list[LabelSet] | None, tensors: dict[str, Tensor]
    ) -> IterativePosterior:
        """The posterior of a model file; nothing is solved before the first covariance."""
        assert labels is not None
        return IterativePosterior(prior, labels, levels, self, weights=stored_weights(labels, tensors))

    def _chosen(self, labels: list[LabelSet], run: Run) -> int | list[LabelSet]:
        """The random choice of the search: a seed for Lanczos with all labels, or some of the labels."""
        if self.evidence_rows is None:
            return int(run.rng.integers(2**31))
        return random_subsets(labels, self.evidence_rows, run.rng)

    def _search(self, prior: Prior, labels: list[LabelSet], levels: NoiseLevels, chosen: int | list[LabelSet]) -> float:
        processes = Processes.current()
        if isinstance(chosen, int):
            return fit_all_rows(self, prior, labels, levels, chosen, processes)
        with processes.section("the evidence"):
            fit_dense(prior, chosen, levels)
        return math.nan

    def _solve(self, prior: Prior, labels: list[LabelSet], levels: NoiseLevels, watched: Watched) -> IterativePosterior:
        return IterativePosterior(prior, labels, levels, self, watched=watched, processes=Processes.current())


def fit_all_rows(
    solver: Iterative,
    prior: Prior,
    labels: list[LabelSet],
    noise: NoiseLevels,
    seed: int,
    processes: Processes,
) -> float:
    """Hyperparameters of the exact model from all label rows, in place; the log evidence."""
    settings = LanczosSettings(solver.tolerance, solver.max_iterations, standard_error=solver.evidence_error, seed=seed)
    cache_bytes, preconditioner = int(1e9 * solver.cache_gigabytes), solver.preconditioner.for_evidence()
    if processes.size == 1:
        build = covariance_builder(prior, labels, noise, solver.rank, cache_bytes, preconditioner)
        return fit_lanczos(build, prior, labels, noise, settings).value
    held: dict[str, Any] = {}

    @torch.no_grad()
    def renew(*numbers: Tensor) -> None:
        for parameter, number in zip(hyperparameters(prior, noise).values(), numbers, strict=True):
            parameter.copy_(number)
        held["shared"] = None  # before the next one takes memory
        held["shared"] = SharedProducts(JetGram(prior, labels, noise), processes, cache_bytes)

    def product(x: Tensor) -> Tensor:
        return held["shared"].product(x)

    def work(call: Call) -> dict[str, Tensor]:
        def build():
            call(0, *(number.clone() for number in hyperparameters(prior, noise).values()))
            covariance = LabelCovariance(prior, labels, noise, held["shared"].gram, lambda x: call(1, x))
            with torch.no_grad():
                return covariance, precondition(covariance.gram, preconditioner, solver.rank)

        value = fit_lanczos(build, prior, labels, noise, settings).value
        return {"value": torch.tensor([value], dtype=torch.float64)}

    return float(lead("the evidence", [renew, product], work, processes)["value"])
