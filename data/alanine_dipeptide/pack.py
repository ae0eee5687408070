"""Turn the raw output of ``generate.py`` into the bundled files. Rerun at will; it takes seconds.

    python pack.py --raw raw            # writes frames.npz, atoms.npz, reference.npz and checks.txt beside this file

Needs kernelfe, OpenMM (for the constraints of the system) and pymbar.
"""

from __future__ import annotations

import argparse
import contextlib
import glob
import os

import numpy as np
from openmm import unit
from system import ATOM_NAMES, BEAD_NAMES, BEADS, BONDS, FORCE_GROUPS, PHI, PSI, build, dihedral

from kernelfe.files.npz import save_npz
from kernelfe.frames import Frames
from kernelfe.statistics import (
    TorsionField,
    block_labels,
    block_standard_error,
    effective_sample_size,
    generalized_forces,
    group_force_map,
    map_forces,
    map_positions,
    reweighted_mean,
    rotatable_bonds,
    slice_map,
    surface,
    temperature_weights,
)
from kernelfe.units import BOLTZMANN, factor

KJ = factor("kJ/mol")
BLOCK_NS = 2.0  # blocks of the bootstrap: many times the slowest relaxation of the exchanging replicas
TARGETS = (350.0, 450.0)
EDGES = np.linspace(-np.pi, np.pi, 37)
ATOM_STRIDE = 4
#: Basins of (φ, ψ) in degrees; ψ wraps.
BASINS = ("beta: phi<0, psi outside (-125, 50)", "alpha: phi<0, psi in (-125, 50)", "left: phi>=0")


def basin(phi, psi):
    """0 beta, 1 alpha, 2 left-handed; angles in radians."""
    alpha = (np.degrees(psi) > -125.0) & (np.degrees(psi) < 50.0)
    return np.where(phi >= 0.0, 2, np.where(alpha, 1, 0))


# ------------------------------------------------------------------ training frames


def read_training(folder):
    """All-atom frames of every training run, ordered by temperature, in eV and Å."""
    runs = sorted(
        (np.load(path) for path in glob.glob(os.path.join(folder, "train_*.npz"))),
        key=lambda run: float(run["temperature"]),
    )
    return {
        "positions": np.concatenate([run["positions"] for run in runs]),
        "forces": np.concatenate([run["forces"].astype(float) * KJ for run in runs]).astype(np.float32),
        "energies": np.concatenate([run["energies"] * KJ for run in runs]).astype(np.float32),
        "temperature": np.concatenate([np.full(len(run["energies"]), float(run["temperature"])) for run in runs]),
    }


def constants():
    """Everything about the molecule a reader needs to recompute the labels."""
    topology, system = build()
    constraints = [system.getConstraintParameters(k)[:2] for k in range(system.getNumConstraints())]
    masses = [atom.element.mass.value_in_unit(unit.dalton) for atom in topology.atoms()]  # true, not repartitioned
    group = np.full(len(ATOM_NAMES), -1)
    for bead, atoms in enumerate(FORCE_GROUPS):
        group[list(atoms)] = bead
    return {
        "atom_names": np.array(ATOM_NAMES),
        "atom_masses": np.array(masses),
        "simulation_masses": np.array(
            [system.getParticleMass(k).value_in_unit(unit.dalton) for k in range(system.getNumParticles())]
        ),
        "bonds": np.array(BONDS),
        "constraints": np.array(constraints),
        "bead_atoms": np.array(BEADS),
        "force_group": group,
    }


def labelled(atoms, fixed):
    """Frames of beads with every label from all-atom frames; also what the test recomputes."""
    n_atoms, groups = len(ATOM_NAMES), FORCE_GROUPS
    forces = group_force_map(n_atoms, BEADS, groups, [tuple(map(int, pair)) for pair in fixed["constraints"]])
    fields = [TorsionField(BONDS, *bond) for bond in rotatable_bonds(BONDS, BEADS)]
    values, shifts = generalized_forces(atoms["positions"], atoms["forces"], fields, BEADS, atoms["temperature"])
    bead = {atom: k for k, atom in enumerate(BEADS)}
    return Frames.from_arrays(
        map_positions(slice_map(n_atoms, BEADS), atoms["positions"]),
        temperature=atoms["temperature"],
        labels={
            "mean_force": map_forces(forces, atoms["forces"]),
            "generalized_force": values,
            "mean_energy": atoms["energies"].astype(float),
        },
        displacements=shifts,
        kinds=BEAD_NAMES,
        masses=[fixed["atom_masses"][list(group)].sum() for group in FORCE_GROUPS],
        bonds=[(bead[i], bead[j]) for i, j in BONDS if i in bead and j in bead],
    )


