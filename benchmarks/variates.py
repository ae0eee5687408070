"""Effect of zero-mean variates: the learning curve with labels of reduced noise, on the same frames.

All-atom frames of the bundled alanine dipeptide (1250 at each of 300, 400, 500 and 600 K); original label sets and sets
after :func:`~kernelfe.statistics.reduce_noise`, whose coefficients are fitted within each training subset. Divergences
at 350 K by the quickstart's own sampler, mean of three disjoint subsets (one at the largest size, which takes all).

    python benchmarks/variates.py
"""

from __future__ import annotations

import numpy as np
import torch

from kernelfe import Frames, FreeEnergyRegressor, statistics
from kernelfe.analysis import dihedral_angles, jensen_shannon_divergence, periodic_histogram
from kernelfe.datasets import load_atoms
from kernelfe.quickstart import LABEL_SETS, TARGET, Case, Sampler, training_rows
from kernelfe.quickstart.cases import PHI, PSI, data, sample_model
from kernelfe.training import minimize_relative_entropy


def quiet(frames: Frames, positions: np.ndarray, forces: np.ndarray, motions) -> Frames:
    """The frames with every label reduced."""
    t = frames.temperature
    variates = statistics.Variates.of(motions, positions).evaluate(positions, forces, t)
    common = {"features": statistics.distance_features(frames.positions), "groups": t}
    turn = statistics.local_frames(frames.positions)
    labels = {kind: np.array(values) for kind, values in frames.labels.items()}
    labels["mean_force"] = np.einsum("nbij,nbj->nbi", turn, labels["mean_force"])
    for kind in labels:
        labels[kind] = statistics.reduce_noise(labels[kind], variates, **common).values
    labels["mean_force"] = np.einsum("nbij,nbi->nbj", turn, labels["mean_force"])
    return frames.replace(labels=labels)


def main() -> None:
    """Print the table, row by row."""
    torch.set_num_threads(1)
    frames, reference = data("kernelfe_data")
    atoms = load_atoms("alanine-dipeptide")
    motions = statistics.fragment_motions(atoms.bonds, atoms.bead_atoms, atoms.constraints, atoms.masses)
    truth = reference.probability[reference.temperatures.tolist().index(TARGET)]

    def divergence(model: FreeEnergyRegressor, train: Frames, seed: int) -> float:
        angles = dihedral_angles(sample_model(model, train, Sampler(), seed).positions, (PHI, PSI))
        return jensen_shannon_divergence(periodic_histogram(angles.reshape(-1, 2), len(truth)), truth)

    print("| labels | frames per temperature | original | reduced | reduced, with density |\n|---|---|---|---|---|")
    for size in (75, 300, 1250):
        for labels in ("forces", "all"):
            found = []
            for subset in range(3 if size < 1250 else 1):
                rows = training_rows(atoms.temperature, Case(labels, size, subset, 3 if size < 1250 else 1))
                plain = frames[atoms.frame[rows]]
                less = quiet(plain, atoms.positions[rows], atoms.forces[rows], motions)
                models = [
                    FreeEnergyRegressor(labels=list(LABEL_SETS[labels]), solver="sparse").fit(train)
                    for train in (plain, less)
                ]
                models.append(minimize_relative_entropy(models[1], less, seed=subset, progress=False).model)
                found.append([divergence(model, plain, subset) for model in models])
            spread = np.std(found, 0, ddof=1) if len(found) > 1 else np.full(3, np.nan)
            cells = [
                f"{m:.4f} ± {s:.4f}" if s == s else f"{m:.4f}" for m, s in zip(np.mean(found, 0), spread, strict=True)
            ]
            print(f"| {labels} | {size} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
