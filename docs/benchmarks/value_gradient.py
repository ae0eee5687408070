"""Value and gradient labels, exact Gaussian-process regression: kernelfe's dense path beside gpytorch's RBFKernelGrad.

Every run of every peer is a process of its own on the same data: n points uniform in the unit cube of D dimensions,
values and gradients of a smooth function with normal noise of variance 2e-3, an RBF kernel of length scale 0.7 and unit
variance, fixed hyperparameters. Timed: conditioning on the n·(1 + D) labels and the posterior means of value and
gradient at as many new points, after the imports, the data and a run on 16 points (it starts thread pools and loads
what is loaded lazily). Memory: the high-water mark of the resident set during the timed part minus the resident set
just before it (``VmHWM`` and ``VmRSS`` of ``/proc/self``, Linux; the mark is reset through ``/proc/self/clear_refs``).

kernelfe puts a broad normal prior on the constant of the free energy; gpytorch's mean is a number. The reference is
gpytorch's Cholesky solver with that number at its posterior mean, by generalised least squares from gpytorch's own
solves: this is the same posterior mean. The reference is not timed; the timed gpytorch peers are handed the number.

    python docs/benchmarks/value_gradient.py
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median

import numpy as np

LENGTHSCALE = 0.7
NOISE_VARIANCE = 2e-3
#: What kernelfe takes the prior of the constant to be: normal about the mean of the values, this many spreads wide.
CONSTANT_WIDTH = 30.0
PACKAGES = ("kernelfe", "gpytorch", "linear_operator", "torch", "numpy", "scipy")
PEERS = {
    "kernelfe": "kernelfe, FreeEnergyRegressor(solver=Dense())",
    "gpytorch-cg": "gpytorch RBFKernelGrad, default settings (conjugate gradients)",
    "gpytorch-cholesky": "gpytorch RBFKernelGrad, Cholesky",
}


@dataclass(frozen=True)
class Problem:
    """Training points x (n, D) with noisy values y (n,) and gradients g (n, D); new points, shape (n, D)."""

    x: np.ndarray
    y: np.ndarray
    g: np.ndarray
    new: np.ndarray


def smooth(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """f = D^(−1/2) Σ_d sin(2 x_d + d) + x_0 x_1 and its gradient."""
    phase = 2.0 * x + np.arange(x.shape[1])
    value = np.sin(phase).sum(1) / np.sqrt(x.shape[1]) + x[:, 0] * x[:, 1]
    gradient = 2.0 * np.cos(phase) / np.sqrt(x.shape[1])
    gradient[:, 0] += x[:, 1]
    gradient[:, 1] += x[:, 0]
    return value, gradient


def problem(n: int, dimension: int, seed: int) -> Problem:
    """The data, the same in every process."""
    rng = np.random.default_rng(seed)
    x, new = rng.random((n, dimension)), rng.random((n, dimension))
    value, gradient = smooth(x)
    noise = np.sqrt(NOISE_VARIANCE) * rng.standard_normal((n, 1 + dimension))
    return Problem(x, value + noise[:, 0], gradient + noise[:, 1:], new)


# ---------------------------------------------------------------- the peers


def kernelfe_means(data: Problem, std: bool = False) -> np.ndarray:
    """Posterior means of value and gradient, shape (n, 1 + D), through the public interface.

    At one temperature the factors of a free energy are (1, −T, 0): with the prior of the entropy at 1e-12 eV/K the
    covariance differs from the RBF kernel by T² 1e-24, about 1e-19 of it.
    """
    from kernelfe import FreeEnergyRegressor
    from kernelfe.descriptors import Variables
    from kernelfe.kernels import RBF, SecondOrder, Term
    from kernelfe.models.solvers import Dense

    thermal = SecondOrder(reference_temperature=300.0, energy=1.0, entropy=1e-12, heat_capacity=1e-12)
    model = FreeEnergyRegressor(
        terms=Term(Variables(), RBF(LENGTHSCALE), thermal),
        solver=Dense(),
        optimizer=None,
        noise={"free_energy": NOISE_VARIANCE**0.5, "mean_force": NOISE_VARIANCE**0.5},
    )
    model.fit(data.x, {"temperature": 300.0, "free_energy": data.y, "mean_force": -data.g})
    if std:
        model.predict(data.new, "free_energy", return_std=True)
    return np.column_stack([model.predict(data.new, "free_energy"), -model.predict(data.new, "mean_force")])


def gpytorch_model(data: Problem, constant: float, targets=None):
    """An ExactGP with RBFKernelGrad, at fixed hyperparameters, in evaluation mode."""
    import gpytorch
    import torch

    tasks = 1 + data.x.shape[1]
    # by default the likelihood adds a noise of its own to every task, 0.69
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
    model.covar_module.lengthscale = LENGTHSCALE
    likelihood.noise = NOISE_VARIANCE
    model.mean_module.constant.data.fill_(constant)
    return model.eval()


def gpytorch_means(data: Problem, cholesky: bool, constant: float) -> np.ndarray:
    """Posterior means of value and gradient, shape (n, 1 + D); covariances are switched off."""
    import torch

    with torch.no_grad(), solver_settings(cholesky):
        return gpytorch_model(data, constant)(torch.from_numpy(data.new)).mean.numpy()


def solver_settings(cholesky: bool):
    """gpytorch's settings: means only, and either nothing else or Cholesky at every size."""
    from contextlib import ExitStack

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