# ------------------------------------------------------------------ reference


def read_reference(folder):
    """Energies (rounds, rungs) in eV and torsions (rounds, rungs, 2) of each parallel-tempering run."""
    runs = [np.load(path) for path in sorted(glob.glob(os.path.join(folder, "reference_*.npz")))]
    # float32 rounds π upwards
    torsions = [np.clip(run["torsions"].astype(float), -np.pi, np.pi) for run in runs]
    return [run["energies"].astype(float) * KJ for run in runs], torsions, np.array(runs[0]["temperatures"])


def time_blocks(energies):
    """Block label (rounds, rungs) of every sample: all rungs of 2 ns of one run are one block."""
    labels, start = [], 0
    for run in energies:
        labels.append(start + block_labels(len(run), max(2, round(len(run) / (1000 * BLOCK_NS)))))
        start = labels[-1][-1] + 1
    return np.repeat(np.concatenate(labels)[:, None], energies[0].shape[1], axis=1)


def reference_arrays(energies, torsions, ladder):
    """MBAR over all rungs of all runs: probabilities, mean energies and basins with block-bootstrap errors."""
    rng = np.random.default_rng(2024)
    halves = list(zip(energies, torsions, strict=True))
    if len(halves) == 1:  # one run only: its first and second half
        middle = len(energies[0]) // 2
        halves = [(energies[0][:middle], torsions[0][:middle]), (energies[0][middle:], torsions[0][middle:])]
    u, x = np.concatenate(energies), np.concatenate(torsions)
    blocks, weights = time_blocks(energies), temperature_weights(u, ladder, ladder)
    surfaces = [
        surface(x.reshape(-1, 2), weights[list(ladder).index(t)].ravel(), (EDGES, EDGES), blocks.ravel(), rng)
        for t in TARGETS
    ]
    half_probability = np.zeros((2, len(TARGETS), 36, 36))
    sizes = np.zeros(len(TARGETS))
    for h, (uh, xh) in enumerate(halves):
        wh = temperature_weights(uh, ladder, TARGETS)
        angles = np.concatenate([np.cos(xh), np.sin(xh)], axis=-1)
        for k, w in enumerate(wh):
            cell = np.clip(((xh + np.pi) / (2 * np.pi) * 36).astype(int), 0, 35)
            np.add.at(half_probability[h, k], (cell[..., 0], cell[..., 1]), w)
            sizes[k] += reweighted_mean(angles, w)[2].min()
    indicator = np.eye(3)[basin(x[..., 0], x[..., 1])]
    basins = [reweighted_mean(indicator, w)[:2] for w in weights]
    mean_energy = [reweighted_mean(u, w)[:2] for w in weights]
    return {
        "temperatures": np.array(TARGETS),
        "edges": EDGES,
        "probability": np.array([s.probability for s in surfaces]),
        "probability_std": np.array([s.std for s in surfaces]),
        "halves": half_probability,
        "effective_sample_size": sizes,
        "ladder": ladder,
        "rung_samples": np.full(len(ladder), len(u)),
        "runs": np.array(len(energies)),
        "mean_energy": np.array([m[0] for m in mean_energy]),
        "mean_energy_std": np.array([m[1] for m in mean_energy]),
        "rung_mean_energy": u.mean(axis=0),
        "rung_mean_energy_std": block_standard_error(u, 20),
        "basins": np.array(BASINS),
        "basin_population": np.array([b[0] for b in basins]),
        "basin_population_std": np.array([b[1] for b in basins]),
    }


# ------------------------------------------------------------------ checks


