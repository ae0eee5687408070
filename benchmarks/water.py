"""One-site models of SPC/E water: the table of docs/benchmarks/water.md.

    python benchmarks/water.py                      # all parts, about half an hour on one core
    python benchmarks/water.py forces sampling      # some of them

Parts: forces (held-out errors), transfer (models of some labels against the model trained at a temperature), coverage
(error bars), sampling (structure by force matching, relative entropy, pressure), streaming (time and memory by the
number of frames). Every number is printed with what it is to be compared with, and written to --output as JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np
import torch

import kernelfe
from kernelfe import Frames, FreeEnergyRegressor, Term
from kernelfe.analysis.liquids import LiquidSamples, compare_liquids
from kernelfe.descriptors import PairSplines, TripletSplines
from kernelfe.protocol import FixedCell
from kernelfe.simulate import run_langevin
from kernelfe.statistics import cross_fit, response_labels
from kernelfe.units import factor

KJ = factor("kJ/mol")
PAIRS = ("pairs", Term(PairSplines(9.0)))
TRIPLETS = ("triplets", Term(TripletSplines()))
FULL = [PAIRS, TRIPLETS]
TEST = slice(250, 300)


def frames(temperature: float, some: slice, *kinds: str) -> Frames:
    """Some frames of one temperature with some kinds of labels."""
    whole = DATA[DATA.temperature == temperature][some]
    return whole.replace(labels={k: whole.labels[k] for k in kinds}, present={k: whole.present[k] for k in kinds})


def fit(data, terms=FULL, **options) -> FreeEnergyRegressor:
    parts = data if isinstance(data, Frames) else Frames.concatenate(data)
    return FreeEnergyRegressor(terms, progress=False, **options).fit(parts)


def rmse(a, b) -> float:
    return float(np.sqrt(np.mean((np.asarray(a) - np.asarray(b)) ** 2)))


def forces() -> dict:
    """Held-out force error at 310 K by number of frames."""
    test = frames(310, TEST, "mean_force")
    y, out = test.labels["mean_force"], {"spread": float(test.labels["mean_force"].std() / KJ)}
    for name, terms in (("pairs", [PAIRS]), ("pairs and triplets", FULL)):
        for n in (10, 25, 50, 250):
            begin = time.perf_counter()
            model = fit(frames(310, slice(0, n), "mean_force"), terms)
            seconds = time.perf_counter() - begin
            out[f"{name}, {n} frames"] = {"rmse": rmse(model.predict(test, "mean_force"), y) / KJ, "seconds": seconds}
    return out


def with_responses(data: Frames, *kinds: str) -> Frames:
    """Frames with some of their labels and single-frame response labels, means out of fold."""
    f, u = data.labels["mean_force"], data.labels["mean_energy"]

    def means(rows, others):
        model = fit(data[rows])
        return model.predict(data[others], "mean_force"), model.predict(data[others], "mean_energy")

    force, energy = cross_fit(means, len(data), folds=3)
    responses = response_labels(f, u, data.temperature, force, energy)
    labels = {k: data.labels[k] for k in kinds} | {"thermal_response_force": responses}
    return data.replace(labels=labels, present={})


def transfer() -> dict:
    """Distance, in forces, to the model trained at 280 and at 400 K."""
    half, whole = slice(0, 125), slice(0, 150)
    f, u = "mean_force", "mean_energy"
    data = {
        "blind: forces 310": [frames(310, slice(0, 250), f)],
        "forces 310 + 370": [frames(310, half, f), frames(370, half, f)],
        "forces and energies 310 + 370": [frames(310, half, f, u), frames(370, half, f, u)],
        "forces and energies 310": [frames(310, slice(0, 250), f, u)],
        "forces and responses 310": [with_responses(frames(310, slice(0, 250), f, u), f)],
        "forces, energies and responses 310": [with_responses(frames(310, slice(0, 250), f, u), f, u)],
        "forces 280 + 400": [frames(280, half, f), frames(400, half, f)],
    }
    own = {t: fit(frames(t, whole, f)) for t in (280, 340, 370, 400)}
    out: dict = {}
    for name, parts in data.items():
        model = fit(parts)
        out[name] = {}
        for t in own:
            test = frames(t, TEST, f)[:20]
            mean, wanted = (m.predict(test, f, temperature=float(t)) for m in (model, own[t]))
            blind = model.predict(test, f, temperature=310.0)
            out[name][str(t)] = {
                "distance to own": rmse(mean, wanted) / KJ,
                "same without response": rmse(blind, wanted) / KJ,
                "rmse": rmse(mean, test.labels[f]) / KJ,
            }
    return out


def energies() -> dict:
    """Slope of all-atom energies on energies predicted from forces at five temperatures alone."""
    model = fit([frames(t, slice(0, 150), "mean_force") for t in (280, 310, 340, 370, 400)])
    out = {}
    for t in (280, 310, 340, 370, 400):
        test = DATA[DATA.temperature == t]
        predicted, u = model.predict(test, "mean_energy", reference="mean"), test.labels["mean_energy"]
        x, y = predicted - predicted.mean(), u - u.mean()
        slope = float(x @ y / (x @ x))
        error = float(np.sqrt(((y - slope * x) ** 2).mean() / (x @ x)))
        out[str(t)] = {"slope": slope, "error": error}
    out["mean"] = float(np.mean([row["slope"] for row in out.values()]))
    return out


def coverage() -> dict:
    """Share of differences of models of disjoint blocks of frames within 95 % intervals."""
    kinds = ("mean_force", "mean_energy", "excess_pressure")
    probe = {t: frames(t, TEST, "mean_force")[:4] for t in (280, 400)}
    read = {
        "force": lambda m, t: m.predict(probe[t], "mean_force", return_std=True),
        "response force": lambda m, t: m.predict(probe[t], "thermal_response_force", return_std=True),
        "pressure": lambda m, t: m.predict(probe[t], "excess_pressure", return_std=True),
    }
    out: dict = {}
    for solver in ("frames", "rows"):
        models = []
        for start in range(0, 150, 25):
            block = slice(start, start + 25)
            parts = [frames(t, block, *kinds) for t in (280, 310, 400)]
            models.append(fit(parts, solver=kernelfe.WeightSpace(errors=solver)))
        for name, of in read.items():
            inside = []
            for a in range(len(models)):
                for b in range(a):
                    for t in probe:
                        (x, sx), (y, sy) = of(models[a], t), of(models[b], t)
                        inside.append((np.abs(x - y) < 1.96 * np.hypot(sx, sy)).mean())
            out[f"{name}, errors={solver}"] = float(np.mean(inside))
    return out


def sampled(model, temperature: float, picoseconds: float = 40.0, replicas: int = 4, seed: int = 0):
    """Samples of a model at constant volume, with their pressures, and the time of a step per bead in microseconds."""
    start = DATA[DATA.temperature == temperature]
    cell = np.array(start.cell[0])
    some = np.linspace(0, len(start) - 1, replicas).astype(int)
    frozen, steps = model.frozen(), round(200 * picoseconds)
    begin = time.perf_counter()
    run = run_langevin(
        FixedCell(frozen, cell), start.positions[some], temperature, masses=start.masses, timestep=5.0, friction=2.0,
        steps=steps, stride=20, burn_in=steps // 5, seed=seed, guard=None, progress=False,
    )  # fmt: skip
    cost = 1e6 * (time.perf_counter() - begin) / (1.2 * steps * replicas * len(start.masses))
    flat = torch.from_numpy(run.positions.reshape(-1, *run.positions.shape[2:]))
    stress = torch.cat([frozen.energy_forces_stress(x, torch.from_numpy(cell), temperature)[2] for x in flat.split(64)])
    shaped = stress.numpy().reshape(*run.positions.shape[:2], 6)
    return LiquidSamples.from_arrays(run.positions, cell, kinds=start.kinds, stress=shaped), cost


def structure(model, temperature: float, **options) -> dict:
    """Distances of a model's samples from all-atom frames, each with its floor."""
    samples, cost = sampled(model, temperature, **options)
    found = compare_liquids(samples, LiquidSamples.from_frames(DATA[DATA.temperature == temperature]), temperature)
    out = {row.quantity: {"distance": row.distance.value, "floor": row.distance.floor} for row in found.rows}
    return out | {"pressure": found["pressure"].model.value, "µs per bead and step": cost}


