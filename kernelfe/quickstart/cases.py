"""Cases of the comparison: their frames and labels, and one fit with its sampling from beginning to end.

Nothing is shared between cases: each fits its hyperparameters and its noise to its own frames, and is sampled from its
own start. Cases run in processes of one thread each, so results do not depend on how many run at a time.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..analysis import (
    basin_populations,
    dihedral_angles,
    jensen_shannon_divergence,
    parity,
    periodic_histogram,
    surface_rmsd,
)
from ..datasets import Reference, load, load_reference
from ..errors import DataError
from ..files.npz import save_npz
from ..frames import Frames
from ..gp import FreeEnergyRegressor
from ..simulate import LangevinProtocol, Trajectory, run_langevin, sample, uniform_masses
from ..specs import Spec
from ..statistics import replica_effective_sample_size
from ..training import minimize_relative_entropy

DATA = "alanine-dipeptide"
#: Temperatures of the training frames, K: four of those that the data hold.
TRAIN_TEMPERATURES = (300.0, 400.0, 500.0, 600.0)
#: Temperature of the held-out labels, K: no case trains on its frames.
UNSEEN = 450.0
#: Temperature of sampling and comparison, K: only the single-temperature cases train on its frames.
TARGET = 350.0
#: Beads of the two backbone torsions of the data.
PHI, PSI = (0, 1, 2, 4), (1, 2, 4, 5)

#: Label sets by name.
LABEL_SETS: dict[str, tuple[str, ...]] = {
    "forces": ("mean_force",),
    "forces + energies": ("mean_force", "mean_energy"),
    "forces + torques": ("mean_force", "generalized_force"),
    "all": ("mean_force", "mean_energy", "generalized_force"),
}
#: All labels and, by relative entropy, the density of the frames.
DENSITY = "all + density"


#: Langevin dynamics with torsion moves after every step. Three rounds of moves give a third more decorrelated samples
#: per second than one. No guard: models of few data are sampled as well, and the divergence judges the result.
SAMPLING = LangevinProtocol(
    timestep=5.0,
    friction=10.0,
    steps=200,
    stride=5,
    burn_in=60,
    moves="auto",
    moves_every=1,
    move_rounds=3,
    guard=None,
)


@dataclass(frozen=True)
class Sampler(Spec):
    """Sampling of a model, all replicas in one batch.

    Parameters
    ----------
    replicas
        Independent replicas, started from random training frames.
    effective
        Wanted number of decorrelated samples.
    longest
        Most steps of production.
    protocol
        The dynamics; production is extended until ``effective`` is reached.
    """

    replicas: int = 1000
    effective: int = 30_000
    longest: int = 800
    protocol: LangevinProtocol = SAMPLING


@dataclass(frozen=True)
class Case:
    """One fit and its sampling.

    Parameters
    ----------
    labels
        Name of the label set; "all" at several temperatures is then also conditioned on the density of its frames.
    size
        Frames per temperature.
    subset, subsets
        Number of this and of all disjoint training subsets.
    temperatures
        Of the training frames, K.
    seed
        Seed of the sampling.
    keep
        Folder to leave ``model.kfe`` and ``samples.npz`` of the model with density in, or None.
    """

    labels: str
    size: int
    subset: int
    subsets: int
    temperatures: tuple[float, ...] = TRAIN_TEMPERATURES
    seed: int = 0
    keep: str | None = None

    @property
    def single(self) -> bool:
        """True if only one temperature is trained on."""
        return len(self.temperatures) == 1

    @property
    def density(self) -> bool:
        """True if a second model is made, which is also conditioned on the density of the frames."""
        return self.labels == "all" and not self.single

    @property
    def name(self) -> str:
        """Short description."""
        where = f"{self.temperatures[0]:g} K only" if self.single else f"{len(self.temperatures)} temperatures"
        return f"{self.labels}, {self.size} frames at {where}, subset {self.subset}"


@lru_cache(maxsize=1)
def data(package: str) -> tuple[Frames, Reference]:
    """Bundled frames and reference; a memo, so that a worker reads the files once."""
    return load(DATA, package), load_reference(DATA, package)


def training_rows(temperature: np.ndarray, case: Case) -> np.ndarray:
    """Rows of a training subset: frames ``offset, offset + step, …`` of the run at each temperature.

    Steps spread every subset over the whole run; offsets make subsets of one size disjoint.

    Raises
    ------
    DataError
        If a run is too short for the subsets.
    """
    rows = []
    for t in case.temperatures:
        run = np.flatnonzero(temperature == t)
        step = len(run) // case.size
        if step < case.subsets:
            raise DataError(
                f"{case.subsets} disjoint subsets of {case.size} frames need {case.subsets * case.size} frames "
                f"at {t:g} K, the data hold {len(run)}; use fewer subsets or frames"
            )
        rows.append(run[case.subset * step // case.subsets :: step][: case.size])
    return np.concatenate(rows)


def run_case(case: Case, sampler: Sampler, package: str) -> list[dict[str, Any]]:
    """Fit, sample at the target temperature and compare; everything that the report needs as plain numbers.

    Returns
    -------
    list of dict
        One result; for a case with density also that of the model conditioned on it.
    """
    torch.set_num_threads(1)
    frames, _ = data(package)
    train = frames[training_rows(frames.temperature, case)]
    begin, cpu = time.perf_counter(), time.process_time()
    # always sparse, whatever the size: one method along the whole learning curve
    model = FreeEnergyRegressor(labels=list(LABEL_SETS[case.labels]), solver="sparse").fit(train)
    seconds = time.perf_counter() - begin
    out = [_assess(model, case, train, sampler, package) | {"fit_seconds": seconds}]
    out[0]["cpu_seconds"] = time.process_time() - cpu
    if case.density:
        begin, cpu = time.perf_counter(), time.process_time()
        refined = minimize_relative_entropy(model, train, seed=case.seed, progress=False)
        seconds += time.perf_counter() - begin
        more = {
            "labels": DENSITY,
            "keep": case.keep is not None,
            "fit_seconds": seconds,
            "converged": refined.converged,
            "rounds": [asdict(r) for r in refined.rounds],
            "inefficiency": refined.inefficiency,
        }
        out.append(_assess(refined.model, case, train, sampler, package) | more)
        out[1]["cpu_seconds"] = time.process_time() - cpu
        if case.keep is not None:
            refined.model.save(Path(case.keep) / "model.kfe")
    return out


def _assess(model: FreeEnergyRegressor, case: Case, train: Frames, sampler: Sampler, package: str) -> dict[str, Any]:
    """Sample a model, compare the samples with the reference and its predictions with held-out labels."""
    frames, reference = data(package)
    begin = time.perf_counter()
    run = sample_model(model, train, sampler, case.seed)
    sampled = time.perf_counter()
    angles = dihedral_angles(run.positions, (PHI, PSI))
    p = periodic_histogram(angles.reshape(-1, 2), len(reference.edges) - 1)
    truth = reference.probability[reference.temperatures.tolist().index(TARGET)]
    test = frames[frames.temperature == UNSEEN][::5]
    held_out = {kind: parity(model, test, kind).summary() for kind in model.noise_}
    if case.keep is not None:  # the later of two models is kept
        every = max(1, len(run) * run.positions.shape[1] // 20_000)
        positions = run.flat()[::every]
        save_npz(Path(case.keep) / "samples.npz", {"positions": positions, "temperature": np.array(TARGET)})
    acceptance = run.acceptance
    return asdict(case) | {
        "keep": False,
        # of two halves of the replicas: the scatter of the samples, by the measure that is quoted
        "half_against_half": jensen_shannon_divergence(
            *(periodic_histogram(half.reshape(-1, 2), len(truth)) for half in np.array_split(angles, 2, axis=1))
        ),
        "divergence": jensen_shannon_divergence(p, truth),
        "rmsd": surface_rmsd(p, truth, TARGET),
        "populations": basin_populations(p),
        "samples": int(angles.shape[0] * angles.shape[1]),
        "effective_samples": effective_samples(angles),
        "acceptance": [] if acceptance is None else acceptance.rate.tolist(),
        "log_evidence": model.log_evidence_,
        "noise": {kind: list(values) for kind, values in model.noise_.items()},
        "noise_temperature": model.noise_temperature_,
        "held_out": held_out,
        "sample_seconds": sampled - begin,
        "peak_bytes": peak_bytes(),
        "probability": p.tolist(),
    }


def sample_model(model: FreeEnergyRegressor, start: Frames, sampler: Sampler, seed: int) -> Trajectory:
    """Samples of exp(−A(R; T)/kT) at the target temperature, as many portions as the wanted size needs."""
    if start.positions is None or start.bonds is None:
        raise DataError("sampling starts from bead positions of a bonded molecule, which these frames lack")
    # a separate stream: the start is independent of the random numbers of the dynamics
    rows = np.random.default_rng([seed, 1]).integers(len(start), size=sampler.replicas)
    protocol = sampler.protocol.for_bonds(start.bonds).with_options(seed=seed)
    frozen, positions = model.frozen(), start.positions[rows]
    run = run_langevin(frozen, positions, TARGET, protocol, masses=uniform_masses(positions.shape[1]), progress=False)
    done = protocol.steps
    while done < sampler.longest:
        found = effective_samples(dihedral_angles(run.positions, (PHI, PSI)))
        if found >= sampler.effective:
            break
        missing = min(1.05 * done * (sampler.effective / found - 1.0), sampler.longest - done, done)
        more_steps = protocol.stride * max(1, math.ceil(missing / protocol.stride))
        assert run.state is not None
        more = sample(frozen, run.state, protocol, steps=more_steps, burn_in=0, progress=False)
        run.positions = np.concatenate([run.positions, more.positions])
        run.energies = np.concatenate([run.energies, more.energies])
        run.acceptance = more.acceptance
        done += more_steps
    return run


def effective_samples(angles: np.ndarray) -> float:
    """Decorrelated samples (samples, replicas, 2): the least over cosines and sines of φ and ψ and over φ > 0."""
    series = np.concatenate([np.cos(angles), np.sin(angles), angles[..., :1] > 0.0], axis=-1)
    return float(replica_effective_sample_size(series).min())


def peak_bytes() -> int:
    """Largest resident size of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
