"""Files: atomic writing, npz, HDF5, and the one binary container of models and checkpoints."""

from __future__ import annotations

from .atomic import atomic_write
from .npz import load_npy, load_npz, save_npz

__all__ = ["atomic_write", "load_npy", "load_npz", "save_npz"]
