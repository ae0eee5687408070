"""Sampling of ``kernelfe sample``: load a model, sample it, write samples; on early exit write partial results."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from ..errors import require
from .files import Start, check_reading, check_restart, require_folder, start_frames, write_samples
from .options import FILE, SEED, Checked, Numbers, start_options


def draw(
    model: str,
    start: str,
    output: str,
    temperatures: tuple[float, ...],
    exchange: bool,
    start_source: Start,
    restart: str | None,
    options: dict[str, Any],
) -> None:
    """Sample a model file from a file of start frames, and write the samples.

    Parameters
    ----------
    start_source
        How to read the start frames.
    temperatures, exchange
        One temperature, or those of a replica exchange, K.
    options
        The numbers of the run, by the names of the command's options.

    Raises
    ------
    KernelfeError
        If something cannot be read, run or written. A run that ends early writes its samples and its last valid state
        to files, which the message names.
    """
    import numpy as np

    from .. import load
    from ..simulate import (
        DomainGuard,
        LangevinProtocol,
        SamplingError,
        load_state,
        run_langevin,
        run_replica_exchange,
        uniform_masses,
    )
    from ..simulate import sample as advance

    fitted = load(model)
    # a start needs no temperature; the first one is given so that files without temperatures can be read
    source = start_frames(start, start_source, temperatures[0])
    fitted.check_frames(source)
    warn_temperatures(fitted, temperatures)
    seed, replicas = options["seed"], options["replicas"]
    rng = np.random.default_rng([seed, 1])
    numbers = {name: options[name] for name in ("timestep", "friction", "steps", "burn_in", "stride", "seed")}
    guard = DomainGuard(stop=options["stop"], restart=Path(output).with_suffix(".restart.npz"))
    moves = "auto" if options["moves"] else None
    protocol = LangevinProtocol(moves=moves, guard=guard, **numbers).for_bonds(source.bonds)
    run_options: dict[str, Any] = {
        "masses": uniform_masses(source.positions.shape[1], options["mass"]),
        "progress": sys.stderr.isatty(),
    }
    frozen = fitted.frozen()
    try:
        if exchange:
            x0 = source.positions[rng.integers(len(source), size=replicas * len(temperatures))]
            x0 = x0.reshape(replicas, len(temperatures), *x0.shape[1:])
            result = run_replica_exchange(frozen, x0, temperatures, protocol, ladders=replicas, **run_options)
            runs = list(result.trajectories)
            click.echo("accepted swaps: " + ", ".join(f"{rate:.2f}" for rate in result.swap_acceptance))
        elif restart is not None:
            state = load_state(restart, seed=seed)
            check_restart(state, source, temperatures[0], restart)
            runs = [advance(frozen, state, protocol, progress=run_options["progress"])]
        else:
            x0 = source.positions[rng.integers(len(source), size=replicas)]
            runs = [run_langevin(frozen, x0, temperatures[0], protocol, **run_options)]
    except (SamplingError, KeyboardInterrupt) as error:
        run = getattr(error, "trajectory", None)
        if run is not None and len(run) and not exchange:
            partial = str(Path(output).with_suffix(f".partial{Path(output).suffix}"))
            write_samples([run], temperatures, source, partial)
            error.add_note(f"The samples so far are in {partial}.")
        if isinstance(error, KeyboardInterrupt):  # click prints only that the command was aborted
            click.echo(" ".join(["Interrupted.", *getattr(error, "__notes__", [])]), err=True)
        raise
    written = write_samples(runs, temperatures, source, output)
    if runs[0].outside:
        click.echo(f"{100 * runs[0].outside:.2g} % of the configurations are beyond the edge of the training data")
    if runs[0].acceptance is not None:
        moved = zip(runs[0].acceptance.names, runs[0].acceptance.rate, strict=True)
        click.echo("accepted moves: " + ", ".join(f"{name} {rate:.2f}" for name, rate in moved))
    click.echo(f"wrote {written} samples to {output}")


def warn_temperatures(model: Any, temperatures: Any) -> None:
    """Warn on standard error of temperatures outside the training range."""
    low, high = min(model.temperatures_), max(model.temperatures_)
    for t in temperatures:
        if not low <= t <= high:
            click.echo(f"Warning: {t:g} K lies outside the training temperatures ({low:g} to {high:g} K).", err=True)


def check_sample(
    temperature: float | None,
    exchange: tuple[float, ...] | None,
    restart: str | None,
    output: str,
    units: str | None,
    bonds: str | None,
    **_: Any,
) -> None:
    """Check options of ``sample`` that must fit together.

    Raises
    ------
    click.UsageError
        If they do not.
    DataError
        If the output cannot be written.
    """
    if (temperature is None) == (exchange is None):
        raise click.UsageError("give either --temperature or --exchange")
    if restart is not None and exchange is not None:
        raise click.UsageError("--restart continues a run at one temperature, not an --exchange")
    require(
        Path(output).suffix.lower() in (".npz", ".xyz", ".extxyz", ".traj"),
        f"cannot write {output}: use .npz, .xyz, .extxyz or .traj",
    )
    require_folder(output)
    check_reading(units, bonds)


@click.command(cls=Checked, check=check_sample)
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
@start_options
def sample(model: str, start: str, output: str, start_source: Start, **options: Any) -> None:
    """Sample exp(−A(R; T)/kT) of a fitted MODEL, at one temperature or by replica exchange."""
    temperature, exchange = options.pop("temperature"), options.pop("exchange")
    restart = options.pop("restart")
    temperatures = (temperature,) if exchange is None else exchange
    draw(model, start, output, temperatures, exchange is not None, start_source, restart, options)
