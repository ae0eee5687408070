"""The command ``fit``: hyperparameters and posterior from labels, conditioning on the density, a summary."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Any

import click

from ..errors import DataError
from ..frames.virial import applies, virial_check
from .files import Source, check_reading, require_folder
from .options import FILE, SEED, Checked, data_options, gathered


@dataclass(frozen=True)
class Sampling:
    """Options of the density step."""

    density: bool
    timestep: float | None


def check_fit(
    solver: str,
    checkpoint: str | None,
    density: bool,
    timestep: float | None,
    labels: str | None,
    output: str,
    **reading: Any,
) -> None:
    """Check options of ``fit`` that must fit together.

    Raises
    ------
    click.UsageError
        If they do not.
    DataError
        If a label kind is unknown, or the folder of the output does not exist.
    """
    from ..functionals import get

    if density and solver in ("dense", "iterative"):
        raise click.UsageError("--density needs the sparse solver")
    if checkpoint is not None and not (density or solver in ("iterative", "sparse")):
        raise click.UsageError("--checkpoint needs --solver sparse or --solver iterative: the others keep nothing")
    if timestep is not None and not density:
        raise click.UsageError("--timestep belongs to the sampling of --density")
    for kind in _kinds(labels) or ():
        get(kind)
    require_folder(output)
    check_reading(reading["units"], reading["bonds"])


def _kinds(labels: str | None) -> list[str] | None:
    """Label kinds, separated by commas on the command line."""
    return [kind.strip() for kind in labels.split(",")] if labels else None


@click.command(cls=Checked, check=check_fit)
@click.argument("data", type=FILE)
@click.option("--output", "-o", default="model.kfe", show_default=True, type=click.Path(dir_okay=False))
@click.option("--labels", help="Label kinds to condition on, separated by commas.  [default: all that are present]")
@click.option(
    "--solver", type=click.Choice(["auto", "dense", "iterative", "sparse"]), default="auto", show_default=True
)
@gathered(
    "sampling",
    Sampling,
    click.option(
        "--density",
        is_flag=True,
        help="Also condition on where the frames are found (unbiased equilibrium frames of beads, in their order in "
        "time).",
    ),
    click.option(
        "--timestep",
        type=click.FloatRange(0.0, min_open=True),
        help="Of the sampling of --density, fs.  [default: 5, less for stiff bonds]",
    ),
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
    seed: int,
    sampling: Sampling,
    source: Source,
) -> None:
    """Fit a model to the labels in DATA: .npz of Frames.save or of another program (--layout), .extxyz, .traj.

    Under torchrun, processes share the work of the sparse and of the iterative solver.
    """
    from .. import FreeEnergyRegressor, Iterative, Sparse
    from ..runtime.processes import launched

    density, timestep = sampling.density, sampling.timestep
    frames = source.read(data)
    if density and (frames.positions is None or frames.cell is not None or frames.parameters):
        raise DataError("--density needs frames of bead positions, without a cell and without parameters")
    with launched() as processes:
        if density and processes.size > 1:
            raise click.UsageError("--density samples in one process: fit without it, or without torchrun")
        chosen: Any = "sparse" if density else solver
        if checkpoint is not None:
            chosen = (Iterative if chosen == "iterative" else Sparse)(checkpoint=checkpoint)
        shown = sys.stderr.isatty() and processes.first
        model = FreeEnergyRegressor(labels=_kinds(labels), solver=chosen, random_state=seed, progress=shown).fit(frames)
        if processes.first:
            model.save(output)  # before the density step, whose sampling may fail
            refined = condition_on_density(model, frames, output, timestep, seed, shown) if density else None
            say_fitted(model, frames, output, refined)


def say_fitted(model: Any, frames: Any, output: str, refined: Any) -> None:
    """Print a summary of the fit and the name of the file."""
    click.echo(frames)
    if applies(frames):
        click.echo(f"  forces: {virial_check(frames).verdict}")
    for kind, (level, power) in model.noise_.items():
        click.echo(
            f"  noise of {kind}: {level:.4g} at {model.noise_temperature_:.0f} K, power of T {power:.2f} (eV, Å)"
        )
    click.echo(
        f"{type(model.solver_).__name__.lower()} solver: {model.solver_reason_}"
        + ("" if math.isnan(model.log_evidence_) else f"; log evidence {model.log_evidence_:.6g}")
    )
    if model.handedness_:
        click.echo(f"handedness: {model.handedness_}")
    if refined is not None:
        best = [one for one in refined.rounds if one.kept][-1]
        click.echo(
            f"density: {len(refined.rounds)} rounds, {'converged' if refined.converged else 'NOT converged'}, "
            f"{best.distance:.1f} standard deviations from the model of the labels alone, "
            f"{best.samples_per_replica:.1f} independent samples per replica; {refined.outcome}"
        )
    click.echo(f"wrote {output}")


def condition_on_density(
    model: Any, frames: Any, output: str, timestep: float | None, seed: int, progress: bool
) -> Any:
    """Condition the model on the density of the frames as well, and overwrite the one in ``output``."""
    from ..training import minimize_relative_entropy

    try:
        refined = minimize_relative_entropy(model, frames, timestep=timestep, seed=seed, progress=progress)
        refined.model.save(output)
    except BaseException:  # Ctrl-C as well: state what the file contains
        click.echo(f"The density step failed; {output} holds the model of the labels alone.", err=True)
        raise
    if not refined.converged:
        click.echo(
            f"Warning: the density step has NOT converged after {len(refined.rounds)} rounds, and {output} holds the "
            f"best model it found ({refined.outcome}). Try another --timestep, or "
            "kernelfe.training.minimize_relative_entropy with more rounds, replicas or a larger longest.",
            err=True,
        )
    return refined
