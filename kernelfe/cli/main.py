"""The command ``kernelfe`` and its subcommands, which read files, call the library, and write files."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import click

from ..errors import KernelfeError
from .config import run
from .export import export
from .fit import fit
from .label import label
from .options import SEED, Numbers
from .report import report, view
from .sample import sample


class Commands(click.Group):
    """Errors of kernelfe end a command with one line and exit code 1; everything else is a bug and shows where."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _say
                return super().invoke(ctx)
        except (KernelfeError, OSError) as error:
            if ctx.params.get("debug"):
                raise
            said = [str(error), *getattr(error, "__notes__", [])]
            raise click.ClickException(" ".join(" ".join(said).split())) from error


def _say(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """Print a warning as one line, without the source line that it comes from."""
    if issubclass(category, UserWarning):
        click.echo("Warning: " + " ".join(str(message).split()), err=True)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show where an error came from, and log what the fits do.")
@click.version_option(package_name="kernelfe")
def main(debug: bool) -> None:
    """Coarse-grained free energies A(R; T) from all-atom simulation: label, fit, sample, export, report."""
    if debug:
        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")


@main.command()
@click.argument("system", type=click.Choice(("alanine-dipeptide", "water")), default="alanine-dipeptide")
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
@click.option("--subsets", type=click.IntRange(1), help="Disjoint training subsets of each size.  [default: 2]")
@click.option("--seed", default=0, show_default=True, type=SEED, help="Seed of the sampling.")
@click.option("--workers", type=click.IntRange(1), help="Processes.  [default: one per core, at most 4]")
@click.option("--progress/--no-progress", default=True, show_default=True)
def quickstart(
    system: str,
    output: str,
    small: bool,
    frames: tuple[int, ...] | None,
    subsets: int | None,
    seed: int,
    workers: int | None,
    progress: bool,
) -> None:
    """A complete example on bundled data, with a report.

    alanine-dipeptide (default): one molecule at a temperature never trained on, four label sets against the reference.

    water: a one-site model of the liquid from 280 to 400 K, trained at two temperatures, beside all-atom frames.
    """
    from dataclasses import replace

    if system == "water":
        if frames or subsets or workers:
            raise click.UsageError("--frames, --subsets and --workers belong to the quickstart of alanine-dipeptide")
        _quickstart_water(output, small, seed, progress)
        return

    from ..quickstart import Plan
    from ..quickstart import run as quickstart_run
    from ..report import number

    plan = Plan.reduced(seed) if small else Plan(seed=seed)
    changes: dict[str, Any] = {}
    if frames:
        changes["sizes"] = frames
    if subsets:
        changes["subsets"] = subsets
    found = quickstart_run(output, replace(plan, **changes), workers=workers, progress=progress)
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


def _quickstart_water(output: str, small: bool, seed: int, progress: bool) -> None:
    from ..quickstart.water import WaterPlan, run_water

    plan = WaterPlan.reduced(seed) if small else WaterPlan(seed=seed)
    found = run_water(output, plan, progress=progress)
    for name, by in found["comparisons"].items():
        click.echo(f"{name}:")
        for temperature, table in by.items():
            seen = "" if float(temperature) in plan.train else " (unseen)"
            shown = ", ".join(f"{row} {one['distance']:.3g} (floor {one['floor']:.2g})" for row, one in table.items())
            click.echo(f"  {temperature} K{seen}: {shown}")
    click.echo(f"{found['seconds']['all']:.0f} s. Report: {Path(output) / 'report.html'}")


for command in (label, fit, sample, export, report, view, run):
    main.add_command(command)


if __name__ == "__main__":
    main()
