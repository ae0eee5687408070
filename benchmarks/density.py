"""Effect of the density of the frames on each label set: every set with and without it, on the same frames.

The quickstart adds the density to all labels only. This script computes the rest of the table, to separate the effect
of the torques from that of the density. Jensen–Shannon divergences at 350 K, mean of three disjoint training subsets,
by the quickstart's own code. Takes about a quarter of an hour on one core.

    python benchmarks/density.py
"""

from __future__ import annotations

import numpy as np
import torch

from kernelfe import FreeEnergyRegressor
from kernelfe.analysis import dihedral_angles, jensen_shannon_divergence, periodic_histogram
from kernelfe.quickstart import LABEL_SETS, TARGET, Case, Sampler, training_rows
from kernelfe.quickstart.cases import PHI, PSI, data, sample_model
from kernelfe.training import minimize_relative_entropy


def main() -> None:
    """Print the table, row by row."""
    torch.set_num_threads(1)
    frames, reference = data("kernelfe_data")
    truth = reference.probability[reference.temperatures.tolist().index(TARGET)]

    def divergence(model: FreeEnergyRegressor, train, seed: int) -> float:
        angles = dihedral_angles(sample_model(model, train, Sampler(), seed).positions, (PHI, PSI))
        return jensen_shannon_divergence(periodic_histogram(angles.reshape(-1, 2), len(truth)), truth)

    print("| labels | frames per temperature | without | with density |\n|---|---|---|---|")
    for labels in ("forces", "forces + torques", "all"):
        for size in (75, 300, 1250):
            found = []
            for subset in range(3):
                train = frames[training_rows(frames.temperature, Case(labels, size, subset, 3))]
                model = FreeEnergyRegressor(labels=list(LABEL_SETS[labels]), solver="sparse").fit(train)
                refined = minimize_relative_entropy(model, train, seed=subset, progress=False)
                found.append([divergence(m, train, subset) for m in (model, refined.model)])
            cells = [
                f"{mean:.4f} ± {spread:.4f}"
                for mean, spread in zip(np.mean(found, 0), np.std(found, 0, ddof=1), strict=True)
            ]
            print(f"| {labels} | {size} | {cells[0]} | {cells[1]} |", flush=True)


if __name__ == "__main__":
    main()
