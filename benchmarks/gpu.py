"""kernelfe on a GPU: its measured rates, then kernelfe as a fraction of them, each with its prediction.

One run measures

- rates: matrix products in float64 and float32, and a copy of memory;
- the fused product with the kernel of jets (:class:`kernelfe.kernels.products.PairProducts`), kernel kept and
  recomputed, in float64 and float32;
- the exact fit of n configurations × D numbers from their forces by conjugate gradients;
- the sparse fit of the same forces;
- the sampler: Langevin steps of many replicas with the sparse model.

Every time is shown with the operations and bytes from the formulas of _counts.py
(tests/benchmarks/test_gpu_benchmark.py compares them with the operations of torch) and with the time that they take at
the measured rates: a lower limit if every pass over an array has the GPU to itself. Without a GPU, ``--predict``
writes the same table for given rates.

    python benchmarks/gpu.py --json gpu.json            # one GPU of the H200 class
    python benchmarks/gpu.py --small                    # on a CPU, a few seconds: continuous integration
    python benchmarks/gpu.py --predict                  # no measurement: counts, at the rates of an H200
"""

from __future__ import annotations

import argparse
import platform
import time
from dataclasses import asdict, dataclass, replace
from datetime import date
from statistics import median

import _harness
import numpy as np
import torch
from _counts import Count, Rates, iteration_count, kernel_count, product_count, sparse_count, step_count

import kernelfe
from kernelfe import Frames, FreeEnergyRegressor, Iterative, Sparse, Term
from kernelfe.descriptors import Variables
from kernelfe.kernels import RBF, SecondOrder
from kernelfe.kernels.products import PairProducts
from kernelfe.linalg.normal import PANEL, WIDE_PANEL

#: The problem: A(x) = amplitude · mean of sin(k·x) over a few k, x in the unit cube; forces with normal noise.
TEMPERATURE, WAVES, SEED = 300.0, 64, 0
NOISE, LENGTHSCALE, TOLERANCE = 1.0, 3.0, 1e-4
#: Number of residuals that a solve in mixed precision computes in double precision.
SWEEPS = 3
#: Iterations at 1e5 × 30, from 23, 33, 44 and 57 at 100, 200, 400 and 800 configurations (local preconditioner alone,
#: as its low-rank part does not fit at 3e6 rows): n to the power of 0.43.
ITERATIONS = 450


@dataclass(frozen=True)
class Sizes:
    """Sizes of the measurement: for a GPU of the H200 class, or small."""

    matrix: int = 8192
    copy: int = 1 << 29  # numbers
    configurations: int = 100_000
    dimension: int = 30
    product: int = 40_000  # environments of the product by itself
    inducing: int = 4000
    replicas: int = 4096
    steps: int = 200
    cache_gigabytes: float = 90.0


SMALL = Sizes(256, 1 << 20, 60, 5, 300, 20, 16, 20, 1.0)


#: An H200, not measured by this script: float64 products on its matrix units at 60 Tflop/s and plain float32 at 67
#: (leads from datasheets), and 4.3 TB/s for a copy (of 4.8 TB/s in the datasheet).
H200 = Rates("NVIDIA H200 (rates assumed, not measured)", 60e12, 67e12, 4.3e12)


# ------------------------------------------------------------------ measuring


def wait(device: torch.device) -> None:
    """Wait until the device has completed all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(work, device: torch.device, repeats: int = 5) -> float:
    """Median seconds, after one run that is not counted."""
    found = []
    for k in range(repeats + 1):
        wait(device)
        begin = time.perf_counter()
        work()
        wait(device)
        if k:
            found.append(time.perf_counter() - begin)
    return median(found)


def measured_rates(sizes: Sizes, device: torch.device) -> Rates:
    """Matrix products of random numbers, and a copy that counts bytes read and written."""
    n, found = sizes.matrix, {}
    for dtype in (torch.float64, torch.float32):
        a, b = (torch.randn(n, n, dtype=dtype, device=device) for _ in range(2))
        out = torch.empty_like(a)
        found[dtype] = 2.0 * n**3 / timed(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), device)
    source = torch.randn(sizes.copy, dtype=torch.float64, device=device)
    target = torch.empty_like(source)
    copy = 16.0 * sizes.copy / timed(lambda: target.copy_(source), device)
    return Rates(device_name(device), found[torch.float64], found[torch.float32], copy)


def device_name(device: torch.device) -> str:
    """Name of the GPU, or of the CPU with its threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def peak_gigabytes(device: torch.device) -> float | None:
    """Largest memory of torch on the GPU since the last call, GB; None on a CPU."""
    if device.type != "cuda":
        return None
    found = torch.cuda.max_memory_allocated(device) / 1e9
    torch.cuda.reset_peak_memory_stats(device)
    return found


