"""Compiled sums over pairs and triplets of beads: features of splines, energies, forces and virials.

Arrays in, arrays out, one frame at a time. Loops are compiled with numba on first use (the extra ``liquids``); without
numba they run in NumPy. All release the interpreter, so that threads evaluate frames side by side.
"""

from __future__ import annotations

from .grid import Grid, Table
from .loading import available
from .pairs import Features, PairTables, add_pairs, kind_numbers, pair_list
from .triplets import CloseBeads, TripletColumns, add_triplets, triplet_energy

__all__ = [
    "CloseBeads",
    "Features",
    "Grid",
    "PairTables",
    "Table",
    "TripletColumns",
    "add_pairs",
    "add_triplets",
    "available",
    "kind_numbers",
    "pair_list",
    "triplet_energy",
]
