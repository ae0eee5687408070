"""The command ``label``: from the files of all-atom runs to labelled frames of beads, with a page about them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from ..errors import require
from .files import check_reading, parse_units, require_folder
from .options import FILE, Checked, Numbers, gathered


@dataclass(frozen=True)
class Files:
    """Files of the runs, and how to read them."""

    topology: str | None
    energies: tuple[str, ...]
    units: str | None

    def runs(self, paths: tuple[str, ...], temperatures: tuple[float, ...]) -> list[Any]:
        """The runs; the numbers of paths, temperatures and tables fit (:func:`check_label`)."""
        from ..allatom.labelling import find_run

        units = None if self.units is None else parse_units(self.units)
        at = temperatures * len(paths) if len(temperatures) == 1 else temperatures
        tables = self.energies or (None,) * len(paths)
        return [
            find_run(path, t, topology=self.topology, energies=table, units=units)
            for path, t, table in zip(paths, at, tables, strict=True)
        ]


@dataclass(frozen=True)
class Treatment:
    """Options of the labels."""

    beads: str
    atoms: str | None
    constraints: str
    plain: bool
    stride: int
    skip: int


def check_label(
    runs: tuple[str, ...],
    temperature: tuple[float, ...],
    energies: tuple[str, ...],
    output: str,
    page: str | None,
    units: str | None,
    **_: Any,
) -> None:
    """Check options of ``label`` that must fit together.

    Raises
    ------
    DataError
        If numbers of runs, temperatures and tables of energies do not fit, or an output cannot be written.
    """
    require(
        len(temperature) in (1, len(runs)),
        f"{len(temperature)} temperatures for {len(runs)} runs: give one per run, as in --temperature 300,400, or one "
        "for all",
    )
    require(
        len(energies) in (0, len(runs)),
        f"{len(energies)} files of --energies for {len(runs)} runs: give one per run, in order",
    )
    where = page_of(output, page)
    for path in (output, where):
        require_folder(path)
    require(
        Path(output).resolve() != Path(where).resolve(),
        f"the frames and the page cannot both go to {output}: give --page another name",
    )
    require(Path(output).suffix == ".npz", f"cannot write {output}: the frames go to an .npz file")
    check_reading(None if units in ("real", "metal") else units)


def page_of(output: str, page: str | None) -> str:
    """The file of the page about the labels in ``output``."""
    return page or str(Path(output).with_suffix(".html"))


@click.command(cls=Checked, check=check_label)
@click.argument("runs", nargs=-1, required=True, type=click.Path(exists=True), metavar="RUN…")
@click.option(
    "--temperature",
    "-T",
    required=True,
    type=Numbers(float, "T,T,…"),
    help="Temperature of each run, K, in their order, or one for all.",
)
@click.option("--output", "-o", default="frames.npz", show_default=True, type=click.Path(dir_okay=False))
@click.option("--page", type=click.Path(dir_okay=False), help="The page.  [default: the output with .html]")
@gathered(
    "treatment",
    Treatment,
    click.option(
        "--beads",
        required=True,
        help="backbone (N, CA, C), backbone+cb, ca, heavy (all but hydrogens), molecules (centres of mass), or a "
        "selection of one atom per bead, such as 'name CA CB'.",
    ),
    click.option("--atoms", help="Selection of the atoms to look at, such as protein.  [default: all]"),
    click.option(
        "--constraints",
        type=click.Choice(["auto", "h-bonds", "none"]),
        default="auto",
        show_default=True,
        help="auto: as the files state, else distances that do not vary.",
    ),
    click.option("--plain", is_flag=True, help="Labels as they are, without the best force map and variates."),
    click.option("--stride", default=1, show_default=True, type=click.IntRange(1), help="Keep every so-many-th frame."),
    click.option(
        "--skip",
        default=0,
        show_default=True,
        type=click.IntRange(0),
        help="Kept frames of each run to leave out at its beginning.",
    ),
)
@gathered(
    "files",
    Files,
    click.option("--topology", type=FILE, help="TPR, PRMTOP, PSF, LAMMPS data, GRO, PDB.  [default: beside the run]"),
    click.option("--energies", type=FILE, multiple=True, help="One per run, in order.  [default: beside the run]"),
    click.option("--units", help="Of LAMMPS runs: real, metal, or pairs such as energy=kcal/mol,length=Å."),
)
def label(
    runs: tuple[str, ...],
    temperature: tuple[float, ...],
    output: str,
    page: str | None,
    treatment: Treatment,
    files: Files,
) -> None:
    """Make labelled frames of beads from all-atom RUNs: files with forces, or folders of a ForceReporter or of a run.

    Files that lie beside a trajectory and have its name (topology, energies) are found.
    """
    from ..allatom.labelling import Labelling, label_runs
    from ..quickstart.collect import versions
    from ..report import label_page

    where = page_of(output, page)
    options = Labelling(
        treatment.beads,
        treatment.atoms,
        treatment.constraints,
        not treatment.plain,
        treatment.stride,
        treatment.skip,
    )
    found = label_runs(files.runs(runs, temperature), options)
    found.frames.save(output)
    made, lines = label_page(found, versions())
    made.write(where)
    click.echo(found.frames)
    for line in lines:
        click.echo(f"  {line}")
    click.echo(f"wrote {output} and {where}")
