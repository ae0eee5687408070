"""Microseconds per bead of a liquid: features, evaluation, Langevin steps; compiled, in NumPy, and in plain torch.

One thread; beads on a disturbed lattice at the density of water, splines to 9 Å for pairs and to 3.7 Å for triplets, a
skin of 1 Å. Times are CPU times of this thread, the least of several blocks, so that other processes disturb them
little. Run ``python benchmarks/liquid_speed.py [--beads 216 1728] [--json FILE]``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import kernelfe
from kernelfe.compiled import loading, plain
from kernelfe.descriptors import PairSplines, TripletSplines
from kernelfe.descriptors.manybody import fast
from kernelfe.gp.fitted.frozen import PeriodicFrozenModel
from kernelfe.protocol import FixedCell
from kernelfe.simulate import langevin_init, langevin_step

#: Beads per Å³ of water.
DENSITY = 0.03333
TEMPERATURE = 310.0


def liquid(beads: int) -> kernelfe.Frames:
    """Two frames with forces of no meaning: only sizes matter."""
    rng, edge = np.random.default_rng(0), round(beads ** (1 / 3))
    cell = (beads / DENSITY) ** (1 / 3) * np.eye(3)
    sites = np.stack(np.meshgrid(*3 * [np.arange(edge)], indexing="ij"), -1).reshape(-1, 3) / edge
    x = sites @ cell + rng.normal(scale=0.2, size=(2, beads, 3))
    labels = {"mean_force": rng.normal(scale=0.05, size=x.shape)}
    options = {"cell": np.tile(cell, (2, 1, 1)), "labels": labels, "kinds": ["W"] * beads}
    return kernelfe.Frames.from_arrays(x, temperature=TEMPERATURE, **options)


def microseconds(function: Callable[[], object], beads: int, repeats: int, blocks: int = 7) -> float:
    """Least CPU time of a call per bead over some blocks of calls."""
    function()
    best = float("inf")
    for _ in range(blocks):
        begin = time.thread_time()
        for _ in range(repeats):
            function()
        best = min(best, (time.thread_time() - begin) / repeats)
    return 1e6 * best / beads


def measured(beads: int) -> dict[str, float]:
    """All times for boxes of so many beads."""
    frames = liquid(beads)
    terms = [("pairs", kernelfe.Term(PairSplines(9.0))), ("triplets", kernelfe.Term(TripletSplines()))]
    options = {"optimizer": None, "noise": {"mean_force": 0.3}, "progress": False}
    model = kernelfe.FreeEnergyRegressor(terms, **options).fit(frames).model_
    x, cell = torch.from_numpy(frames.positions[:1].copy()), torch.from_numpy(np.array(frames.cell[:1]))
    descriptors = [term.spec.descriptor for _, term in model.terms]
    out, few = {}, 3 if beads < 1000 else 1

    def features() -> None:
        for descriptor in descriptors:
            descriptor.environments(x, cell)

    def evaluation(frozen) -> Callable[[], object]:
        return lambda: frozen.energy_forces_stress(x, cell, TEMPERATURE)

    frozen, loops, usable = model.frozen(), loading.loops, fast.compiled_for
    out["features with Jacobians, compiled"] = microseconds(features, beads, few)
    out["evaluation, compiled"] = microseconds(evaluation(frozen), beads, 20)
    fixed = FixedCell(frozen, cell[0])
    for replicas in (1, 4, 16):
        start = x.repeat(replicas, 1, 1)
        state = langevin_init(fixed, start, TEMPERATURE, masses=np.full(beads, 18.0), timestep=5.0, friction=5.0)

        def alone(state=state) -> None:
            frozen.energy_forces_stress(state.positions, cell, TEMPERATURE)

        number, many = replicas * beads, max(1, 60 // replicas)
        for _ in range(30):
            langevin_step(fixed, state)
        step = microseconds(lambda state=state: langevin_step(fixed, state), number, many, 5)
        out[f"Langevin step of 5 fs, {replicas} replicas, lists made anew included"] = step
        out[f"  evaluation of these alone, lists kept ({replicas})"] = microseconds(alone, number, many, 5)
    fast.compiled_for = lambda x, cell: False
    try:
        out["features with Jacobians, torch"] = microseconds(features, beads, 1, 2)
        out["evaluation, torch, general path"] = microseconds(evaluation(PeriodicFrozenModel(model)), beads, 1, 2)
        loading.loops = lambda: plain
        out["evaluation, NumPy"] = microseconds(evaluation(model.frozen()), beads, few, 2)
    finally:
        loading.loops, fast.compiled_for = loops, usable
    return out


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--beads", type=int, nargs="+", default=[216, 1728], help="cubes of whole numbers")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = {beads: measured(beads) for beads in arguments.beads}
    for beads, times in found.items():
        print(f"{beads} beads, microseconds per bead")
        for name, value in times.items():
            print(f"  {name:75s} {value:8.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
