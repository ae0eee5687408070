"""Mean forces of (φ, ψ) integrate to the free energy of the histogram only with their kT·div term.

All-atom frames of alanine dipeptide; fields along M⁻¹∇(φ, ψ), projected on the constrained bonds, so that their
divergences do not vanish (those of rigid rotations do, and are shown for comparison). For φ < 0 and each temperature
the force on either angle is averaged in bins of that angle. Steps of −∫⟨q⟩ between neighbouring bins with enough
frames are compared with −kT ln p of the same frames. χ² uses the covariance of both; z is that of the steps
along the predicted error −kT⟨D⟩·width, the most sensitive single number.

    python benchmarks/collective_forces.py                 # bundled frames
    python benchmarks/collective_forces.py --raw FOLDER    # whole runs of data/alanine_dipeptide/generate.py
"""

from __future__ import annotations

import argparse
import glob
import os

import numpy as np
from scipy.stats import chi2

from kernelfe.datasets import load_atoms
from kernelfe.statistics import CollectiveForces, Dihedral, TorsionField, collective_forces, rotatable_bonds
from kernelfe.units import BOLTZMANN, factor

VARIABLES = (Dihedral(1, 6, 8, 14), Dihedral(6, 8, 14, 16))  # φ, ψ in the order of the atoms of the data set
BINS, FEWEST = 36, 25


def step_test(found: CollectiveForces, column: int, energy_of_divergence: bool) -> tuple[float, int, float, float]:
    """χ² and its degrees of freedom, and weighted sum and weight of the steps along the omitted term."""
    kt = BOLTZMANN * found.temperature[0]
    inside = found.values[:, 0] < 0.0  # the fields do not leave this region: each field moves only its own angle
    s, q, d = found.values[inside, column], found.forces[inside, column], found.divergences[inside, column]
    if not energy_of_divergence:
        q = q - kt * d
    edges = np.linspace(-np.pi, np.pi, BINS + 1)
    width = edges[1] - edges[0]
    cell = np.clip(np.searchsorted(edges, s, side="right") - 1, 0, BINS - 1)
    n = np.bincount(cell, minlength=BINS)
    mean, square, div = (np.bincount(cell, v, BINS) / np.maximum(n, 1) for v in (q, q**2, d))
    variance = (square - mean**2) / np.maximum(n - 1, 1)
    # pairs of neighbours around the circle; those of φ never cross 0 or −180° inside φ < 0
    pairs = [(k, (k + 1) % BINS) for k in range(BINS) if min(n[k], n[(k + 1) % BINS]) >= FEWEST]
    a, b = np.array(pairs).T
    rows = np.arange(len(pairs))
    average, jump = np.zeros((2, len(pairs), BINS))
    average[rows, a] = average[rows, b] = 0.5 * width
    jump[rows, b], jump[rows, a] = 1.0, -1.0
    y = average @ mean - kt * jump @ np.log(np.maximum(n, 1))
    covariance = average * variance @ average.T + kt**2 * (jump / np.maximum(n, 1)) @ jump.T
    along = average @ (kt * div)
    weights = np.linalg.solve(covariance, along)
    return float(y @ np.linalg.solve(covariance, y)), len(y), float(weights @ y), float(weights @ along)


def summary(parts: list[CollectiveForces], energy_of_divergence: bool) -> tuple[float, float]:
    """p of χ² and z along the term, over temperatures; for φ, then ψ."""
    tests = np.array([step_test(part, column, energy_of_divergence) for part in parts for column in (0, 1)])
    total = tests.sum(axis=0)
    return float(chi2.sf(total[0], total[1])), float(total[2] / np.sqrt(total[3])) if total[3] > 0.0 else np.nan


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", help="folder with train_*.npz")
    folder = parser.parse_args().raw
    atoms, kj = load_atoms("alanine-dipeptide"), factor("kJ/mol")
    runs = []
    if folder is None:
        for t in np.unique(atoms.temperature):
            rows = atoms.temperature == t
            runs.append((atoms.positions[rows], atoms.forces[rows], float(t)))
    for path in sorted(glob.glob(os.path.join(folder, "train_*.npz"))) if folder else ():
        run = np.load(path)
        runs.append((run["positions"].astype(float), run["forces"].astype(float) * kj, float(run["temperature"])))
    rotations = [TorsionField(atoms.bonds, *bond) for bond in rotatable_bonds(atoms.bonds, atoms.bead_atoms)]
    common = {"masses": atoms.masses, "constraints": atoms.constraints}
    print("| fields | frames | std of q, kJ/mol/rad | kT⟨D⟩ | with: p, z | without: p, z |\n|---|---|---|---|---|---|")
    for name, options in (("M⁻¹∇(φ, ψ)", {}), ("rigid rotations", {"rotations": rotations})):
        parts = [collective_forces(x, f, VARIABLES, t, **common, **options) for x, f, t in runs]
        count = sum(len(part.values) for part in parts)
        spread = np.mean([part.forces.std(axis=0) for part in parts], axis=0) / kj
        term = np.mean([BOLTZMANN * part.temperature[0] * part.divergences.mean(0) for part in parts], axis=0) / kj
        (p1, z1), (p0, z0) = summary(parts, True), summary(parts, False)
        print(
            f"| {name} | {count} | {spread[0]:.0f}, {spread[1]:.0f} | {term[0]:.1f}, {term[1]:.1f} "
            f"| {p1:.2g}, {z1:.1f} | {p0:.2g}, {z0:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
