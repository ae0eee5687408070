"""Kill -9 of a worker at random points of a fit by two processes, resumed by one, two and three.

A sparse fit with evidence and a checkpoint is started in two processes (torch.distributed, gloo). At a random moment of
the time that an undisturbed fit takes, one of the two, at random, gets SIGKILL; the other ends because of it. The
checkpoint folder is copied, and the same fit is called again in one, two and three processes. The comparison with the
undisturbed fit uses the Frobenius norm of the difference of the normal equations, Gram matrices and right-hand sides,
relative to their own. In a further test, the copy is resumed with one of its files truncated at a random byte.

    python benchmarks/kill_and_resume.py
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import _harness
import numpy as np

SIZES = (1, 2, 3)
#: Time limit of a fit, and time after which processes give up one that did not start, seconds.
LIMIT, TIMEOUT = 300.0, 15.0


def frames(count: int, seed: int):
    """Forces and energies of a double well in two variables at four temperatures."""
    import kernelfe

    rng = np.random.default_rng(seed)
    x, temperature = rng.uniform(-1.5, 1.5, (count, 2)), np.resize([300.0, 350.0, 400.0, 450.0], count)
    scale = 0.2 * (1.0 - 1e-3 * (temperature - 300.0))
    force = -np.stack([4.0 * x[:, 0] * (x[:, 0] ** 2 - 1.0), 2.0 * x[:, 1]], 1) * scale[:, None]
    energy = 0.2 * ((x[:, 0] ** 2 - 1.0) ** 2 + x[:, 1] ** 2) * 1.3
    labels = {
        "mean_force": force + 0.05 * rng.normal(size=x.shape),
        "mean_energy": energy + 0.1 * rng.normal(size=count),
    }
    return kernelfe.Frames.from_arrays(variables=x, temperature=temperature, labels=labels)


def fit(environment: dict[str, str], folder: str | None, out: str, log: str, options: dict) -> None:
    """One process of a fit: its normal equations go to a file."""
    os.dup2(os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND), 2)
    os.environ.update(environment)
    import torch

    import kernelfe
    from kernelfe.gp.solvers.sparse import fit as sparse_fit
    from kernelfe.runtime.processes import launched

    torch.set_num_threads(1)
    whole, found = sparse_fit.accumulate, []

    def accumulate(*args, **kwargs):
        found.append(whole(*args, **kwargs))
        return found[-1]

    sparse_fit.accumulate = accumulate
    solver = kernelfe.Sparse(
        inducing=options["inducing"],
        block_rows=options["block_rows"],
        evidence_rows=300,  # a small part: the interruption should hit the pass over all labels
        evidence_inducing=15,
        checkpoint=folder,
    )
    with launched(TIMEOUT):
        kernelfe.FreeEnergyRegressor(solver=solver).fit(frames(options["frames"], options["seed"]))
    np.savez(out, gram=found[-1].gram.numpy(), rhs=found[-1].rhs.numpy())


def start(size: int, folder: Path | None, where: Path, options: dict) -> list:
    """Start the processes of a fit."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kernelfe"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    workers = []
    for rank in range(size):
        environment = {
            "RANK": str(rank),
            "WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", "lo"),
        }
        target = (environment, None if folder is None else str(folder))
        files = (str(where / f"{rank}.npz"), str(where / "log"))
        workers.append(context.Process(target=fit, args=(*target, *files, options)))
    for worker in workers:
        worker.start()
    return workers


def ended(workers: list) -> list[int]:
    """Exit codes."""
    for worker in workers:
        worker.join(LIMIT)
        if worker.exitcode is None:
            worker.kill()
            worker.join()
    return [worker.exitcode for worker in workers]


def deviation(where: Path, size: int, reference: dict[str, np.ndarray]) -> float:
    """Largest relative Frobenius deviation over processes, of the Gram matrices and of the right-hand sides."""
    worst = 0.0
    for rank in range(size):
        with np.load(where / f"{rank}.npz") as found:
            for name, wanted in reference.items():
                worst = max(worst, float(np.linalg.norm(found[name] - wanted) / np.linalg.norm(wanted)))
    return worst


