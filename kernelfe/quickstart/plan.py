"""Cases of the quickstart, and running them on all cores."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from ..errors import KernelfeError, require
from ..runtime.seeds import whole_seed
from .cases import LABEL_SETS, SAMPLING, TARGET, Case, Sampler, run_case


@dataclass(frozen=True)
class Plan:
    """Extent of the comparison.

    Parameters
    ----------
    sizes
        Frames per temperature.
    subsets
        Disjoint training subsets of each size. The tables of the benchmark page have three.
    sampler
        Sampling of every model.
    seed
        Seed of all random numbers.
    single
        Frames of each single-temperature fit at the target temperature; 0 for none.
    single_subsets
        Disjoint subsets of those.
    small
        True for the reduced version; reports state it.
    """

    sizes: tuple[int, ...] = (75, 300, 1250)
    subsets: int = 2
    sampler: Sampler = field(default_factory=Sampler)
    seed: int = 0
    single: int = 1250
    single_subsets: int = 1
    small: bool = False

    def __post_init__(self) -> None:
        require(
            self.sizes and min(self.sizes) >= 2 and self.subsets >= 1,
            f"sizes={self.sizes}, subsets={self.subsets}: every size must be at least 2 frames, and one subset is "
            "needed",
        )
        object.__setattr__(self, "seed", whole_seed(self.seed))
        object.__setattr__(self, "sizes", tuple(sorted(set(self.sizes))))

    @classmethod
    def reduced(cls, seed: int = 0) -> Plan:
        """One subset, two sizes, a tenth of the samples: a check that everything works."""
        sampler = Sampler(replicas=250, effective=3000, longest=200, protocol=SAMPLING.with_options(steps=100))
        return cls(sizes=(75, 300), subsets=1, sampler=sampler, seed=seed, single=0, small=True)

    def cases(self, folder: str | None = None) -> list[Case]:
        """Every fit, longest first, so that the longest does not run alone at the end."""
        out: list[Case] = []
        for size in self.sizes:
            for labels in LABEL_SETS:
                if len(self.sizes) > 2 and size == self.sizes[0] and labels not in ("forces", "all"):
                    continue  # the smallest size only anchors the learning curve: it would lengthen the run
                for subset in range(self.subsets):
                    best = size == self.sizes[-1] and labels == "all" and subset == 0
                    out.append(
                        Case(
                            labels, size, subset, self.subsets, seed=self._seed(len(out)), keep=folder if best else None
                        )
                    )
        for labels in ("forces", "forces + torques") if self.single else ():
            for subset in range(self.single_subsets):
                out.append(Case(labels, self.single, subset, self.single_subsets, (TARGET,), self._seed(len(out))))
        return sorted(out, key=lambda case: -case.size * len(case.temperatures) * (1 + case.density))

    def _seed(self, number: int) -> int:
        return (1000 * self.seed + number) % 2**63  # torch takes no more


def run_cases(
    cases: Sequence[Case], sampler: Sampler, package: str, workers: int | None = None, progress: bool = True
) -> list[dict[str, Any]]:
    """Results of all cases, in their order; see :func:`run_case` for cases with two.

    Parameters
    ----------
    workers
        Processes; None: one per available core, at most four (each uses up to about 1 GiB).

    Raises
    ------
    KernelfeError
        The first error of a case, or the end of a worker from outside. The other cases are dropped.
    """
    count = worker_count(workers, len(cases))
    # a fresh interpreter per worker: forking a process that has used torch's threads may hang
    pool = ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"), initializer=one_thread)
    results: dict[int, list[dict[str, Any]]] = {}
    try:
        futures = {pool.submit(run_case, case, sampler, package): k for k, case in enumerate(cases)}
        with tqdm(total=len(cases), unit="model", desc="fit and sample", disable=not progress) as bar:
            for future in as_completed(futures):
                results[futures[future]] = future.result()
                bar.set_postfix_str(cases[futures[future]].name, refresh=False)
                bar.update()
    except BrokenProcessPool as error:
        raise KernelfeError(
            "a worker process was ended from outside, most often for lack of memory; try --workers 1"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return [result for k in range(len(cases)) for result in results[k]]


def worker_count(workers: int | None, cases: int) -> int:
    """Processes to start: as asked for, else one per available core up to four, never more than cases."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(workers if workers is not None else min(4, cores), cases))


def one_thread() -> None:
    """Start of a worker: cores are shared by running cases side by side, not by threads.

    Warnings of single fits would break the progress bar; their content is in the results and in the report.
    """
    import torch

    logging.getLogger("kernelfe").setLevel(logging.ERROR)
    torch.set_num_threads(1)
