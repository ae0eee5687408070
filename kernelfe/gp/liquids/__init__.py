"""Default terms of periodic liquids."""

from __future__ import annotations

from .terms import is_liquid, liquid_terms

__all__ = ["is_liquid", "liquid_terms"]
