"""Typed errors. Every message names the culprit and says what to do about it."""

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
    """Another of the processes that work on one fit failed, or did not answer in time."""


class DomainError(KernelfeError, RuntimeError):
    """A configuration is so far from the training data that the model knows nothing of it."""


class MissingDependencyError(KernelfeError, ImportError):
    """An optional dependency is not installed."""
