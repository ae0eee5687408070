"""Runs Python code in several processes with the variables that torchrun sets.

They are forked from one server that has imported kernelfe already: a fresh interpreter takes seconds for that.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Seconds after which a hanging test is given up; far more than any takes.
LIMIT = 240.0

PROLOGUE = """
import os, sys
for stream, name in ((1, "out"), (2, "err")):
    os.dup2(os.open({folder!r} + f"/{rank}.{{name}}", os.O_CREAT | os.O_WRONLY), stream)
os.environ.update({environment!r})
os.chdir({root!r})
"""


@dataclass(frozen=True)
class Ended:
    """End of a worker; a signal is a negative code."""

    code: int
    output: str
    errors: str

    def value(self):
        """Last line of its output, parsed as JSON."""
        assert self.code == 0, self.errors
        return json.loads(self.output.strip().splitlines()[-1])


def run(size: int, code: str, **environment: str) -> list[Ended]:
    """Run ``code`` in ``size`` processes to their end."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kernelfe"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        workers = []
        for rank in range(size):
            own = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(size),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                # the machine's own name may not be known to it
                "GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", "lo"),
            }
            text = PROLOGUE.format(folder=folder, rank=rank, environment=own | environment, root=str(ROOT)) + code
            worker = context.Process(target=exec, args=(text, {"__name__": "worker"}))
            worker.start()
            workers.append(worker)
        out = []
        for rank, worker in enumerate(workers):
            worker.join(LIMIT)
            if worker.exitcode is None:
                worker.kill()
                worker.join()
            said = [Path(folder, f"{rank}.{name}").read_text() for name in ("out", "err")]
            out.append(Ended(worker.exitcode, *said))
        return out
