"""Value and gradient labels, exact Gaussian-process regression: kernelfe and gpytorch's RBFKernelGrad.

Every run of every peer is a separate process on the same data: n points uniform in the unit cube of D dimensions,
values and gradients of a smooth function with normal noise of variance 2e-3, an RBF kernel of unit variance, fixed
hyperparameters. Timed are conditioning on the n·(1 + D) labels and the posterior means of value and gradient at as many
new points, after the imports, the data and a run on 16 points (it starts thread pools and lazy imports).
``_harness.py`` explains the measurement of time, memory and limits.

kernelfe puts a broad normal prior on the constant of the free energy; gpytorch's mean is a number. The reference is
gpytorch's Cholesky solver with that number at its posterior mean, by generalised least squares from gpytorch's own
solves, which gives the same posterior mean. The reference is not timed; the timed gpytorch peers get the number.

    python benchmarks/value_gradient.py --peers /tmp/peers --json value_gradient.json
    python benchmarks/value_gradient.py --only iterative --n 5000 --new 1000           # kernelfe alone
    python benchmarks/value_gradient.py --peers /tmp/peers --sizes 20 50 100 200 500 1000 2000 \
        --limit-seconds 900 --repeats 1 --json growth.json --plot growth.png
"""

from __future__ import annotations

import argparse
import json
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import _harness
import numpy as np
from _harness import Peer
from environments import python_of

LENGTHSCALES = (0.3, 0.7, 1.5)
NOISE_VARIANCE = 2e-3
#: kernelfe's prior of the constant: normal about the mean of the values, this many spreads wide.
CONSTANT_WIDTH = 30.0
PACKAGES = ("kernelfe", "gpytorch", "linear_operator", "torch", "numpy", "scipy")
LABELS = {
    "iterative": "kernelfe, FreeEnergyRegressor(solver=Iterative())",
    "dense": "kernelfe, FreeEnergyRegressor(solver=Dense())",
    "gpytorch-cg": "gpytorch RBFKernelGrad, default settings (conjugate gradients)",
    "gpytorch-cholesky": "gpytorch RBFKernelGrad, Cholesky",
}


@dataclass(frozen=True)
class Problem:
    """Training points x (n, D) with noisy values y (n,) and gradients g (n, D); new points (m, D); length scale."""

    x: np.ndarray
    y: np.ndarray
    g: np.ndarray
    new: np.ndarray
    lengthscale: float = 0.7