def report(frames, energies, torsions, ladder, packed):
    """Print the physics checks: labels, training runs and reference against one another."""
    weights = temperature_weights(np.concatenate(energies), ladder, ladder)
    x, blocks = np.concatenate(torsions), time_blocks(energies)
    print(
        f"reference: {len(energies)} run(s), {len(x)} rounds of {len(ladder)} rungs; effective sample size "
        f"{packed['effective_sample_size'].round()} at {TARGETS} K"
    )
    for k, t in enumerate(TARGETS):
        large = packed["probability"][k] > 1e-3
        relative = np.median(packed["probability_std"][k][large] / packed["probability"][k][large])
        print(
            f"  {t:g} K: JS divergence of the halves {js(*packed['halves'][:, k]):.4f}; "
            f"median relative error of bins above 1e-3: {relative:.3f}"
        )
    for t in np.unique(frames.temperature):
        part = frames[frames.temperature == t]
        rung = list(ladder).index(t) if t in ladder else None
        phi, psi = (dihedral(part.positions, quad) for quad in (PHI, PSI))
        u = part.labels["mean_energy"]
        ess = effective_sample_size(np.stack([np.cos(phi), np.sin(phi), np.cos(psi), np.sin(psi)], 1)).min()
        torque = part.labels["generalized_force"] / KJ
        projected = np.einsum("nbx,nkbx->nk", part.labels["mean_force"], part.displacements) / KJ
        print(
            f"{t:g} K: {len(part)} frames, effective {ess:.0f}; std of the torque labels (phi, psi) "
            f"{torque.std(0).round(2)} kJ/mol/rad at all angles, {within_bins(torque, phi, psi).round(2)} within "
            f"10° bins; projected bead forces {within_bins(projected, phi, psi).round(2)}; "
            f"group forces std {part.labels['mean_force'].std() / KJ:.1f} kJ/mol/Å"
        )
        populations = np.eye(3)[basin(phi, psi)]
        print(
            f"  <U> = {u.mean():.5f} ± {block_standard_error(u):.5f} eV, basins {populations.mean(0).round(4)} ± "
            f"{block_standard_error(populations).round(4)}; std(U) = {u.std() / KJ:.2f} kJ/mol"
        )
        if rung is None:
            continue
        error = np.hypot(block_standard_error(u), packed["mean_energy_std"][rung])
        z = (populations.mean(0) - packed["basin_population"][rung]) / np.hypot(
            block_standard_error(populations), packed["basin_population_std"][rung]
        )
        print(
            f"  reference <U> = {packed['mean_energy'][rung]:.5f} ± {packed['mean_energy_std'][rung]:.5f}, "
            f"z = {(u.mean() - packed['mean_energy'][rung]) / error:+.2f}; basins "
            f"{packed['basin_population'][rung].round(4)} ± {packed['basin_population_std'][rung].round(4)}, "
            f"z = {z.round(2)}"
        )
        if t in TARGETS:
            k = TARGETS.index(t)
            h = np.histogram2d(phi, psi, (EDGES, EDGES))[0] / len(phi)
            print(f"  JS divergence of the training histogram from the reference {js(h, packed['probability'][k]):.4f}")
        # both within φ < 0, which rotation about ψ does not leave: training runs are not equilibrated with φ > 0
        left, kept = phi < 0.0, x[..., 0] < 0.0
        for k, (name, angle, window) in enumerate((("phi", phi, (-180, -40)), ("psi", psi, (-110, 250)))):
            profile(t, name, window, angle[left], torque[left, k], x[kept][:, k], weights[rung][kept], blocks[kept])


