"""The interface of a solver: hyperparameters by the evidence, then the posterior.

A solver is a frozen dataclass of plain numbers that derives from :class:`Solver`, with a posterior that derives from
:class:`~kernelfe.gp.posterior.Posterior`. One that keeps the labels and solves with their covariance needs little more
than its ``solve``: see :mod:`kernelfe.gp.solvers.exact`. :func:`kernelfe.testing.check_solver` checks the contract.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
from torch import Tensor

from ...runtime.checkpoint import Checkpoint
from ...runtime.processes import Processes
from ...specs import Spec
from ..observations.labels import LabelSet
from ..observations.levels import NoiseLevels
from ..posterior import Posterior
from ..prior.prior import Prior
from .evidence import fit_dense, random_subsets
from .resume import fingerprint


@dataclass(frozen=True)
class Run:
    """The circumstances of one fit.

    Parameters
    ----------
    rng
        Source of all random choices, the same on all processes.
    evidence
        Whether hyperparameters are fitted.
    progress
        Whether progress bars are shown.
    automatic
        Whether the solver was chosen automatically, so that an approximation is compared with the exact answer.
    checkpoints
        The checkpoints of the fit, to be cleared when it is complete.
    """

    rng: np.random.Generator
    evidence: bool = True
    progress: bool = False
    automatic: bool = False
    checkpoints: list[Checkpoint] = field(default_factory=list)

    def complete(self) -> None:
        """Remove the files of all checkpoints, on the first process."""
        if self.checkpoints and Processes.current().first:
            for checkpoint in self.checkpoints:
                checkpoint.clear()


class Solver(Spec, ABC):
    """Base of the solver specs, which are frozen dataclasses.

    Attributes
    ----------
    device
        Where the fit, and predictions by it, compute: "cpu", "cuda" or "cuda:1".
    evidence_rows
        Label rows (whole frames, chosen at random) on which hyperparameters are fitted; None: all of them.
    checkpoint
        Folder in which an interrupted fit is kept, or None.
    """

    device: str = "cpu"
    evidence_rows: int | None = 1500
    checkpoint: str | None = None
    #: Whether the processes of torchrun share the work of a fit; otherwise each does all of it.
    shared: ClassVar[bool] = False
    #: Whether the posterior keeps the labels, which then belong to a model file.
    keeps_labels: ClassVar[bool] = True

    def fit(self, prior: Prior, labels: list[LabelSet], levels: NoiseLevels, run: Run) -> Posterior:
        """Fit the hyperparameters if ``run.evidence``, in place, and condition on the labels."""
        if run.evidence:
            self.fit_hyperparameters(prior, labels, levels, run)
        prior.requires_grad_(False)
        return self.condition(prior, labels, levels, run)

    def fit_hyperparameters(self, prior: Prior, labels: list[LabelSet], levels: NoiseLevels, run: Run) -> float:
        """Fit prior and noise levels, in place, by the exact log evidence of ``evidence_rows`` label rows.

        Returns
        -------
        float
            The log evidence of all labels, where the search gives it; nan otherwise.
        """
        some = labels if self.evidence_rows is None else random_subsets(labels, self.evidence_rows, run.rng)
        fit_dense(prior, some, levels)
        return math.nan

    @abstractmethod
    def condition(self, prior: Prior, labels: list[LabelSet], levels: NoiseLevels, run: Run) -> Posterior:
        """The posterior given all labels, with the hyperparameters as they are."""

    @abstractmethod
    def posterior_from(
        self, prior: Prior, levels: NoiseLevels, labels: list[LabelSet] | None, tensors: dict[str, Tensor]
    ) -> Posterior:
        """The posterior of a model file.

        Parameters
        ----------
        labels
            The labels, if ``keeps_labels``.
        tensors
            Those of :meth:`~kernelfe.gp.posterior.Posterior.tensors`, among others; not trusted.

        Raises
        ------
        ModelFileError
            If a tensor is missing or has another shape (:func:`kernelfe.files.fields.take`).
        """

    def settled(self, posterior: Posterior) -> Self:
        """The spec with the numbers that the fit has chosen."""
        return self

    # ------------------------------------------------------------------ checkpoints

    def kept_settings(self, evidence: bool) -> dict[str, Any]:
        """The settings on which the content of a checkpoint depends."""
        return self.to_dict()

    def kept(self, prior: Prior, labels: list[LabelSet], levels: NoiseLevels, run: Run) -> Checkpoint | None:
        """The files of this fit in the checkpoint folder, also added to those of the run; None without a folder."""
        if self.checkpoint is None:
            return None
        problem = fingerprint(self.kept_settings(run.evidence), prior, labels, levels, run.rng, run.evidence)
        out = Checkpoint(self.checkpoint, Processes.current().gather_bytes(problem.encode())[0].decode())
        run.checkpoints.append(out)
        return out
