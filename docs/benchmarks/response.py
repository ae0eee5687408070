"""What restrained ensembles tell about temperatures that were not simulated, per nanosecond of all-atom time.

1. Response labels k b² Cov(f, U) at 350 K against finite differences of mean forces at 325 and 375 K, at the same held
   bead configurations.
2. Jensen–Shannon divergence of the (φ, ψ) surface at 450 K from the reference for models of forces at 350 K; of these
   and other labels of the same runs; and of forces at 350 and 500 K, of the same all-atom time.

Both use the bundled labels (data/alanine_dipeptide/restrained_*.npz and generate_restrained.py beside them).

    python docs/benchmarks/response.py                        # the first table, seconds
    python docs/benchmarks/response.py --sizes 100 200 400    # both, half an hour on one core
    python docs/benchmarks/response.py --picoseconds 20 --configurations 5   # new runs of the first, needs OpenMM
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from scipy import stats

from kernelfe import Frames, FreeEnergyRegressor
from kernelfe.analysis import dihedral_angles, jensen_shannon_divergence, periodic_histogram
from kernelfe.datasets import load_reference, load_restrained
from kernelfe.quickstart.cases import PHI, PSI
from kernelfe.simulate import TorsionMoves, run_langevin, uniform_masses
from kernelfe.units import factor

DATA = "alanine-dipeptide"
TARGET = 450.0
KJ = factor("kJ/mol")
#: Label sets that one and the same runs at one temperature give.
ONE = {
    "forces": ("mean_force",),
    "forces + responses": ("mean_force", "thermal_response_force"),
    "forces + energies": ("mean_force", "mean_energy"),
    "forces + energies + responses": ("mean_force", "mean_energy", "thermal_response_force"),
}


def finite_differences(frames: Frames) -> dict[str, np.ndarray]:
    """Responses at the middle temperature and difference quotients across it, with errors: arrays (n, beads, 3)."""
    low, middle, high = np.unique(frames.temperature)
    parts = {t: frames[frames.temperature == t] for t in (low, middle, high)}
    assert all(np.array_equal(p.positions, parts[middle].positions) for p in parts.values())
    force = {t: p.labels["mean_force"] for t, p in parts.items()}
    noise = {t: p.noise["mean_force"] for t, p in parts.items()}
    return {
        "response": parts[middle].labels["thermal_response_force"],
        "response_std": parts[middle].noise["thermal_response_force"],
        "quotient": (force[high] - force[low]) / (high - low),
        "quotient_std": np.hypot(noise[high], noise[low]) / (high - low),
    }


def agreement(found: dict[str, np.ndarray]) -> dict[str, float]:
    """Aggregate χ² of the differences, and of each side against zero; slope of response on quotient.

    The components of one configuration are correlated, so the number of degrees of freedom is Satterthwaite's: from the
    mean and the variance over configurations, which are independent, of Σ z².
    """
    difference = found["response"] - found["quotient"]
    variance = found["response_std"] ** 2 + found["quotient_std"] ** 2
    per = (difference**2 / variance).reshape(len(difference), -1).sum(axis=1)
    components = difference[0].size
    ratio = per.sum() / (len(per) * components)
    freedom = 2.0 * len(per) * components**2 / per.var(ddof=1)
    # slope of y on x when both have known errors: the mean square of x is known to be too large by its noise
    x, y = found["quotient"], found["response"]
    signal = (x**2 - found["quotient_std"] ** 2).sum()
    return {
        "configurations": len(per),
        "chi2_per_component": ratio,
        "p": stats.chi2.sf(ratio * freedom, freedom),
        "chi2_if_no_response": float((x**2 / found["quotient_std"] ** 2).mean()),
        "slope": float((x * y).sum() / signal),
        "signal": float(np.sqrt(max(signal, 0.0) / x.size)),
        "response_noise": float(np.sqrt((found["response_std"] ** 2).mean())),
        "quotient_noise": float(np.sqrt((found["quotient_std"] ** 2).mean())),
    }


def slope_error(found: dict[str, np.ndarray]) -> float:
    """Standard error of the slope by leaving out configurations (jackknife)."""
    n = len(found["response"])
    left_out = [agreement({k: np.delete(v, i, axis=0) for k, v in found.items()})["slope"] for i in range(n)]
    return float(np.sqrt((n - 1) * np.var(left_out)))


def divergence(
    model: FreeEnergyRegressor, start: Frames, seed: int, temperature: float = TARGET, steps: int = 300
) -> float:
    """Of the model's samples at a temperature from the reference."""
    reference = load_reference(DATA)
    truth = reference.probability[reference.temperatures.tolist().index(temperature)]
    rows = np.random.default_rng([seed, 1]).integers(len(start), size=1000)
    run = run_langevin(
        model.frozen(),
        start.positions[rows],
        temperature,
        masses=uniform_masses(start.positions.shape[1]),
        timestep=5.0,
        friction=10.0,
        steps=steps,
        burn_in=60,
        seed=seed,
        moves=TorsionMoves(start.bonds),
        moves_every=1,
        move_rounds=3,
        stride=5,
        progress=False,
    )
    angles = dihedral_angles(run.positions, (PHI, PSI)).reshape(-1, 2)
    return jensen_shannon_divergence(periodic_histogram(angles, len(truth)), truth)