def profile(t, name, window, angle, torque, reference_angle, weights, blocks, terms=16):
    """The integral of the mean torque along one torsion against −kT ln p of the reference, in kJ/mol.

    −<torque | angle> is fitted by cosines on the window (regression: unbiased wherever frames lie) and integrated;
    over the whole circle the integral must vanish.
    """
    low, high = np.radians(window)
    angle = (angle - low) % (2 * np.pi)
    angle, torque = angle[angle < high - low], torque[angle < high - low]
    k = np.pi * np.arange(1, terms) / (high - low)
    design = np.column_stack([np.ones_like(angle), np.cos(np.outer(angle, k))])

    def fit(rows):
        return np.linalg.solve(design[rows].T @ design[rows] + 1e-9 * np.eye(terms), design[rows].T @ -torque[rows])

    # whole blocks of time are redrawn: the noise depends on both angles, and those are slow
    rng, parts = np.random.default_rng(1), np.array_split(np.arange(len(angle)), 50)
    draws = [fit(np.concatenate([parts[b] for b in rng.integers(0, 50, 50)])) for _ in range(100)]
    coefficients, covariance = fit(slice(None)), np.cov(draws, rowvar=False)
    whole = (high - low) * coefficients[0], (high - low) * np.sqrt(covariance[0, 0])
    closes = f"around the circle {whole[0]:+.2f} ± {whole[1]:.2f}; " if high - low > 6.28 else ""

    x = (reference_angle[:, None] - low) % (2 * np.pi)
    kept = x[:, 0] < high - low
    edges = np.linspace(0.0, high - low, 1 + round((high - low) / np.radians(5.0)))
    bins = surface(x[kept], weights[kept], (edges,), blocks[kept], rng)
    used = bins.probability > 1e-4
    p, at = bins.probability[used] / bins.probability[used].sum(), 0.5 * (edges[1:] + edges[:-1])[used]
    kt = BOLTZMANN * t / KJ
    integral = np.column_stack([at, np.sin(np.outer(at, k)) / k])
    integral -= p @ integral
    reference = -kt * np.log(p)
    difference = integral @ coefficients - (reference - p @ reference)
    error = np.hypot(
        np.sqrt(np.einsum("ia,ab,ib->i", integral, covariance, integral)), kt * bins.std[used] / bins.probability[used]
    )
    worst = np.abs(difference).argmax()
    print(
        f"  {name} torque in {window}°, kJ/mol: {closes}integral against −kT ln p of the reference: rms "
        f"{np.sqrt(p @ difference**2):.3f} (expected {np.sqrt(p @ error**2):.3f}), largest {difference[worst]:+.2f} "
        f"± {error[worst]:.2f} at {np.degrees(at[worst] + low):.0f}°, rms z "
        f"{np.sqrt(np.mean((difference / error) ** 2)):.2f}, {used.sum()} of {len(used)} bins"
    )


def within_bins(values, phi, psi):
    """Standard deviation of columns within 10° bins of their own angle, kJ/mol/rad: the conditional noise."""
    result = []
    for column, angle in zip(values.T, (phi, psi), strict=True):
        cell = np.digitize(angle, EDGES) - 1
        count = np.clip(np.bincount(cell, minlength=36), 1, None)
        mean = np.bincount(cell, column, 36) / count
        result.append(np.sqrt(np.mean((column - mean[cell]) ** 2)))
    return np.array(result)


def js(p, q):
    """Jensen–Shannon divergence, natural logarithm."""
    m = 0.5 * (p + q)
    return sum(0.5 * (a[a > 0] * np.log(a[a > 0] / m[a > 0])).sum() for a in (p, q))


def main(raw, out):
    """Pack what is in ``raw`` into ``out``."""
    atoms, fixed = read_training(raw), constants()
    frames = labelled(atoms, fixed)
    frames.save(os.path.join(out, "frames.npz"), dtype="float32")
    chosen = np.arange(0, len(frames), ATOM_STRIDE)
    save_npz(
        os.path.join(out, "atoms.npz"), {key: value[chosen] for key, value in atoms.items()} | fixed | {"frame": chosen}
    )
    energies, torsions, ladder = read_reference(raw)
    packed = reference_arrays(energies, torsions, ladder)
    save_npz(os.path.join(out, "reference.npz"), packed)
    names = ("frames.npz", "atoms.npz", "reference.npz")
    print(frames, {name: os.path.getsize(os.path.join(out, name)) for name in names})
    with open(os.path.join(out, "checks.txt"), "w", encoding="utf-8") as handle, contextlib.redirect_stdout(handle):
        report(frames, energies, torsions, ladder, packed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", required=True)
    parser.add_argument("--out", default=os.path.dirname(os.path.abspath(__file__)))
    options = parser.parse_args()
    main(options.raw, options.out)
