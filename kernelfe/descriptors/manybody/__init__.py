"""Sums over pairs and triplets of beads in a basis of splines: liquids, with one environment per frame."""

from __future__ import annotations

from .pairs import PairSplines
from .splines import UniformSplines
from .triplets import TripletSplines

__all__ = ["PairSplines", "TripletSplines", "UniformSplines"]
