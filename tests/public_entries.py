"""Every public function and method that takes arrays, with arguments that it accepts."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import kernelfe
from kernelfe import allatom, analysis, datasets, geometry, gp, simulate, statistics

from .public_liquids import liquid_entries

MODULES = ("", ".frames", ".statistics", ".analysis", ".simulate", ".training", ".allatom", ".geometry", ".datasets")
MODULES += (".calculators", ".report", ".gp", ".analysis.liquids")

#: Public entries whose arrays come from kernelfe itself, or that need an engine or a long run; where their border is.
ELSEWHERE = {
    "CollectiveForces.frames": "Frames.from_arrays",
    "CollectiveForces.binned": "real_array and conditional_moments",
    "BasinThermodynamics.contrast": "numbers of its own result",
    "HyperparameterEnsemble.__init__": "made by hyperparameter_ensemble",
    "MixtureJoint.cdf": "real_array; needs an ensemble",
    "MixtureJoint.combined": "Joint.combined",
    "RestrainedEnsemble.__init__": "real_array; needs OpenMM",
    "RestrainedEnsemble.run": "checks.numbers; needs OpenMM",
    "RestrainedEnsemble.sample": "checks.numbers; needs OpenMM",
    "Trajectory.__init__": "energies are checked with the frames of the file",
    "BasinSamples.__init__": "basin_thermodynamics checks them",
    "MoveStatistics.__init__": "made by the sampler",
    "LangevinProtocol.time_step": "called by langevin_init with checked masses",
    "minimize_relative_entropy": "real_array; needs a long run",
}


@dataclass(frozen=True)
class Entry:
    """One public callable with arguments: arrays, numbers, dicts of arrays, lists of arrays."""

    name: str
    call: Callable[..., Any]
    arguments: dict[str, Any]


def needing_arrays() -> set[str]:
    """Names of the public functions and methods with parameters that are annotated as arrays."""
    found = set()

    def takes_arrays(function) -> bool:
        try:
            annotations = [str(p.annotation) for p in inspect.signature(function).parameters.values()]
        except (TypeError, ValueError):
            return False
        return any("ArrayLike" in a or "np.ndarray" in a for a in annotations)

    for name in MODULES:
        module = importlib.import_module("kernelfe" + name)
        for public in module.__all__:
            thing = getattr(module, public)
            if inspect.isclass(thing):
                own = {k: v for k, v in vars(thing).items() if k == "__init__" or not k.startswith("_")}
                results = hasattr(thing, "__dataclass_fields__") and "ArrayLike" not in str(inspect.signature(thing))
                own.pop("__init__", None) if results else None
                found |= {f"{public}.{k}" for k, v in own.items() if takes_arrays(getattr(v, "__func__", v))}
            elif callable(thing) and takes_arrays(thing):
                found.add(public)
    return found


class _IdealGas:
    """A periodic model whose free energy is zero."""

    needs_cell = True

    def energy_and_forces(self, positions, temperature):
        """Zeros."""
        return positions.new_zeros(len(positions)), positions * 0.0

    def energy_forces_stress(self, positions, cell, temperature):
        """Zeros."""
        return positions.new_zeros(len(positions)), positions * 0.0, positions.new_zeros(len(positions), 6)


def entries() -> list[Entry]:
    """All entries of the registry."""
    rng = np.random.default_rng(0)
    n, atoms = 24, 4
    chain = datasets.ChainFamily()
    x = chain.configurations("ABCA", np.full(n, 400.0), rng)
    f, u = rng.normal(size=(n, atoms, 3)), rng.normal(size=n) * 0.02
    t = np.full(n, 300.0)
    wide, blocks = np.array([-10.0, 0.0, 10.0]), np.arange(n) % 4
    slices = np.eye(atoms)[:2]
    torsion = statistics.TorsionField([(0, 1), (1, 2), (2, 3)], 1, 2)
    motions = statistics.fragment_motions([(0, 1), (1, 2), (2, 3)], [0, 1])
    water = statistics.RigidMolecules(((0, 1), (2, 3)), (1.0, 2.0), cutoff=3.0)
    probability = rng.dirichlet(np.ones(16)).reshape(4, 4)
    frames = kernelfe.Frames.from_arrays(x, temperature=t, labels={"mean_force": f})
    model = kernelfe.FreeEnergyRegressor(optimizer=None, noise={"mean_force": 1.0}).fit(frames[:4])
    table = rng.normal(size=(n, 2))
    flat = kernelfe.FreeEnergyRegressor(optimizer=None, noise={"free_energy": 0.1})
    fitted = kernelfe.FreeEnergyRegressor(optimizer=None, noise={"free_energy": 0.1}).fit(table, u)
    energies = kernelfe.FreeEnergyRegressor(optimizer=None, noise={"mean_energy": 0.1})
    langevin = {"steps": 2, "stride": 1, "burn_in": 0, "guard": None, "progress": False, "timestep": 0.1}
    positions, series = {"positions": x}, {"series": rng.normal(size=(n, 2))}
    three = {"positions": x, "forces": f, "temperature": t}
    groups, halves = {"groups": blocks}, blocks % 2
    moments = [statistics.conditional_moments(f, u, 300.0, block=1.0) for _ in range(2)]
    mode = datasets.EliminatedMode()
    along = rng.normal(size=(n, 2))
    listed = {
        "Frames.from_arrays": (
            kernelfe.Frames.from_arrays,
            {
                "positions": x,
                "temperature": t,
                "labels": {"mean_force": f, "mean_energy": u},
                "noise": {"mean_force": np.ones(n), "mean_energy": 0.1 * np.ones(n)},
                "parameters": {"charge": u},
                "masses": np.ones(atoms),
                "cell": 50.0 * np.eye(3),
            },
        ),
        "Frames.from_arrays(variables)": (
            kernelfe.Frames.from_arrays,
            {
                "variables": x[:, 0],
                "temperature": t,
                "displacements": f[:, :, :],
                "labels": {"generalized_force": f[..., 0]},
            },
        ),
        "Frames.add_pair_labels": (
            lambda **k: kernelfe.Frames.from_arrays(x, temperature=t).add_pair_labels(
                np.arange(3), np.arange(3, 6), **k
            ),
            {"value": u[:3], "std": np.ones(3)},
        ),
        "FreeEnergyRegressor.fit(table)": (lambda X, y: flat.fit(X, y).predict(table), {"X": table, "y": u}),
        "FreeEnergyRegressor.fit(beads)": (lambda X, y: flat.fit(X, y).predict(x), {"X": x, "y": u}),
        "FreeEnergyRegressor.fit(dict)": (
            lambda X, y: energies.fit(X, y).predict(x, "mean_energy"),
            {"X": x, "y": {"mean_energy": u, "temperature": t}},
        ),
        "FreeEnergyRegressor.predict": (model.predict, {"X": x, "temperature": t}),
        "FreeEnergyRegressor.predict_difference": (model.predict_difference, {"X1": x, "X2": x[::-1].copy()}),
        "FreeEnergyRegressor.domain_score": (model.domain_score, {"X": x}),
        "FreeEnergyRegressor.score": (
            fitted.score,
            {"X": table, "y": u, "sample_weight": np.ones(n)},
        ),
        "RelativeNoise.__init__": (lambda scale: kernelfe.RelativeNoise(scale).scale, {"scale": np.ones(n)}),
        "BoltzmannInversion.fit": (kernelfe.BoltzmannInversion().fit, {"positions": x, "temperature": t}),
        "RepulsiveCore.fit": (
            kernelfe.RepulsiveCore().fit,
            {"positions": x, "temperature": t, "cell": 30.0 * np.eye(3)},
        ),
        "Joint.combined": (
            lambda matrix: model.joint(gp.Query(x[:3], "free_energy")).combined(matrix).mean,
            {"matrix": np.eye(3)},
        ),
        "RigidMolecules.beads": (water.beads, positions),
        "RigidMolecules.torques": (water.torques, {"positions": x, "forces": f}),
        "RigidMolecules.variates": (water.variates, {k: v[:2] for k, v in three.items()}),
        "TorsionField.displacements": (torsion.displacements, positions),
        "TorsionField.divergence": (torsion.divergence, positions),
        "Variates.of": (lambda **k: statistics.Variates.of(motions, **k).motions, positions),
        "Variates.evaluate": (statistics.Variates.of(motions, x).evaluate, three),
        "Variates.divergences": (statistics.Variates.of(motions, x).divergences, positions),
        "autocorrelation": (statistics.autocorrelation, series),
        "autocorrelation_time": (statistics.autocorrelation_time, series),
        "effective_sample_size": (statistics.effective_sample_size, series),
        "block_standard_error": (lambda series: statistics.block_standard_error(series, 4), series),
        "replica_effective_sample_size": (statistics.replica_effective_sample_size, series),
        "samples_per_replica": (statistics.samples_per_replica, series),
        "bin_free_energies": (
            lambda **k: statistics.bin_free_energies(edges=[wide], fewest=2, **k).free_energy,
            {"variables": table[:, :1], "state": np.zeros(n, int), "temperatures": t[:1], "biases": u[None]},
        ),
        "check_force_map": (statistics.check_force_map, {"position_map": slices, "force_map": slices}),
        "map_forces": (statistics.map_forces, {"force_map": slices, "forces": f}),
        "map_positions": (statistics.map_positions, {"position_map": slices, "positions": x}),
        "optimal_force_map": (statistics.optimal_force_map, {"forces": f, "position_map": slices}),
        "collective_forces": (
            lambda **k: statistics.collective_forces(variables=[statistics.Distance(0, 3)], **k).forces,
            {**three, "masses": np.ones(atoms)},
        ),
        "conditional_labels": (
            lambda **k: statistics.conditional_labels(moments, **k).labels["mean_force"],
            {"positions": x[:2], "temperature": t[:2]},
        ),
        "conditional_moments": (
            lambda **k: statistics.conditional_moments(temperature=300.0, block=1.0, **k)["mean_energy"],
            {"forces": f, "energies": u, "restraint_energies": u, "parameter_derivatives": {"a": u}},
        ),
        "cross_fit": (
            lambda **k: statistics.cross_fit(lambda train, test: u[test], n, folds=3, **k),
            groups,
        ),
        "fold_numbers": (lambda **k: statistics.fold_numbers(frames=n, folds=3, **k), groups),
        "energy_overlap": (statistics.energy_overlap, {"energies": u, "temperature": 300.0 + 10.0 * halves}),
        "BeadMap.of_groups": (
            lambda weights: allatom.BeadMap.of_groups(4, [[0, 1], [2, 3]], weights).position_map,
            {"weights": np.ones(atoms)},
        ),
        "distance_features": (statistics.distance_features, positions),
        "local_frames": (statistics.local_frames, positions),
        "fragment_motions": (
            lambda masses: statistics.fragment_motions([(0, 1), (1, 2), (2, 3)], [0, 3], masses=masses),
            {"masses": np.ones(atoms)},
        ),
        "generalized_forces": (
            lambda **k: statistics.generalized_forces(fields=[torsion], bead_atoms=[0, 1, 2, 3], **k),
            three,
        ),
        "heat_capacity_labels": (
            statistics.heat_capacity_labels,
            {"energies": u, "temperature": t, "mean_energy": np.zeros(n)},
        ),
        "response_labels": (
            statistics.response_labels,
            {
                "forces": f,
                "energies": u,
                "temperature": t,
                "mean_force": np.zeros(f.shape),
                "mean_energy": np.zeros(n),
                "divergences": f,
            },
        ),
        "response_variates": (
            statistics.response_variates,
            {"values": table, "divergences": table, "energies": u, "temperature": t, "mean_energy": np.zeros(n)},
        ),
        "reduce_noise": (
            lambda **k: statistics.reduce_noise(folds=3, **k).values,
            {"labels": u, "variates": table, "features": table, "mean": np.zeros(n), **groups},
        ),
        "reduce_shared_noise": (
            lambda **k: statistics.reduce_shared_noise(folds=3, **k),
            {"labels": u, "variates": table[:, :1], "mean": np.zeros(n)},
        ),
        "reweighted_mean": (statistics.reweighted_mean, {"values": table, "weights": np.ones((n, 2))}),
        "surface": (
            lambda **k: statistics.surface(edges=[wide], rng=np.random.default_rng(0), **k).probability,
            {"coordinates": table[:, :1], "weights": np.ones(n), "blocks": blocks},
        ),
        "temperature_weights": (
            lambda **k: statistics.temperature_weights(target=300.0, **k),
            {"energies": u, "temperature": t},
        ),
        "basin_populations": (
            analysis.basin_populations,
            {"probability": rng.dirichlet(np.ones(1296)).reshape(36, 36)},
        ),
        "boltzmann_weights": (
            lambda **k: analysis.boltzmann_weights(model, temperature=300.0, **k),
            {"X": x, "volume": np.ones(n)},
        ),
        "calibration_of": (
            lambda **k: analysis.calibration_of(**k).z,
            {"truth": u, "mean": u + 0.1, "std": np.ones(n), "noise": np.ones(n), **groups, "pit": np.full(n, 0.5)},
        ),
        "conditional_averages": (
            lambda **k: analysis.conditional_averages(size=4, **k).mean,
            {"values": u, "bins": blocks},
        ),
        "decomposition": (
            lambda **k: (
                analysis.decomposition(model, temperature=300.0, size=2, rng=np.random.default_rng(0), **k).free_energy
            ),
            {"positions": x[:20], "bins": halves[:20]},
        ),
        "total_heat_capacity": (lambda **k: analysis.total_heat_capacity(model, temperature=300.0, **k), positions),
        "dihedral_angles": (lambda **k: analysis.dihedral_angles(quadruples=[(0, 1, 2, 3)], **k), positions),
        "divergence_floor": (
            lambda **k: analysis.divergence_floor(sizes=(100, 100), rng=np.random.default_rng(0), **k),
            {"probability": probability},
        ),
        "free_energy_surface": (
            lambda **k: analysis.free_energy_surface(temperature=300.0, **k),
            {"probability": probability},
        ),
        "jensen_shannon_divergence": (
            analysis.jensen_shannon_divergence,
            {"p": probability, "q": probability.T.copy()},
        ),
        "periodic_histogram": (
            lambda **k: analysis.periodic_histogram(bins=4, **k),
            {"angles": table, "weights": np.ones(n)},
        ),
        "surface_rmsd": (
            lambda **k: analysis.surface_rmsd(temperature=300.0, **k),
            {"p": probability, "reference": probability.T.copy()},
        ),
        "langevin_init": (
            lambda **k: simulate.langevin_init(model.frozen(), seed=1, timestep=0.1, **k).positions.numpy(),
            {"positions": x[:2], "temperature": t[:2], "masses": np.ones(atoms)},
        ),
        "run_langevin": (
            lambda **k: simulate.run_langevin(model.frozen(), seed=1, **langevin, **k).positions,
            {"positions": x[:2], "temperature": t[:2], "masses": np.ones(atoms)},
        ),
        "run_npt": (
            lambda **k: simulate.run_npt(_IdealGas(), pressure=1.0, seed=1, **langevin, **k).positions,
            {
                "positions": x[:2],
                "cell": 30.0 * np.eye(3),
                "temperature": t[:2],
                "masses": np.ones(atoms),
            },
        ),
        "run_replica_exchange": (
            lambda **k: simulate.run_replica_exchange(model.frozen(), seed=1, ladders=1, swap_every=1, **langevin, **k),
            {"positions": x[0], "temperatures": np.array([300.0, 400.0]), "masses": np.ones(atoms)},
        ),
        "BeadMap.__init__": (
            lambda **k: allatom.BeadMap(**k).position_map,
            {"position_map": slices, "force_map": slices, "masses": np.ones(2)},
        ),
        "make_whole": (
            lambda **k: allatom.make_whole(bonds=[(0, 1), (1, 2)], **k),
            {"positions": x, "cell": np.tile(50.0 * np.eye(3), (n, 1, 1))},
        ),
        "nearest_starts": (
            allatom.nearest_starts,
            {"targets": x[:2], "atoms": x, "position_map": np.eye(atoms)},
        ),
        "superpose": (allatom.superpose, {"beads": x[0], "target": x[1]}),
        "broken_frames": (geometry.broken_frames, positions),
        "infer_bonds": (geometry.infer_bonds, positions),
        "ChainFamily.configurations": (
            lambda temperature: chain.configurations("AB", temperature, np.random.default_rng(0)),
            {"temperature": t},
        ),
        "ChainFamily.frames": (
            lambda temperature: chain.frames("AB", temperature, np.random.default_rng(0)).positions,
            {"temperature": t},
        ),
        "EliminatedMode.sample": (
            lambda **k: mode.sample(rng=np.random.default_rng(0), parameter=1.0, **k),
            {"variables": along, "temperature": t},
        ),
        "EliminatedMode.frames": (
            lambda **k: mode.frames(rng=np.random.default_rng(0), **k).labels,
            {"variables": along, "temperature": t},
        ),
    }
    listed |= liquid_entries()
    return [Entry(name, call, arguments) for name, (call, arguments) in listed.items()]
