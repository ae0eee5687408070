"""A molecule of nine atoms: exact conditioning on forces, beside sGDML's analytic and iterative training.

Frames of ethanol (``ethanol.py``), 27 force components each; inverse distances of all 36 pairs; the six permutations
that the molecule reaches without breaking bonds (three turns of the methyl group, with and without the mirror image);
a Matérn 5/2 kernel. Both sides have the same frames, permutations, descriptor and family of kernels; kernelfe has a
length scale for each kind of pair (``molecule_shape.py``), sGDML one for all (``--isotropic`` gives kernelfe one, too).
Length scale and noise are chosen beforehand by the error on 500 validation frames (``--choose``; not timed): sGDML has
a whole number for its length scale and its own default of the noise.

Timed: training at these numbers, after imports, reading the data and a training on 12 frames. kernelfe: ``fit``; sGDML:
``GDMLTrain.train``, without energies. Its iterative solver is what it turns to when the analytic one does not fit into
``max_memory``: it is given 98 % of what the analytic one needs, and sets the rank of its preconditioner itself. Memory
is that of the main process; the workers that sGDML starts come on top and are not counted. Errors are of all force
components of 1000 test frames, in eV/Å; their prediction is not timed.

    python benchmarks/molecule.py /tmp/peers/ethanol.npz --peers /tmp/peers --json molecule.json
    python benchmarks/molecule.py /tmp/peers/ethanol.npz --frames 5000 --only iterative --repeats 1
    python benchmarks/molecule.py /tmp/peers/ethanol.npz --peers /tmp/peers --repeats 1 \\
        --sizes 25 50 100 200 500 1000 2500 --limit-seconds 1800 --json growth.json --plot growth.png
    python benchmarks/molecule.py /tmp/peers/ethanol.npz --peers /tmp/peers --choose iterative --frames 500
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
from pathlib import Path

import _harness
import numpy as np
from _harness import Peer
from environments import python_of

#: Atoms of ASE's ethanol: C 0 (methyl), C 1, O 2, H 3 (of O), H 4 and 5 (of C 1), H 6, 7 and 8 (methyl).
TURN = (0, 1, 2, 3, 4, 5, 7, 8, 6)
MIRROR = (0, 1, 2, 3, 5, 4, 6, 8, 7)
#: The other exchange that keeps all bonds: of the hydrogens of C 1 alone.
SWAP = (0, 1, 2, 3, 5, 4, 6, 7, 8)
#: Length scales of kernelfe, Å⁻¹, of one pair of each kind that TURN, MIRROR and SWAP leave, by molecule_shape.py.
SHAPE = {
    (0, 1): 0.84,
    (0, 2): 0.64,
    (0, 3): 1.95,
    (0, 4): 1.25,
    (0, 6): 1.54,
    (1, 2): 0.52,
    (1, 3): 0.56,
    (1, 4): 1.43,
    (1, 6): 0.93,
    (2, 3): 1.23,
    (2, 4): 0.67,
    (2, 6): 1.89,
    (3, 4): 0.76,
    (3, 6): 4.49,
    (4, 5): 1.83,
    (4, 6): 1.18,
    (6, 7): 1.01,
}
#: Numbers chosen by ``--choose`` at 500 frames: Å⁻¹; a factor on SHAPE, and eV/Å.
SGDML_LENGTHSCALE = 10
LENGTHSCALE, NOISE = 1.0, 2e-2
#: Prior standard deviation of the energy in units of the length scale, eV Å.
ENERGY = 1.55
WARM_UP = 12
PACKAGES = ("kernelfe", "torch", "sgdml", "numpy", "scipy")
LABELS = {
    "iterative": "kernelfe, FreeEnergyRegressor(solver=Iterative())",
    "dense": "kernelfe, FreeEnergyRegressor(solver=Dense())",
    "sgdml-analytic": "sGDML, analytic",
    "sgdml-iterative": "sGDML, iterative",
}


def group(*generators: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """The permutations that some generate; without any, the six of TURN and MIRROR."""
    found = {tuple(range(9))}
    while True:
        more = found | {tuple(p[i] for i in q) for p in found for q in generators or (TURN, MIRROR)}
        if more == found:
            return tuple(sorted(found))
        found = more


def kinds_of_pairs() -> list[tuple[int, int]]:
    """The key of SHAPE for each of the 36 pairs, in the order (0, 1), (0, 2), …."""
    everything = group(TURN, MIRROR, SWAP)
    return [min(tuple(sorted((p[i], p[j]))) for p in everything) for i, j in itertools.combinations(range(9), 2)]


class Data:
    """Frames of ``ethanol.py``: ``train``, ``validation`` and ``test``, each positions and forces (n, 9, 3).

    ``train`` are ``frames`` of the training trajectory, drawn at random; those of fewer frames are among those of more.
    """

    def __init__(self, path: str | Path, frames: int, seed: int = 0):
        with np.load(path, allow_pickle=False) as file:
            order = np.random.default_rng(seed).permutation(len(file["train_positions"]))
            if frames > len(order):
                raise ValueError(f"{path} holds {len(order)} training frames, {frames} are asked for")
            self.numbers = file["numbers"]
            self.bonds = [tuple(int(k) for k in pair) for pair in file["bonds"]]
            self.temperature = float(file["temperature"])
            self.train = tuple(file[f"train_{key}"][order[:frames]] for key in ("positions", "forces"))
            self.validation, self.test = (
                tuple(file[f"{part}_{key}"] for key in ("positions", "forces")) for part in ("validation", "test")
            )

    def first(self, frames: int) -> tuple[np.ndarray, np.ndarray]:
        """The first of the training frames."""
        return self.train[0][:frames], self.train[1][:frames]


def errors(predicted: np.ndarray, forces: np.ndarray, name: str) -> dict[str, float]:
    """Mean absolute and root-mean-square error of force components, eV/Å."""
    apart = predicted.reshape(forces.shape) - forces
    return {f"{name}_mae": float(np.abs(apart).mean()), f"{name}_rmse": float(np.sqrt((apart**2).mean()))}


# ---------------------------------------------------------------- the peers


def kernelfe_model(data: Data, solver, lengthscale: float, noise: float, isotropic: bool = False):
    """The unfitted regressor: forces of one temperature, so priors of entropy and heat capacity are next to nothing.

    The length scales are ``lengthscale`` times those of SHAPE or, if isotropic, ``lengthscale`` Å⁻¹. Only the ratio of
    the noise to the prior of the energy matters.
    """
    from kernelfe import FreeEnergyRegressor
    from kernelfe.descriptors import InverseDistances, Symmetrized
    from kernelfe.gp.prior.term import Term
    from kernelfe.kernels import Matern52, SecondOrder

    thermal = SecondOrder(
        reference_temperature=data.temperature, energy=ENERGY * lengthscale, entropy=1e-12, heat_capacity=1e-12
    )
    scales = lengthscale if isotropic else tuple(lengthscale * SHAPE[kind] for kind in kinds_of_pairs())
    term = Term(Symmetrized(InverseDistances(), group()), Matern52(scales), thermal)
    return FreeEnergyRegressor(terms=term, solver=solver, baseline=False, optimizer=None, noise={"mean_force": noise})


def kernelfe_frames(data: Data, positions: np.ndarray, forces: np.ndarray):
    """As kernelfe's Frames."""
    from ase.data import chemical_symbols

    from kernelfe import Frames

    return Frames.from_arrays(
        positions=positions,
        temperature=np.full(len(positions), data.temperature),
        labels={"mean_force": forces},
        kinds=[chemical_symbols[z] for z in data.numbers],
        bonds=data.bonds,
    )


