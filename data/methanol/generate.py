"""Generate the methanol data set: OPLS-AA, 125 flexible molecules, 298 K, constant volume. Needs OpenMM; five minutes.

    python generate.py --out .          # writes frames.npz and two_beads.npz

Time step 1 fs without constraints, particle-mesh Ewald, geometric mixing of Lennard-Jones parameters. A frame has the
net force on each bead and the potential energy. ``frames.npz``: one bead per molecule at its centre of mass.
``two_beads.npz``: the centres of mass of CH3 (kind C) and of OH (kind O), bonded. Without constraints the net force on
the atoms of a bead is the right label for its centre of mass.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import openmm
from openmm import unit

from kernelfe import Frames
from kernelfe.units import factor

MOLECULES = 125
EDGE = 2.0378  # nm, 0.786 g/cm3
TEMPERATURE = 298.0
CUTOFF = 0.95  # nm
KCAL = 4.184  # kJ/mol
MASSES = np.array([12.011, 1.008, 1.008, 1.008, 15.999, 1.008])  # C, three H, O, H(O)
CHARGES = np.array([0.145, 0.04, 0.04, 0.04, -0.683, 0.418])
SIGMA = np.array([0.35, 0.25, 0.25, 0.25, 0.312, 0.1])  # nm; without effect for H(O)
EPSILON = KCAL * np.array([0.066, 0.03, 0.03, 0.03, 0.17, 0.0])
BONDS = [(0, 4, 320.0, 0.141), (4, 5, 553.0, 0.0945), *((0, h, 340.0, 0.109) for h in (1, 2, 3))]  # kcal/mol/A2, nm
ANGLES = [
    *((a, 0, b, 33.0, 107.8) for a, b in ((1, 2), (1, 3), (2, 3))),
    *((h, 0, 4, 35.0, 109.5) for h in (1, 2, 3)),
    (0, 4, 5, 55.0, 108.5),
]  # kcal/mol/rad2, degrees
TORSION = 0.45  # kcal/mol, V3 of H-C-O-H


def system() -> openmm.System:
    """OPLS-AA methanol."""
    out = openmm.System()
    out.setDefaultPeriodicBoxVectors(*(EDGE * np.eye(3)))
    bonds, angles, torsions = openmm.HarmonicBondForce(), openmm.HarmonicAngleForce(), openmm.PeriodicTorsionForce()
    charges = openmm.NonbondedForce()
    charges.setNonbondedMethod(openmm.NonbondedForce.PME)
    charges.setCutoffDistance(CUTOFF)
    dispersion = openmm.CustomNonbondedForce(
        "4*e*(x^2-x); x=(s/r)^6; s=sqrt(sigma1*sigma2); e=sqrt(epsilon1*epsilon2)"  # geometric mixing
    )
    dispersion.addPerParticleParameter("sigma")
    dispersion.addPerParticleParameter("epsilon")
    dispersion.setNonbondedMethod(openmm.CustomNonbondedForce.CutoffPeriodic)
    dispersion.setCutoffDistance(CUTOFF)
    dispersion.setUseLongRangeCorrection(True)
    for first in range(0, 6 * MOLECULES, 6):
        for k in range(6):
            out.addParticle(MASSES[k])
            charges.addParticle(CHARGES[k], 0.1, 0.0)
            dispersion.addParticle([SIGMA[k], EPSILON[k]])
        for i, j, k, r in BONDS:
            bonds.addBond(first + i, first + j, r, 2.0 * k * KCAL * 100.0)
        for i, j, k, stiff, degrees in ANGLES:
            angles.addAngle(first + i, first + j, first + k, np.radians(degrees), 2.0 * stiff * KCAL)
        for h in (1, 2, 3):
            torsions.addTorsion(first + h, first, first + 4, first + 5, 3, 0.0, 0.5 * TORSION * KCAL)
        for i in range(6):
            for j in range(i + 1, 6):
                # the pairs four atoms apart are those of H(C) with H(O), which has no Lennard-Jones energy
                share = 0.5 if i in (1, 2, 3) and j == 5 else 0.0
                charges.addException(first + i, first + j, share * CHARGES[i] * CHARGES[j], 0.1, 0.0)
                dispersion.addExclusion(first + i, first + j)
    for force in (bonds, angles, torsions, charges, dispersion):
        out.addForce(force)
    return out


def start(seed: int) -> np.ndarray:
    """Molecules on a cubic lattice in random orientations, nm."""
    rng = np.random.default_rng(seed)
    one = np.array([[0, 0, 0], [-0.036, 0.103, 0], [-0.036, -0.051, 0.089], [-0.036, -0.051, -0.089], [0.141, 0, 0]])
    one = np.vstack([one, [[0.171, -0.09, 0.0]]])
    one -= MASSES @ one / MASSES.sum()
    turns = np.linalg.qr(rng.normal(size=(MOLECULES, 3, 3)))[0]
    turns *= np.sign(np.linalg.det(turns))[:, None, None]
    side = round(MOLECULES ** (1 / 3))
    sites = (np.stack(np.meshgrid(*3 * [np.arange(side)]), -1).reshape(-1, 3) + 0.5) * EDGE / side
    return (one @ turns + sites[:, None]).reshape(-1, 3)


def beads(array: np.ndarray, groups: list[list[int]], mean: bool) -> np.ndarray:
    """Centres of mass, or sums, of groups of atoms of each molecule, (n, beads, 3)."""
    atoms = array.reshape(len(array), MOLECULES, 6, 3)
    parts = []
    for group in groups:
        weight = MASSES[group] / MASSES[group].sum() if mean else np.ones(len(group))
        parts.append(np.einsum("a,nmax->nmx", weight, atoms[:, :, group]))
    return np.stack(parts, 2).reshape(len(array), -1, 3)


def main(out: Path, frames: int, spacing_ps: float, equilibration_ps: float, seed: int) -> None:
    integrator = openmm.LangevinMiddleIntegrator(TEMPERATURE, 2.0, 0.001)
    integrator.setRandomNumberSeed(seed)
    context = openmm.Context(system(), integrator, openmm.Platform.getPlatformByName("CPU"), {"Threads": "1"})
    context.setPositions(start(seed))
    openmm.LocalEnergyMinimizer.minimize(context, maxIterations=200)
    context.setVelocitiesToTemperature(TEMPERATURE, seed)
    integrator.step(round(1000 * equilibration_ps))
    x, f, u = [], [], []
    for _ in range(frames):
        integrator.step(round(1000 * spacing_ps))
        state = context.getState(positions=True, forces=True, energy=True)
        x.append(state.getPositions(asNumpy=True).value_in_unit(unit.angstrom))
        f.append(state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.angstrom))
        u.append(state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole))
    x, f, u = np.array(x), factor("kJ/mol") * np.array(f), factor("kJ/mol") * np.array(u)
    cell = np.tile(10.0 * EDGE * np.eye(3), (frames, 1, 1))
    two = [[0, 1, 2, 3], [4, 5]]
    maps = {
        "frames": ([[0, 1, 2, 3, 4, 5]], ["M"], None),
        "two_beads": (two, ["C", "O"], [(2 * m, 2 * m + 1) for m in range(MOLECULES)]),
    }
    for name, (groups, kinds, bonds) in maps.items():
        Frames.from_arrays(
            np.round(beads(x, groups, True), 5),  # Angstrom
            temperature=np.full(frames, TEMPERATURE),
            labels={"mean_force": np.round(beads(f, groups, False), 6), "mean_energy": u},
            cell=cell,
            kinds=kinds * MOLECULES,
            bonds=bonds,
            masses=np.tile([MASSES[group].sum() for group in groups], MOLECULES),
        ).save(out / f"{name}.npz", dtype="float32")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--spacing-ps", type=float, default=0.7)
    parser.add_argument("--equilibration-ps", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=1)
    main(**vars(parser.parse_args()))
