"""Solver specs: which conditioning, on which device, in which block size."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ...errors import DataError
from ...runtime.devices import check_device
from ...specs import Spec

#: Label rows up to which ``solver="auto"`` conditions exactly.
DENSE_LIMIT = 4000
#: How inducing environments are chosen (:func:`kernelfe.gp.solvers.sparse.inducing.choose`), and which of these use a seed.
SELECTIONS = ("pivots", "farthest", "leverage", "kmeans")
SEEDED = ("leverage", "kmeans")


def whole_numbers(spec: Spec) -> None:
    """Turn 25e3 into 25000 in a solver spec, in place, and refuse 2.5.

    Raises
    ------
    DataError
        Naming the field.
    """
    for field in fields(spec):  # type: ignore[arg-type]
        value = getattr(spec, field.name)
        if field.default is None or isinstance(field.default, str):  # a path, a choice
            continue
        if isinstance(field.default, bool):
            if not isinstance(value, (bool, np.bool_)):
                raise DataError(f"{type(spec).__name__}: {field.name}={value!r} must be True or False")
            object.__setattr__(spec, field.name, bool(value))
        else:
            object.__setattr__(spec, field.name, whole(spec, field.name))


def whole(spec: Spec, name: str) -> int:
    """A field as a whole number.

    Raises
    ------
    DataError
        If it is none.
    """
    value = getattr(spec, name)
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not number or not np.isfinite(value) or value != int(value):
        raise DataError(f"{type(spec).__name__}: {name}={value!r} must be a whole number")
    return int(value)


def folder(spec) -> str | None:
    """The checkpoint of a solver spec as a path.

    Raises
    ------
    DataError
        If it is none.
    """
    value = spec.checkpoint
    if value is None:
        return None
    if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
        raise DataError(f"{type(spec).__name__}: checkpoint={value!r} must be the path of a folder, or None")
    return os.fsdecode(value)


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

    def __post_init__(self):
        whole_numbers(self)
        check_device(self)
        if self.evidence_rows < 1:
            raise DataError("Dense: evidence_rows must be at least 1")


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
        same fit, if it was interrupted, goes on from there; the files are removed when it is complete. None: nothing
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

    def __post_init__(self):
        check_device(self)
        optional = [name for name in ("rank", "evidence_rows") if getattr(self, name) is not None]
        for name in ("max_iterations", *optional):
            object.__setattr__(self, name, whole(self, name))
        object.__setattr__(self, "checkpoint", folder(self))
        for name in ("tolerance", "cache_gigabytes"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not np.isfinite(value):
                raise DataError(f"Iterative: {name}={value!r} must be a number")
            object.__setattr__(self, name, float(value))
        if not 0.0 < self.tolerance < 1.0:
            raise DataError(f"Iterative: tolerance={self.tolerance} must lie between 0 and 1")
        if (
            self.max_iterations < 1
            or self.evidence_rows == 0
            or (self.evidence_rows or 0) < 0
            or (self.rank or 0) < 0
            or self.cache_gigabytes < 0.0
        ):
            raise DataError(f"{self}: numbers must not be negative, max_iterations and evidence_rows at least 1")
        if self.precision not in ("double", "mixed"):
            raise DataError(f"Iterative: precision={self.precision!r}: use 'mixed' or 'double'")

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

    def __post_init__(self):
        whole_numbers(self)
        check_device(self)
        if self.selection not in SELECTIONS:
            raise DataError(f"Sparse: selection={self.selection!r}: use one of {', '.join(map(repr, SELECTIONS))}")
        if self.checkpoint is not None:
            if not isinstance(self.checkpoint, (str, os.PathLike)) or not os.fspath(self.checkpoint):
                raise DataError(f"Sparse: checkpoint={self.checkpoint!r} must be the path of a folder, or None")
            object.__setattr__(self, "checkpoint", os.fspath(self.checkpoint))
        if min(self.inducing, self.block_rows, self.evidence_rows, self.evidence_inducing) < 1:
            raise DataError(f"{self}: every number must be at least 1")
        if self.final_iterations < 0:
            raise DataError(f"Sparse: final_iterations={self.final_iterations} must not be negative")

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