def run_kernelfe(data: Data, spec: dict, solver) -> tuple[dict, dict]:
    """Train on forces, and the errors."""
    numbers = spec["lengthscale"], spec["noise"], spec.get("isotropic", False)
    kernelfe_model(data, solver, *numbers).fit(kernelfe_frames(data, *data.first(WARM_UP)))
    train = kernelfe_frames(data, *data.train)
    model, figures = _harness.measured(lambda: kernelfe_model(data, solver, *numbers).fit(train))
    arrays = {}
    for name in ("validation", "test"):
        forces = model.predict(kernelfe_frames(data, *getattr(data, name)), "mean_force")
        figures |= errors(forces, getattr(data, name)[1], name)
        arrays[name] = forces
    return figures, arrays


def run_sgdml(data: Data, spec: dict, analytic: bool) -> tuple[dict, dict]:
    """Train on forces, and the errors.

    Raises
    ------
    RuntimeError
        If sGDML chose the other solver.
    """
    from sgdml.predict import GDMLPredict
    from sgdml.solvers.analytic import Analytic
    from sgdml.train import GDMLTrain

    logging.disable(logging.INFO)

    def dataset(positions: np.ndarray, forces: np.ndarray) -> dict:
        names = {"type": "d", "name": np.array("ethanol"), "theory": np.array("GFN2-xTB")}
        return {**names, "R": positions, "F": forces, "z": data.numbers, "r_unit": "Ang", "e_unit": "eV"}

    memory = None if analytic else 0.98 * Analytic.est_memory_requirement(len(data.train[0]), 9) / 1024**3
    trainer = GDMLTrain(max_memory=memory, max_processes=spec["threads"])

    def task(frames: tuple[np.ndarray, np.ndarray]) -> dict:
        sets = dataset(*frames), len(frames[0]), dataset(*data.validation), len(data.validation[0])
        return trainer.create_task(*sets, int(spec["sgdml_lengthscale"]), perms=np.array(group()), use_E=False)

    trainer.train(task(data.first(WARM_UP)))
    now = task(data.train)
    model, figures = _harness.measured(lambda: trainer.train(now))
    if model["solver_name"] != ("analytic" if analytic else "cg"):
        raise RuntimeError(f"sGDML chose its solver {model['solver_name']!r}")
    figures |= {name: float(model[name]) for name in ("solver_iters", "solver_resid", "solver_tol") if name in model}
    if "inducing_pts_idxs" in model:
        figures["preconditioner_rank"] = len(model["inducing_pts_idxs"])
    predictor, arrays = GDMLPredict(model, max_processes=spec["threads"]), {}
    for name in ("validation", "test"):
        positions, forces = getattr(data, name)
        arrays[name] = predictor.predict(positions.reshape(len(positions), -1))[-1].reshape(forces.shape)
        figures |= errors(arrays[name], forces, name)
    return figures, arrays


