"""Time and memory of the sparse solver against the number of frames: alanine dipeptide, forces and energies.

Every run is a separate process. It loads the frames, starts everything that starts lazily by a fit of 200 frames, and
then fits ``FreeEnergyRegressor(solver=Sparse(inducing=600), optimizer=None)`` to n frames of 18 force components and
one energy each. Timed are the whole fit, at fixed hyperparameters, and one pass over the labels, the part that grows,
both in wall-clock time and in CPU time, which other work on the machine disturbs less. A search of hyperparameters
adds a time that does not depend on n (it uses a random part of the labels of fixed size).

Memory: the peak of the resident set during the fit minus the resident set just before it (``VmHWM`` and ``VmRSS`` of
``/proc/self``, Linux). This includes all that the fit allocates: its own label arrays, copies, blocks, sums, factors.
It does not include imports and the frames that the user holds anyway; their size is a separate column. Freed memory
that the allocator has kept is returned to the system before the fit (``malloc_trim``); otherwise the fit would reuse
it and seem to need less. Memory is measured twice: with glibc's default allocator, which also keeps varying amounts of
the memory freed during the fit; and, in a further process that is not timed, with ``MALLOC_MMAP_THRESHOLD_`` fixed at
its initial value, so that every freed array of more than 128 KB is returned and the peak is that of memory in use.

The bundled set has 25,000 frames. As many more are simulated once, by its generator with other seeds (some ten
minutes on one core; needs OpenMM), and stored in the folder given with ``--cache``.

    python benchmarks/sparse_scaling.py --cache FOLDER --json scaling.json --plot scaling.png
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib
import os
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from statistics import median

import numpy as np

from kernelfe import Frames, FreeEnergyRegressor, Sparse
from kernelfe.datasets import load
from kernelfe.gp.observations import assemble
from kernelfe.gp.solvers.sparse.streaming import accumulate

sys.path.insert(0, str(Path(__file__).parent))
from _harness import json_argument, processor, status, write

DATA = "alanine-dipeptide"
LABELS = ["mean_force", "mean_energy"]
#: Folder of the generator and the bundled data.
GENERATOR = Path(__file__).resolve().parents[1] / "data" / "alanine_dipeptide"
#: Further frames by temperature, K, their spacing and the discarded initial part, ps; seeds are SEED + temperature.
MORE = {300: 5000, 350: 2500, 400: 5000, 450: 2500, 500: 5000, 600: 5000}
SPACING, EQUILIBRATION, SEED = 0.9, 60.0, 1000
SIZES = (5000, 10_000, 20_000, 50_000)
#: Environment in which glibc returns freed arrays at once: its initial threshold, fixed, bytes.
GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": "131072"}


def all_frames(cache: Path | None, most: int) -> Frames:
    """The bundled frames and, if more are needed, those of the cache, simulated if they are missing."""
    bundled = load(DATA)
    if most <= len(bundled):
        return bundled
    if cache is None:
        raise SystemExit(
            f"{most} frames are more than the {len(bundled)} bundled ones: name a folder for others, --cache"
        )
    packed = cache / "frames.npz"
    if not packed.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        for temperature, count in MORE.items():
            raw = cache / f"train_{temperature}.npz"
            if not raw.is_file():
                simulate(temperature, count, raw)
        sys.path.insert(0, str(GENERATOR))
        pack = importlib.import_module("pack")
        pack.labelled(pack.read_training(str(cache)), pack.constants()).save(packed)
    return Frames.concatenate([bundled, Frames.load(packed)])


def simulate(temperature: float, count: int, out: Path) -> None:
    """Run the generator of the data set."""
    command = [sys.executable, str(GENERATOR / "generate.py"), "train", "--temperature", str(temperature)]
    command += ["--seed", str(SEED + int(temperature)), "--frames", str(count), "--spacing-ps", str(SPACING)]
    subprocess.run([*command, "--equilibration-ps", str(EQUILIBRATION), "--out", str(out)], check=True)


def child(path: Path, inducing: int, out: Path, one_pass: bool) -> None:
    """Fit the frames of a file once and write time and memory."""
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    frames = Frames.load(path)
    model = FreeEnergyRegressor(solver=Sparse(inducing=inducing), optimizer=None, labels=LABELS)
    model.fit(frames[:: max(1, len(frames) // 200)])
    give_back()
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    start, busy = time.perf_counter(), time.process_time()
    model.fit(frames)
    found = {"seconds": time.perf_counter() - start, "busy": time.process_time() - busy, "frames": size(frames)}
    found |= {"peak": status("VmHWM") - before, "before": before}
    if one_pass:
        labels = assemble.label_sets(frames, LABELS, None, model.baseline_, model.composition_.counts)
        start, busy = time.perf_counter(), time.process_time()
        accumulate(model.posterior_.basis, labels, model.solver_.block_rows)
        found |= {"one_pass": time.perf_counter() - start, "busy_pass": time.process_time() - busy}
    np.savez(out, **found)


def give_back() -> None:
    """Return freed memory to the system, if the C library can do this."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def size(frames: Frames) -> float:
    """Memory of the arrays of Frames, MB."""
    dicts = (frames.parameters, frames.labels, frames.present, frames.noise)
    arrays = [getattr(frames, name) for name in ("positions", "temperature", "displacements", "cell")]
    return sum(a.nbytes for a in [*arrays, *(v for d in dicts for v in d.values())] if isinstance(a, np.ndarray)) / 1e6


