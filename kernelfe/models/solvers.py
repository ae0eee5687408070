"""Solver specs: which conditioning, on which device, in which block size."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from ..errors import DataError
from ..specs import Spec

#: Label rows up to which ``solver="auto"`` conditions exactly.
DENSE_LIMIT = 4000


def whole_numbers(spec: Spec) -> None:
    """Turn 25e3 into 25000 in a solver spec, in place, and refuse 2.5.

    Raises
    ------
    DataError
        Naming the field.
    """
    for field in fields(spec):  # type: ignore[arg-type]
        value = getattr(spec, field.name)
        if isinstance(field.default, bool):
            if not isinstance(value, (bool, np.bool_)):
                raise DataError(f"{type(spec).__name__}: {field.name}={value!r} must be True or False")
            object.__setattr__(spec, field.name, bool(value))
        elif isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and value == int(value):
            object.__setattr__(spec, field.name, int(value))
        else:
            raise DataError(f"{type(spec).__name__}: {field.name}={value!r} must be a whole number")


@dataclass(frozen=True)
class Dense(Spec):
    """Exact conditioning by Cholesky factorization: n² numbers and n³/3 operations for n label rows.

    Parameters
    ----------
    evidence_rows
        Label rows (whole frames, chosen at random) on which hyperparameters are fitted.
    """

    evidence_rows: int = 1500

    def __post_init__(self):
        whole_numbers(self)
        if self.evidence_rows < 1:
            raise DataError("Dense: evidence_rows must be at least 1")


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
    """

    inducing: int = 600
    gradients: bool = False
    block_rows: int = 8192
    evidence_rows: int = 25_000
    evidence_inducing: int = 100
    final_iterations: int = 8

    def __post_init__(self):
        whole_numbers(self)
        if min(self.inducing, self.block_rows, self.evidence_rows, self.evidence_inducing) < 1:
            raise DataError(f"{self}: every number must be at least 1")


def choose_solver(solver, rows: int) -> tuple[Dense | Sparse, str]:
    """The solver spec to use and the reason.

    Raises
    ------
    DataError
        If ``solver`` is neither a spec nor one of "auto", "dense", "sparse".
    """
    if isinstance(solver, (Dense, Sparse)):
        return solver, "as given"
    if solver == "dense":
        return Dense(), "as given"
    if solver == "sparse":
        return Sparse(), "as given"
    if solver == "auto":
        if rows <= DENSE_LIMIT:
            return Dense(), f"{rows} label rows ≤ {DENSE_LIMIT}: exact conditioning is affordable"
        return Sparse(), f"{rows} label rows > {DENSE_LIMIT}: a dense Gram would take {8e-9 * rows**2:.1f} GB"
    raise DataError(f"unknown solver {solver!r}: use 'auto', 'dense', 'sparse', or a Dense(...) or Sparse(...) spec")