def training_sets(frames: Frames, size: int) -> dict[str, tuple[Frames, int]]:
    """Name → labels and number of runs they cost, from the first ``2 * size`` configurations of the set."""
    one, two = (frames[frames.temperature == t] for t in np.unique(frames.temperature))
    both = Frames.concatenate([one[: 2 * size : 2], two[1 : 2 * size : 2]])
    sets = {f"{name}, 350 K": (one[: 2 * size].with_labels(keys), 2 * size) for name, keys in ONE.items()}
    return sets | {"forces, 350 and 500 K": (both.with_labels("mean_force"), 2 * size)}


def surfaces(sizes: list[int], nanoseconds_per_run: float) -> None:
    """Print the second table."""
    frames = load_restrained(DATA, "surface")
    print(f"\n| labels | runs | all-atom ns | divergence at {TARGET:g} K |\n|---|---|---|---|")
    for size in sizes:
        for name, (train, runs) in training_sets(frames, size).items():
            model = FreeEnergyRegressor(solver="sparse").fit(train)
            value = divergence(model, train, seed=size)
            print(f"| {name} | {runs} | {runs * nanoseconds_per_run:.2f} | {value:.4f} |", flush=True)


def new_runs(picoseconds: float, configurations: int) -> Frames:
    """The response set again, shorter or longer, with the generator of the bundled one."""
    import kernelfe_data

    sys.path.insert(0, str(Path(next(iter(kernelfe_data.__path__))) / "alanine_dipeptide"))
    from generate_restrained import labelled

    return labelled("response", configurations, picoseconds)


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Print the tables; returns the numbers of the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picoseconds", type=float, help="length of each new run; without it the bundled labels")
    parser.add_argument("--configurations", type=int, default=10, help="of new runs")
    parser.add_argument("--sizes", type=int, nargs="*", default=[], help="half the numbers of runs of the second table")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    if options.picoseconds is None:
        frames = load_restrained(DATA, "response")
    else:
        frames = new_runs(options.picoseconds, options.configurations)
    found = finite_differences(frames)
    numbers = agreement(found) | {"slope_std": slope_error(found)}
    print("| quantity | value |\n|---|---|")
    for key, value in numbers.items():
        unit = 1e3 / KJ if key in ("signal", "response_noise", "quotient_noise") else 1.0
        print(f"| {key}{' (J/mol/Å/K)' if unit != 1.0 else ''} | {value * unit:.4g} |")
    if options.sizes:
        surfaces(options.sizes, 0.0124)
    return numbers


if __name__ == "__main__":
    main()