def sampling() -> dict:
    """Structure by force matching, with and without pressure rows."""
    out: dict = {}
    for t in (280, 310, 400):
        data = frames(t, slice(0, 150), "mean_force")
        out[f"{t} K, pairs"] = structure(fit(data, [PAIRS]), t)
        out[f"{t} K, pairs and triplets"] = structure(fit(data), t)
        data = frames(t, slice(0, 150), "mean_force", "excess_pressure")
        out[f"{t} K, pairs and triplets, pressure"] = structure(fit(data), t)
    return out


def streaming() -> dict:
    """Time and peak memory of a fit with evidence, pairs and triplets."""
    out = {}
    for n in (50, 250):
        begin = time.perf_counter()
        fit(frames(310, slice(0, n), "mean_force"))
        out[f"{n} frames"] = {
            "seconds": time.perf_counter() - begin,
            "peak, GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        }
    return out


PARTS = {part.__name__: part for part in (forces, transfer, energies, coverage, sampling, streaming)}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="parts; default: all")
    parser.add_argument("--output", type=Path, default=Path("water.json"))
    parser.add_argument("--frames", type=Path, help="frames.npz; default: the bundled data set")
    options = parser.parse_args()
    DATA = Frames.load(options.frames) if options.frames else kernelfe.datasets.load("water")
    found = json.loads(options.output.read_text()) if options.output.exists() else {}
    for name in options.parts or PARTS:
        begin = time.perf_counter()
        found[name] = PARTS[name]()
        print(f"== {name} ({time.perf_counter() - begin:.0f} s)")
        print(json.dumps(found[name], indent=1))
        options.output.write_text(json.dumps(found, indent=1))
