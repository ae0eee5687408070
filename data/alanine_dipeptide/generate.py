"""Generate the alanine-dipeptide data set. Needs OpenMM; takes about three hours on one core.

    python generate.py train --temperature 300 --seed 1 --frames 5000 --out raw/train_300.npz
    python generate.py reference --seed 11 --nanoseconds 30 --out raw/reference_11.npz

Training frames come from plain Langevin runs, one per temperature; the reference from parallel
tempering with other seeds, so the two share no frame. ``pack.py`` turns both into the bundled files.
"""

from __future__ import annotations

import argparse
import math
import os

import numpy as np
from openmm import unit
from system import BEADS, PHI, PSI, TIMESTEP_FS, context_at, dihedral

GAS_CONSTANT = 8.31446261815324e-3  # kJ/mol/K
LADDER = (300.0, 350.0, 400.0, 450.0, 520.0, 600.0)


def _save(path, **arrays):
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path + ".part", "wb") as handle:
        np.savez(handle, **arrays)
    os.replace(path + ".part", path)


def train(temperature, seed, frames, spacing_ps, equilibration_ps, out):
    """Frames of one temperature: positions (Angstrom), forces (kJ/mol/Angstrom), energies (kJ/mol)."""
    context, integrator = context_at(temperature, seed)
    integrator.step(round(equilibration_ps * 1000 / TIMESTEP_FS))
    stride = round(spacing_ps * 1000 / TIMESTEP_FS)
    positions, forces, energies = [], [], []
    for _ in range(frames):
        integrator.step(stride)
        state = context.getState(positions=True, forces=True, energy=True)
        positions.append(state.getPositions(asNumpy=True).value_in_unit(unit.angstrom))
        forces.append(state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.angstrom))
        energies.append(state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole))
    _save(
        out,
        positions=np.array(positions, np.float32),
        forces=np.array(forces, np.float32),
        energies=np.array(energies),
        temperature=temperature,
        seed=seed,
        spacing_ps=spacing_ps,
    )


def reference(seed, nanoseconds, out):
    """Parallel tempering: backbone torsions (radians) and potential energies of every rung, each picosecond."""
    rng = np.random.default_rng(seed)
    replicas = [context_at(t, 1000 * seed + k) for k, t in enumerate(LADDER)]
    beta = 1.0 / (GAS_CONSTANT * np.array(LADDER))
    stride = round(1000 / TIMESTEP_FS)
    rounds = int(nanoseconds * 1000)
    torsions = np.zeros((rounds, len(LADDER), 2), np.float32)
    energies = np.zeros((rounds, len(LADDER)), np.float32)
    walkers = np.zeros((rounds, len(LADDER)), np.int8)
    at = np.arange(len(LADDER))  # at[k]: the context now at rung k
    accepted, tried = np.zeros(len(LADDER) - 1), np.zeros(len(LADDER) - 1)
    for n in range(-200, rounds):  # 200 ps of equilibration
        u = np.zeros(len(LADDER))
        for k, c in enumerate(at):
            context, integrator = replicas[c]
            integrator.step(stride)
            state = context.getState(positions=True, energy=True)
            u[k] = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
            if n >= 0:
                beads = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)[list(BEADS)]
                torsions[n, k] = dihedral(beads, PHI), dihedral(beads, PSI)
        if n >= 0:
            energies[n], walkers[n] = u, at
        for k in range(n % 2, len(LADDER) - 1, 2):
            tried[k] += 1
            if math.log(rng.random()) < (beta[k + 1] - beta[k]) * (u[k + 1] - u[k]):
                accepted[k] += 1
                at[k], at[k + 1] = at[k + 1], at[k]
                for rung, other in ((k, k + 1), (k + 1, k)):
                    context, integrator = replicas[at[rung]]
                    integrator.setTemperature(LADDER[rung])
                    velocities = context.getState(velocities=True).getVelocities(asNumpy=True)
                    context.setVelocities(velocities * math.sqrt(LADDER[rung] / LADDER[other]))
        if n > 0 and n % 5000 == 0:
            print(n, accepted / tried, flush=True)
            _save(
                out, torsions=torsions[:n], energies=energies[:n], walkers=walkers[:n], temperatures=LADDER, seed=seed
            )
    _save(out, torsions=torsions, energies=energies, walkers=walkers, temperatures=LADDER, seed=seed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    p = commands.add_parser("train")
    p.add_argument("--temperature", type=float, required=True)
    p.add_argument("--frames", type=int, default=5000)
    p.add_argument("--spacing-ps", type=float, default=5.1)
    p.add_argument("--equilibration-ps", type=float, default=300.0)
    q = commands.add_parser("reference")
    q.add_argument("--nanoseconds", type=float, default=30.0)
    for command in (p, q):
        command.add_argument("--seed", type=int, required=True)
        command.add_argument("--out", required=True)
    options = vars(parser.parse_args())
    {"train": train, "reference": reference}[options.pop("command")](**options)