def child(peer: str, spec: dict, out: Path) -> None:
    """Run one peer once and write its report."""

    def work() -> tuple[dict, dict]:
        data = Data(spec["data"], spec["frames"], spec["seed"])
        if peer.startswith("sgdml"):
            return run_sgdml(data, spec, peer == "sgdml-analytic")
        from value_gradient import kernelfe_solvers

        return run_kernelfe(data, spec, kernelfe_solvers()[peer])

    _harness.child(out, work, PACKAGES)


# ------------------------------------------------------------------- the tables


def peers_of(args: argparse.Namespace) -> list[Peer]:
    """The peers asked for, with the Python each runs in."""
    from value_gradient import kernelfe_solvers

    python = python_of(args.peers, "sgdml")
    names = [name for name in LABELS if name in kernelfe_solvers() or (name.startswith("sgdml") and python)]
    chosen = [name for name in names if args.only is None or name in args.only]
    return [Peer(name, LABELS[name], python if name.startswith("sgdml") else None) for name in chosen]


def choose(args: argparse.Namespace, spec: dict) -> list[dict]:
    """Errors on the validation and test frames over a grid of length scales (and of noise, for kernelfe)."""
    peer = next(p for p in peers_of(args) if p.name == args.choose)
    rows = []
    for lengthscale, noise in itertools.product(args.lengthscales, [None] if "sgdml" in peer.name else args.noises):
        numbers = {"lengthscale": lengthscale, "noise": noise, "sgdml_lengthscale": lengthscale}
        report, _ = _harness.run_child(__file__, peer, {**spec, **numbers}, _harness.limits_of(args))
        rows.append({**numbers, **report})
        print(
            f"| {lengthscale} | {noise} | "
            + " | ".join(f"{report.get(key, np.nan):.5f}" for key in ("validation_rmse", "test_rmse", "test_mae"))
            + f" | {report.get('seconds', np.nan):.1f} s |",
            flush=True,
        )
    return rows


def main(argv: list[str] | None = None) -> dict | None:
    """Command line: measure and print, or (``--child``) run one peer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", help="file of ethanol.py")
    parser.add_argument("--frames", type=int, default=500)
    parser.add_argument("--sizes", type=int, nargs="+", help="growth over these numbers of frames")
    parser.add_argument("--lengthscale", type=float, default=LENGTHSCALE, help="of kernelfe: factor on SHAPE, or Å⁻¹")
    parser.add_argument("--noise", type=float, default=NOISE, help="of kernelfe, eV/Å")
    parser.add_argument("--sgdml-lengthscale", type=int, default=SGDML_LENGTHSCALE)
    parser.add_argument("--only", nargs="+", choices=list(LABELS), help="peers to run; all if not given")
    parser.add_argument("--peers", type=Path, help="folder of environments.py; without it kernelfe runs alone")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of training frames")
    parser.add_argument("--choose", choices=list(LABELS), help="errors of one peer over a grid, instead of timing")
    parser.add_argument("--lengthscales", type=float, nargs="+", default=[0.7, 1.0, 1.4])
    parser.add_argument("--noises", type=float, nargs="+", default=[3e-3, 1e-2, 2e-2, 3e-2])
    parser.add_argument("--isotropic", action="store_true", help="one length scale for all pairs, as sGDML has")
    _harness.arguments(parser)
    args = parser.parse_args(argv)
    if args.child:
        child(args.child, json.loads(args.spec), args.out)
        return None
    if args.data is None:
        parser.error("name the file of ethanol.py")
    spec = {
        "data": str(Path(args.data).resolve()),
        "frames": args.frames,
        "seed": args.seed,
        "threads": args.threads,
        **{key: getattr(args, key) for key in ("lengthscale", "noise", "sgdml_lengthscale", "isotropic")},
    }
    limits = _harness.limits_of(args)
    result = _harness.header(limits, spec=spec, labels=LABELS)
    peers = peers_of(args)
    if args.choose:
        result["choice"] = choose(args, spec)
    elif args.sizes:
        specs = [{**spec, "frames": n} for n in args.sizes]
        result |= {"sizes": args.sizes, "growth": _harness.growth(__file__, peers, specs, limits, args.repeats)}
        used = {peer.name: peer.label for peer in peers}
        print(_harness.growth_table(used, result["sizes"], result["growth"]))
        if args.plot:
            _harness.growth_plot(args.plot, used, result["sizes"], result["growth"], "frames of 27 forces")
    else:
        result["peers"], _ = _harness.interleaved(__file__, peers, spec, limits, args.repeats)
        columns = {"test_mae": "test error, mean absolute, eV/Å", "test_rmse": "root mean square, eV/Å"}
        print(_harness.table(LABELS, result["peers"], columns))
    _harness.write(result, args.json)
    return result


if __name__ == "__main__":
    main()
