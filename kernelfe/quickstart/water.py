"""``kernelfe quickstart water``: a one-site model of the liquid at unseen temperatures, beside all-atom frames."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from ..analysis.liquids import LiquidComparison, LiquidSamples, compare_liquids, radial_figure
from ..analysis.plots import pair_potential_figure
from ..datasets import PACKAGE, load
from ..errors import require
from ..files.npz import save_npz
from ..frames import Frames
from ..gp import FreeEnergyRegressor
from ..gp.liquids import liquid_terms
from ..protocol import FixedCell
from ..report.html import Page, png
from ..report.liquid import liquid_section
from ..simulate import LangevinProtocol, run_langevin
from ..specs import SEED, Bound, Each, Flag, Real, Spec, Whole
from ..training import minimize_relative_entropy
from .run import filled_when_complete, write_json

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WaterPlan(Spec):
    """Training data, sampling and temperatures of the quickstart of water.

    Parameters
    ----------
    train
        Temperatures whose frames are trained on, K.
    test
        Temperatures that are sampled, K; the model has seen nothing of those that are not in ``train``.
    frames
        Training frames of each temperature.
    replicas
        Boxes that are sampled side by side.
    picoseconds
        Length of each after a fifth as much of equilibration.
    timestep
        fs.
    refine
        Condition the model on the positions of the training frames as well, by relative entropy.
    seed
        Of everything random.
    """

    train: tuple[float, ...] = (310.0, 370.0)
    test: tuple[float, ...] = (280.0, 310.0, 340.0, 400.0)
    frames: int = 125
    replicas: int = 4
    picoseconds: float = 20.0
    timestep: float = 5.0
    refine: bool = True
    seed: int = 0

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        "train": Each(Real(above=0.0)),
        "test": Each(Real(above=0.0)),
        "frames": Whole(least=20),
        "replicas": Whole(least=2),
        "picoseconds": Real(above=0.0),
        "timestep": Real(above=0.0),
        "refine": Flag(),
        "seed": SEED,
    }

    @classmethod
    def reduced(cls, seed: int = 0) -> WaterPlan:
        """A minute, to see that everything works."""
        return cls(test=(340.0,), frames=30, replicas=2, picoseconds=4.0, refine=False, seed=seed)


def run_water(
    output: str | os.PathLike[str], plan: WaterPlan | None = None, *, package: str = PACKAGE, progress: bool = True
) -> dict[str, Any]:
    """Fit, refine, sample and report a one-site model of water.

    Parameters
    ----------
    output
        Folder for ``report.html``, ``metrics.json``, ``model.kfe``, ``samples.npz`` and ``summary.png``.
    plan
        What to do; None: the defaults.
    package
        The package that holds the data.
    progress
        Show progress bars.

    Returns
    -------
    dict
        The content of ``metrics.json``.

    Raises
    ------
    DataError
        If the folder cannot be made, or the data lack a temperature of the plan.
    """
    plan = WaterPlan() if plan is None else plan
    whole = load("water", package)
    known = sorted(set(whole.temperature.tolist()))
    missing = sorted({*plan.train, *plan.test} - set(known))
    require(not missing, f"the water data have no frames at {missing} K; they are at {known} K")
    with filled_when_complete(Path(output)) as folder:
        return _run(folder, whole, plan, progress)


def _run(folder: Path, whole: Frames, plan: WaterPlan, progress: bool) -> dict[str, Any]:
    begin = time.perf_counter()
    train = Frames.concatenate([_training(whole, t, plan.frames) for t in plan.train])
    models = {"labels": FreeEnergyRegressor(liquid_terms(train), progress=progress).fit(train)}
    seconds = {"fit": time.perf_counter() - begin}
    if plan.refine:
        start = time.perf_counter()
        # one Newton step, which is nearly all there is to gain
        found = minimize_relative_entropy(
            models["labels"], train, rounds=2, steps=1600, burn_in=500, enough=0.0, seed=plan.seed, progress=progress
        )
        models["labels and density"] = found.model
        seconds["relative entropy"] = time.perf_counter() - start
    compared: dict[str, dict[float, LiquidComparison]] = {name: {} for name in models}
    samples: dict[str, np.ndarray] = {}
    tasks = [(name, t) for name in models for t in plan.test]
    start = time.perf_counter()
    for name, t in tqdm(tasks, desc="sampling", disable=not progress, leave=False):
        reference = whole[whole.temperature == t]
        found_samples, positions = _sampled(models[name], reference, t, plan)
        compared[name][t] = compare_liquids(found_samples, LiquidSamples.from_frames(reference), t)
        samples[f"{name}/{t:g}"] = positions.astype(np.float32)
    seconds["sampling"] = time.perf_counter() - start
    best = list(models)[-1]
    models[best].save(folder / "model.kfe")
    save_npz(folder / "samples.npz", samples)
    numbers = {
        "temperatures_of_training": list(plan.train),
        "frames_per_temperature": plan.frames,
        "comparisons": {name: {f"{t:g}": _plain(one) for t, one in by.items()} for name, by in compared.items()},
        "seconds": seconds | {"all": time.perf_counter() - begin},
    }
    _page(models[best], compared, plan, numbers).write(folder / "report.html")
    first = compared[best][plan.test[-1]]
    _write(
        folder / "summary.png",
        radial_figure(next(iter(first.model.radial.values())), next(iter(first.reference.radial.values()))),
    )
    write_json(folder / "metrics.json", numbers)
    return numbers


def _training(whole: Frames, temperature: float, count: int) -> Frames:
    """The first frames of a temperature that have forces."""
    here = whole[whole.temperature == temperature]
    rows = np.flatnonzero(here.present["mean_force"])[:count]
    require(len(rows) == count, f"{len(rows)} frames at {temperature:g} K have forces, {count} are wanted")
    return here[rows]


def _sampled(model: Any, reference: Frames, temperature: float, plan: WaterPlan) -> tuple[LiquidSamples, np.ndarray]:
    """Samples of a model in the cell of the all-atom frames, which are the starting points."""
    assert reference.positions is not None and reference.cell is not None
    cell, frozen = np.array(reference.cell[0]), model.frozen()
    some = np.linspace(0, len(reference) - 1, plan.replicas).astype(int)
    steps = round(1000.0 * plan.picoseconds / plan.timestep)
    protocol = LangevinProtocol(
        timestep=plan.timestep,
        friction=2.0,
        steps=steps,
        stride=max(1, steps // 200),
        burn_in=steps // 5,
        seed=plan.seed,
    )
    masses = reference.masses if reference.masses is not None else np.full(reference.positions.shape[1], 18.0)
    run = run_langevin(
        FixedCell(frozen, cell), reference.positions[some], temperature, protocol, masses=masses, progress=False
    )
    flat = torch.from_numpy(run.positions.reshape(-1, *run.positions.shape[2:]))
    stress = torch.cat([frozen.energy_forces_stress(x, torch.from_numpy(cell), temperature)[2] for x in flat.split(64)])
    shaped = stress.numpy().reshape(*run.positions.shape[:2], 6)
    return LiquidSamples.from_arrays(run.positions, cell, kinds=reference.kinds, stress=shaped), run.positions


def _page(model: Any, compared: dict[str, dict[float, LiquidComparison]], plan: WaterPlan, numbers: dict) -> Page:
    page = Page("Water, one site per molecule")
    trained = " and ".join(f"{t:g}" for t in plan.train)
    page.paragraph(
        f"Trained on forces, energies and pressures of {plan.frames} all-atom frames at each of {trained} K. "
        "The distances below are from all-atom frames at temperatures of which the model has seen nothing, unless "
        "they are among these.",
        "lead",
    )
    page.heading("Distance of the structure from all-atom water")
    rows = []
    for name, by in compared.items():
        for t, one in by.items():
            seen = "trained" if t in plan.train else "unseen"
            rows.append(
                [name, f"{t:g}", seen, *(f"{row.distance.value:.3g} ({row.distance.floor:.2g})" for row in one.rows)]
            )
    columns = [row.quantity + (f", {row.unit}" if row.unit else "") for row in next(iter(compared[name].values())).rows]
    page.table(["model", "T / K", "", *columns], rows, "In brackets the floor: what two exact samples would show.")
    r = np.linspace(2.3, 8.9, 200)
    for t in plan.train:
        value, std = model.pair_potential(r, temperature=t, return_std=True)
        page.figure(
            pair_potential_figure(r, value, std, f"{t:g} K"), f"Pair function at {t:g} K with two standard errors."
        )
    for t, one in list(compared.values())[-1].items():
        page.heading(f"{t:g} K")
        liquid_section(page, one)
    page.paragraph(f"{numbers['seconds']['all']:.0f} s in all.", "note")
    return page


def _plain(one: LiquidComparison) -> dict[str, Any]:
    return {
        row.quantity: {
            "model": None if row.model is None else row.model.value,
            "all-atom": None if row.reference is None else row.reference.value,
            "distance": row.distance.value,
            "floor": row.distance.floor,
        }
        for row in one.rows
    }


def _write(path: Path, figure: Figure) -> None:
    from ..files.atomic import atomic_write

    with atomic_write(path) as aside:
        aside.write_bytes(png(figure, dpi=150))


__all__ = ["WaterPlan", "run_water"]
