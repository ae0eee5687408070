"""Density step on alanine dipeptide in five backbone beads, a model that labels alone leave with wrong populations.

The bundled frames without their CB bead: no bead shows on which side of the backbone the side chain is, so labels know
little about φ > 0. Jensen–Shannon divergences of the (φ, ψ) histogram from the reference, before and after
:func:`kernelfe.training.minimize_relative_entropy`, with its record. About two minutes a line on one core.

    python benchmarks/five_beads.py --frames 500 2000 5000 --seeds 5 --temperatures 300
    python benchmarks/five_beads.py --labels mean_force --temperatures 300 400 500 600

With one temperature the comparison is made there: the reference, given at 350 and 450 K, is carried to it by ln p
linear in 1/kT. With several it is made at 350 K, as in the quickstart.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from kernelfe import Frames, FreeEnergyRegressor, Term
from kernelfe.analysis import dihedral_angles, jensen_shannon_divergence, periodic_histogram
from kernelfe.datasets import load, load_reference
from kernelfe.descriptors import InternalCoordinates
from kernelfe.quickstart import Sampler
from kernelfe.quickstart.cases import SAMPLING, effective_samples
from kernelfe.simulate import run_langevin, sample, uniform_masses
from kernelfe.training import minimize_relative_entropy
from kernelfe.units import BOLTZMANN

KEPT = (0, 1, 2, 4, 5)
PHI, PSI = (0, 1, 2, 3), (1, 2, 3, 4)
BONDS = ((0, 1), (1, 2), (2, 3), (3, 4))


def five_bead_frames(n: int, seed: int, temperatures: list[float]) -> Frames:
    """Random frames in their order in time, ``n`` in all; forces on the dropped bead are dropped with it."""
    data, rng, rows = load("alanine-dipeptide"), np.random.default_rng(seed), []
    for t in temperatures:
        run = np.flatnonzero(data.temperature == t)
        rows.append(np.sort(rng.choice(run, min(n // len(temperatures), len(run)), replace=False)))
    part, kept = data[np.concatenate(rows)], list(KEPT)
    labels = {name: part.labels[name] for name in ("mean_energy", "generalized_force")}
    return Frames.from_arrays(
        part.positions[:, kept],
        temperature=part.temperature,
        labels=labels | {"mean_force": part.labels["mean_force"][:, kept]},
        displacements=part.displacements[:, :, kept],
        kinds=[part.kinds[b] for b in kept],
        bonds=BONDS,
    )


def reference(temperature: float) -> np.ndarray:
    """(φ, ψ) histogram of the parallel tempering reference, 36 × 36."""
    p350, p450 = load_reference("alanine-dipeptide").probability
    b = [1.0 / (BOLTZMANN * t) for t in (350.0, 450.0, temperature)]
    with np.errstate(divide="ignore", invalid="ignore"):
        log = np.log(p350) + (b[2] - b[0]) / (b[0] - b[1]) * (np.log(p350) - np.log(p450))
    p = np.where(np.isfinite(log), np.exp(log), 0.0)
    return p / p.sum()


def divergence(model: FreeEnergyRegressor, frames: Frames, temperature: float, seed: int) -> tuple[float, float]:
    """Divergence from the reference and the population of φ > 0, with the quickstart's sampler."""
    sampler, rng = Sampler(effective=20_000), np.random.default_rng([seed, 1])
    protocol, frozen = SAMPLING.for_bonds(frames.bonds).with_options(seed=seed), model.frozen()
    start = frames.positions[rng.integers(len(frames), size=sampler.replicas)]
    run = run_langevin(frozen, start, temperature, protocol, masses=uniform_masses(5), progress=False)
    angles = [dihedral_angles(run.positions, (PHI, PSI))]
    while (
        len(angles) * protocol.steps < sampler.longest and effective_samples(np.concatenate(angles)) < sampler.effective
    ):
        run = sample(frozen, run.state, protocol, burn_in=0, progress=False)
        angles.append(dihedral_angles(run.positions, (PHI, PSI)))
    all_ = np.concatenate(angles).reshape(-1, 2)
    truth = reference(temperature)
    return jensen_shannon_divergence(periodic_histogram(all_, len(truth)), truth), float((all_[:, 0] > 0.0).mean())


def main() -> None:
    """Print the table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[500, 2000, 5000])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--temperatures", type=float, nargs="+", default=[300.0])
    parser.add_argument("--labels", nargs="+", default=None, help="label kinds; default: all")
    parser.add_argument("--terms", choices=["default", "internal"], default="default")
    given = parser.parse_args()
    torch.set_num_threads(1)
    internal = InternalCoordinates(bonds=BONDS, angles=((0, 1, 2), (1, 2, 3), (2, 3, 4)), dihedrals=(PHI, PSI))
    terms = None if given.terms == "default" else Term(internal)
    target = given.temperatures[0] if len(given.temperatures) == 1 else 350.0
    print(f"{given.terms} terms, {given.labels or 'all labels'}, {given.temperatures} K, compared at {target:g} K")
    print(f"φ > 0 of the reference: {reference(target)[18:].sum():.4f}")
    print("| frames | seed | φ > 0: frames, labels, density | labels | with density | gain, nats | models | CPU s | |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for n in given.frames:
        for seed in given.seeds:
            frames = five_bead_frames(n, seed, given.temperatures)
            model = FreeEnergyRegressor(terms, solver="sparse", labels=given.labels, random_state=seed).fit(frames)
            begin = time.process_time()
            found = minimize_relative_entropy(model, frames, seed=seed, progress=False)
            seconds = time.process_time() - begin
            before, after = (divergence(m, frames, target, seed) for m in (model, found.model))
            here = frames.positions[frames.temperature == given.temperatures[0]]
            crossed = float((dihedral_angles(here, (PHI,)) > 0.0).mean())
            print(
                f"| {n} | {seed} | {crossed:.4f}, {before[1]:.4f}, {after[1]:.4f} | {before[0]:.4f} | {after[0]:.4f} | "
                f"{found.gain:.1f} ± {found.gain_error:.1f} | {len(found.rounds)} | {seconds:.0f} | "
                f"{'converged' if found.converged else 'not converged'} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
