"""``python -m kernelfe``: the command line, also for ``torchrun -m kernelfe``."""

from __future__ import annotations

from .cli.main import main

main(prog_name="kernelfe")
