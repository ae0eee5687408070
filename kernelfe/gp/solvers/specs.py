"""Solvers by name, and the choice among them."""

from __future__ import annotations

from typing import Any

from ...errors import DataError
from .base import Solver
from .dense import Dense
from .iterative.fit import Iterative
from .sparse.fit import Sparse

__all__ = ["SOLVERS", "Dense", "Iterative", "Sparse", "choose_solver"]

#: Label rows up to which ``solver="auto"`` conditions exactly: a Gram of 128 MB, factorized within seconds. A
#: user who wants another solver names it.
DENSE_LIMIT = 4000
#: The solvers of kernelfe by the names that ``solver=`` takes.
SOLVERS: dict[str, type[Solver]] = {"dense": Dense, "iterative": Iterative, "sparse": Sparse}


def choose_solver(solver: Any, rows: int) -> tuple[Solver, str]:
    """The solver spec to use and the reason.

    Raises
    ------
    DataError
        If ``solver`` is neither a spec nor one of "auto", "dense", "iterative", "sparse".
    """
    if isinstance(solver, Solver):
        return solver, "as given"
    if isinstance(solver, str) and solver in SOLVERS:
        return SOLVERS[solver](), "as given"
    if isinstance(solver, str) and solver == "auto":
        if rows <= DENSE_LIMIT:
            return Dense(), f"{rows} label rows ≤ {DENSE_LIMIT}: exact conditioning is affordable"
        return Sparse(), f"{rows} label rows > {DENSE_LIMIT}: a dense Gram would take {8e-9 * rows**2:.1f} GB"
    if isinstance(solver, type) and issubclass(solver, Solver):
        raise DataError(f"solver={solver.__name__} is a class: pass an instance, {solver.__name__}(...)")
    raise DataError(
        f"unknown solver {solver!r}: use 'auto', 'dense', 'iterative' or 'sparse', or a spec: Dense(...), "
        "Iterative(...), Sparse(...) or a Solver of your own"
    )
