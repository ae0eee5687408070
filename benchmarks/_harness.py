"""Compare packages ("peers"): one measured process per peer and repeat, limits, medians, tables and growth plots.

A benchmark script starts itself: ``script --child PEER --spec JSON --out FILE`` runs one peer once, with the Python of
that peer's environment, and writes a report. Only NumPy and the standard library are imported at the top of this
module, so that it can be imported in every peer's environment.

The time is that of the measured call alone, after the imports, the data and a warm-up. Memory is the peak of the
resident set during the call minus the resident set just before it (``VmHWM`` and ``VmRSS`` of ``/proc/self``; the peak
is reset through ``/proc/self/clear_refs``, Linux only), so without imports. A run that exceeds its limits is stopped
and reported as such; the other peers still run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

#: Seconds between checks of the memory of a running child.
POLL = 0.05
#: Messages of allocators that fail.
NO_MEMORY = ("can't allocate memory", "Unable to allocate", "bad_alloc", "Cannot allocate memory")


@dataclass(frozen=True)
class Peer:
    """A name for the command line, a label for tables, and the Python to run it with (None: this one)."""

    name: str
    label: str
    python: str | None = None


@dataclass(frozen=True)
class Limits:
    """Limits of one child process: seconds from its start and GB of resident memory; and its number of threads."""

    seconds: float = 3600.0
    gigabytes: float = 16.0
    threads: int = field(default_factory=lambda: os.cpu_count() or 1)


# ------------------------------------------------------------------ in the child


def status(key: str, pid: int | str = "self") -> float:
    """A field of /proc/PID/status, in MB (1e6 bytes).

    Raises
    ------
    OSError
        If the field is missing: memory is measured on Linux only.
    """
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024 / 1e6
    raise OSError(f"/proc/{pid}/status has no {key}: memory is measured on Linux only")


def measured(run: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Result of ``run``, its seconds, its peak memory above the initial memory, and the initial memory, in MB."""
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    start = time.perf_counter()
    result = run()
    seconds = time.perf_counter() - start
    return result, {"seconds": seconds, "peak_mb": status("VmHWM") - before, "imports_mb": before}


