"""Descriptors: maps from configurations to environments z(R), with Jacobians and their products.

A new descriptor is a frozen dataclass that derives from :class:`Descriptor` and defines ``dimension`` and
``environments``.
"""

from __future__ import annotations

from .base import Descriptor, Environments
from .bonded import Bonded
from .distances import Distances, InverseDistances
from .handed import HandedDistances
from .internal import InternalCoordinates
from .like_beads import automorphisms, permutations
from .manybody import PairSplines, TripletSplines
from .pairs import PairDistances
from .symmetrized import Symmetrized
from .variables import Variables

#: Every descriptor of kernelfe by its class name: what a saved model may name.
DESCRIPTORS: dict[str, type[Descriptor]] = {
    cls.__name__: cls
    for cls in (
        Variables,
        Distances,
        InverseDistances,
        HandedDistances,
        PairDistances,
        InternalCoordinates,
        Bonded,
        Symmetrized,
        PairSplines,
        TripletSplines,
    )
}

__all__ = [
    "DESCRIPTORS",
    "Bonded",
    "Descriptor",
    "Distances",
    "Environments",
    "HandedDistances",
    "InternalCoordinates",
    "InverseDistances",
    "PairDistances",
    "PairSplines",
    "Symmetrized",
    "TripletSplines",
    "Variables",
    "automorphisms",
    "permutations",
]