def problem(n: int, dimension: int) -> Frames:
    """Configurations in the unit cube with noisy forces of a smooth A, of root mean square near one."""
    rng = np.random.default_rng(SEED)
    x = rng.random((n, dimension))
    waves = rng.normal(size=(WAVES, dimension)) / LENGTHSCALE
    phases = 2 * np.pi * rng.random(WAVES)
    scale = LENGTHSCALE * np.sqrt(2.0 / WAVES)
    parts = np.array_split(x, 1 + n // 8192)
    force = np.concatenate([-scale * np.cos(part @ waves.T + phases) @ waves for part in parts])
    force += NOISE * rng.normal(size=force.shape)
    return Frames.from_arrays(
        variables=x, temperature=TEMPERATURE, labels={"mean_force": force}, noise={"mean_force": NOISE}
    )


def model(solver) -> FreeEnergyRegressor:
    """The model of the benchmark, with fixed numbers."""
    term = Term(Variables(), RBF(lengthscale=LENGTHSCALE), SecondOrder(TEMPERATURE, LENGTHSCALE, 1e-3, 1e-3))
    return FreeEnergyRegressor(terms=term, solver=solver, baseline=False, optimizer=None)


def product_rows(sizes: Sizes, rates: Rates, device: torch.device) -> list[dict]:
    """The fused product alone."""
    n, d, out = sizes.product, sizes.dimension, []
    kernel = RBF(lengthscale=1.0).ready(d)
    z = torch.rand(n, d, dtype=torch.float64, device=device)
    w = torch.randn(n, d, 1, dtype=torch.float64, device=device)
    for dtype in (torch.float64, torch.float32):
        for kept in (True, False):
            pairs = PairProducts(kernel, z, z, values=False, cache_bytes=1 << 60 if kept else 0, dtype=dtype)
            seconds = timed(lambda pairs=pairs: pairs.product(None, w), device)
            count = product_count(float(n) ** 2, d, 1, dtype.itemsize, kept)
            name = f"product, {n} environments × {d}, {str(dtype)[6:]}, kernel {'kept' if kept else 'computed'}"
            out.append(row(name, seconds, count, rates, dtype == torch.float32, memory=peak_gigabytes(device)))
            del pairs
    return out


def exact_row(frames: Frames, sizes: Sizes, rates: Rates, device: torch.device, precision: str) -> dict:
    """The exact fit of all forces."""
    n, d = frames.variables.shape
    solver = Iterative(
        tolerance=TOLERANCE, precision=precision, cache_gigabytes=sizes.cache_gigabytes, device=str(device)
    )
    begin = time.perf_counter()
    fitted = model(solver).fit(frames)
    wait(device)
    seconds, solution = time.perf_counter() - begin, fitted.posterior_.solution
    count = exact_count(n, d, solution.iterations, sizes.cache_gigabytes, 8 if precision == "double" else 4)
    more = {"iterations": solution.iterations, "residual": solution.residual, "solve_seconds": solution.seconds}
    more |= {"noise": NOISE, "lengthscale": LENGTHSCALE, "tolerance": TOLERANCE, "memory": peak_gigabytes(device)}
    name = f"exact fit, {n} × {d}: {n * d} force rows, {precision} precision"
    return row(name, seconds, count, rates, precision == "mixed", **more)


def exact_count(n: int, d: int, iterations: int, cache_gigabytes: float, item: int = 8) -> Count:
    """The kernel once if it is kept, the iterations and, in mixed precision, residuals in double precision."""
    kept = item * float(n) ** 2 <= 1e9 * cache_gigabytes
    out = iteration_count(n, d, kept, item).times(iterations)
    if kept:
        out = kernel_count(float(n) ** 2, d, item) + out
    return out if item == 8 else out + product_count(float(n) ** 2, d, 1, 8, kept=False).times(SWEEPS)


def sparse_rows(frames: Frames, sizes: Sizes, rates: Rates, device: torch.device) -> list[dict]:
    """The sparse fit of the same forces, and the sampler with its model."""
    n, d = frames.variables.shape
    begin = time.perf_counter()
    fitted = model(Sparse(inducing=sizes.inducing, device=str(device))).fit(frames)
    wait(device)
    seconds = time.perf_counter() - begin
    rank, panel = fitted.posterior_.basis.ranks[0], PANEL if device.type == "cpu" else WIDE_PANEL
    count = sparse_count(n, d, sizes.inducing, rank, panel)
    name = f"sparse fit, {n * d} force rows × {sizes.inducing} inducing"
    out = [row(name, seconds, count, rates, memory=peak_gigabytes(device))]
    frozen = fitted.frozen()
    x = torch.rand(sizes.replicas, d, dtype=torch.float64, device=device)

    def steps():
        for _ in range(sizes.steps):
            x.add_(frozen.energy_and_forces(x, TEMPERATURE)[1], alpha=1e-9)

    seconds = timed(steps, device, 1) / sizes.steps
    found = row(
        f"forces for one step of {sizes.replicas} replicas, {sizes.inducing} nodes",
        seconds,
        step_count(sizes.replicas, d, sizes.inducing),
        rates,
        memory=peak_gigabytes(device),
    )
    return [*out, found | {"steps_per_second": 1.0 / seconds}]


def row(name: str, seconds: float | None, count: Count, rates: Rates, single: bool = False, **more) -> dict:
    """A line of the table."""
    rate = rates.fp32 if single else rates.fp64
    predicted = rates.seconds(count, single)
    out = {"name": name, "flops": count.flops, "bytes": count.bytes, "predicted_seconds": predicted}
    shown = predicted if seconds is None else seconds
    speed = count.flops / shown
    return out | {"seconds": seconds, "gflops": 1e-9 * speed, "fraction": speed / rate} | more


def predicted_rows(sizes: Sizes, rates: Rates, iterations: int) -> list[dict]:
    """The table without a measurement."""
    n, d, big, out = sizes.configurations, sizes.dimension, float(sizes.configurations) ** 2, []
    for item, name in ((8, "float64"), (4, "float32")):
        for kept in (True, False):
            label = f"product, {n} environments × {d}, {name}, kernel {'kept' if kept else 'computed'}"
            out.append(row(label, None, product_count(big, d, 1, item, kept), rates, item == 4))
    for item, name in ((8, "double"), (4, "mixed")):
        count = exact_count(n, d, iterations, sizes.cache_gigabytes, item)
        label = f"exact fit, {n} × {d}: {n * d} force rows, {name} precision, {iterations} iterations assumed"
        out.append(row(label, None, count, rates, item == 4))
    label = f"sparse fit, {n * d} force rows × {sizes.inducing} inducing"
    out.append(row(label, None, sparse_count(n, d, sizes.inducing), rates))
    label = f"forces for one step of {sizes.replicas} replicas, {sizes.inducing} nodes"
    out.append(row(label, None, step_count(sizes.replicas, d, sizes.inducing), rates))
    return out


def table(result: dict) -> str:
    """Markdown."""
    rates = result["rates"]
    lines = [
        f"{rates['name']}, {result['date']}, kernelfe {result['kernelfe']}, torch {result['torch']}: float64 products "
        f"{rates['fp64'] / 1e12:.3g} Tflop/s, float32 {rates['fp32'] / 1e12:.3g} Tflop/s, copy "
        f"{rates['copy'] / 1e12:.3g} TB/s",
        "",
        "| part | operations | bytes | predicted, s | measured, s | Gflop/s | of the matrix rate | more |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in result["rows"]:
        taken = "" if r["seconds"] is None else f"{r['seconds']:.3g}"
        more = [f"{key} {r[key]:.3g}" for key in ("iterations", "residual", "steps_per_second") if key in r]
        more += [f"{r['memory']:.3g} GB"] if r.get("memory") else []
        lines.append(
            f"| {r['name']} | {r['flops']:.2e} | {r['bytes']:.2e} | {r['predicted_seconds']:.3g} | {taken} | "
            f"{r['gflops']:.0f} | {100 * r['fraction']:.0f} % | {', '.join(more)} |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> dict:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--device", help="default: cuda if there is a GPU, else cpu")
    parser.add_argument("--small", action="store_true", help="small sizes, a few seconds on a CPU")
    parser.add_argument("--predict", action="store_true", help="measure nothing: count, at the rates of an H200")
    parser.add_argument("--iterations", type=int, default=ITERATIONS, help="iterations of the exact fit, for --predict")
    parser.add_argument("--configurations", type=int, help="n of the fits")
    _harness.json_argument(parser)
    args = parser.parse_args(argv)
    sizes = SMALL if args.small else Sizes()
    if args.configurations is not None:
        sizes = replace(sizes, configurations=args.configurations)
    if args.predict:
        rates, rows = H200, predicted_rows(sizes, H200, args.iterations)
    else:
        device = torch.device(args.device or ("cuda:0" if torch.cuda.is_available() else "cpu"))
        if device.type == "cpu" and not args.small:
            raise SystemExit("no GPU found: --small runs on a CPU, --predict counts for an H200")
        rates = measured_rates(sizes, device)
        frames = problem(sizes.configurations, sizes.dimension)
        rows = product_rows(sizes, rates, device)
        rows += [exact_row(frames, sizes, rates, device, precision) for precision in ("double", "mixed")]
        rows += sparse_rows(frames, sizes, rates, device)
    result = {"date": date.today().isoformat(), "kernelfe": kernelfe.__version__, "torch": torch.__version__}
    result |= {"rates": asdict(rates), "sizes": asdict(sizes), "measured": not args.predict, "rows": rows}
    print(table(result))
    _harness.write(result, args.json)
    return result


if __name__ == "__main__":
    main()
