"""Labels of exact models on disk: their tensors, and how they are rebuilt from a file that is not trusted."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from ... import functionals
from ...errors import ModelFileError
from ...files.fields import require, take
from ..molecules import Molecule
from ..observations.labels import CONCAVITY, GIVEN, PAIR, WHITENED, LabelSet, Reading
from ..observations.noise_models import TENSORS, noise_of
from ..states import States


def label_tensors(prefix: str, label: LabelSet) -> dict[str, Tensor]:
    """Everything of a label set, by names that start with ``prefix``."""
    out = {f"{prefix}.y": label.y}
    out |= {f"{prefix}.{name}": tensor for name, tensor in label.noise.tensors().items()}
    if label.frame is not None:
        out[f"{prefix}.frame"] = label.frame.double()
    for end, reading in (("states", Reading(label.functional, label.states)), ("minus", label.minus)):
        if reading is None:
            continue
        states = reading.states
        out[f"{prefix}.{end}.coordinates"] = states.coordinates
        out[f"{prefix}.{end}.temperature"] = states.temperature
        out[f"{prefix}.{end}.counts"] = states.counts
        if reading.functional.spatial is functionals.Spatial.DISPLACEMENT and states.fields is not None:
            out[f"{prefix}.{end}.fields"] = states.fields
        if states.cell is not None:
            out[f"{prefix}.{end}.cell"] = states.cell
        for name, value in states.parameters.items():
            out[f"{prefix}.{end}.parameter.{name}"] = value
    return out


def label_reads(label: LabelSet) -> list:
    """Definition of the functional of a label set, by which a file notices another one of the same key."""
    return [read.plain() for read in label.functional.reads]


def stored_label(prefix: str, kind: str, header: dict[str, Any], tensors: dict[str, Tensor], molecule) -> LabelSet:
    """The label set of :func:`label_tensors`.

    Raises
    ------
    ModelFileError
        If a tensor is missing or is not what it has to be.
    """
    functional, subtracted, origin = _decoded(kind)
    states = _states(f"{prefix}.states", header, tensors, molecule)
    n, m = len(states), int(np.prod(functional.shape(states.coordinate_shape, states.field_count), dtype=int))
    y = take(tensors, f"{prefix}.y", n, m)
    noise = {}
    for name in TENSORS:
        if (full := f"{prefix}.{name}") in tensors:
            blocks = name == "noise" and tensors[full].ndim == 3
            noise[name] = take(tensors, full, n, m, m) if blocks else take(tensors, full, n, m)
    require("weight" not in noise or bool((noise["weight"] > 0).all()), f"the tensor {prefix}.weight", "", "positive")
    minus = None
    if subtracted is not None:
        minus = Reading(subtracted, _states(f"{prefix}.minus", header, tensors, molecule, n))
    frame = _frame(f"{prefix}.frame", tensors, n) if f"{prefix}.frame" in tensors else None  # older files have none
    return LabelSet(kind, functional, states, y, noise_of(noise), minus, frame, origin)


def _decoded(kind: str) -> tuple[functionals.Functional, functionals.Functional | None, tuple[str, ...]]:
    """Functionals that labels of a kind read and subtract, and kinds that they were made from: files name the kind."""
    if kind == CONCAVITY:
        return functionals.get("heat_capacity"), None, ()
    if kind == PAIR:
        return functionals.FreeEnergy(), functionals.FreeEnergy(), ()
    if kind.startswith(WHITENED):
        return functionals.GeneralizedForce(), None, tuple(kind.removeprefix(WHITENED).strip("()").split(", "))
    if GIVEN in kind:
        plain = kind.split(GIVEN)[0]
        return functionals.get(plain), functionals.GeneralizedForce(), (plain,)
    return functionals.get(kind), None, ()


def _frame(name: str, tensors: dict[str, Tensor], n: int) -> Tensor:
    """Numbers of the frames that labels come from: whole and ascending."""
    frame = take(tensors, name, n)
    whole = bool((frame == frame.round()).all()) and bool((frame.abs() <= 2.0**53).all())
    ascending = bool((frame[:1] >= 0).all()) and bool((frame.diff() > 0).all())
    require(whole and ascending, f"the tensor {name!r}", "", "numbers of frames in ascending order")
    return frame.long()


def _states(
    prefix: str, header: dict[str, Any], tensors: dict[str, Tensor], molecule: Molecule, rows: int | None = None
) -> States:
    shape, periodic = molecule.shape, molecule.periodic
    coordinates = take(tensors, f"{prefix}.coordinates", rows, *shape)
    n = len(coordinates)
    temperature = take(tensors, f"{prefix}.temperature", n)
    if not bool((temperature > 0).all()):
        raise ModelFileError(f"the tensor {prefix}.temperature holds temperatures that are not positive")
    fields = f"{prefix}.fields"
    return States(
        coordinates,
        temperature,
        {name: take(tensors, f"{prefix}.parameter.{name}", n) for name in header["parameter_names"]},
        take(tensors, f"{prefix}.counts", n, len(header["composition"][0])),
        take(tensors, fields, n, None, int(np.prod(shape))) if fields in tensors else None,
        take(tensors, f"{prefix}.cell", n, 3, 3) if periodic else None,
        molecule,
    )
