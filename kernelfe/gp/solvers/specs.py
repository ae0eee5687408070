"""Solver specs: which conditioning, on which device, in which block size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ...errors import DataError
from ...runtime.devices import DEVICE
from ...specs import Bound, Choice, Flag, OrNone, PathName, Real, Spec, Whole

#: Label rows up to which ``solver="auto"`` conditions exactly.
DENSE_LIMIT = 4000
#: How inducing environments are chosen (:func:`~kernelfe.gp.solvers.sparse.inducing.choose`); those that use a seed.
SELECTIONS = ("pivots", "farthest", "leverage", "kmeans")
SEEDED = ("leverage", "kmeans")


@dataclass(frozen=True)
class Dense(Spec):
    """Exact conditioning by Cholesky factorization: n² numbers and n³/3 operations for n label rows.

    Parameters
    ----------
    evidence_rows
        Label rows (whole frames, chosen at random) on which hyperparameters are fitted.
    device
        Where the fit, and predictions by it, compute: "cpu", "cuda" or "cuda:1".
    """

    evidence_rows: int = 1500
    device: str = "cpu"

    BOUNDS: ClassVar[Mapping[str, Bound]] = {"evidence_rows": Whole(least=1), "device": DEVICE}


@dataclass(frozen=True)
class Iterative(Spec):
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
    checkpoint
        Folder in which the hyperparameters and, every half minute and on Ctrl-C, the present solution are kept. The
        same fit, if it was interrupted, resumes from there; the files are removed when it is complete. None: nothing
        is kept. A saved model does not carry it.
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

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        "tolerance": Real(above=0.0, below=1.0),
        "max_iterations": Whole(least=1),
        "rank": OrNone(Whole(least=0)),
        "precision": Choice(("mixed", "double")),
        "cache_gigabytes": Real(least=0.0),
        "evidence_rows": OrNone(Whole(least=1)),
        "checkpoint": OrNone(PathName("folder")),
        "device": DEVICE,
    }

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, without the checkpoint: it belongs to a machine, not to a model."""
        out = super().to_dict()
        del out["checkpoint"]
        return out


@dataclass(frozen=True)
class Sparse(Spec):
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
        Folder for what a fit has reached, from which the same fit, if it was interrupted, goes on; its files are
        removed when the fit is complete. None: nothing is kept. A saved model does not carry it.
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


def choose_solver(solver, rows: int) -> tuple[Dense | Iterative | Sparse, str]:
    """The solver spec to use and the reason.

    Raises
    ------
    DataError
        If ``solver`` is neither a spec nor one of "auto", "dense", "iterative", "sparse".
    """
    if isinstance(solver, (Dense, Iterative, Sparse)):
        return solver, "as given"
    if solver == "dense":
        return Dense(), "as given"
    if solver == "iterative":
        return Iterative(), "as given"
    if solver == "sparse":
        return Sparse(), "as given"
    if solver == "auto":
        if rows <= DENSE_LIMIT:
            return Dense(), f"{rows} label rows ≤ {DENSE_LIMIT}: exact conditioning is affordable"
        return Sparse(), f"{rows} label rows > {DENSE_LIMIT}: a dense Gram would take {8e-9 * rows**2:.1f} GB"
    raise DataError(
        f"unknown solver {solver!r}: use 'auto', 'dense', 'iterative' or 'sparse', or a spec: Dense(...), "
        "Iterative(...) or Sparse(...)"
    )
