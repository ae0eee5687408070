"""Frames: configurations, thermodynamic states and labels, and the files they are read from."""

from __future__ import annotations

from .frames import Frames

__all__ = ["Frames"]
