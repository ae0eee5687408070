"""Typed errors. Every message names the culprit and the remedy."""

from __future__ import annotations


class KernelfeError(Exception):
    """Base class of every error kernelfe raises on purpose."""


class DataError(KernelfeError, ValueError):
    """Input data is wrong: a non-finite value, a shape, an unknown label key, a missing temperature."""


class UnitsError(DataError):
    """A unit is missing, unknown or of the wrong dimension."""


class ModelFileError(KernelfeError, ValueError):
    """A model or data file cannot be trusted: wrong version, truncated, oversized or of another format."""


class SolverError(KernelfeError, RuntimeError):
    """A linear system could not be solved to the stated tolerance."""


class ProcessError(KernelfeError, RuntimeError):
    """Another process of the same fit failed, or did not answer in time."""


class DomainError(KernelfeError, RuntimeError):
    """A configuration is so far from the training data that predictions carry no information about it."""


class MissingDependencyError(KernelfeError, ImportError):
    """An optional dependency is not installed."""


def require(holds: object, message: str, error: type[KernelfeError] = DataError) -> None:
    """Raise an error unless a condition holds: for checks at the border that read as one line.

    Parameters
    ----------
    holds
        The condition.
    message
        Names the culprit and the remedy. It is written out in any case: not for inner loops.
    error
        Class of the error.

    Raises
    ------
    KernelfeError
        Of that class.
    """
    if not holds:
        raise error(message)
