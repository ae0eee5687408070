"""Types and groups of command-line options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import click

from .files import Source, Start


@dataclass(frozen=True)
class Promised:
    """Files that earlier steps of a config will write; the ``obj`` of a click context that only checks arguments."""

    paths: frozenset[Path]

    def __contains__(self, path: Any) -> bool:
        return Path(path).resolve() in self.paths


class Existing(click.Path):
    """A path that exists, or that an earlier step of the same config will write."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """The path, checked."""
        if ctx is not None and isinstance(ctx.obj, Promised) and value in ctx.obj:
            return value
        return super().convert(value, param, ctx)


class Checked(click.Command):
    """A command that checks its options together as soon as they are parsed, before anything runs.

    Parameters
    ----------
    check
        Called with all options; raises if they do not fit together. It reads no input files.
    """

    def __init__(self, *args: Any, check: Callable[..., None], **options: Any):
        super().__init__(*args, **options)
        self.check = check

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the options, then check them."""
        rest = super().parse_args(ctx, args)
        if not ctx.resilient_parsing:
            self.check(**ctx.params)
        return rest


#: Files that exist.
FILE = Existing(exists=True, dir_okay=False)
#: Seeds that every random number generator takes.
SEED = click.IntRange(0, 2**63 - 1)


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


def gathered(name: str, group: type, *options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Options that a command takes as one object.

    Parameters
    ----------
    name
        Argument of the command that takes the object.
    group
        Dataclass whose fields have the names of the options.
    options
        Decorators made by ``click.option``, in the order of the help text.
    """

    def decorate(command: Any) -> Any:
        @functools.wraps(command)
        def packed(**given: Any) -> Any:
            values = {field.name: given.pop(field.name) for field in fields(group)}
            return command(**given, **{name: group(**values)})

        for option in reversed(options):
            packed = option(packed)
        return packed

    return decorate


_UNITS = click.option(
    "--units",
    help="Units of the file where it states none: ase, gromacs, openmm, mdanalysis, charmm, or pairs such as "
    "energy=kJ/mol,length=nm.",
)
_LAYOUT = click.option(
    "--layout",
    type=click.Choice(["sgdml", "cgnet", "mlcg", "chemtrain"]),
    help="Names of the arrays in a .npz file of another program; its forces become labels.",
)
_BONDS = click.option("--bonds", help="Bonded beads, such as 0-1,1-2, instead of those in the file.")

#: Options of commands that read frames.
data_options = gathered(
    "source",
    Source,
    _UNITS,
    click.option("--temperature", "-T", type=float, help="Temperature of all frames, K, where the file states none."),
    _LAYOUT,
    _BONDS,
)
#: Options of commands that read frames to start from, whose --temperature means another.
start_options = gathered("start_source", Start, _UNITS, _LAYOUT, _BONDS)
