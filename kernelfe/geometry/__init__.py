"""Geometry of beads: bonds and angles, internal coordinates, periodic cells."""

from __future__ import annotations

from .broken import broken_frames
from .topology import (
    angles_of,
    dihedrals_of,
    fragment,
    impropers_of,
    infer_bonds,
    separation,
    torsions_of,
)

__all__ = [
    "angles_of",
    "broken_frames",
    "dihedrals_of",
    "fragment",
    "impropers_of",
    "infer_bonds",
    "separation",
    "torsions_of",
]
