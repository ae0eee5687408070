"""Generate the SPC/E water data set. Needs OpenMM; about 15 minutes on one core for each run.

    python generate.py --temperature 310 --out raw/water_310.npz
    python generate.py --temperature 298 --pressure 1 --out raw/water_298_npt.npz

216 rigid molecules, particle-mesh Ewald, time step 1 fs (2 fs breaks equipartition of rigid water). A frame has the
centres of mass, the net force on each molecule, the potential energy and the molecular virial: the derivative of the
energy as box and centres of mass are scaled and molecules keep their shape. The file is rewritten, atomically,
every 50 frames, so that an interrupted run leaves what it had. ``pack.py`` turns the runs into the bundled files.
"""

from __future__ import annotations

import argparse
import os

import numpy as np
import openmm
from openmm import app, unit

MOLECULES = 216
EDGE_NM = 1.8644  # 0.997 g/cm3
TIMESTEP_FS = 1.0
STRAIN = 1e-3  # of lengths, for the virial
MASSES = np.array([15.99943, 1.007947, 1.007947])


def _save(path, **arrays):
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path + ".part", "wb") as handle:
        np.savez(handle, **arrays)
    os.replace(path + ".part", path)


def simulation(temperature, pressure, seed):
    """Simulation of SPC/E water, from a solvent box compressed to the density and minimised."""
    field = app.ForceField("spce.xml")
    modeller = app.Modeller(app.Topology(), [])
    modeller.addSolvent(field, model="spce", numAdded=MOLECULES)
    system = field.createSystem(
        modeller.topology, nonbondedMethod=app.PME, nonbondedCutoff=0.9 * unit.nanometer, rigidWater=True
    )
    if pressure is not None:
        system.addForce(openmm.MonteCarloBarostat(pressure * unit.bar, temperature * unit.kelvin, 25))
    integrator = openmm.LangevinMiddleIntegrator(temperature, 1.0, TIMESTEP_FS / 1000)
    integrator.setRandomNumberSeed(seed)
    integrator.setConstraintTolerance(1e-6)
    run = app.Simulation(
        modeller.topology, system, integrator, openmm.Platform.getPlatformByName("CPU"), {"Threads": "1"}
    )
    edge = modeller.topology.getPeriodicBoxVectors()[0][0].value_in_unit(unit.nanometer)
    atoms = np.array(modeller.positions.value_in_unit(unit.nanometer))
    run.context.setPositions(scaled(atoms, EDGE_NM / edge))
    run.context.setPeriodicBoxVectors(*(EDGE_NM * np.eye(3)))
    run.minimizeEnergy(maxIterations=200)
    run.context.setVelocitiesToTemperature(temperature, seed)
    return run


def scaled(atoms, factor):
    """Atoms with the centres of mass of the molecules multiplied by a factor, each molecule moved as a whole."""
    molecules = atoms.reshape(-1, 3, 3)
    centres = np.einsum("a,iax->ix", MASSES / MASSES.sum(), molecules)
    return (molecules + ((factor - 1) * centres)[:, None]).reshape(-1, 3)


def energy_at(run, atoms, box):
    run.context.setPeriodicBoxVectors(*box)
    run.context.setPositions(atoms)
    return run.context.getState(energy=True).getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)


def frame(run):
    """Centres of mass, cell, atoms (Angstrom), net forces (kJ/mol/Angstrom), energy and -dU/dln V (kJ/mol)."""
    state = run.context.getState(positions=True, velocities=True, forces=True, energy=True)
    atoms = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
    forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.angstrom)
    box = np.array(state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.nanometer))
    up, down = (energy_at(run, scaled(atoms, 1 + e), box * (1 + e)) for e in (STRAIN, -STRAIN))
    run.context.setState(state)
    centres = np.einsum("a,iax->ix", MASSES / MASSES.sum(), atoms.reshape(-1, 3, 3))
    return {
        "positions": np.float32(10 * centres),
        "forces": np.float32(forces.reshape(-1, 3, 3).sum(1)),
        "energies": state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole),
        "virials": -(up - down) / (6 * STRAIN),
        "cells": 10 * box,
        "atoms": np.float32(10 * atoms),
    }


def main(temperature, pressure, seed, frames, spacing_ps, equilibration_ps, out):
    run = simulation(temperature, pressure, seed)
    run.step(round(equilibration_ps * 1000 / TIMESTEP_FS))
    rows = []
    for _ in range(frames):
        run.step(round(spacing_ps * 1000 / TIMESTEP_FS))
        rows.append(frame(run))
        if len(rows) % 50 == 0 or len(rows) == frames:
            arrays = {key: np.array([row[key] for row in rows]) for key in rows[0]}
            _save(out, **arrays, temperature=temperature, seed=seed, spacing_ps=spacing_ps, pressure=pressure or np.nan)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--temperature", type=float, required=True)
    parser.add_argument("--pressure", type=float, help="bar; without it the volume is fixed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--spacing-ps", type=float, default=0.8)
    parser.add_argument("--equilibration-ps", type=float, default=40.0)
    parser.add_argument("--out", required=True)
    main(**vars(parser.parse_args()))
