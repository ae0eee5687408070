"""Times of fits and evaluations beside other work on the machine: with one thread, the default, and too many.

Every measurement is a process of its own, in which no variable of the environment chooses threads. It is repeated with
one thread (``torch.set_num_threads(1)``) and with the default number, alone and beside busy processes (endless loops of
one core each), and, with ``--cores 0``, pinned to some cores with a larger number of threads. Conditions are
interleaved; the table has medians. Wall-clock time is what users wait for; CPU time, user and system, is what the
machine spends, and what other work disturbs less.

    python benchmarks/company.py --roots /path/to/kernelfe-0.2 . --json company.json
    python benchmarks/company.py --only frozen --conditions "quiet, 1 thread" "company, default"

``--roots`` names checkouts of kernelfe that are compared; the data are those of this environment.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from statistics import median
from typing import Any

#: Variables that choose threads; unset in the measured processes.
THREADS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "GOMP_SPINCOUNT")
#: Name → (threads or None for the default, busy processes, pinned to --cores).
CONDITIONS: dict[str, tuple[int | None, int, bool]] = {
    "quiet, 1 thread": (1, 0, False),
    "quiet, default": (None, 0, False),
    "company, 1 thread": (1, 1, False),
    "company, default": (None, 1, False),
    "pinned to --cores, 1 thread": (1, 0, True),
    "pinned to --cores, 4 threads": (4, 0, True),
}
#: Shortest time over which a short call is repeated, s.
LEAST = 1.0


def clock(call: Callable[[], Any], each: int = 1, least: float = 0.0) -> dict[str, float]:
    """Seconds of wall-clock and CPU time of a call, divided by ``each``."""
    count, before, start = 0, getrusage(RUSAGE_SELF), time.perf_counter()
    while count == 0 or time.perf_counter() - start < least:
        call()
        count += 1
    seconds, after = time.perf_counter() - start, getrusage(RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": seconds / count / each, "cpu": cpu / count / each}


# ------------------------------------------------------------------ in the child


def frames(count: int) -> Any:
    from kernelfe.datasets import load

    every = load("alanine-dipeptide").with_labels(["mean_force", "mean_energy"])
    return every[:: len(every) // count][:count]


def fitting(solver: Any, count: int, optimizer: str | None) -> dict[str, float]:
    from kernelfe import FreeEnergyRegressor

    FreeEnergyRegressor(solver=solver, optimizer=None).fit(frames(30))
    train = frames(count)
    return clock(lambda: FreeEnergyRegressor(solver=solver, optimizer=optimizer).fit(train))


def sparse(work: Path) -> dict[str, float]:
    """Sparse fit, 2,500 frames, 300 inducing environments, with evidence."""
    from kernelfe import Sparse

    return fitting(Sparse(inducing=300, evidence_rows=10_000), 2500, "evidence")


def iterative(work: Path) -> dict[str, float]:
    """Iterative fit, 400 frames (7,600 label rows), with evidence."""
    from kernelfe.gp import Iterative

    return fitting(Iterative(evidence_rows=800), 400, "evidence")


def dense(work: Path) -> dict[str, float]:
    """Dense fit, 79 frames (1,501 label rows), with evidence."""
    from kernelfe import Dense

    return fitting(Dense(evidence_rows=800), 79, "evidence")


def saved(work: Path) -> Any:
    """A model of the quickstart's size: 600 inducing environments of 15 distances."""
    import kernelfe
    from kernelfe import FreeEnergyRegressor, Sparse

    path = work / "model.kfe"
    if not path.exists():
        FreeEnergyRegressor(solver=Sparse(inducing=600), optimizer=None).fit(frames(1250)).save(path)
    return kernelfe.load(path)


def batch(work: Path) -> dict[str, float]:
    """Frozen model, 1,000 configurations, per configuration."""
    return frozen(work, 1000)


def single(work: Path) -> dict[str, float]:
    """Frozen model, one configuration."""
    return frozen(work, 1)


