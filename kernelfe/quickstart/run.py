"""From the plan to the folder with ``metrics.json``, ``report.html``, ``model.kfe`` and figures."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..analysis.plots import learning_curve_figure, summary_figure, surface_figure
from ..datasets import PACKAGE
from ..errors import DataError
from ..files.atomic import atomic_write
from ..report import comparison_page, png
from ..report.comparison import NAMES
from .cases import TARGET, data, peak_bytes, training_rows
from .collect import curves, metrics
from .final import analyse
from .plan import Plan, run_cases, worker_count


def run(
    output: str | os.PathLike[str],
    plan: Plan | None = None,
    *,
    package: str = PACKAGE,
    workers: int | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Run the comparison and write its results.

    Parameters
    ----------
    output
        Folder for ``report.html``, ``metrics.json``, ``model.kfe``, ``samples.npz`` (of that model) and
        ``summary.png``; created when missing. Files of the same names are replaced when all are complete; an
        interrupted run changes none.
    plan
        What to compare; None: the full comparison.
    package
        The package that holds the data.
    workers
        Processes; None: as many as there are cores, at most four.
    progress
        Show progress bars.

    Returns
    -------
    dict
        The content of ``metrics.json``.

    Raises
    ------
    DataError
        If the folder cannot be made, or the data are too few for the plan.
    """
    with filled_when_complete(Path(output)) as aside:
        return _compare(aside, Plan() if plan is None else plan, package, workers, progress)


@contextmanager
def filled_when_complete(folder: Path) -> Iterator[Path]:
    """A temporary folder whose files move into ``folder`` when the block ends, or vanish when it raises.

    Parameters
    ----------
    folder
        Where the files belong; made when missing.

    Yields
    ------
    Path
        The folder to write to: beside ``folder``, or inside where files cannot be moved from there.

    Raises
    ------
    DataError
        If a folder cannot be made.
    """
    folder, new = folder.resolve(), not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        aside = _folder_aside(folder)
    except OSError as error:
        raise DataError(f"cannot write to the folder {folder} ({error.strerror}); choose another") from error
    try:
        yield aside
        for path in sorted(aside.iterdir()):
            os.replace(path, folder / path.name)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        if new and not any(folder.iterdir()):
            folder.rmdir()
        raise
    aside.rmdir()


def _folder_aside(folder: Path) -> Path:
    """A new folder on the same file system, where renaming is possible and at once."""
    try:
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        if aside.stat().st_dev == folder.stat().st_dev:
            return aside
        aside.rmdir()
    except OSError:
        pass  # a folder of ours in one that is not
    return Path(tempfile.mkdtemp(prefix=".", dir=folder))


def _compare(folder: Path, plan: Plan, package: str, workers: int | None, progress: bool) -> dict[str, Any]:
    """Run the plan and write all files to ``folder``; the content of ``metrics.json``."""
    begin = time.perf_counter()
    frames, reference = data(package)
    cases = plan.cases(str(folder))
    for case in cases:  # a plan that the data cannot fill fails before any process starts
        training_rows(frames.temperature, case)
    count = worker_count(workers, len(cases))
    results = run_cases(cases, plan.sampler, package, count, progress)
    numbers = metrics(results, reference, plan, package)

    with threads(1 if count == 1 else min(2, count)):
        final = analyse(folder, frames, reference, plan.seed)
    best = next(r for r in results if r["keep"])
    p = np.array(best["probability"])
    truth = reference.probability[reference.temperatures.tolist().index(TARGET)]
    shown = {NAMES[name]: curve for name, curve in curves(numbers["divergences"]).items()}
    floor = numbers["floors"]["perfect_model"]
    figures = final.figures | {
        "surface": surface_figure(p, truth, TARGET, "model, all labels and density"),
        "learning": learning_curve_figure(shown, floor),
    }
    numbers |= final.numbers
    workers_peak = [r["peak_bytes"] for r in results]
    numbers |= {
        "workers": count,
        "cpu_seconds_of_fits_and_samplings": sum(r["cpu_seconds"] for r in results),
        # of this process and of the largest worker in each slot: an upper bound of what is resident at once
        "peak_memory_bytes": peak_bytes() + count * max(workers_peak),
        "cases": [{k: v for k, v in r.items() if k != "probability"} for r in results],
        "final_probability": best["probability"],
    }
    picture = png(summary_figure(p, truth, TARGET, shown, floor), dpi=150)
    with atomic_write(folder / "summary.png") as aside:
        aside.write_bytes(picture)
    numbers["seconds"] = time.perf_counter() - begin
    comparison_page(numbers, figures, final.model).write(folder / "report.html")
    write_json(folder / "metrics.json", numbers)
    return numbers


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Set the number of torch threads inside the block and restore it afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def write_json(path: Path, numbers: dict[str, Any]) -> None:
    """Write numbers as JSON, atomically; values that are not finite become null, as JSON has no NaN."""
    text = json.dumps(_plain(numbers), indent=1, ensure_ascii=False, allow_nan=False)
    with atomic_write(path) as aside:
        aside.write_text(text + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.generic):
        return value.item()
    return value