def run_child(path: Path, args: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Measure time and memory in a process, and memory in use in another one."""
    found = _process(path, args, folder, {})
    found["in_use"] = _process(path, args, folder, GIVES_BACK)["peak"]
    print(path.stem, {k: round(v, 2) for k, v in found.items()}, f"load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    return found


def _process(path: Path, args: argparse.Namespace, folder: Path, more: dict[str, str]) -> dict[str, float]:
    out = folder / "out.npz"
    command = [sys.executable, __file__, "--child", str(path), "--inducing", str(args.inducing), "--out", str(out)]
    threads = str(args.threads)
    environment = dict(os.environ, OMP_NUM_THREADS=threads, OPENBLAS_NUM_THREADS=threads) | more
    subprocess.run(command + ["--memory-only"] * bool(more), check=True, env=environment)
    with np.load(out, allow_pickle=False) as file:
        return {key: float(file[key]) for key in file.files}


def exponent(n: list[int], y: list[float]) -> float:
    """p of the power law y ∝ n^p, by least squares of the logarithms."""
    return float(np.polyfit(np.log(n), np.log(y), 1)[0])


def measure(args: argparse.Namespace) -> dict:
    """All sizes, repeats interleaved, and the numbers of the table."""
    frames = all_frames(args.cache, max(args.sizes))
    load_before = list(os.getloadavg())
    rows: dict[int, list[dict]] = {n: [] for n in args.sizes}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for n in args.sizes:
            frames[np.linspace(0, len(frames) - 1, n).astype(int)].with_labels(LABELS).save(folder / f"{n}.npz")
        total = len(frames)
        del frames
        for _ in range(args.repeats):
            for n in args.sizes:
                rows[n].append(run_child(folder / f"{n}.npz", args, folder))
    table = {n: {key: median(r[key] for r in found) for key in found[0]} for n, found in rows.items()}
    n = list(table)
    return {
        "date": date.today().isoformat(),
        "machine": processor(),
        "threads": args.threads,
        "repeats": args.repeats,
        "inducing": args.inducing,
        "frames_in_all": total,
        "load_before": load_before,
        "sizes": {str(k): v for k, v in table.items()},
        "exponents": {
            key: exponent(n, [row[key] for row in table.values()])
            for key in ("seconds", "one_pass", "busy", "busy_pass")
        },
        "in_use_spread": spread([row["in_use"] for row in table.values()]),
        "peak_spread": spread([row["peak"] for row in table.values()]),
    }


def spread(values: list[float]) -> float:
    """s such that all values lie within (1 ± s) times the middle of their range."""
    return (max(values) - min(values)) / (max(values) + min(values))


def markdown(result: dict) -> str:
    """The result as a Markdown table."""
    columns = ["frames", "label rows", "fit, s", "one pass, s", "fit, CPU s", "one pass, CPU s"]
    columns += ["memory in use at most, MB", "peak memory, MB", "the frames themselves, MB"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for n, row in result["sizes"].items():
        seconds = " | ".join(f"{row[key]:.2f}" for key in ("seconds", "one_pass", "busy", "busy_pass"))
        memory = " | ".join(f"{row[key]:.0f}" for key in ("in_use", "peak", "frames"))
        lines.append(f"| {int(n):,} | {19 * int(n):,} | {seconds} | {memory} |")
    p = result["exponents"]
    lines += [
        "",
        f"Exponent of the pass {p['one_pass']:.2f} (CPU {p['busy_pass']:.2f}), of the fit {p['seconds']:.2f} "
        f"({p['busy']:.2f}); memory in use within ±{100 * result['in_use_spread']:.0f} %, with memory kept by the "
        f"allocator ±{100 * result['peak_spread']:.0f} %.",
    ]
    return "\n".join(lines)


def plot(result: dict, path: Path) -> None:
    """Times and memory against the number of frames, logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    n = np.array([int(k) for k in result["sizes"]])
    rows = list(result["sizes"].values())
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.0, 3.2), layout="constrained")
    for key, name in (("seconds", "fit"), ("one_pass", "one pass over the labels")):
        left.loglog(n, [row[key] for row in rows], "o-", label=name)
    one = rows[0]["one_pass"]
    left.loglog(n, one * n / n[0], "k:", label="linear")
    left.set(xlabel="frames", ylabel="time, s")
    left.legend(frameon=False)
    right.semilogx(n, [row["in_use"] for row in rows], "o-", label="in use at most")
    right.semilogx(n, [row["peak"] for row in rows], "s--", label="with memory kept by the allocator")
    right.set(xlabel="frames", ylabel="peak memory of the fit, MB", ylim=(0.0, None))
    right.legend(frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(argv: list[str] | None = None) -> dict | None:
    """Command line: measure and print, or (``--child``) run one fit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, help="folder for the frames beyond the bundled ones")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="numbers of frames")
    parser.add_argument("--inducing", type=int, default=600)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    json_argument(parser)
    parser.add_argument("--plot", type=Path, help="also draw them into this file")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--memory-only", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        child(args.child, args.inducing, args.out, not args.memory_only)
        return None
    result = measure(args)
    print(markdown(result))
    write(result, args.json)
    if args.plot:
        plot(result, args.plot)
    return result


if __name__ == "__main__":
    main()
