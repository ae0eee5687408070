"""Adapters that let other simulation programs drive a free energy model."""

from __future__ import annotations

from .ase import FreeEnergyCalculator
from .fitted import FittedModel

__all__ = ["FittedModel", "FreeEnergyCalculator"]