def child(out: str | Path, work: Callable[[], tuple[dict, dict]], packages: Sequence[str] = ()) -> None:
    """Run one peer and write its report.

    Parameters
    ----------
    out
        File to write, npz: arrays, and a ``report`` in JSON.
    work
        Returns figures (plain numbers; those of :func:`measured` among them) and arrays.
    packages
        Packages whose versions the report states.
    """
    figures: dict[str, Any]
    try:
        figures, arrays = work()
        figures = {"status": "ok", **figures}
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        short = isinstance(error, MemoryError) or any(word in text for word in NO_MEMORY)
        print(text, file=sys.stderr)
        figures, arrays = {"status": "out of memory" if short else f"failed: {text[:200]}"}, {}
    figures["versions"] = {"python": platform.python_version(), **versions(packages)}
    np.savez(out, report=np.array(json.dumps(figures)), **arrays)


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Installed versions; missing packages are omitted."""
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


# ----------------------------------------------------------------- in the parent


def run_child(script: str | Path, peer: Peer, spec: Mapping, limits: Limits) -> tuple[dict, dict[str, np.ndarray]]:
    """Start a process for one peer; its report and arrays.

    ``status`` of the report is "ok", "time limit", "memory limit", "out of memory" or "failed: why".
    """
    environment = dict(os.environ, PYTHONUNBUFFERED="1")
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        environment[name] = str(limits.threads)
    with tempfile.TemporaryDirectory() as folder:
        out, log = Path(folder) / "out.npz", Path(folder) / "log.txt"
        command = [peer.python or sys.executable, str(script), "--child", peer.name]
        command += ["--spec", json.dumps(dict(spec)), "--out", str(out)]
        with log.open("w") as stream:
            # a session of its own, so that workers of a peer end with it
            process = subprocess.Popen(
                command, env=environment, stdout=stream, stderr=stream, start_new_session=True, cwd=folder
            )
            ended = _watch(process, limits)
        if ended is None and out.exists():
            with np.load(out, allow_pickle=False) as file:
                arrays = {key: file[key] for key in file.files}
            report = json.loads(str(arrays.pop("report")))
        else:
            if ended is None and process.returncode == -signal.SIGKILL:
                ended = "out of memory"
            last = (log.read_text().strip().splitlines() or ["no message"])[-1]
            report, arrays = {"status": ended or f"failed: exit {process.returncode}, {last[:200]}"}, {}
    said = f"{report['seconds']:.2f} s, {report['peak_mb']:.0f} MB" if "seconds" in report else report["status"]
    print(f"{peer.name} {_brief(spec)}: {said} (load {os.getloadavg()[0]:.1f})", file=sys.stderr, flush=True)
    return report, arrays


def _watch(process: subprocess.Popen, limits: Limits) -> str | None:
    """Wait for a child; return the limit that it exceeded, if any."""
    deadline = time.monotonic() + limits.seconds
    reason = None
    try:
        while process.poll() is None and reason is None:
            if time.monotonic() > deadline:
                reason = "time limit"
            elif _resident(process.pid) > 1e9 * limits.gigabytes:
                reason = "memory limit"
            else:
                time.sleep(POLL)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return reason


def _resident(pid: int) -> float:
    """Resident bytes of a process and its children; shared memory is counted once, for the main process."""
    try:
        fields = Path(f"/proc/{pid}/statm").read_text().split()
        total = int(fields[1]) * os.sysconf("SC_PAGESIZE")
        for task in Path(f"/proc/{pid}/task").iterdir():
            for started in (task / "children").read_text().split():
                own = Path(f"/proc/{started}/statm").read_text().split()
                total += (int(own[1]) - int(own[2])) * os.sysconf("SC_PAGESIZE")
        return total
    except (OSError, IndexError):  # it has just ended
        return 0.0


def _brief(spec: Mapping) -> str:
    return " ".join(f"{key}={value}" for key, value in spec.items() if isinstance(value, (int, float)))


def interleaved(
    script: str | Path, peers: Sequence[Peer], spec: Mapping, limits: Limits, repeats: int = 3
) -> tuple[dict[str, dict], dict[str, dict[str, np.ndarray]]]:
    """Interleaved repeats of all peers: summaries, and the arrays of each peer's first run.

    A peer that fails once is not run again.
    """
    reports: dict[str, list[dict]] = {peer.name: [] for peer in peers}
    arrays: dict[str, dict[str, np.ndarray]] = {}
    for _ in range(repeats):
        for peer in peers:
            if reports[peer.name] and reports[peer.name][-1]["status"] != "ok":
                continue
            report, found = run_child(script, peer, spec, limits)
            reports[peer.name].append(report)
            arrays.setdefault(peer.name, found)
    return {name: summary(found) for name, found in reports.items()}, arrays


def summary(reports: Sequence[dict]) -> dict:
    """Medians of all numbers of the repeats of one peer, and the range of seconds."""
    bad = [report for report in reports if report["status"] != "ok"]
    if bad:
        return bad[0]
    out = {
        key: median(report[key] for report in reports)
        for key, value in reports[0].items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    seconds = [report["seconds"] for report in reports]
    rest = {key: value for key, value in reports[0].items() if key not in out}
    return {**out, **rest, "seconds_range": [min(seconds), max(seconds)], "repeats": len(reports)}


def growth(
    script: str | Path, peers: Sequence[Peer], specs: Sequence[Mapping], limits: Limits, repeats: int = 1
) -> list[dict[str, dict]]:
    """Summaries of growing specs; a peer that fails or exceeds a limit gets no larger ones."""
    alive, out = list(peers), []
    for spec in specs:
        found, _ = interleaved(script, alive, spec, limits, repeats)
        out.append(found)
        alive = [peer for peer in alive if found[peer.name]["status"] == "ok"]
    return out


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """p of value ∝ sizeᵖ by least squares of the logarithms over the last decade of sizes; NaN for a single point."""
    n, v = np.asarray(sizes, dtype=float), np.asarray(values, dtype=float)
    keep = (n >= 0.1 * n.max()) & (v > 0) if len(n) else np.zeros(0, bool)
    if keep.sum() < 2:
        return float("nan")
    return float(np.polyfit(np.log(n[keep]), np.log(v[keep]), 1)[0])


def header(limits: Limits, **more: Any) -> dict:
    """Date, machine, threads, limits and load of the measurement."""
    return {
        "date": date.today().isoformat(),
        "machine": processor(),
        "threads": limits.threads,
        "limit_seconds": limits.seconds,
        "limit_gb": limits.gigabytes,
        "load_before": list(os.getloadavg()),
        **more,
    }


def processor() -> str:
    """Name of the CPU and number of cores."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{name}, {os.cpu_count()} cores"


# -------------------------------------------------------------------- the output


