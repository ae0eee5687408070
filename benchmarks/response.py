"""Information from restrained ensembles about temperatures that were not simulated, per nanosecond of all-atom time.

1. Response labels k b² Cov(f, U) at 350 K and finite differences of mean forces at 325 and 375 K, at the same fixed
   bead configurations.
2. Jensen–Shannon divergence of the (φ, ψ) surface at 450 K from the reference for three models: of forces at 350 K; of
   these and other labels of the same runs; and of forces at 350 and 500 K, with the same all-atom time.

Both use the bundled labels (data/alanine_dipeptide/restrained_*.npz and generate_restrained.py in the same folder).

    python benchmarks/response.py                   # the first table, seconds
    python benchmarks/response.py --runs 60         # both, some ten minutes on one core
    python benchmarks/response.py --picoseconds 20 --configurations 5   # new runs of the first, needs OpenMM
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
FORCES, RESPONSES = ("mean_force", "generalized_force"), ("thermal_response_force", "generalized_thermal_response")
#: Label sets from the same runs at one temperature; "forces" are those on beads and the torques.
ONE = {
    "forces": FORCES,
    "forces + responses": FORCES + RESPONSES,
    "forces + energies": (*FORCES, "mean_energy"),
    "forces + energies + responses": (*FORCES, "mean_energy", *RESPONSES),
}
#: All-atom time of one run of the surface set, ns: 10 ps, 2 ps of equilibration and the path to the configuration.
NANOSECONDS = 0.0124


def finite_differences(frames: Frames, force_key: str, response_key: str) -> dict[str, np.ndarray]:
    """Responses at the middle temperature and difference quotients across it, with errors: arrays (n, ...)."""
    low, middle, high = np.unique(frames.temperature)
    parts = {t: frames[frames.temperature == t] for t in (low, middle, high)}
    assert all(np.array_equal(p.positions, parts[middle].positions) for p in parts.values())
    force = {t: p.labels[force_key] for t, p in parts.items()}
    noise = {t: p.noise[force_key] for t, p in parts.items()}
    return {
        "response": parts[middle].labels[response_key],
        "response_std": parts[middle].noise[response_key],
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
    # slope of y on x when both have known errors: the noise of x is subtracted from its mean square
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


def extrapolation(frames: Frames, force_key: str, response_key: str) -> dict[str, float]:
    """χ² per component of the change of forces between two temperatures, without and with the response at the lower."""
    low, high = np.unique(frames.temperature)
    a, b = frames[frames.temperature == low], frames[frames.temperature == high]
    change, variance = b.labels[force_key] - a.labels[force_key], a.noise[force_key] ** 2 + b.noise[force_key] ** 2
    rest = change - (high - low) * a.labels[response_key]
    noise = variance + ((high - low) * a.noise[response_key]) ** 2
    return {
        "chi2 of F(500 K) - F(350 K)": float(np.mean(change**2 / variance)),
        "chi2 less 150 K times the response": float(np.mean(rest**2 / noise)),
    }


def slope_error(found: dict[str, np.ndarray]) -> float:
    """Standard error of the slope by leaving out configurations (jackknife)."""
    n = len(found["response"])
    left_out = [agreement({k: np.delete(v, i, axis=0) for k, v in found.items()})["slope"] for i in range(n)]
    return float(np.sqrt((n - 1) * np.var(left_out)))


def divergence(
    model: FreeEnergyRegressor, start: Frames, seed: int, temperature: float = TARGET, steps: int = 150
) -> float:
    """Divergence of the model's samples at a temperature from the reference."""
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


def training_sets(frames: Frames, runs: int) -> dict[str, Frames]:
    """Label sets from ``runs`` runs: at 350 K, or half of them at 500 K. The same configurations in every set."""
    one, two = (frames[frames.temperature == t] for t in np.unique(frames.temperature))
    both = Frames.concatenate([one[:runs:2], two[1:runs:2]])
    sets = {f"{name}, 350 K": one[:runs].with_labels(keys) for name, keys in ONE.items()}
    return sets | {"forces, 350 and 500 K": both.with_labels(FORCES)}


def held_out(model: FreeEnergyRegressor, test: Frames, key: str) -> tuple[float, float]:
    """Root mean square error without the noise of the labels, and mean log predictive density per component."""
    mean, std = model.predict(test, key, return_std=True)
    difference, noise = test.labels[key] - mean, test.noise[key]
    variance = std**2 + noise**2
    density = -0.5 * (np.log(2.0 * np.pi * variance) + difference**2 / variance)
    return float(np.sqrt(max(np.mean(difference**2 - noise**2), 0.0))), float(density.mean())


def surfaces(runs: list[int]) -> None:
    """Print the second table."""
    frames = load_restrained(DATA, "surface")
    hot = frames[frames.temperature == frames.temperature.max()]
    print(
        f"\n| labels | runs | all-atom ns | divergence at {TARGET:g} K | torques at 500 K: error, kJ/mol/rad | "
        "log density |\n|---|---|---|---|---|---|"
    )
    # the inducing environments of the sparse solver cannot represent labels with so little noise
    for n in runs:
        # labelled at 350 K in every set and at 500 K in none: this tests the temperature dependence
        test = hot[:n:2]
        for name, train in training_sets(frames, n).items():
            model = FreeEnergyRegressor(solver="dense").fit(train)
            error, density = held_out(model, test, "generalized_force")
            cells = [f"{error / KJ:.2f}", f"{density + np.log(KJ):.2f}"]
            cells = [name, f"{n}", f"{n * NANOSECONDS:.2f}", f"{divergence(model, train, seed=n):.4f}", *cells]
            print(f"| {' | '.join(cells)} |", flush=True)


def new_runs(picoseconds: float, configurations: int) -> Frames:
    """Generate the response set again, shorter or longer, with the generator of the bundled one."""
    import kernelfe_data

    sys.path.insert(0, str(Path(next(iter(kernelfe_data.__path__))) / "alanine_dipeptide"))
    from generate_restrained import labelled

    return labelled("response", configurations, picoseconds)


def main(argv: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Print the tables; returns the numbers of the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picoseconds", type=float, help="length of each new run; without it the bundled labels")
    parser.add_argument("--configurations", type=int, default=10, help="of new runs")
    parser.add_argument("--runs", type=int, nargs="*", default=[], help="numbers of runs of the second table")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    if options.picoseconds is None:
        frames = load_restrained(DATA, "response")
    else:
        frames = new_runs(options.picoseconds, options.configurations)
    out = {}
    for name, *keys in zip(("forces on beads", "torques"), FORCES, RESPONSES, strict=True):
        found = finite_differences(frames, *keys)
        out[name] = agreement(found) | {"slope_std": slope_error(found)}
        out[name] |= extrapolation(load_restrained(DATA, "surface"), *keys)
    print(f"| quantity | {' | '.join(out)} |\n|{'---|' * (1 + len(out))}")
    for key in next(iter(out.values())):
        thermal = key in ("signal", "response_noise", "quotient_noise")
        cells = [f"{numbers[key] * (1e3 / KJ if thermal else 1.0):.4g}" for numbers in out.values()]
        print(f"| {key}{', J/mol/K per Å or rad' if thermal else ''} | {' | '.join(cells)} |")
    if options.runs:
        surfaces(options.runs)
    return out


if __name__ == "__main__":
    main()
