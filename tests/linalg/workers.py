"""Runs a function of a test module in several processes, as torchrun would start them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Seconds after which a hanging test is given up; far more than any takes.
LIMIT = 240


@dataclass(frozen=True)
class Ended:
    """How a worker ended."""

    code: int
    output: str
    errors: str

    def value(self):
        """What the last line of its output says, JSON."""
        assert self.code == 0, self.errors
        return json.loads(self.output.strip().splitlines()[-1])


def start(size: int, code: str, **environment: str) -> list[subprocess.Popen]:
    """Start ``size`` processes that run Python ``code``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    out = []
    for rank in range(size):
        own = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            # the machine's own name may not be known to it
            "GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", "lo"),
        }
        out.append(
            subprocess.Popen(
                [sys.executable, "-c", code],
                env={**os.environ, **own, **environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=ROOT,
            )
        )
    return out


def ends(workers: list[subprocess.Popen]) -> list[Ended]:
    """Wait for them."""
    out = []
    try:
        for worker in workers:
            output, errors = worker.communicate(timeout=LIMIT)
            out.append(Ended(worker.returncode, output, errors))
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.kill()
    return out


def run(size: int, code: str, **environment: str) -> list[Ended]:
    """Run ``size`` processes to their end."""
    return ends(start(size, code, **environment))