def frozen(work: Path, count: int) -> dict[str, float]:
    import numpy as np
    import torch

    model, x = saved(work).frozen(), torch.from_numpy(np.array(frames(count).positions))
    model.energy_and_forces(x, 350.0)
    return clock(lambda: model.energy_and_forces(x, 350.0), count, LEAST)


def ase(work: Path) -> dict[str, float]:
    """Step of molecular dynamics with ASE (Langevin)."""
    import ase.units
    from ase import Atoms
    from ase.md.langevin import Langevin

    model, start = saved(work), frames(1)
    atoms = Atoms("CNCCCN", positions=start.positions[0], masses=[14.0] * 6)
    atoms.set_array("kinds", _kinds(start))
    atoms.calc = model.calculator(temperature=350.0)
    run = Langevin(atoms, 1.0 * ase.units.fs, temperature_K=350.0, friction=0.02, fixcm=False)
    run.run(5)
    return clock(lambda: run.run(20), 20, LEAST)


def _kinds(start: Any) -> Any:
    import numpy as np

    return np.array(start.kinds)


CASES = {"sparse": sparse, "iterative": iterative, "dense": dense, "batch": batch, "single": single, "ase": ase}

# ----------------------------------------------------------------- in the parent


def measure(case: str, root: Path, condition: str, work: Path, cores: str) -> dict[str, float]:
    """One process, beside as many busy ones as the condition has."""
    threads, busy, pinned = CONDITIONS[condition]
    environment = {name: value for name, value in os.environ.items() if name not in THREADS}
    environment["PYTHONPATH"] = str(root)
    command = [sys.executable, __file__, "--child", case, "--work", str(work), "--threads", str(threads or 0)]
    if pinned:
        command = ["taskset", "-c", cores, *command]
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=work)
    finally:
        for other in others:
            other.kill()
            other.wait()
    if done.returncode:
        raise SystemExit(f"{case} with {root}: exit {done.returncode}\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def table(found: dict[str, dict[str, list[dict[str, float]]]], conditions: Sequence[str]) -> str:
    """Medians as a Markdown table: wall-clock time, and CPU time in brackets."""
    lines = ["| | " + " | ".join(conditions) + " |", "|---" * (len(conditions) + 1) + "|"]
    for row, by_condition in found.items():
        cells = []
        for condition in conditions:
            runs = by_condition[condition]
            wall, cpu = (median(run[what] for run in runs) for what in ("wall", "cpu"))
            unit, factor = ("µs", 1e6) if wall < 0.01 else ("s", 1.0)
            cells.append(f"{wall * factor:.3g} {unit} ({cpu * factor:.3g})")
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """See the text above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--roots", type=Path, nargs="+", default=[Path(__file__).resolve().parents[1]])
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--conditions", nargs="+", choices=list(CONDITIONS), default=list(CONDITIONS)[:4])
    parser.add_argument("--cores", default="0", help="cores of the pinned conditions, as for taskset")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file for all measurements")
    parser.add_argument("--work", type=Path, help="folder for the saved models")
    parser.add_argument("--child", choices=list(CASES), help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        import torch

        if args.threads:
            torch.set_num_threads(args.threads)
        print(json.dumps(CASES[args.child](args.work)))
        return
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    roots = [root.resolve() for root in args.roots]
    with tempfile.TemporaryDirectory() as folder:
        for k in range(len(roots)):
            (Path(args.work or folder) / str(k)).mkdir(parents=True, exist_ok=True)
        for repeat in range(args.repeats):
            for case in args.only:
                for condition in args.conditions:
                    for k, root in enumerate(roots):
                        run = measure(case, root, condition, Path(args.work or folder) / str(k), args.cores)
                        row = f"{(CASES[case].__doc__ or case).rstrip('.')}" + (f" ({root})" if len(roots) > 1 else "")
                        found.setdefault(row, {}).setdefault(condition, []).append(run)
                        said = f"{case} {repeat + 1}, {condition}, {root}: {run}, load {os.getloadavg()[0]:.1f}"
                        print(said, file=sys.stderr, flush=True)
            if args.json:
                args.json.write_text(json.dumps(found, indent=1))
    print(table(found, args.conditions))


if __name__ == "__main__":
    main()
