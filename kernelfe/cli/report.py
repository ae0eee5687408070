"""The commands ``report`` and ``view``: a model compared with data, as a page and as input of a viewer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..errors import require
from .files import Source, check_reading, parse_pairs, parse_torsions, require_folder
from .options import FILE, Checked, data_options


def check_report(data: str, output: str, units: str | None, bonds: str | None, **given: Any) -> None:
    """Check options of ``report``, and of ``view``, that must fit together.

    Raises
    ------
    DataError
        If the samples are the data, the folder of the output does not exist, or the text of an option has another form.
    """
    samples, torsions, elements = (given.get(name) for name in ("samples", "torsions", "elements"))
    require(
        samples is None or Path(samples).resolve() != Path(data).resolve(),
        "--samples are configurations drawn from the model (kernelfe sample), not DATA itself",
    )
    require_folder(output)
    check_reading(units, bonds)
    if torsions is not None:
        parse_torsions(torsions)
    if elements is not None:
        parse_pairs(elements)


@click.command(cls=Checked, check=check_report)
@click.argument("model", type=FILE)
@click.argument("data", type=FILE)
@click.option("--output", "-o", default="report.html", show_default=True, type=click.Path(dir_okay=False))
@click.option("--samples", type=FILE, help="Samples of the model (kernelfe sample), for free energies along the beads.")
@data_options
def report(model: str, data: str, output: str, samples: str | None, source: Source) -> None:
    """Compare a fitted MODEL with DATA: parity and noise, calibration of error bars, hyperparameters."""
    from .. import Frames, load
    from ..quickstart.collect import versions
    from ..report import model_page, number, samples_section

    frames = source.read(data)
    page, numbers = model_page(load(model), frames, Path(model).name, versions())
    if samples is not None:
        samples_section(page, Frames.read(samples), frames)
    page.write(output)
    concave = numbers.pop("concavity")
    for kind, found in numbers.items():
        click.echo(
            f"  {kind}: rmse {number(found['rmse'])}, noise {number(found['noise_floor'])} (eV, Å), "
            f"rms z {number(found['z_rms'])}"
        )
    click.echo(f"  probability of a negative heat capacity: {100 * concave['mean_violation']:.1f} % on average")
    click.echo(f"wrote {output}")


@click.command(cls=Checked, check=check_report)
@click.argument("model", type=FILE)
@click.argument("data", type=FILE)
@click.option("--output", "-o", default="view.json.gz", show_default=True, type=click.Path(dir_okay=False))
@click.option("--torsions", help="Dihedrals of beads for the map, such as 0,1,2,4;1,2,4,5.  [default: the backbone's]")
@click.option(
    "--elements", help="Chemical symbols of bead kinds that are not chemical symbols themselves, such as CA=C,CB=C."
)
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
    source: Source,
) -> None:
    """Write DATA with the predictions and uncertainties of a MODEL for the viewer chemiscope."""
    from .. import load
    from ..report import viewer_input, write_viewer

    document = viewer_input(
        load(model),
        source.read(data),
        name=Path(model).name,
        torsions=None if torsions is None else parse_torsions(torsions),
        elements=None if elements is None else parse_pairs(elements),
        limit=limit,
    )
    write_viewer(document, output, page)
    shown = len(document["properties"]["temperature"]["values"])
    click.echo(f"wrote {shown} frames to {output}; open it at chemiscope.org, or see docs/howto/viewer.md")
