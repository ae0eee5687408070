"""The command line: kernelfe fit, sample, report and quickstart."""

from __future__ import annotations

from .main import main

__all__ = ["main"]
