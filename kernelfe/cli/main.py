"""Commands: thin wrappers that read files, call the library, and write files."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import click

from ..errors import DataError, KernelfeError
from .files import parse_pairs, parse_torsions, read_frames, require_folder


class Commands(click.Group):
    """Errors of kernelfe end a command with one line and exit code 1; everything else is a bug and shows where."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (KernelfeError, OSError) as error:
            if ctx.params.get("debug"):
                raise
            said = [str(error), *getattr(error, "__notes__", [])]
            raise click.ClickException(" ".join(" ".join(said).split())) from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show where an error came from, and log what the fits do.")
@click.version_option(package_name="kernelfe")
def main(debug: bool) -> None:
    """Coarse-grained free energies A(R; T) from all-atom simulation: fit, sample, report."""
    if debug:
        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")


class Numbers(click.ParamType):
    """Numbers separated by commas."""

    def __init__(self, kind: type, name: str):
        self.kind, self.name = kind, name

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """A tuple of numbers."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(self.kind(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers such as 75,300", param, ctx)


#: Seeds that every random number generator takes.
SEED = click.IntRange(0, 2**63 - 1)


# ------------------------------------------------------------------ quickstart


@main.command()
@click.option(
    "--output",
    "-o",
    default="kernelfe-quickstart",
    show_default=True,
    type=click.Path(file_okay=False),
    help="Folder for the results.",
)
@click.option(
    "--small", is_flag=True, help="One subset, two sizes, few samples: a minute, to see that everything works."
)
@click.option("--frames", type=Numbers(int, "N,N,…"), help="Training frames per temperature.  [default: 75,300,1250]")
@click.option("--subsets", type=click.IntRange(1), help="Disjoint training subsets of each size.  [default: 3]")
@click.option("--seed", default=0, show_default=True, type=SEED, help="Seed of the sampling.")
@click.option("--workers", type=click.IntRange(1), help="Processes.  [default: one per core, at most 4]")
@click.option("--progress/--no-progress", default=True, show_default=True)
def quickstart(
    output: str,
    small: bool,
    frames: tuple[int, ...] | None,
    subsets: int | None,
    seed: int,
    workers: int | None,
    progress: bool,
) -> None:
    """Alanine dipeptide at a temperature never trained on: four label sets against the reference, with a report."""
    from dataclasses import replace

    from ..quickstart import Plan, run
    from ..report import number

    plan = Plan.reduced(seed) if small else Plan(seed=seed)
    changes: dict[str, Any] = {}
    if frames:
        changes["sizes"] = frames
    if subsets:
        changes["subsets"] = subsets
    found = run(output, replace(plan, **changes), workers=workers, progress=progress)
    click.echo(
        f"Jensen–Shannon divergence at {found['temperature']:g} K (floor {number(found['floors']['perfect_model'])}):"
    )
    for row in found["divergences"]:
        where = "" if len(row["temperatures"]) > 1 else f" at {row['temperatures'][0]:g} K only"
        spread = "" if row["spread"] is None else f" ± {number(row['spread'], 2)}"
        click.echo(
            f"  {row['labels']:<18} {row['frames_per_temperature']:>5} frames{where}: {number(row['mean'])}{spread}"
        )
    click.echo(f"{found['seconds']:.0f} s. Report: {Path(output) / 'report.html'}")


# ------------------------------------------------------------------ fit


def data_options(command: Any) -> Any:
    """Options of commands that read frames."""
    command = click.option(
        "--layout",
        type=click.Choice(["sgdml", "cgnet", "mlcg", "chemtrain"]),
        help="Names of the arrays in a .npz file of another program; its forces become labels.",
    )(command)
    command = click.option(
        "--temperature", "-T", type=float, help="Temperature of all frames, K, where the file states none."
    )(command)
    return click.option(
        "--units",
        help="Units of the file where it states none: ase, gromacs, openmm, mdanalysis, charmm, or pairs such as "
        "energy=kJ/mol,length=nm.",
    )(command)


FILE = click.Path(exists=True, dir_okay=False)


@main.command()
@click.argument("data", type=FILE)
@click.option("--output", "-o", default="model.kfe", show_default=True, type=click.Path(dir_okay=False))
@click.option("--labels", help="Label kinds to condition on, separated by commas.  [default: all that are present]")
@click.option(
    "--solver", type=click.Choice(["auto", "dense", "iterative", "sparse"]), default="auto", show_default=True
)
@click.option(
    "--density",
    is_flag=True,
    help="Condition on where the frames are found, too (unbiased equilibrium frames of beads, in their order in time).",
)
@click.option(
    "--timestep",
    type=click.FloatRange(0.0, min_open=True),
    help="Of the sampling of --density, fs.  [default: 5, less for stiff bonds]",
)
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=SEED,
    help="Seed of the subsets on which hyperparameters are fitted, and of the sampling of --density.",
)
@click.option(
    "--checkpoint",
    type=click.Path(file_okay=False),
    help="Folder for what a sparse or iterative fit has reached: the same command goes on after an interruption.",
)
@data_options
def fit(
    data: str,
    output: str,
    labels: str | None,
    solver: str,
    checkpoint: str | None,
    density: bool,
    timestep: float | None,
    seed: int,
    units: str | None,
    temperature: float | None,
    layout: str | None,
) -> None:
    """Fit a model to the labels in DATA: .npz of Frames.save or of another program (--layout), .extxyz, .traj.

    Under torchrun, processes share the work of the sparse and of the iterative solver.
    """
    from .. import FreeEnergyRegressor, Iterative, Sparse
    from ..runtime.processes import launched
    from .fit import condition_on_density, say_fitted

    if density and solver in ("dense", "iterative"):
        raise click.UsageError("--density needs the sparse solver")
    if checkpoint is not None and not (density or solver in ("iterative", "sparse")):
        raise click.UsageError("--checkpoint needs --solver sparse or --solver iterative: the others keep nothing")
    if timestep is not None and not density:
        raise click.UsageError("--timestep belongs to the sampling of --density")

    require_folder(output)
    frames = read_frames(data, units, temperature, layout)
    if density and (frames.positions is None or frames.cell is not None or frames.parameters):
        raise DataError("--density needs frames of bead positions, without a cell and without parameters")
    kinds = [kind.strip() for kind in labels.split(",")] if labels else None
    with launched() as processes:
        if density and processes.size > 1:
            raise click.UsageError("--density samples in one process: fit without it, or without torchrun")
        chosen: Any = "sparse" if density else solver
        if checkpoint is not None:
            chosen = (Iterative if chosen == "iterative" else Sparse)(checkpoint=checkpoint)
        shown = sys.stderr.isatty() and processes.first
        model = FreeEnergyRegressor(labels=kinds, solver=chosen, random_state=seed, progress=shown).fit(frames)
        if processes.first:
            model.save(output)  # before the density, too, whose sampling may fail
            refined = condition_on_density(model, frames, output, timestep, seed, shown) if density else None
            say_fitted(model, frames, output, refined)


# ------------------------------------------------------------------ sample


@main.command()
@click.argument("model", type=FILE)
@click.option("--start", required=True, type=FILE, help="Frames to start replicas from (.npz, .extxyz, .traj).")
@click.option("--output", "-o", required=True, type=click.Path(dir_okay=False), help="Samples (.npz, .extxyz, .traj).")
@click.option("--temperature", "-T", type=float, help="K.")
@click.option(
    "--exchange",
    type=Numbers(float, "T,T,…"),
    help="Temperatures of a replica exchange, K, instead of one temperature.",
)
@click.option(
    "--replicas",
    default=100,
    show_default=True,
    type=click.IntRange(1),
    help="Independent replicas (ladders of an exchange).",
)
@click.option("--steps", default=2000, show_default=True, type=click.IntRange(1))
@click.option(
    "--burn-in", default=500, show_default=True, type=click.IntRange(0), help="Steps before the first sample."
)
@click.option("--stride", default=20, show_default=True, type=click.IntRange(1), help="Steps between samples.")
@click.option("--timestep", default=2.0, show_default=True, help="fs.")
@click.option("--friction", default=10.0, show_default=True, help="1/ps.")
@click.option("--mass", default=12.0, show_default=True, help="Mass of every bead, u; averages do not depend on it.")
@click.option(
    "--moves/--no-moves",
    default=True,
    show_default=True,
    help="Monte Carlo rotations about the bonds, where there are any.",
)
@click.option("--seed", default=0, show_default=True, type=SEED)
@click.option(
    "--stop",
    default=2.0,
    show_default=True,
    type=click.FloatRange(0.0, min_open=True),
    help="End the run when a replica is so far outside of the training data, whose edge is at 1; inf: never.",
)
@click.option(
    "--restart",
    type=FILE,
    help="Continue, with the random numbers of --seed, from the state that a run left when it ended early.",
)
@click.option("--units", help="Units of the start file where it states none.")
def sample(
    model: str,
    start: str,
    output: str,
    temperature: float | None,
    exchange: tuple[float, ...] | None,
    replicas: int,
    steps: int,
    burn_in: int,
    stride: int,
    timestep: float,
    friction: float,
    mass: float,
    moves: bool,
    seed: int,
    stop: float,
    restart: str | None,
    units: str | None,
) -> None:
    """Sample exp(−A(R; T)/kT) of a fitted MODEL, at one temperature or by replica exchange."""
    from .sample import draw

    if (temperature is None) == (exchange is None):
        raise click.UsageError("give either --temperature or --exchange")
    if restart is not None and exchange is not None:
        raise click.UsageError("--restart continues a run at one temperature, not an --exchange")
    draw(
        model,
        start,
        output,
        (temperature,) if exchange is None else exchange,  # type: ignore[arg-type]
        exchange is not None,
        units,
        restart,
        {
            "replicas": replicas,
            "mass": mass,
            "timestep": timestep,
            "friction": friction,
            "steps": steps,
            "burn_in": burn_in,
            "stride": stride,
            "moves": moves,
            "seed": seed,
            "stop": stop,
        },
    )


# ------------------------------------------------------------------ report


@main.command()
@click.argument("model", type=FILE)
@click.argument("data", type=FILE)
@click.option("--output", "-o", default="report.html", show_default=True, type=click.Path(dir_okay=False))
@data_options
def report(
    model: str, data: str, output: str, units: str | None, temperature: float | None, layout: str | None
) -> None:
    """Compare a fitted MODEL with DATA: parity beside the noise, calibration of error bars, hyperparameters."""
    from .. import load
    from ..quickstart.collect import versions
    from ..report import model_page, number

    require_folder(output)
    page, numbers = model_page(load(model), read_frames(data, units, temperature, layout), Path(model).name, versions())
    page.write(output)
    concave = numbers.pop("concavity")
    for kind, found in numbers.items():
        click.echo(
            f"  {kind}: rmse {number(found['rmse'])}, noise {number(found['noise_floor'])} (eV, Å), "
            f"rms z {number(found['z_rms'])}"
        )
    click.echo(f"  probability of a negative heat capacity: {100 * concave['mean_violation']:.1f} % on average")
    click.echo(f"wrote {output}")


# ------------------------------------------------------------------ view


@main.command()
@click.argument("model", type=FILE)
@click.argument("data", type=FILE)
@click.option("--output", "-o", default="view.json.gz", show_default=True, type=click.Path(dir_okay=False))
@click.option("--torsions", help="Dihedrals of beads for the map, such as 0,1,2,4;1,2,4,5.  [default: the backbone's]")
@click.option("--elements", help="Chemical symbols of bead kinds that are none, such as CA=C,CB=C.")
@click.option("--limit", default=1000, show_default=True, type=click.IntRange(2), help="Most frames shown.")
@click.option("--page", type=FILE, help="chemiscope_standalone.html, for an .html output that needs no network.")
@data_options
def view(
    model: str,
    data: str,
    output: str,
    torsions: str | None,
    elements: str | None,
    limit: int,
    page: str | None,
    units: str | None,
    temperature: float | None,
    layout: str | None,
) -> None:
    """Write DATA with the predictions and uncertainties of a MODEL for the viewer chemiscope."""
    from .. import load
    from ..report import viewer_input, write_viewer

    require_folder(output)
    document = viewer_input(
        load(model),
        read_frames(data, units, temperature, layout),
        name=Path(model).name,
        torsions=None if torsions is None else parse_torsions(torsions),
        elements=None if elements is None else parse_pairs(elements),
        limit=limit,
    )
    write_viewer(document, output, page)
    shown = len(document["properties"]["temperature"]["values"])
    click.echo(f"wrote {shown} frames to {output}; open it at chemiscope.org, or see docs/howto/viewer.md")


if __name__ == "__main__":
    main()
