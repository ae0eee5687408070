"""Sparse conditioning on forces and energies with pair terms: kernelfe's Sparse solver and gap_fit.

Frames of ethanol (``ethanol.py``): 27 force components and one energy each. The model is a sum of pair functions, one
Gaussian process of the distance for each of the five pairs of elements (C–C, C–O, C–H, H–O, H–H), with a squared
exponential kernel; length scale, prior scale, noise and number of inducing distances per pair are the same in both;
hyperparameters are fixed. Pair functions do not distinguish bonds and contacts of the same elements, and do not
describe angles: the errors are those of the model, which is the same for both solvers.

Differences. gap_fit is a program: its time includes starting, reading the extended xyz file and writing the potential;
kernelfe's ``fit`` starts with arrays. gap_fit's constant per atom is the mean energy, kernelfe's a number with a broad
prior. gap_fit uses a uniform grid of inducing distances, kernelfe chooses its own. gap_fit's kernel goes to zero at
the cutoff, which no distance in this molecule reaches. gap_fit stores the rectangular matrix of all rows by all
inducing distances; kernelfe streams it. Memory of gap_fit is the peak of its process minus that of a run on 5 frames.

    python benchmarks/gap.py /tmp/peers/ethanol.npz --peers /tmp/peers --frames 500 --json gap.json
    python benchmarks/gap.py /tmp/peers/ethanol.npz --peers /tmp/peers --repeats 1 \\
        --sizes 50 100 200 500 1000 2000 5000 --json gap_growth.json --plot gap_growth.png
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import _harness
import numpy as np
from _harness import Peer
from environments import python_of
from molecule import errors

PAIRS = (("C", "C"), ("C", "O"), ("C", "H"), ("H", "O"), ("H", "H"))
NUMBERS = {"H": 1, "C": 6, "O": 8}
#: Å; all distances in the molecule are below 5.
CUTOFF = 6.5
WARM_UP = 5
PACKAGES = ("kernelfe", "torch", "quippy-ase", "ase", "numpy", "scipy")
LABELS = {"sparse": "kernelfe, FreeEnergyRegressor(solver=Sparse())", "gap": "gap_fit (quippy-ase)"}


class Data:
    """Training and test frames: positions (n, 9, 3), forces, energies (n,)."""

    def __init__(self, path: str | Path, frames: int, seed: int = 0):
        with np.load(path, allow_pickle=False) as file:
            order = np.random.default_rng(seed).permutation(len(file["train_positions"]))[:frames]
            if len(order) < frames:
                raise ValueError(f"{path} holds {len(order)} training frames, {frames} are needed")
            keys = ("positions", "forces", "energies")
            self.train = tuple(file[f"train_{key}"][order] for key in keys)
            self.test = tuple(file[f"test_{key}"] for key in keys)
            self.symbols = [next(s for s, z in NUMBERS.items() if z == number) for number in file["numbers"]]
            self.temperature = float(file["temperature"])


def run_kernelfe(data: Data, spec: dict) -> tuple[dict, dict]:
    """Fit, and compute the errors of forces and of energy differences."""
    from kernelfe import Frames, FreeEnergyRegressor
    from kernelfe.descriptors import PairDistances
    from kernelfe.gp.prior.term import Term
    from kernelfe.gp.solvers.specs import Sparse
    from kernelfe.kernels import RBF, SecondOrder

    # at one temperature, energies are values of the same function whose negative gradients are the forces
    thermal = SecondOrder(data.temperature, energy=spec["scale"], entropy=1e-12, heat_capacity=1e-12)
    terms = [
        ("-".join(pair), Term(PairDistances(CUTOFF, kinds=pair), RBF(spec["lengthscale"]), thermal)) for pair in PAIRS
    ]
    noise = {"mean_force": spec["force_noise"], "free_energy": spec["energy_noise"]}

    def frames(positions, forces, energies) -> Frames:
        labels = {"mean_force": forces, "free_energy": energies}
        t = np.full(len(positions), data.temperature)
        return Frames.from_arrays(positions=positions, temperature=t, labels=labels, kinds=data.symbols)

    def fit(train: Frames) -> FreeEnergyRegressor:
        solver = Sparse(inducing=spec["inducing"])
        return FreeEnergyRegressor(terms, solver, baseline=False, optimizer=None, noise=noise).fit(train)

    fit(frames(*(part[:WARM_UP] for part in data.train)))
    train = frames(*data.train)
    model, figures = _harness.measured(lambda: fit(train))
    test = frames(*data.test)
    forces, energies = model.predict(test, "mean_force"), model.predict(test, "free_energy", reference=None)
    figures |= errors(forces, data.test[1], "test") | energy_error(energies, data.test[2])
    return figures, {"forces": forces}


def energy_error(predicted: np.ndarray, energies: np.ndarray) -> dict[str, float]:
    """Root-mean-square error of energies about their mean deviation, eV."""
    return {"energy_rmse": float(np.std(predicted - energies))}


def gap_command(spec: dict, program: str, xyz: Path, xml: Path) -> list[str]:
    """gap_fit with one distance_2b descriptor per pair of elements."""
    parts = [
        f"distance_2b Z1={NUMBERS[a]} Z2={NUMBERS[b]} cutoff={CUTOFF} cutoff_transition_width=0.5 n_sparse="
        f"{spec['inducing']} covariance_type=ard_se theta_uniform={spec['lengthscale']} delta={spec['scale']} "
        "sparse_method=uniform add_species=F"
        for a, b in PAIRS
    ]
    return [
        program,
        f"atoms_filename={xyz}",
        f"gap={{{' : '.join(parts)}}}",
        f"default_sigma={{{spec['energy_noise']} {spec['force_noise']} 0 0}}",
        "sigma_per_atom=F",
        "e0_method=average",
        "energy_parameter_name=label_energy",
        "force_parameter_name=label_forces",
        "do_copy_atoms_file=F",
        "sparse_separate_file=F",
        f"gap_file={xml}",
    ]


def run_program(command: list[str], folder: str) -> tuple[float, float]:
    """Seconds and peak memory (MB) of a program; the peak is read while it runs, every 5 ms.

    ``ru_maxrss`` cannot be used: it includes the Python process that starts the program.

    Raises
    ------
    RuntimeError
        With the last lines of its output, if the program fails.
    """
    peak, log = 0.0, Path(folder) / "log.txt"
    start = time.perf_counter()
    with log.open("w") as stream:
        process = subprocess.Popen(command, cwd=folder, stdout=stream, stderr=stream)
        while process.poll() is None:
            with suppress(OSError):  # it is about to end
                peak = max(peak, _harness.status("VmHWM", process.pid))
            time.sleep(0.005)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise RuntimeError("gap_fit: " + " ".join(log.read_text().splitlines()[-8:]))
    return seconds, peak


def run_gap(data: Data, spec: dict) -> tuple[dict, dict]:
    """Run gap_fit as a program, and compute the errors of the potential it writes."""
    import quippy
    from ase import Atoms
    from ase.io import write
    from quippy.potential import Potential

    # the program itself: the script of the same name starts Python and imports quippy first
    program = str(Path(quippy.__path__[0]) / "gap_fit")
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for name, count in (("small", WARM_UP), ("all", len(data.train[0]))):
            frames = []
            for positions, forces, energy in zip(*(part[:count] for part in data.train), strict=True):
                # a box far larger than the molecule: gap_fit needs one, and no image is within the cutoff
                frames.append(Atoms(data.symbols, positions, cell=[30.0] * 3, pbc=False))
                frames[-1].arrays["label_forces"], frames[-1].info["label_energy"] = forces, energy
            files[name] = Path(folder) / f"{name}.xyz"
            write(files[name], frames, format="extxyz")
        peak = {}
        for name, path in files.items():
            seconds, peak[name] = run_program(gap_command(spec, program, path, Path(folder) / f"{name}.xml"), folder)
        figures = {"seconds": seconds, "peak_mb": peak["all"] - peak["small"], "imports_mb": peak["small"]}
        potential = Potential(param_filename=str(Path(folder) / "all.xml"))
        forces, energies = [], []
        for positions in data.test[0]:
            atoms = Atoms(data.symbols, positions, cell=[30.0] * 3, pbc=False)
            atoms.calc = potential
            forces.append(atoms.get_forces())
            energies.append(atoms.get_potential_energy())
    figures |= errors(np.array(forces), data.test[1], "test") | energy_error(np.array(energies), data.test[2])
    return figures, {"forces": np.array(forces)}


def child(peer: str, spec: dict, out: Path) -> None:
    """Run one peer once and write its report."""

    def work() -> tuple[dict, dict]:
        data = Data(spec["data"], spec["frames"], spec["seed"])
        return run_gap(data, spec) if peer == "gap" else run_kernelfe(data, spec)

    _harness.child(out, work, PACKAGES)


def main(argv: list[str] | None = None) -> dict | None:
    """Command line: measure and print, or (``--child``) run one peer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", help="file of ethanol.py")
    parser.add_argument("--frames", type=int, default=500)
    parser.add_argument("--sizes", type=int, nargs="+", help="growth over these numbers of frames")
    parser.add_argument("--inducing", type=int, default=50, help="inducing distances for each pair of elements")
    parser.add_argument("--lengthscale", type=float, default=0.3, help="Å")
    parser.add_argument("--scale", type=float, default=5.0, help="prior standard deviation of a pair function, eV")
    parser.add_argument("--force-noise", type=float, default=0.3, help="eV/Å: the part that pair functions leave")
    parser.add_argument("--energy-noise", type=float, default=0.1, help="eV")
    parser.add_argument("--peers", type=Path, help="folder of environments.py; without it kernelfe runs alone")
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice of training frames")
    _harness.arguments(parser)
    args = parser.parse_args(argv)
    if args.child:
        child(args.child, json.loads(args.spec), args.out)
        return None
    if args.data is None:
        parser.error("name the file of ethanol.py")
    keys = ("frames", "inducing", "lengthscale", "scale", "force_noise", "energy_noise", "seed")
    spec = {"data": str(Path(args.data).resolve()), **{key: getattr(args, key) for key in keys}}
    limits = _harness.limits_of(args)
    python = python_of(args.peers, "quippy")
    peers = [Peer("sparse", LABELS["sparse"])] + ([Peer("gap", LABELS["gap"], python)] if python else [])
    used = {peer.name: peer.label for peer in peers}
    result = _harness.header(limits, spec=spec, labels=LABELS)
    if args.sizes:
        specs = [{**spec, "frames": n} for n in args.sizes]
        result |= {"sizes": args.sizes, "growth": _harness.growth(__file__, peers, specs, limits, args.repeats)}
        print(_harness.growth_table(used, result["sizes"], result["growth"]))
        if args.plot:
            xlabel = "frames of 27 forces and an energy"
            _harness.growth_plot(args.plot, used, result["sizes"], result["growth"], xlabel)
    else:
        result["peers"], arrays = _harness.interleaved(__file__, peers, spec, limits, args.repeats)
        if python and all(row["status"] == "ok" for row in result["peers"].values()):
            apart = arrays["gap"]["forces"] - arrays["sparse"]["forces"]
            result["forces_differ_rms"] = float(np.sqrt(np.mean(apart**2)))
            print(f"predicted forces of the two differ by {result['forces_differ_rms']:.2g} eV/Å rms\n")
        columns = {"test_rmse": "force error, rms, eV/Å", "energy_rmse": "energy error, rms, eV"}
        print(_harness.table(used, result["peers"], columns))
    _harness.write(result, args.json)
    return result


if __name__ == "__main__":
    main()
