"""Networks beside kernel models on alanine dipeptide at the unseen temperature 350 K.

Run as ``python benchmarks/neural.py OUT.json [--sizes 300] [--labels forces all] [--members 1] [--epochs 400]
[--models network kernel]``, or with ``--calibration`` for error bars on the analytic system. Frames, subsets, label
sets, sampling and divergence are those of the quickstart (:mod:`kernelfe.quickstart.cases`); each result is written
when it is there.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from kernelfe import FreeEnergyRegressor, NeuralFreeEnergyRegressor
from kernelfe.analysis import dihedral_angles, jensen_shannon_divergence, periodic_histogram
from kernelfe.datasets.analytic import EliminatedMode
from kernelfe.files.atomic import atomic_write
from kernelfe.neural import MLP, MessagePassing, Training
from kernelfe.quickstart.cases import (
    LABEL_SETS,
    PHI,
    PSI,
    TARGET,
    UNSEEN,
    Case,
    Sampler,
    data,
    effective_samples,
    sample_model,
    training_rows,
)


def models(args: argparse.Namespace, labels: str) -> dict[str, object]:
    """The models that are compared, by name."""
    keys = list(LABEL_SETS[labels])
    training = Training(epochs=args.epochs)

    def network(spec):
        return NeuralFreeEnergyRegressor(spec, labels=keys, members=args.members, training=training)

    every = {
        "network": lambda: network(MLP()),
        "message passing": lambda: network(MessagePassing()),
        "kernel": lambda: FreeEnergyRegressor(labels=keys, solver="sparse"),
    }
    return {name: every[name]() for name in args.models}


def result(name: str, model, case: Case, args: argparse.Namespace) -> dict[str, object]:
    """Fit, sample at the target temperature, compare."""
    frames, reference = data("kernelfe_data")
    train = frames[training_rows(frames.temperature, case)]
    begin, cpu = time.perf_counter(), time.process_time()
    model.fit(train)
    fit_seconds, fit_cpu = time.perf_counter() - begin, time.process_time() - cpu
    frozen, x = model.frozen(), torch.from_numpy(np.array(train.positions[:1000]))
    frozen.energy_and_forces(x, TARGET)
    cpu = time.process_time()
    for _ in range(5):
        frozen.energy_and_forces(x, TARGET)
    evaluation = (time.process_time() - cpu) / 5
    begin, cpu = time.perf_counter(), time.process_time()
    run = sample_model(model, train, Sampler(), case.seed)
    sample_cpu = time.process_time() - cpu
    angles = dihedral_angles(run.positions, (PHI, PSI))
    p = periodic_histogram(angles.reshape(-1, 2), len(reference.edges) - 1)
    truth = reference.probability[reference.temperatures.tolist().index(TARGET)]
    test = frames[frames.temperature == UNSEEN][::5]
    out = {
        "model": name,
        "labels": case.labels,
        "size": case.size,
        "subset": case.subset,
        "divergence": jensen_shannon_divergence(p, truth),
        "effective_samples": effective_samples(angles),
        "force_r2": model.score(test),
        "fit_cpu_seconds": fit_cpu,
        "fit_seconds": fit_seconds,
        "evaluation_ms_per_1000": 1e3 * evaluation,
        "sample_cpu_seconds": sample_cpu,
        "noise": {kind: list(values) for kind, values in model.noise_.items()},
    }
    if name != "kernel":
        out["epochs"] = [len(record.held_out) for record in model.records_]
        out["best"] = [record.best for record in model.records_]
        out["held_out"] = list(model.held_out_log_density_)
    return out


def calibration(members: int = 4, frames: int = 600) -> dict[str, dict[str, float]]:
    """Errors and ensemble spreads on the analytic system at 450 K, from exact forces and energies at 300 to 600 K."""
    system, rng = EliminatedMode(), np.random.default_rng(0)

    def places(n: int, reach: float) -> np.ndarray:
        return np.stack([rng.uniform(-1.4, 1.4, n), rng.uniform(-1.2, 1.2, n)], 1) * reach

    temperature = rng.choice([300.0, 400.0, 500.0, 600.0], frames)
    train = system.frames(places(frames, 1.0), temperature, ("mean_force", "mean_energy")).replace(parameters={})
    spec = Training(epochs=150, batch=60, rate=1e-2)
    model = NeuralFreeEnergyRegressor(MLP(hidden=(32, 32)), members=members, training=spec).fit(train)
    test = places(200, 0.93)
    truth, out = system.statistics(torch.from_numpy(test), 450.0), {}
    for key in ("mean_force", "mean_energy", "heat_capacity", "thermal_response_force"):
        found, std = model.predict(test, key, temperature=450.0, return_std=True)
        error = found - truth[key].numpy()
        rms = {"error": error, "std": std, "spread": truth[key].numpy() - truth[key].numpy().mean(0)}
        out[key] = {name: float(np.sqrt(np.mean(values**2))) for name, values in rms.items()}
        out[key]["within_1_std"] = float(np.mean(np.abs(error) < std))
        out[key]["within_2_std"] = float(np.mean(np.abs(error) < 2 * std))
    return out


def main() -> None:
    """Run all cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[300])
    parser.add_argument("--labels", nargs="+", default=["forces", "forces + energies", "all"], choices=LABEL_SETS)
    parser.add_argument("--models", nargs="+", default=["network", "kernel"])
    parser.add_argument("--subsets", type=int, nargs="+", default=[0], help="numbers of disjoint subsets, out of 3")
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=400)
    parser.add_argument("--calibration", action="store_true", help="only: error bars on the analytic system")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.calibration:
        args.out.write_text(json.dumps(calibration(), indent=1))
        return
    found: list[dict[str, object]] = []
    for size in args.sizes:
        for subset in args.subsets:
            for labels in args.labels:
                case = Case(labels, size, subset, 3)
                for name, model in models(args, labels).items():
                    found.append(result(name, model, case, args))
                    print(json.dumps(found[-1]), flush=True)
                    with atomic_write(args.out) as path:
                        path.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
