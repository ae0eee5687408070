"""Geometry of beads: bonds and angles, internal coordinates, periodic cells."""

from __future__ import annotations

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
    "dihedrals_of",
    "fragment",
    "impropers_of",
    "infer_bonds",
    "separation",
    "torsions_of",
]
