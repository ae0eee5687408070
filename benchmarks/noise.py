"""Effect of a noise model on predictions: correlation within frames, between force and energy, in time.

Alanine dipeptide, all labels, training frames of four temperatures; tested on frames at 350 K, which are in no fit.
The log predictive density is that of all labels of a frame together (model error and noise, in nats per frame; without
the forces on one bead, since the forces on all beads add up to zero). The divergence is that of the quickstart.

    python benchmarks/noise.py --frames 300 1250
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from kernelfe import CorrelatedNoise, FreeEnergyRegressor
from kernelfe.analysis import dihedral_angles, jensen_shannon_divergence, periodic_histogram
from kernelfe.gp import joint_predictive
from kernelfe.quickstart import LABEL_SETS, TARGET, Case, Sampler, training_rows
from kernelfe.quickstart.cases import PHI, PSI, SAMPLING, data, sample_model

#: Noise models, one per row of the table.
DESCRIPTIONS = {
    "independent": None,
    "within frame": CorrelatedNoise(force_energy=False),
    "all": CorrelatedNoise(time=True),
    "force–energy": CorrelatedNoise(within_frame=False),
    "time": CorrelatedNoise(within_frame=False, force_energy=False, time=True, rounds=1),
}
#: Bead whose forces are omitted from the joint density: they are minus the sum of the others.
REDUNDANT = 2


def assess(noise, size: int, subset: int, subsets: int, sampler: Sampler, tested: int) -> dict[str, float]:
    """One fit, its predictions and its samples."""
    frames, reference = data("kernelfe_data")
    train = frames[training_rows(frames.temperature, Case("all", size, subset, subsets))]
    held_out = frames[frames.temperature == TARGET]
    held_out = held_out[:: max(1, len(held_out) // tested)][:tested]
    model = FreeEnergyRegressor(labels=list(LABEL_SETS["all"]), solver="sparse", noise=noise).fit(train)
    kinds = list(LABEL_SETS["all"])
    kept = np.ones(sum(int(np.prod(held_out.label_shape(kind))) for kind in kinds), dtype=bool)
    kept[3 * REDUNDANT : 3 * REDUNDANT + 3] = False
    joint = joint_predictive(model, held_out, kinds, kept)
    run = sample_model(model, train, sampler, subset)
    truth = reference.probability[reference.temperatures.tolist().index(TARGET)]
    angles = dihedral_angles(run.positions, (PHI, PSI)).reshape(-1, 2)
    out = {
        "log density": joint.log_density.mean(),
        "chi2": (joint.mahalanobis2 / kept.sum()).mean(),
        "divergence": jensen_shannon_divergence(periodic_histogram(angles, len(truth)), truth),
    }
    for kind in kinds:
        out[kind] = joint_predictive(
            model, held_out, [kind], kept[:18] if kind == "mean_force" else None
        ).log_density.mean()
    return out


def main() -> None:
    """Print the table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[300, 1250], help="frames per temperature")
    parser.add_argument("--subsets", type=int, default=3, help="disjoint training subsets")
    parser.add_argument("--runs", type=int, help="number of subsets (default: all of them)")
    parser.add_argument("--rows", nargs="+", choices=DESCRIPTIONS, default=list(DESCRIPTIONS), help="what to compare")
    parser.add_argument("--tested", type=int, default=300, help="frames of 350 K to predict")
    parser.add_argument("--quick", action="store_true", help="a tenth of the samples: a quick test of the script")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sampler = Sampler()
    if arguments.quick:
        protocol = SAMPLING.with_options(burn_in=10, steps=20)
        sampler = Sampler(replicas=100, effective=10, longest=20, protocol=protocol)
    print("| noise | frames per temperature | forces | torques | energy | all labels | χ²/labels | divergence |")
    print("|---|---|---|---|---|---|---|---|")
    columns = ("mean_force", "generalized_force", "mean_energy", "log density", "chi2", "divergence")
    for size in arguments.frames:
        for name in arguments.rows:
            runs, options = range(arguments.runs or arguments.subsets), (arguments.subsets, sampler, arguments.tested)
            found = [assess(DESCRIPTIONS[name], size, k, *options) for k in runs]
            cells = [f"{np.mean([f[c] for f in found]):.4g}" for c in columns]
            if len(found) > 1:
                spread = [np.std([f[c] for f in found], ddof=1) for c in columns]
                cells = [f"{cell} ± {s:.2g}" for cell, s in zip(cells, spread, strict=True)]
            print(f"| {name} | {size} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
