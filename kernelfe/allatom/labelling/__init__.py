"""Labelled frames of beads from the files of simulations."""

from __future__ import annotations

from .beads import PRESETS, Beads, choose_beads
from .checks import Checks, Inefficiency
from .label import Labelled, Labelling, label_runs
from .quiet import Noise
from .rigid import rigid_distances
from .runs import Run, find_run

__all__ = [
    "PRESETS",
    "Beads",
    "Checks",
    "Inefficiency",
    "Labelled",
    "Labelling",
    "Noise",
    "Run",
    "choose_beads",
    "find_run",
    "label_runs",
    "rigid_distances",
]
