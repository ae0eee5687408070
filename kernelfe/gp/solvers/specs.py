"""Solvers by name, and the choice among them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...errors import DataError
from .base import Solver
from .dense import Dense
from .iterative.fit import Iterative
from .sparse.fit import Sparse
from .weights import WeightSpace

__all__ = ["SOLVERS", "Dense", "Iterative", "Sparse", "WeightSpace", "choose_solver"]

#: Label rows up to which ``solver="auto"`` conditions exactly: a Gram of 128 MB, factorized within seconds. A
#: user who wants another solver names it.
DENSE_LIMIT = 4000
#: Rows of environments (of a pair: six, the forces on two beads) up to which they are conditioned exactly: covariances
#: of labels are sums over all pairs of such rows.
ENVIRONMENT_LIMIT = 100_000
#: The solvers of kernelfe by the names that ``solver=`` takes.
SOLVERS: dict[str, type[Solver]] = {"dense": Dense, "iterative": Iterative, "sparse": Sparse, "weights": WeightSpace}


def choose_solver(
    solver: Any, rows: int, linear: bool = False, environments: Callable[[], int] | None = None
) -> tuple[Solver, str]:
    """The solver spec to use and the reason.

    Parameters
    ----------
    solver
        A spec or a name.
    rows
        Label rows.
    linear
        Whether the free energy is linear in a finite number of weights.
    environments
        Counts the rows of environments that the labels read; asked only where it matters.

    Raises
    ------
    DataError
        If ``solver`` is neither a spec nor one of "auto", "dense", "iterative", "sparse", "weights".
    """
    if isinstance(solver, Solver):
        return solver, "as given"
    if isinstance(solver, str) and solver in SOLVERS:
        return SOLVERS[solver](), "as given"
    if isinstance(solver, str) and solver == "auto":
        if linear:
            return (
                WeightSpace(),
                "the free energy is linear in a finite number of weights: exact at any number of labels",
            )
        if rows <= DENSE_LIMIT and environments is not None and (count := environments()) > ENVIRONMENT_LIMIT:
            return Sparse(), (
                f"{rows} label rows read {count} rows of environments > {ENVIRONMENT_LIMIT}: exact conditioning sums "
                "over all pairs of these"
            )
        if rows <= DENSE_LIMIT:
            return Dense(), f"{rows} label rows ≤ {DENSE_LIMIT}: exact conditioning is affordable"
        return Sparse(), f"{rows} label rows > {DENSE_LIMIT}: a dense Gram would take {8e-9 * rows**2:.1f} GB"
    if isinstance(solver, type) and issubclass(solver, Solver):
        raise DataError(f"solver={solver.__name__} is a class: pass an instance, {solver.__name__}(...)")
    raise DataError(
        f"unknown solver {solver!r}: use 'auto', 'dense', 'iterative', 'sparse' or 'weights', or a spec: Dense(...), "
        "Iterative(...), Sparse(...), WeightSpace(...) or a Solver of your own"
    )
