"""Trainers that need samples of the model itself."""

from __future__ import annotations

from .acquisition import Proposal, expected_divergence, propose
from .active import ActiveLearning, ActivePlan, ActiveRound, learn_actively
from .relative_entropy import (
    LiquidFit,
    LiquidPlan,
    LiquidRound,
    RelativeEntropyFit,
    RelativeEntropyPlan,
    Round,
    minimize_relative_entropy,
)

__all__ = [
    "ActiveLearning",
    "ActivePlan",
    "ActiveRound",
    "LiquidFit",
    "LiquidPlan",
    "LiquidRound",
    "Proposal",
    "RelativeEntropyFit",
    "RelativeEntropyPlan",
    "Round",
    "expected_divergence",
    "learn_actively",
    "minimize_relative_entropy",
    "propose",
]
