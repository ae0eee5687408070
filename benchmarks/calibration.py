"""Calibration of error bars: a thousand simulated data sets, and held-out labels of alanine dipeptide.

Simulated: a free energy A(x; T) = e + c₀τ + a(x) − (T − T0) s(x) + c(x) τ(T) of two variables is drawn from the prior,
with length scales, prior scales and noise levels drawn about typical values. The functions are sums of a thousand
random waves with the spectrum of the Gaussian kernel, so that none of the package's own covariances is used. Forces,
energies and responses (for a third of the points) are read at random points and three temperatures, with noise. The
model is ``FreeEnergyRegressor()`` with default settings: its hyperparameters start from the data, never from the truth,
and are fitted by the evidence. It predicts, at points and temperatures without labels, free-energy differences, forces,
entropies, entropy differences and heat capacities. Propagated: averaged over hyperparameters
(:func:`~kernelfe.gp.hyperparameter_ensemble`).

    python benchmarks/calibration.py --datasets 1000 --alanine --figure docs/_static/calibration.png
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import kernelfe
from kernelfe.analysis import Calibration, calibration_of, dihedral_angles, label_calibration, learned_noise
from kernelfe.analysis.calibration_plot import calibration_figure
from kernelfe.gp import Query, hyperparameter_ensemble
from kernelfe.kernels import RBF, SecondOrder

TEMPERATURES = (300.0, 400.0, 500.0)
T0 = 400.0
#: Points per temperature, and noise relative to that of single frames.
REGIMES = {"plenty": (40, 0.3), "comfortable": (12, 0.3), "small": (6, 1.0)}
#: Test points per data set: few, since errors within a data set are correlated.
POINTS = 4
WAVES = 1000
#: Number of held-out frames in an average.
AVERAGED = 25
PHI, PSI = (0, 1, 2, 4), (1, 2, 4, 5)
QUANTITIES = ("A difference", "F", "S", "S difference", "C")


@dataclass
class Truth:
    """Random functions a, s, c of two variables and their gradients, as sums of waves."""

    frequency: np.ndarray  # (3, waves, 2)
    phase: np.ndarray  # (3, waves)
    amplitude: np.ndarray  # (3, waves)
    constants: tuple[float, float]
    lengthscales: np.ndarray  # (2,)
    scales: np.ndarray  # (3,): eV, eV/K, eV/K

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Truth:
        """Scales about 0.08 eV, 2e-4 eV/K and 1e-4 eV/K, length scales about 1.2, each within a factor of e^±0.3."""
        spread = np.exp(0.3 * rng.standard_normal(5))
        lengthscales = 1.2 * spread[:2]
        frequency = rng.standard_normal((3, WAVES, 2)) / lengthscales
        scale = np.array([0.08, 2e-4, 1e-4]) * spread[2:]
        amplitude = scale[:, None] * rng.standard_normal((3, WAVES)) * np.sqrt(2.0 / WAVES)
        phase = rng.uniform(0.0, 2.0 * np.pi, (3, WAVES))
        constants = (rng.normal(-5.0, 1.0), rng.normal(2e-3, 5e-4))
        return cls(frequency, phase, amplitude, constants, lengthscales, scale)

    def __call__(self, x: np.ndarray, t: np.ndarray) -> dict[str, np.ndarray]:
        """All quantities at points (n, 2) and temperatures (n,)."""
        angle = np.einsum("kwd,nd->nkw", self.frequency, x) + self.phase
        a, s, c = np.einsum("nkw,kw->kn", np.cos(angle), self.amplitude)
        da, ds, dc = -np.einsum("nkw,kw,kwd->knd", np.sin(angle), self.amplitude, self.frequency)
        e, c0 = self.constants
        c = c + c0
        tau, log = t - T0 - t * np.log(t / T0), np.log(t / T0)
        return {
            "free_energy": e + a - (t - T0) * s + c * tau,
            "mean_force": -(da - (t - T0)[:, None] * ds + tau[:, None] * dc),
            "mean_energy": e + a + T0 * s + c * (t - T0),
            "entropy": s + c * log,
            "heat_capacity": c,
            "thermal_response_force": ds + log[:, None] * dc,
        }


def simulate(truth: Truth, size: int, quiet: float, rng: np.random.Generator) -> tuple[kernelfe.Frames, dict]:
    """Labels at ``size`` points per temperature, and the noise in them, rising with T.

    About 0.05 eV/Å, 0.03 eV and 2e-4 eV/Å/K, each times ``quiet``.
    """
    t = np.repeat(TEMPERATURES, size)
    x = rng.uniform(-2.0, 2.0, (len(t), 2))
    values = truth(x, t)
    labels, levels = {}, {}
    for kind, level in (("mean_force", 0.05), ("mean_energy", 0.03), ("thermal_response_force", 2e-4)):
        noise = quiet * level * np.exp(0.3 * rng.standard_normal()) * (t / T0) ** rng.uniform(0.0, 1.0)
        shape = (-1,) + (1,) * (values[kind].ndim - 1)
        levels[kind] = noise.reshape(shape) * np.ones_like(values[kind])
        labels[kind] = values[kind] + levels[kind] * rng.standard_normal(values[kind].shape)
    present = {"thermal_response_force": np.arange(len(t)) % 3 == 0}
    return kernelfe.Frames.from_arrays(variables=x, temperature=t, labels=labels, present=present), levels


def compare(model: Any, truth: Truth, rng: np.random.Generator) -> dict[str, tuple[np.ndarray, ...]]:
    """Truth, mean, standard deviation and PIT of every quantity at a few points, inside the region of the labels."""
    x = rng.uniform(-2.0, 2.0, (2 * POINTS, 2))
    t = np.tile(rng.uniform(300.0, 500.0, POINTS), 2)  # differences are taken at one temperature
    values = truth(x, t)
    one, pair = np.eye(POINTS, 2 * POINTS), np.hstack([np.eye(POINTS), -np.eye(POINTS)])
    component = np.kron(one, [1.0, 0.0])
    asked = {
        "A difference": (pair, "free_energy"),
        "F": (component, "mean_force"),
        "S": (one, "entropy"),
        "S difference": (pair, "entropy"),
        "C": (one, "heat_capacity"),
    }
    found = model.joint(*(matrix @ Query(x, quantity, t) for matrix, quantity in asked.values()))
    y = np.concatenate([matrix @ values[quantity].reshape(-1) for matrix, quantity in asked.values()])
    pit = found.cdf(y) if hasattr(found, "cdf") else [np.nan] * len(y)
    columns = [np.asarray(v).reshape(len(asked), POINTS) for v in (y, found.mean, found.std, pit)]
    return {name: tuple(column[k] for column in columns) for k, name in enumerate(asked)}


def one_data_set(regime: str, number: int, seed: int) -> dict[str, Any]:
    """All predictions for one data set: method → quantity → rows of (truth, mean, standard deviation, PIT)."""
    size, quiet = REGIMES[regime]
    rng = np.random.default_rng([seed, size, number])
    truth = Truth.draw(rng)
    model = kernelfe.FreeEnergyRegressor().fit(simulate(truth, size, quiet, rng)[0])
    ensemble = hyperparameter_ensemble(model, seed=number)
    points = int(rng.integers(2**31))
    out: dict[str, Any] = {"regime": regime, "number": number, "seed": seed, "effective": ensemble.effective}
    for method, one in (("plug-in", model), ("propagated", ensemble)):
        found = compare(one, truth, np.random.default_rng(points))
        out[method] = {name: np.transpose(columns).tolist() for name, columns in found.items()}
    return out


def known(regime: str, datasets: int, seed: int) -> dict[str, Calibration]:
    """The same data sets with their true hyperparameters and noise, to test conditioning alone."""
    size, quiet = REGIMES[regime]
    gathered_columns: dict[str, list] = {}
    for number in range(datasets):
        rng = np.random.default_rng([seed, size, number])
        truth = Truth.draw(rng)
        frames, levels = simulate(truth, size, quiet, rng)
        term = kernelfe.Term(None, RBF(lengthscale=tuple(truth.lengthscales)), SecondOrder(T0, *truth.scales))
        model = kernelfe.FreeEnergyRegressor(terms=term, optimizer=None, noise=levels).fit(frames)
        for name, columns in compare(model, truth, np.random.default_rng(int(rng.integers(2**31)))).items():
            gathered_columns.setdefault(name, []).append(columns[:3])
    return {
        name: calibration_of(*(np.stack(c) for c in zip(*rows, strict=True))) for name, rows in gathered_columns.items()
    }


def simulated(path: Path, regimes: list[str], datasets: int, seed: int) -> None:
    """Append data sets to a file, one line each; existing lines are kept, so that a run can be continued."""
    done = {(row["regime"], row["number"], row["seed"]) for row in rows_of(path)}
    with path.open("a", encoding="utf-8") as file:
        for regime in regimes:
            for number in range(datasets):
                if (regime, number, seed) not in done:
                    file.write(json.dumps(one_data_set(regime, number, seed)) + "\n")
                    file.flush()


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The data sets in a file; an incomplete last line is ignored."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines if line]


def gathered(rows: list[dict[str, Any]], regime: str, method: str) -> dict[str, Calibration]:
    """Quantity → calibration over the data sets of a regime."""
    chosen = [row[method] for row in rows if row["regime"] == regime]
    out = {}
    for name in QUANTITIES:
        values = np.array([row[name] for row in chosen], dtype=float)  # (data sets, points, 4)
        y, mean, std, pit = np.moveaxis(values, 2, 0)
        out[name] = calibration_of(y, mean, std, pit=None if np.isnan(pit).any() else pit)
    return out


def pooled(found: dict[str, Calibration]) -> Calibration:
    """All quantities of a regime together; a data set remains one group."""
    parts = list(found.values())
    return Calibration(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("z", "pit", "groups")))


def alanine(size: int) -> dict[str, Calibration]:
    """Held-out labels at 350 K of a model of all labels at the other temperatures, single and averaged within bins."""
    frames = kernelfe.datasets.load("alanine-dipeptide")
    rows = [np.flatnonzero(frames.temperature == t) for t in (300.0, 400.0, 500.0, 600.0)]
    train = frames[np.concatenate([r[:: len(r) // size][:size] for r in rows])]
    model = kernelfe.FreeEnergyRegressor(solver="sparse").fit(train)
    test = frames[frames.temperature == 350.0][::2]
    out = {}
    for kind in ("mean_force", "mean_energy", "generalized_force"):
        out[f"{kind}, single frames"] = label_calibration(model, test, kind)
        out[f"{kind}, averages of {AVERAGED}"] = averaged_calibration(model, test, kind, AVERAGED)
    return out


def averaged_calibration(model: Any, frames: kernelfe.Frames, kind: str, count: int) -> Calibration:
    """Averages of the labels of ``count`` frames nearest to one another in (φ, ψ), against the model's averages."""
    angles = dihedral_angles(frames.positions, (PHI, PSI))
    order = np.lexsort((angles[:, 1], np.round(angles[:, 0] / np.radians(15.0))))
    chunks = order[: len(order) // count * count].reshape(-1, count)
    noise = learned_noise(model, frames, kind)
    m, columns = noise.shape[1], []
    labels = frames.labels[kind].reshape(len(frames), m)
    for chunk in np.array_split(chunks, max(1, len(chunks) // 20)):
        part = frames[chunk.ravel()]
        matrix = np.kron(np.kron(np.eye(len(chunk)), np.full(count, 1.0 / count)), np.eye(m))
        found = model.joint(matrix @ Query(part, kind))
        y = labels[chunk].mean(1)
        std = np.sqrt((noise[chunk] ** 2).mean(1) / count)
        columns.append((y, found.mean.reshape(y.shape), found.std.reshape(y.shape), std))
    return calibration_of(*(np.concatenate(c) for c in zip(*columns, strict=True)))


def line(first: list[str], found: Calibration) -> str:
    """A row of the table."""
    cells = [
        *first,
        str(found.size),
        f"{100 * found.coverage():.1f} ± {100 * found.coverage_error():.1f}",
        f"{found.mean_squared_z:.2f} ± {found.mean_squared_z_error:.2f}",
        f"{found.uniformity():.1e}",
        f"{found.kurtosis:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Run the requested parts and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--datasets", type=int, default=1000)
    parser.add_argument("--regimes", nargs="*", default=list(REGIMES), choices=list(REGIMES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--file", type=Path, default=Path("calibration.jsonl"), help="data sets, one a line")
    parser.add_argument("--known", type=int, default=0, help="data sets with true hyperparameters, to compare")
    parser.add_argument("--alanine", action="store_true", help="also held-out labels of alanine dipeptide")
    parser.add_argument("--figure", type=Path, help="file for the reliability diagram")
    options = parser.parse_args()
    torch.set_num_threads(1)
    simulated(options.file, options.regimes, options.datasets, options.seed)
    rows, shown = rows_of(options.file), {}
    head = "groups | within 95 % | mean z² | KS p | excess kurtosis |"
    print(f"| regime | hyperparameters | quantity | {head}\n" + "|---" * 8 + "|")
    for regime in [r for r in REGIMES if any(row["regime"] == r for row in rows)]:
        for method in ("plug-in", "propagated"):
            found = gathered(rows, regime, method)
            for name, one in found.items():
                print(line([regime, method, name], one))
            shown |= {f"{regime}, {method}": pooled(found)}
    for regime in options.regimes if options.known else ():
        for name, one in known(regime, options.known, options.seed).items():
            print(line([regime, "known", name], one))
    if options.alanine:
        print(f"\n| frames per T | label | {head}\n" + "|---" * 7 + "|")
        for size in (300, 1250):
            for name, one in alanine(size).items():
                print(line([str(size), name], one), flush=True)
    if options.figure is not None:
        calibration_figure(shown).savefig(options.figure, dpi=110)


if __name__ == "__main__":
    main()
