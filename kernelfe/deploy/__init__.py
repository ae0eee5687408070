"""Export of fitted models to simulation engines.

A liquid whose free energy is a sum over pairs and triplets of beads runs in LAMMPS by itself: :func:`export_lammps`
writes tables and the commands that use them. :func:`export_gromacs` writes pair tables of GROMACS.
"""

from __future__ import annotations

from .gromacs import export_gromacs
from .lammps import LammpsExport, export_lammps
from .pair_table import PairTable
from .potential import LiquidPotential, PairFunction, TripletFunction

__all__ = [
    "LammpsExport",
    "LiquidPotential",
    "PairFunction",
    "PairTable",
    "TripletFunction",
    "export_gromacs",
    "export_lammps",
]
