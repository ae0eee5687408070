"""All-atom engines driven from here: conditional ensembles with OpenMM."""

from __future__ import annotations

from .restrained import ConditionalRun, RestrainedEnsemble, RestrainedProtocol
from .starts import nearest_starts, superpose

__all__ = ["ConditionalRun", "RestrainedEnsemble", "RestrainedProtocol", "nearest_starts", "superpose"]
