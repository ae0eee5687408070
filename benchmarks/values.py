"""Values only, exact Gaussian-process regression: kernelfe and scikit-learn's GaussianProcessRegressor.

scikit-learn has no derivatives, so only this problem can be compared: n noisy values of the function of
``value_gradient.py``, an RBF kernel, fixed hyperparameters (``optimizer=None``), means at as many new points. The broad
normal prior that kernelfe puts on the constant is a ``ConstantKernel`` there, so both have the same posterior mean.
Timed are ``fit`` and ``predict``, after imports and a run on 16 points.

    python benchmarks/values.py --peers /tmp/peers --sizes 500 1000 2000 4000 8000 --repeats 3 --plot values.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import _harness
import numpy as np
from _harness import Peer
from environments import python_of
from value_gradient import CONSTANT_WIDTH, NOISE_VARIANCE, Problem, kernelfe_solvers, problem, smooth

PACKAGES = ("kernelfe", "scikit-learn", "torch", "numpy", "scipy")
LABELS = {
    "iterative": "kernelfe, FreeEnergyRegressor(solver=Iterative())",
    "dense": "kernelfe, FreeEnergyRegressor(solver=Dense())",
    "sklearn": "scikit-learn, GaussianProcessRegressor(optimizer=None)",
}


def kernelfe_means(data: Problem, solver) -> np.ndarray:
    """Posterior means, shape (m,), through the public interface."""
    from kernelfe import FreeEnergyRegressor
    from kernelfe.descriptors import Variables
    from kernelfe.gp.prior.term import Term
    from kernelfe.kernels import RBF, SecondOrder

    thermal = SecondOrder(reference_temperature=300.0, energy=1.0, entropy=1e-12, heat_capacity=1e-12)
    model = FreeEnergyRegressor(
        terms=Term(Variables(), RBF(data.lengthscale), thermal),
        solver=solver,
        optimizer=None,
        noise={"free_energy": NOISE_VARIANCE**0.5},
    )
    return model.fit(data.x, data.y).predict(data.new, "free_energy", reference=None)


def sklearn_means(data: Problem) -> np.ndarray:
    """Posterior means, shape (m,)."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel

    kernel = RBF(data.lengthscale) + ConstantKernel((CONSTANT_WIDTH * data.y.std()) ** 2)
    model = GaussianProcessRegressor(kernel, alpha=NOISE_VARIANCE, optimizer=None)
    mean = data.y.mean()
    return model.fit(data.x, data.y - mean).predict(data.new) + mean


def child(peer: str, spec: dict, out: Path) -> None:
    """Run one peer once and write its means, time and memory."""

    def run(data: Problem) -> np.ndarray:
        return sklearn_means(data) if peer == "sklearn" else kernelfe_means(data, kernelfe_solvers()[peer])

    def work() -> tuple[dict, dict]:
        numbers = spec["dimension"], spec["seed"], spec["lengthscale"]
        data = problem(spec["n"], *numbers)
        run(problem(16, *numbers))
        means, figures = _harness.measured(lambda: run(data))
        figures["rmse"] = float(np.sqrt(np.mean((means - smooth(data.new)[0]) ** 2)))
        return figures, {"means": means}

    _harness.child(out, work, PACKAGES)


def main(argv: list[str] | None = None) -> dict | None:
    """Command line: measure and print, or (``--child``) run one peer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[500, 1000, 2000, 4000, 8000])
    parser.add_argument("--dimension", type=int, default=10)
    parser.add_argument("--lengthscale", type=float, default=0.7)
    _harness.peer_arguments(parser, LABELS, "scikit-learn")
    _harness.arguments(parser)
    args = parser.parse_args(argv)
    if args.child:
        child(args.child, json.loads(args.spec), args.out)
        return None
    limits = _harness.limits_of(args)
    available = [name for name in LABELS if name in kernelfe_solvers() or name == "sklearn"]
    chosen = [name for name in available if args.only is None or name in args.only]
    python = python_of(args.peers, "sklearn")
    peers = [Peer(name, LABELS[name], python if name == "sklearn" else None) for name in chosen]
    used = {peer.name: peer.label for peer in peers}
    spec = {"dimension": args.dimension, "seed": args.seed, "lengthscale": args.lengthscale}
    result = _harness.header(
        limits, spec=spec, noise_variance=NOISE_VARIANCE, sizes=args.sizes, growth=[], deviations=[]
    )
    for n in args.sizes:
        rows, arrays = _harness.interleaved(__file__, peers, {"n": n, **spec}, limits, args.repeats)
        result["growth"].append(rows)
        peers = [peer for peer in peers if rows[peer.name]["status"] == "ok"]
        if rows.get("sklearn", {}).get("status") == "ok":
            means = {name: found["means"] for name, found in arrays.items() if "means" in found}
            apart = {name: float(np.abs(m - means["sklearn"]).max()) for name, m in means.items() if name != "sklearn"}
            result["deviations"].append({"n": n, **apart})
    print(_harness.growth_table(used, args.sizes, result["growth"]))
    for row in result["deviations"]:
        print(", ".join(f"{key}: {value:.2g}" for key, value in row.items()), "(largest deviation from scikit-learn)")
    if args.plot:
        _harness.growth_plot(args.plot, used, args.sizes, result["growth"], "values")
    _harness.write(result, args.json)
    return result


if __name__ == "__main__":
    main()
