"""The comparison behind ``kernelfe quickstart``: four label sets at an unseen temperature, against a reference."""

from __future__ import annotations

from .cases import DENSITY, LABEL_SETS, TARGET, TRAIN_TEMPERATURES, Case, Sampler, run_case, training_rows
from .plan import Plan, run_cases
from .run import run, write_json

__all__ = [
    "DENSITY",
    "LABEL_SETS",
    "TARGET",
    "TRAIN_TEMPERATURES",
    "Case",
    "Plan",
    "Sampler",
    "run",
    "run_case",
    "run_cases",
    "training_rows",
    "write_json",
]
