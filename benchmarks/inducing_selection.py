"""Four ways to choose inducing environments, on alanine dipeptide, at equal numbers of environments.

Hyperparameters and noise come from one fit with 400 environments chosen by pivots and are the same for every choice.
Compared are the collapsed bound on the log evidence of all training labels, and the log predictive density of the
labels of held-out frames (normal, with the variance of prediction plus noise, component by component, mean over
labels). Random choices use three seeds; the table shows their mean and range.

    python benchmarks/inducing_selection.py
"""

from __future__ import annotations

import argparse

import numpy as np

from kernelfe import FreeEnergyRegressor, Sparse
from kernelfe.datasets import load
from kernelfe.gp.solvers.sparse.inducing import SEEDED, SELECTIONS

LABELS = ["mean_force", "mean_energy"]


def stated(frames, model):
    """Frames with the learned noise as given noise."""
    noise = {}
    for kind, (level, power) in model.noise_.items():
        scale = level * (frames.temperature / model.noise_temperature_) ** power
        noise[kind] = np.broadcast_to(
            scale.reshape(-1, *[1] * (frames.labels[kind].ndim - 1)), frames.labels[kind].shape
        )
    return frames.replace(noise=noise)


def log_density(model, frames) -> dict[str, float]:
    """Mean log predictive density of every label kind."""
    out = {}
    for kind in LABELS:
        mean, std = model.predict(frames, kind, return_std=True, reference=None)
        variance = std**2 + frames.noise[kind] ** 2
        z2 = (frames.labels[kind] - mean) ** 2 / variance
        out[kind] = float(-0.5 * np.mean(z2 + np.log(2.0 * np.pi * variance)))
    return out


def main(argv: list[str] | None = None) -> list[dict]:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=1250, help="training frames")
    parser.add_argument("--inducing", type=int, nargs="+", default=[50, 150, 400])
    args = parser.parse_args(argv)
    frames = load("alanine-dipeptide").with_labels(LABELS)
    step = len(frames) // args.frames
    train, test = frames[::step], frames[step // 2 :: 4 * step]
    first = FreeEnergyRegressor(solver=Sparse(inducing=max(args.inducing))).fit(train)
    train, test = stated(train, first), stated(test, first)
    print("| inducing | choice | collapsed bound | forces | energies |\n|---|---|---|---|---|")
    rows = []
    for count in args.inducing:
        for selection in SELECTIONS:
            found = []
            for seed in range(3) if selection in SEEDED else (0,):
                solver = Sparse(inducing=count, selection=selection)
                model = FreeEnergyRegressor(first.fitted_terms(), solver, optimizer=None, random_state=seed).fit(train)
                density = log_density(model, test)
                found.append([model.log_evidence_, density["mean_force"], density["mean_energy"]])
            low, mean, high = np.min(found, 0), np.mean(found, 0), np.max(found, 0)
            rows.append({"inducing": count, "selection": selection, "bound": mean[0], "density": mean[1:].tolist()})
            spread = f" ({low[0]:.0f} to {high[0]:.0f})" if len(found) > 1 else ""
            print(f"| {count} | {selection} | {mean[0]:.0f}{spread} | {mean[1]:.4f} | {mean[2]:.4f} |", flush=True)
    return rows


if __name__ == "__main__":
    main()