def smooth(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """f = D^(−1/2) Σ_d sin(2 x_d + d) + x_0 x_1 and its gradient."""
    phase = 2.0 * x + np.arange(x.shape[1])
    value = np.sin(phase).sum(1) / np.sqrt(x.shape[1]) + x[:, 0] * x[:, 1]
    gradient = 2.0 * np.cos(phase) / np.sqrt(x.shape[1])
    gradient[:, 0] += x[:, 1]
    gradient[:, 1] += x[:, 0]
    return value, gradient


def problem(n: int, dimension: int, seed: int, lengthscale: float = 0.7, new: int | None = None) -> Problem:
    """The data, the same in every process; by default as many new points as training points."""
    rng = np.random.default_rng(seed)
    x, points = rng.random((n, dimension)), rng.random((n if new is None else new, dimension))
    value, gradient = smooth(x)
    noise = np.sqrt(NOISE_VARIANCE) * rng.standard_normal((n, 1 + dimension))
    return Problem(x, value + noise[:, 0], gradient + noise[:, 1:], points, lengthscale)


# ---------------------------------------------------------------- the peers


def kernelfe_solvers() -> dict:
    """Solver specs of the installed kernelfe, by the name of the peer; ``Iterative`` if it has one."""
    from kernelfe.gp.solvers import specs as solvers

    specs = {"dense": solvers.Dense()}
    if hasattr(solvers, "Iterative"):
        specs["iterative"] = solvers.Iterative()
    return specs


def kernelfe_model(data: Problem, solver=None):
    """The fitted model, through the public interface.

    At one temperature the thermal factors of a free energy are (1, −T, 0): with the prior of the entropy at 1e-12 eV/K
    the covariance differs from the RBF kernel by T² 1e-24, about 1e-19 of it.
    """
    from kernelfe import FreeEnergyRegressor
    from kernelfe.descriptors import Variables
    from kernelfe.gp.prior.term import Term
    from kernelfe.kernels import RBF, SecondOrder

    thermal = SecondOrder(reference_temperature=300.0, energy=1.0, entropy=1e-12, heat_capacity=1e-12)
    model = FreeEnergyRegressor(
        terms=Term(Variables(), RBF(data.lengthscale), thermal),
        solver="dense" if solver is None else solver,
        optimizer=None,
        noise={"free_energy": NOISE_VARIANCE**0.5, "mean_force": NOISE_VARIANCE**0.5},
    )
    return model.fit(data.x, {"temperature": 300.0, "free_energy": data.y, "mean_force": -data.g})


def kernelfe_means(data: Problem, solver=None, std: bool = False) -> np.ndarray:
    """Posterior means of value and gradient, shape (m, 1 + D)."""
    model = kernelfe_model(data, solver)
    if std:
        model.predict(data.new, "free_energy", return_std=True)
    return np.column_stack([model.predict(data.new, "free_energy"), -model.predict(data.new, "mean_force")])


def gpytorch_model(data: Problem, constant: float, targets=None):
    """An ExactGP with RBFKernelGrad, at fixed hyperparameters, in evaluation mode."""
    import gpytorch
    import torch

    tasks = 1 + data.x.shape[1]
    # by default the likelihood adds a noise to every task, 0.69
    likelihood = gpytorch.likelihoods.MultitaskGaussianLikelihood(num_tasks=tasks, has_task_noise=False)

    class Model(gpytorch.models.ExactGP):
        def __init__(self):
            y = np.column_stack([data.y, data.g]) if targets is None else targets
            super().__init__(torch.from_numpy(data.x), torch.from_numpy(y), likelihood)
            self.mean_module = gpytorch.means.ConstantMeanGrad()
            self.covar_module = gpytorch.kernels.RBFKernelGrad()

        def forward(self, x):
            return gpytorch.distributions.MultitaskMultivariateNormal(self.mean_module(x), self.covar_module(x))

    model = Model().double()
    model.covar_module.lengthscale = data.lengthscale
    likelihood.noise = NOISE_VARIANCE
    model.mean_module.constant.data.fill_(constant)
    return model.eval()


def gpytorch_means(data: Problem, cholesky: bool, constant: float) -> np.ndarray:
    """Posterior means of value and gradient, shape (n, 1 + D); covariances are switched off."""
    import torch

    with torch.no_grad(), solver_settings(cholesky):
        return gpytorch_model(data, constant)(torch.from_numpy(data.new)).mean.numpy()


def solver_settings(cholesky: bool):
    """gpytorch's settings: means only, and either the defaults or Cholesky at every size."""
    from gpytorch import settings

    stack = ExitStack()
    stack.enter_context(settings.skip_posterior_variances(True))
    if cholesky:
        stack.enter_context(settings.max_cholesky_size(10**9))
        stack.enter_context(settings.fast_computations(covar_root_decomposition=False, log_prob=False, solves=False))
    return stack


def gpytorch_constant(data: Problem) -> float:
    """Posterior mean of the constant under kernelfe's prior of it, from two of gpytorch's Cholesky solves.

    With e the rows that read the constant, c₀ and s its prior mean and standard deviation, K the covariance with noise:
    c = (c₀/s² + eᵀK⁻¹y) / (1/s² + eᵀK⁻¹e).
    """
    import torch

    ones = np.zeros((len(data.x), 1 + data.x.shape[1]))
    ones[:, 0] = 1.0
    products = []
    for targets in (None, ones):
        with torch.no_grad(), solver_settings(cholesky=True):
            model = gpytorch_model(data, 0.0, targets)
            model(torch.from_numpy(data.new[:1]))
            weights = model.prediction_strategy.mean_cache.reshape(ones.shape).numpy()
            products.append(float(weights[:, 0].sum()))
    precision = (CONSTANT_WIDTH * data.y.std()) ** -2
    return (data.y.mean() * precision + products[0]) / (precision + products[1])


# --------------------------------------------------------------- one process


def child(peer: str, spec: dict, out: Path) -> None:
    """Run one peer once and write its means, time and memory."""
    n, dimension, seed, lengthscale = spec["n"], spec["dimension"], spec["seed"], spec["lengthscale"]

    def work() -> tuple[dict, dict]:
        data = problem(n, dimension, seed, lengthscale, spec.get("new"))
        constant = spec.get("constant", 0.0)
        if peer == "reference":
            constant = gpytorch_constant(data)
            return {"constant": constant}, {"means": gpytorch_means(data, True, constant)}
        if peer.startswith("gpytorch"):

            def run(now: Problem) -> np.ndarray:
                return gpytorch_means(now, peer == "gpytorch-cholesky", constant)

        else:
            solver = kernelfe_solvers()[peer.removesuffix("-std")]

            def run(now: Problem) -> np.ndarray:
                return kernelfe_means(now, solver, std=peer.endswith("-std"))

        run(problem(16, dimension, seed, lengthscale))
        means, figures = _harness.measured(lambda: run(data))
        # the truth without noise: for comparison if the reference is out of reach
        figures["rmse"] = float(np.sqrt(np.mean((means[:, 0] - smooth(data.new)[0]) ** 2)))
        return figures, {"means": means}

    _harness.child(out, work, PACKAGES)


# ------------------------------------------------------------------- the tables


def peers_of(args: argparse.Namespace) -> list[Peer]:
    """The requested peers, with the Python that each runs in."""
    names = [name for name in LABELS if name in kernelfe_solvers() or name.startswith("gpytorch")]
    python = python_of(args.peers, "gpytorch")
    chosen = [name for name in names if args.only is None or name in args.only]
    return [Peer(name, LABELS[name], python if name.startswith("gpytorch") else None) for name in chosen]


def reference_of(spec: dict, args: argparse.Namespace) -> tuple[dict, np.ndarray | None]:
    """The spec with the constant of the gpytorch peers, and the means by Cholesky if they are within the limits."""
    rows = spec["n"] * (1 + spec["dimension"])
    if rows > args.reference_rows:
        return spec, None
    peer = Peer("reference", "", python_of(args.peers, "gpytorch"))
    report, arrays = _harness.run_child(__file__, peer, spec, _harness.limits_of(args))
    if report["status"] != "ok":
        return spec, None
    return {**spec, "constant": report["constant"]}, arrays["means"]


def compare(spec: dict, args: argparse.Namespace) -> dict[str, dict]:
    """Summaries of all peers on one problem, with their largest deviations from the reference."""
    spec, reference = reference_of(spec, args)
    rows, arrays = _harness.interleaved(__file__, peers_of(args), spec, _harness.limits_of(args), args.repeats)
    for peer, row in rows.items():
        if row["status"] == "ok" and reference is not None:
            apart = np.abs(arrays[peer]["means"] - reference)
            row["value_error"], row["gradient_error"] = float(apart[:, 0].max()), float(apart[:, 1:].max())
    return rows


def measure(args: argparse.Namespace) -> dict:
    """Run all requested parts."""
    spec = {"n": args.n, "dimension": args.dimension, "seed": args.seed, "new": args.new or args.n}
    result = _harness.header(_harness.limits_of(args), spec=spec, noise_variance=NOISE_VARIANCE, peers=LABELS)
    if args.sizes:
        specs = [{**spec, "n": n, "new": min(n, args.new or n), "lengthscale": args.lengthscale[0]} for n in args.sizes]
        found = _harness.growth(__file__, peers_of(args), specs, _harness.limits_of(args), args.repeats)
        return {**result, "sizes": args.sizes, "growth": found}
    result["lengthscales"] = {}
    for lengthscale in args.lengthscale:
        rows = compare({**spec, "lengthscale": lengthscale}, args)
        result["lengthscales"][str(lengthscale)] = {"peers": rows, "ratios": ratios(rows)}
    return result


def ratios(rows: dict[str, dict]) -> dict:
    """Ratios of time and memory of each gpytorch peer to those of each kernelfe solver."""
    done = {name: row for name, row in rows.items() if row["status"] == "ok"}
    return {
        f"{other} / {own}": {key: done[other][key] / done[own][key] for key in ("seconds", "peak_mb")}
        for own in ("iterative", "dense")
        for other in done
        if own in done and other.startswith("gpytorch")
    }


def table(result: dict) -> str:
    """The result as Markdown."""
    if "growth" in result:
        used = {name: LABELS[name] for name in LABELS if name in result["growth"][0]}
        return _harness.growth_table(used, result["sizes"], result["growth"])
    columns = {"value_error": "largest deviation of values", "gradient_error": "of gradients", "rmse": "rmse"}
    parts = []
    for lengthscale, found in result["lengthscales"].items():
        parts.append(f"length scale {lengthscale}\n\n" + _harness.table(LABELS, found["peers"], columns))
        parts += [f"{pair}: time {r['seconds']:.1f}, memory {r['peak_mb']:.1f}" for pair, r in found["ratios"].items()]
    return "\n\n".join(parts)


def main(argv: list[str] | None = None) -> dict | None:
    """Command line: measure and print, or (``--child``) run one peer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1000, help="training points")
    parser.add_argument("--new", type=int, help="new points; default: as many as training points")
    parser.add_argument("--dimension", type=int, default=10)
    parser.add_argument("--lengthscale", type=float, nargs="+", default=list(LENGTHSCALES))
    parser.add_argument("--sizes", type=int, nargs="+", help="growth over these n, at the first length scale")
    _harness.peer_arguments(parser, LABELS, "gpytorch")
    parser.add_argument("--reference-rows", type=int, default=16_500, help="compare with Cholesky up to these rows")
    _harness.arguments(parser)
    args = parser.parse_args(argv)
    if args.child:
        child(args.child, json.loads(args.spec), args.out)
        return None
    result = measure(args)
    print(table(result))
    _harness.write(result, args.json)
    if args.plot and "growth" in result:
        used = {name: LABELS[name] for name in LABELS if name in result["growth"][0]}
        _harness.growth_plot(
            args.plot, used, result["sizes"], result["growth"], f"points, {1 + args.dimension} labels each"
        )
    return result


if __name__ == "__main__":
    main()
