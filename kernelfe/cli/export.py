"""Command ``kernelfe export``: a fitted model of a liquid as input of a simulation engine."""

from __future__ import annotations

from typing import Any

import click

from .files import Start, require_folder, start_frames
from .options import FILE, start_options
from .sample import warn_temperatures


@click.command()
@click.argument("model", type=FILE)
@click.option("--engine", required=True, type=click.Choice(["lammps", "gromacs"]))
@click.option("--temperature", "-T", required=True, type=float, help="K: the files hold at this temperature only.")
@click.option("--output", "-o", required=True, type=click.Path(file_okay=False), help="Folder for the files.")
@click.option("--style", type=click.Choice(["real", "metal"]), help="Unit style of LAMMPS.  [default: real]")
@click.option("--points", type=int, help="Entries of a pair table of LAMMPS.  [default: 4000]")
@click.option(
    "--tolerance", type=float, help="Largest relative error of the forces of triplets in LAMMPS.  [default: 0.001]"
)
@click.option("--start", type=FILE, help="Frames (.npz, .extxyz, .traj), the first of which is written as liquid.data.")
@start_options
def export(
    model: str, engine: str, temperature: float, output: str, start: str | None, start_source: Start, **given: Any
) -> None:
    """Write the pair and triplet functions of a fitted MODEL of a liquid as tables of LAMMPS or GROMACS."""
    from .. import load
    from ..deploy import PairTable, export_gromacs, export_lammps

    options = {name: value for name, value in given.items() if value is not None}
    require_folder(output)
    fitted = load(model)
    warn_temperatures(fitted, [temperature])
    if engine == "gromacs":
        if name := next(iter(options), None if start is None else "start"):
            raise click.UsageError(f"--{name} is for --engine lammps")
        files = export_gromacs(fitted, output, temperature)
        click.echo(f"wrote {', '.join(path.name for path in files)} to {output}")
        click.echo("GROMACS reads them up to version 2019 (group scheme); later versions take no tables of pairs.")
        return
    first = None if start is None else start_frames(start, start_source, temperature)
    units, table = options.pop("style", "real"), PairTable(options.pop("points", PairTable.points))
    done = export_lammps(fitted, output, temperature, start=first, units=units, table=table, **options)
    click.echo(f"wrote {', '.join(done.files)} to {output}")
    click.echo("types: " + ", ".join(f"{number} = {kind}" for kind, number in done.types.items()))
    if "triplets.uf3" in done.files:
        click.echo(f"forces of triplets: relative error {done.triplet_error:.1e}")