def table(labels: Mapping[str, str], rows: Mapping[str, dict], columns: Mapping[str, str]) -> str:
    """Markdown: a row for each peer, time with range, memory, and more columns (key → heading)."""
    lines = [
        "| peer | time, s (range) | peak memory, MB |" + "".join(f" {heading} |" for heading in columns.values()),
        "|---|---|---|" + "---|" * len(columns),
    ]
    for name, row in rows.items():
        if row["status"] != "ok":
            lines.append(f"| {labels[name]} | {row['status']} |" + " |" * (1 + len(columns)))
            continue
        low, high = row["seconds_range"]
        cells = [labels[name], f"{row['seconds']:.3g} ({low:.3g}–{high:.3g})", f"{row['peak_mb']:.0f}"]
        cells += [f"{row[key]:.3g}" if isinstance(row.get(key), (int, float)) else "" for key in columns]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def growth_table(labels: Mapping[str, str], sizes: Sequence[int], found: Sequence[Mapping[str, dict]]) -> str:
    """Markdown: seconds / MB of each peer (columns) at each size (rows), and the exponents of both."""
    lines = ["| size | " + " | ".join(labels.values()) + " |", "|---|" + "---|" * len(labels)]
    for size, rows in zip(sizes, found, strict=True):
        cells = []
        for name in labels:
            row = rows.get(name, {"status": ""})
            cells.append(f"{row['seconds']:.3g} / {row['peak_mb']:.0f}" if row["status"] == "ok" else row["status"])
        lines.append(f"| {size} | " + " | ".join(cells) + " |")
    powers = []
    for name in labels:
        n, seconds, memory = series(name, sizes, found)
        powers.append(f"{exponent(n, seconds):.2f} / {exponent(n, memory):.2f}")
    lines.append("| exponents | " + " | ".join(powers) + " |")
    return "\n".join(lines)


def series(name: str, sizes: Sequence[int], found: Sequence[Mapping[str, dict]]) -> tuple[list, list, list]:
    """Sizes that a peer completed, and its seconds and MB at each."""
    rows = [(n, row[name]) for n, row in zip(sizes, found, strict=True) if row.get(name, {}).get("status") == "ok"]
    return [n for n, _ in rows], [r["seconds"] for _, r in rows], [r["peak_mb"] for _, r in rows]


def growth_plot(
    path: str | Path, labels: Mapping[str, str], sizes: Sequence[int], found: Sequence[Mapping[str, dict]], xlabel: str
) -> None:
    """Time and memory against size, both axes logarithmic, with the exponents of the last decade."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    axes = figure.subplots(1, 2)
    for name, label in labels.items():
        n, *measured_values = series(name, sizes, found)
        for axis, values in zip(axes, measured_values, strict=True):
            if n:
                axis.loglog(n, np.maximum(values, 1e-3), "o-", label=f"{label}: {exponent(n, values):.1f}")
    for axis, ylabel in zip(axes, ("time, s", "peak memory, MB"), strict=True):
        axis.set(xlabel=xlabel, ylabel=ylabel)
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize=7, title="peer: exponent", title_fontsize=7)
    figure.savefig(path, dpi=150)


def arguments(parser, repeats: int = 3) -> None:
    """Add the options that all benchmark scripts share."""
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--limit-seconds", type=float, default=3600.0, help="of one process")
    parser.add_argument("--limit-gb", type=float, default=16.0, help="resident memory of one process")
    json_argument(parser)
    parser.add_argument("--plot", type=Path, help="with sizes: write the plot of growth to this file")
    child_arguments(parser)


def json_argument(parser) -> None:
    """Add the option that names the output file of :func:`write`."""
    parser.add_argument("--json", type=Path, help="also write all figures to this file; -: print them")


def child_arguments(parser) -> None:
    """Add the options that a script passes when it starts a process for one peer."""
    for hidden in ("--child", "--spec", "--out"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)


def peer_arguments(parser, labels: Mapping[str, str], default: str) -> None:
    """Add the options for the peers to run, the folder of their environments, and the seed of the problem."""
    parser.add_argument("--only", nargs="+", choices=list(labels), help="peers to run; all if not given")
    parser.add_argument("--peers", type=Path, help=f"folder of environments.py; {default} of this Python if not given")
    parser.add_argument("--seed", type=int, default=0)


def limits_of(args) -> Limits:
    """Limits from the shared options."""
    return Limits(args.limit_seconds, args.limit_gb, args.threads)


def write(result: dict, path: Path | None) -> None:
    """Write figures as JSON, if a file was named; -: one line of standard output."""
    if path == Path("-"):
        print(json.dumps(result))
    elif path:
        path.write_text(json.dumps(result, indent=1) + "\n")
