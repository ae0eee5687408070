"""Compare Cholesky, conjugate gradients, and conjugate gradients in two processes: they give the same posterior.

Value and gradient labels of a smooth function, as in ``value_gradient.py``, in a dimension where the Cholesky factor
of all n·(1 + D) labels fits into memory. Each solver runs in a separate process. The third one runs in two, started by
torchrun with gloo: they share the products of the solve, and afterwards each predicts half of the new points. The
result is compared with Cholesky at the new points, separately for values and gradients, as the largest deviation over
all points: deviations of the means in standard deviations of the function (of its gradient) over the training points,
and of the variances in prior variances (without the broad prior of the constant: 1 for values, 1/ℓ² for slopes).

    OMP_NUM_THREADS=1 python benchmarks/equal_solvers.py --json equal_solvers.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import _harness
import numpy as np
from value_gradient import Problem, kernelfe_model, problem, smooth

#: Largest allowed deviations: means, variances.
MEANS, VARIANCES = 1e-6, 1e-3
SOLVERS = ("cholesky", "conjugate gradients", "two processes")


def child(name: str, spec: dict, out: Path) -> None:
    """Fit and predict in this process, or in this one of several, and write the results."""
    import torch

    from kernelfe import Dense, Iterative
    from kernelfe.runtime.processes import launched

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    data = data_of(spec)
    solver = Dense() if name == "cholesky" else Iterative(tolerance=spec["tolerance"], precision=spec["precision"])
    with launched(600.0) as processes:
        began = time.perf_counter()
        model = kernelfe_model(data, solver)
        seconds = time.perf_counter() - began
        own = processes.share(len(data.new))
        new = data.new[own.start : own.stop]
        mean, std = [], []
        for quantity in ("free_energy", "mean_force"):
            found = model.predict(new, quantity, return_std=True, reference=None)
            for parts, part in zip((mean, std), found, strict=True):
                parts.append(part.reshape(len(new), -1))
        rows = torch.from_numpy(np.column_stack([*mean, *std]))
        every = processes.gather_rows(rows, processes.counts(len(data.new))).numpy()
    solution = getattr(model.posterior_, "solution", None)
    report = {"seconds": seconds, "processes": processes.size}
    if solution is not None:
        report |= {"iterations": solution.iterations, "residual": solution.residual}
    width = every.shape[1] // 2
    weights = model.posterior_.weights.numpy()
    np.savez(
        f"{out}.{processes.rank}.npz",
        mean=every[:, :width],
        std=every[:, width:],
        weights=weights,
        report=json.dumps(report),
    )


def data_of(spec: dict) -> Problem:
    """The data, the same in every process."""
    return problem(spec["n"], spec["dimension"], spec["seed"], spec["lengthscale"], spec["points"])


def run(name: str, spec: dict) -> list[dict]:
    """Results of each process of a solver."""
    size = 2 if name == "two processes" else 1
    launcher = [sys.executable]
    if size > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size)]
    environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    environment.setdefault("GLOO_SOCKET_IFNAME", "lo")  # the host name may not resolve
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found"
        command = [*launcher, __file__, "--child", name, "--spec", json.dumps(spec), "--out", str(out)]
        subprocess.run(command, env=environment, check=True)
        found = []
        for rank in range(size):
            with np.load(f"{out}.{rank}.npz") as file:
                arrays = {key: file[key] for key in file.files}
            found.append(arrays | json.loads(str(arrays.pop("report"))))
    return found


def compare(spec: dict) -> list[dict]:
    """One row for each solver."""
    data = data_of(spec)
    spread = np.array([data.y.std(), data.g.std()])
    prior = np.array([1.0, spec["lengthscale"] ** -2])
    found = {name: run(name, spec) for name in SOLVERS}
    exact, single, rows = found["cholesky"][0], found["conjugate gradients"][0], []
    for name, every in found.items():
        row = {key: spec[key] for key in ("n", "dimension", "lengthscale")} | {"solver": name}
        row |= {"rows": data.y.size + data.g.size, "seconds": max(one["seconds"] for one in every)}
        row |= {key: every[0][key] for key in ("processes", "iterations", "residual") if key in every[0]}
        for key, scale, power in (("mean", spread, 1), ("std", prior, 2)):
            off = [np.abs(one[key] ** power - exact[key] ** power) for one in every]
            row["means" if key == "mean" else "variances"] = [
                float(max(part[:, 0].max() for part in off) / scale[0]),
                float(max(part[:, 1:].max() for part in off) / scale[1]),
            ]
        if name == "two processes":
            row["same bits as one"] = all(np.array_equal(one["weights"], single["weights"]) for one in every)
        error = np.abs(every[0]["mean"][:, 0] - smooth(data.new)[0])
        row["rmse"] = float(np.sqrt(np.mean(error**2)))
        row["passed"] = max(row["means"]) <= MEANS and max(row["variances"]) <= VARIANCES
        rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
    return rows


def table(result: dict) -> str:
    """The result as a Markdown table."""
    lines = [
        "| length scale | environments | label rows | solver | iterations | fit, s | means: value | slope "
        "| variances: value | slope | weights have the bits of one process |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        off = [f"{x:.0e}" for x in (*row["means"], *row["variances"])] if row["solver"] != SOLVERS[0] else ["–"] * 4
        same = {True: "yes", False: "no", None: "–"}[row.get("same bits as one")]
        lines.append(
            f"| {row['lengthscale']} | {row['n']} | {row['rows']:,} | {row['solver']} | {row.get('iterations', '–')} "
            f"| {row['seconds']:.1f} | {' | '.join(off)} | {same} |"
        )
    verdict = "all" if all(row["passed"] for row in result["rows"]) else "NOT all"
    lines.append(f"\nMeans within {MEANS:.0e}, variances within {VARIANCES:.0e}: {verdict}.")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> dict | None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[500, 801, 1500, 5000], help="environments")
    parser.add_argument("--dimension", type=int, default=2)
    parser.add_argument("--lengthscale", type=float, nargs="+", default=[0.7])
    parser.add_argument("--points", type=int, default=50, help="new points")
    parser.add_argument("--tolerance", type=float, default=1e-6, help="of conjugate gradients")
    parser.add_argument("--precision", choices=("mixed", "double"), default="double", help="of its products")
    parser.add_argument("--seed", type=int, default=0)
    _harness.json_argument(parser)
    _harness.child_arguments(parser)
    args = parser.parse_args(argv)
    if args.child:
        child(args.child, json.loads(args.spec), Path(args.out))
        return None
    options = {name: getattr(args, name) for name in ("dimension", "points", "tolerance", "precision", "seed")}
    specs = [{"n": n, "lengthscale": length, **options} for length in args.lengthscale for n in args.sizes]
    rows = [row for spec in specs for row in compare(spec)]
    result = {"date": date.today().isoformat(), "options": options, "rows": rows}
    print(table(result))
    _harness.write(result, args.json)
    return result


if __name__ == "__main__":
    main()
