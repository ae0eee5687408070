"""Active learning on alanine dipeptide against random choice and equilibrium sampling, at equal all-atom time.

The start is 12 equilibrium frames at each of five temperatures (61 ps each, 0.31 ns in all), never at 350 K. In each
round 24 configurations at temperatures of the training runs are fixed for 3 ps (after 2 ps of equilibration, and the
approach), labelled, and added to the model. After each round the Jensen–Shannon divergence of the model's (φ, ψ)
density at 350 K is measured. "Chance" draws at random from the same candidates. Equilibrium frames come every 5.1 ps;
their divergences at 350 K are those of the quickstart and of benchmarks/density.py. Needs OpenMM; about five minutes
per seed and method.

    python benchmarks/active.py --rounds 6 --seeds 0 1 2 --out active.json
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch

import kernelfe
from kernelfe import Dense, Frames, FreeEnergyRegressor
from kernelfe.analysis import dihedral_angles, jensen_shannon_divergence, periodic_histogram
from kernelfe.errors import DataError
from kernelfe.quickstart import TARGET, Sampler
from kernelfe.quickstart.cases import PHI, PSI, data, sample_model
from kernelfe.training import ActivePlan, learn_actively

TEMPERATURES = (300.0, 400.0, 450.0, 500.0, 600.0)
#: Picoseconds between equilibrium frames.
INTERVAL = 5.1
#: Expected uncertainty of labels of 8 ps, before the first are measured: eV/Å and eV.
NOISE = {"mean_force": 0.015, "mean_energy": 0.02}


def main() -> None:
    """Run all methods and seeds; print a table, and write every number."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--picoseconds", type=float, default=3.0)
    parser.add_argument("--frames", type=int, default=12, help="initial equilibrium frames per temperature")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ways", nargs="+", default=["active", "chance"])
    parser.add_argument("--out", default=None, help="file for all numbers, JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data" / "alanine_dipeptide"))
    from generate_restrained import ensemble

    frames, reference = data("kernelfe_data")
    truth = reference.probability[reference.temperatures.tolist().index(TARGET)]
    atoms = kernelfe.datasets.load_atoms("alanine-dipeptide")
    found = []
    print("| way | seed | round | all-atom ns | divergence at 350 K |\n|---|---|---|---|---|")
    for seed in options.seeds:
        at = [np.flatnonzero(frames.temperature == t) for t in TEMPERATURES]
        # disjoint, contiguous pieces of the runs: the data of a short run
        rows = np.concatenate([k[seed * 300 : seed * 300 + options.frames] for k in at])
        start = frames[rows]
        structures = atoms.positions[np.isin(atoms.frame, rows)]
        spent = len(start) * INTERVAL * 1e-3
        model = FreeEnergyRegressor(solver=Dense(evidence_rows=1000), random_state=seed).fit(start)
        for way in options.ways:
            driver = ensemble()

            def label(asked: Frames, number: int, driver=driver, structures=structures) -> Frames:
                parts = []
                for k in range(len(asked)):
                    for times in (1, 4, 16):  # some runs are too short for an error bar
                        try:
                            length = times * options.picoseconds
                            parts.append(driver.sample(asked[[k]], structures, length, seed=number + k, progress=False))
                            break
                        except DataError:
                            if times == 16:
                                raise
                return Frames.concatenate(parts)

            def measure(number: int, now, way=way, seed=seed, driver=driver, start=start, spent=spent) -> None:
                angles = dihedral_angles(sample_model(now, start, Sampler(), seed).positions, (PHI, PSI))
                density = periodic_histogram(angles.reshape(-1, 2), len(truth))
                row = {
                    "way": way,
                    "seed": seed,
                    "round": number,
                    "nanoseconds": spent + 1e-3 * driver.simulated,
                    "divergence": jensen_shannon_divergence(density, truth),
                    "left_handed": float(density[len(density) // 2 :].sum()),
                }
                found.append(row)
                print(f"| {way} | {seed} | {number} | {row['nanoseconds']:.2f} | {row['divergence']:.4f} |", flush=True)
                if options.out:
                    Path(options.out).write_text(json.dumps(found, indent=1))

            measure(0, model)
            learn_actively(
                model,
                start,
                label,
                target=TARGET,
                temperatures=TEMPERATURES,
                noise=NOISE,
                plan=ActivePlan(rounds=options.rounds, batch=options.batch, refit=3),
                at_random=way == "chance",
                seed=seed,
                progress=False,
                callback=lambda number, now: measure(number + 1, now),
            )


if __name__ == "__main__":
    main()
