"""Restrained ensembles of alanine dipeptide: labels at held bead configurations. Needs OpenMM.

    python generate_restrained.py surface --out restrained_surface.npz     # 380 short runs, 4.7 ns of all-atom time
    python generate_restrained.py response --out restrained_response.npz   # 30 long runs, 3.1 ns

Both take the bead configurations from the bundled 600 K frames, spread evenly over the torsions that occur there, and
start each run from the nearest of the bundled all-atom frames. ``surface`` labels the same 190 configurations at 350
and 500 K; ``response`` labels 10 of them at 350 K and 25 K below and above, long enough to compare Cov(f, U) with
finite differences. The files are written anew after every tenth configuration, so a run that is stopped leaves them.
"""

from __future__ import annotations

import argparse

import numpy as np
from system import BEADS, BONDS, FORCE_GROUPS, PHI, PSI, build, dihedral

from kernelfe import Frames
from kernelfe.allatom import RestrainedEnsemble, RestrainedProtocol
from kernelfe.datasets import load, load_atoms
from kernelfe.statistics import TorsionField, group_force_map, rotatable_bonds, slice_map

#: Set: configurations, temperatures (K), picoseconds of each run, seed.
SETS = {"surface": (190, (350.0, 500.0), 10.0, 41), "response": (10, (350.0, 325.0, 375.0), 100.0, 42)}
#: Hydrogens of 2.5 u allow 3 fs, as in the training runs; a frame every 30 fs.
PROTOCOL = RestrainedProtocol(timestep=3.0, stride=10)


def spread(frames, count):
    """Rows of ``frames``, each the farthest in (cos, sin) of both torsions from those chosen before."""
    angles = np.stack([dihedral(frames.positions, quad) for quad in (PHI, PSI)], axis=1)
    z = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    rows, distance = [0], np.full(len(z), np.inf)
    while len(rows) < count:
        distance = np.minimum(distance, ((z - z[rows[-1]]) ** 2).sum(axis=1))
        rows.append(int(distance.argmax()))
    return np.array(rows)


def ensemble():
    """The driver with the data set's force map and torques."""
    _, system = build()
    constraints = [tuple(system.getConstraintParameters(k)[:2]) for k in range(system.getNumConstraints())]
    n = system.getNumParticles()
    fields = [TorsionField(BONDS, *bond) for bond in rotatable_bonds(BONDS, BEADS)]
    forces = group_force_map(n, BEADS, FORCE_GROUPS, constraints)
    return RestrainedEnsemble(system, slice_map(n, BEADS), forces, fields, PROTOCOL)


def labelled(which, count=None, picoseconds=None, save=None):
    """Labels of one of the sets, by default of its full size; ``save`` is called with what there is, now and then."""
    full, temperatures, length, seed = SETS[which]
    count, picoseconds = count or full, picoseconds or length
    hot = load("alanine-dipeptide")
    hot = hot[hot.temperature == 600.0].drop_labels()
    # the first rows of the larger set are those of the smaller one: spread() never revises a choice
    chosen = hot[spread(hot, count)].replace(displacements=None)
    starts = load_atoms("alanine-dipeptide").positions
    driver, parts = ensemble(), []
    for k in range(count):
        for t in temperatures:
            row = chosen[[k]].replace(temperature=t)
            parts.append(driver.sample(row, starts, picoseconds, seed=seed + 1000 * k + int(t), progress=False))
        if save is not None and (k % 10 == 9 or k == count - 1):
            save(Frames.concatenate(parts))
            print(f"{k + 1} of {count} configurations, {1e-3 * driver.simulated:.2f} ns", flush=True)
    return Frames.concatenate(parts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=SETS)
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    labelled(options.which, save=lambda frames: frames.save(options.out, dtype="float32"))
