"""The command ``run``: label, fit, sample and report from one file."""

from __future__ import annotations

import difflib
import shlex
import tomllib
from pathlib import Path
from typing import Any

import click

from ..errors import DataError, require
from .fit import fit
from .label import label, page_of
from .options import FILE, Promised
from .report import report
from .sample import sample

#: Commands in the order in which they run.
STEPS: dict[str, click.Command] = {"label": label, "fit": fit, "sample": sample, "report": report}
#: What a step takes from others if nothing else is given: option to step and its option.
_FROM = {
    ("fit", "data"): ("label", "output"),
    ("sample", "model"): ("fit", "output"),
    ("sample", "start"): ("label", "output"),
    ("report", "model"): ("fit", "output"),
    ("report", "data"): ("label", "output"),
    ("report", "samples"): ("sample", "output"),
}
#: Outputs of the steps.
_OUTPUT = {"label": "frames.npz", "fit": "model.kfe", "sample": "samples.npz", "report": "report.html"}

EXAMPLE = """\
# kernelfe run config.toml
#
# Every table is a command, run in this order; a table that is absent is not run. Keys are the options of the command
# (kernelfe label --help), flags are true or false. Inputs are the outputs of the tables above, where none is given.
# Paths are relative to the folder in which the command runs.

[label]
runs = ["run-300", "run-400"]   # folders of a ForceReporter, folders of a run, or trajectory files
temperature = [300, 400]        # K, one per run
beads = "backbone+cb"           # backbone, backbone+cb, ca, heavy, molecules, or a selection of atoms
# atoms = "protein"             # atoms to look at
# topology = "md.tpr"           # found beside the run if it has its name
# energies = ["300.edr", "400.edr"]
# units = "real"                # of LAMMPS runs
# skip = 10                     # frames to leave out at the beginning of each run
output = "frames.npz"           # and frames.html, a page about the labels

[fit]
density = true                  # also learn from where the frames are found
# labels = "mean_force,mean_energy"
output = "model.kfe"

[sample]
temperature = 350               # K
replicas = 100
steps = 4000
output = "samples.npz"

[report]
output = "report.html"
"""


@click.command()
@click.argument("config", required=False, type=FILE)
@click.option("--example", is_flag=True, help="Print an example with comments.")
def run(config: str | None, example: bool) -> None:
    """Label, fit, sample and report as a CONFIG file (TOML) says: one table for each command, with its options."""
    if example:
        click.echo(EXAMPLE, nl=False)
        return
    if config is None:
        raise click.UsageError("give a CONFIG file, or --example")
    commands = command_lines(config)
    check(config, commands)
    for name, arguments in commands:
        click.echo(f"$ kernelfe {name} {shlex.join(arguments)}")
        STEPS[name].main(arguments, prog_name=f"kernelfe {name}", standalone_mode=False)


def command_lines(config: str) -> list[tuple[str, list[str]]]:
    """Commands and their arguments, in order, of a file.

    Raises
    ------
    DataError
        If the file is not TOML, or names a table or a key that does not exist.
    """
    try:
        tables = tomllib.loads(Path(config).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{config} is not readable as TOML ({error})") from None
    _require_known(config, "table", tables, list(STEPS))
    require(tables, f"{config} holds no table; kernelfe run --example prints one with all")
    for name, table in tables.items():
        require(isinstance(table, dict), f"{config}: write {name} as a table, [{name}]")
    tables = {name: {key.replace("-", "_"): v for key, v in table.items()} for name, table in tables.items()}
    for name, table in tables.items():
        table.setdefault("output", _OUTPUT[name])
    for (name, key), (other, theirs) in _FROM.items():
        if name in tables and other in tables:
            tables[name].setdefault(key, tables[other][theirs])
    return [(name, _arguments(config, name, tables[name])) for name in STEPS if name in tables]


def check(config: str, commands: list[tuple[str, list[str]]]) -> None:
    """Check the arguments of all commands before the first one runs for hours.

    Parameters
    ----------
    config
        Name of the file, for messages.
    commands
        Of :func:`command_lines`. A command may read files that do not exist yet if an earlier one writes them.

    Raises
    ------
    click.UsageError
        If a command would refuse its arguments, or a file that it reads does not exist.
    DataError
        If options do not fit together, or two commands write the same file.
    """
    written: dict[Path, str] = {}
    for name, arguments in commands:
        try:
            context = STEPS[name].make_context(name, list(arguments), obj=Promised(frozenset(written)))
        except click.ClickException as error:
            raise click.UsageError(f"{config}, [{name}]: {error.format_message()}") from None
        except DataError as error:
            raise type(error)(f"{config}, [{name}]: {error}") from None
        outputs = [context.params["output"]]
        if name == "label":
            outputs.append(page_of(outputs[0], context.params["page"]))
        for output in outputs:
            place = Path(output).resolve()
            other = written.setdefault(place, name)
            require(other == name, f"{config}: [{other}] and [{name}] both write {output}; give one another output")


def _arguments(config: str, name: str, table: dict[str, Any]) -> list[str]:
    """Command-line arguments of a table."""
    parameters = {str(p.name): p for p in STEPS[name].params}
    _require_known(config, f"key of [{name}]", table, list(parameters))
    options: list[str] = []
    positional: list[str] = []
    for key, parameter in parameters.items():
        if key not in table:
            continue
        value = table[key]
        require(not isinstance(value, dict), f"{config}: {key} of [{name}] must be a value or a list of values")
        values = value if isinstance(value, list) else [value]
        if isinstance(parameter, click.Argument):
            paths = [str(v) for v in values]
            positional += [f"./{path}" if path.startswith("-") else path for path in paths]  # no options
        elif getattr(parameter, "is_flag", False):
            require(isinstance(value, bool), f"{config}: {key} of [{name}] must be true or false")
            options += [parameter.opts[0]] if value else parameter.secondary_opts[:1]
        elif parameter.multiple:
            for v in values:
                options += [_long(parameter), str(v)]
        else:
            options += [_long(parameter), ",".join(map(str, values))]
    return [*positional, *options]


def _long(parameter: click.Parameter) -> str:
    return next(option for option in parameter.opts if option.startswith("--"))


def _require_known(config: str, what: str, given: Any, known: list[str]) -> None:
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise DataError(f"{config}: unknown {what}, {name!r}; {hint}")