def measure(args: argparse.Namespace) -> dict:
    """Kill and resume; the rows of the table."""
    options = {name: getattr(args, name) for name in ("frames", "inducing", "block_rows", "seed")}
    rng = np.random.default_rng(args.seed)
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)

        def run(label: str, size: int, folder: Path | None) -> tuple[list[int], Path, float]:
            where = base / label
            where.mkdir()
            began = time.perf_counter()
            return ended(start(size, folder, where, options)), where, time.perf_counter() - began

        for attempt in ("warm", "undisturbed"):  # the first one also starts the server
            codes, where, seconds = run(attempt, 2, base / "checkpoint")
            if codes != [0, 0]:
                raise RuntimeError((where / "log").read_text())
        with np.load(where / "0.npz") as found:
            reference = dict(found)
        rows = []
        for kill in range(args.kills):
            codes, attempt = [], 0
            while -signal.SIGKILL not in codes:  # repeat if the fit was faster than the reference and had already ended
                attempt += 1
                folder, where = base / f"checkpoint-{kill}-{attempt}", base / f"killed-{kill}-{attempt}"
                where.mkdir()
                delay, rank = float(rng.uniform(0.0, seconds)), int(rng.integers(2))
                workers = start(2, folder, where, options)
                time.sleep(delay)
                workers[rank].kill()
                codes = ended(workers)
            folder.mkdir(exist_ok=True)
            files = sorted(path.name for path in folder.iterdir() if path.suffix == ".ckpt")
            row = {"delay": delay, "rank": rank, "codes": codes, "files": len(files), "deviation": {}, "resumed": []}
            for size in SIZES:
                copy = base / f"copy-{kill}-{size}"
                shutil.copytree(folder, copy)
                codes, where, _ = run(f"resumed-{kill}-{size}", size, copy)
                log = (where / "log").read_text()
                if any(codes):
                    raise RuntimeError(log)
                row["deviation"][size] = deviation(where, size, reference)
                row["resumed"] += [line.split(": ")[-1] for line in log.splitlines() if "chunks are there" in line][:1]
                if copy.exists():
                    raise RuntimeError(f"the checkpoint of a complete fit was not removed: {list(copy.iterdir())}")
            if files:
                row |= truncated(base, folder, files, kill, rng, run, reference)
            rows.append(row)
            print(json.dumps(row), file=sys.stderr)
    return {"date": date.today().isoformat(), "options": options, "seconds": seconds, "rows": rows}


def truncated(base: Path, folder: Path, files: list[str], kill: int, rng, run, reference) -> dict:
    """Resume in two processes with one of the files truncated."""
    copy = base / f"cut-{kill}"
    shutil.copytree(folder, copy)
    path = copy / files[int(rng.integers(len(files)))]
    size = path.stat().st_size
    os.truncate(path, int(rng.integers(size)))
    codes, where, _ = run(f"truncated-{kill}", 2, copy)
    log = (where / "log").read_text()
    if any(codes):
        raise RuntimeError(log)
    named = any(path.name in line and "not used" in line for line in log.splitlines())
    return {"truncated": path.name.split("-", 2)[2], "refused": named, "after": deviation(where, 2, reference)}


def table(result: dict) -> str:
    """The result as a Markdown table."""
    lines = [
        "| killed at, s | rank | exit codes | files left | chunks found | 1 process | 2 | 3 | truncated file |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        found = ", ".join(f"{row['deviation'][size]:.0e}" for size in SIZES).split(", ")
        cut = f"{row['truncated']}: {'refused' if row['refused'] else 'ACCEPTED'}" if "refused" in row else "–"
        chunks = row["resumed"][0].removesuffix(" chunks are there") if row["resumed"] else "–"
        lines.append(
            f"| {row['delay']:.2f} | {row['rank']} | {row['codes']} | {row['files']} | {chunks} "
            f"| {' | '.join(found)} | {cut} |"
        )
    worst = max(d for row in result["rows"] for d in (*row["deviation"].values(), row.get("after", 0.0)))
    accepted = sum(not row.get("refused", True) for row in result["rows"])
    lines.append(
        f"\n{len(result['rows'])} kills of an undisturbed {result['seconds']:.1f} s; largest deviation {worst:.1e}; "
        f"truncated files accepted: {accepted} of {sum('refused' in row for row in result['rows'])}."
    )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> dict:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--frames", type=int, default=150_000)
    parser.add_argument("--inducing", type=int, default=200)
    parser.add_argument("--block-rows", type=int, default=256)
    _harness.json_argument(parser)
    args = parser.parse_args(argv)
    result = measure(args)
    print(table(result))
    _harness.write(result, args.json)
    return result


if __name__ == "__main__":
    main()
