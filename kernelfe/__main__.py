"""``python -m kernelfe``: the command line, also for ``torchrun -m kernelfe``."""

from .cli import main

main(prog_name="kernelfe")
