"""Trainers that need samples of the model itself."""

from __future__ import annotations

from .relative_entropy import RelativeEntropyFit, Round, minimize_relative_entropy

__all__ = ["RelativeEntropyFit", "Round", "minimize_relative_entropy"]