# ------------------------------------------------------- one measured process


def status(key: str) -> float:
    """A field of /proc/self/status, in MB (1e6 bytes)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024 / 1e6
    raise OSError(f"/proc/self/status has no {key}: memory is measured on Linux only")


def child(peer: str, n: int, dimension: int, seed: int, constant: float, out: Path) -> None:
    """Run one peer once and write its means, time and memory."""
    run = {
        "kernelfe": kernelfe_means,
        "kernelfe-std": lambda data: kernelfe_means(data, std=True),
        "gpytorch-cg": lambda data: gpytorch_means(data, False, constant),
        "gpytorch-cholesky": lambda data: gpytorch_means(data, True, constant),
        "reference": lambda data: gpytorch_means(data, True, constant),
    }[peer]
    data = problem(n, dimension, seed)
    if peer == "reference":
        constant = gpytorch_constant(data)
    run(problem(16, dimension, seed))
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    start = time.perf_counter()
    means = run(data)
    seconds = time.perf_counter() - start
    peak = status("VmHWM") - before
    np.savez(out, means=means, seconds=seconds, peak=peak, before=before, constant=constant)


# ------------------------------------------------------------------- the table


def run_child(peer: str, args: argparse.Namespace, constant: float, folder: Path) -> dict[str, np.ndarray]:
    """Start a process for one peer and read what it measured."""
    out = folder / "out.npz"
    command = [sys.executable, __file__, "--child", peer, "--constant", repr(constant), "--out", str(out)]
    command += ["--n", str(args.n), "--dimension", str(args.dimension), "--seed", str(args.seed)]
    environment = dict(os.environ, OMP_NUM_THREADS=str(args.threads), OPENBLAS_NUM_THREADS=str(args.threads))
    subprocess.run(command, check=True, env=environment)
    with np.load(out, allow_pickle=False) as file:
        found = {key: file[key] for key in file.files}
    load = os.getloadavg()[0]
    print(f"{peer}: {found['seconds']:.2f} s, {found['peak']:.0f} MB (load {load:.1f})", file=sys.stderr, flush=True)
    return found


def measure(args: argparse.Namespace) -> dict:
    """All repeats of all peers, interleaved, and what the table says."""
    load = list(os.getloadavg())
    truth = smooth(problem(args.n, args.dimension, args.seed).new)[0]
    with tempfile.TemporaryDirectory() as folder:
        reference = run_child("reference", args, 0.0, Path(folder))
        constant = float(reference["constant"])
        runs: dict[str, list] = {peer: [] for peer in PEERS}
        for _ in range(args.repeats):
            for peer in PEERS:
                runs[peer].append(run_child(peer, args, constant, Path(folder)))
        std = run_child("kernelfe-std", args, constant, Path(folder))
    rows = {}
    for peer, results in runs.items():
        means = results[0]["means"]
        rows[peer] = {
            "seconds": median(float(r["seconds"]) for r in results),
            "seconds_range": [float(f(r["seconds"] for r in results)) for f in (min, max)],
            "peak_mb": median(float(r["peak"]) for r in results),
            "imports_mb": median(float(r["before"]) for r in results),
            "value_error": float(np.abs(means - reference["means"])[:, 0].max()),
            "gradient_error": float(np.abs(means - reference["means"])[:, 1:].max()),
            "rmse": float(np.sqrt(np.mean((means[:, 0] - truth) ** 2))),
        }
    own = rows["kernelfe"]
    return {
        "date": date.today().isoformat(),
        "n": args.n,
        "dimension": args.dimension,
        "repeats": args.repeats,
        "threads": args.threads,
        "load_before": load,
        "machine": processor(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "matrix_mb": 8e-6 * (args.n * (1 + args.dimension)) ** 2,
        "peers": rows,
        "kernelfe_with_std": {"seconds": float(std["seconds"]), "peak_mb": float(std["peak"])},
        "ratios": {
            peer: {"time": own["seconds"] / row["seconds"], "memory": own["peak_mb"] / row["peak_mb"]}
            for peer, row in rows.items()
            if peer != "kernelfe"
        },
    }


def processor() -> str:
    """Name of the processor and number of cores."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{name}, {os.cpu_count()} cores"


def table(result: dict) -> str:
    """The result as a Markdown table."""
    lines = [
        "| peer | time, s (range) | peak memory, MB | largest deviation of values | of gradients |",
        "|---|---|---|---|---|",
    ]
    for peer, row in result["peers"].items():
        low, high = row["seconds_range"]
        lines.append(
            f"| {PEERS[peer]} | {row['seconds']:.2f} ({low:.2f}–{high:.2f}) | {row['peak_mb']:.0f} "
            f"| {row['value_error']:.1e} | {row['gradient_error']:.1e} |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> dict | None:
    """Command line: measure and print, or (``--child``) run one peer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1000, help="training points, and new points")
    parser.add_argument("--dimension", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--constant", type=float, default=0.0, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        child(args.child, args.n, args.dimension, args.seed, args.constant, args.out)
        return None
    result = measure(args)
    print(table(result))
    print(json.dumps(result, indent=1))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    return result


if __name__ == "__main__":
    main()
