"""Reading the arguments of Frames.from_arrays: shapes, unit factors, and what a label kind needs beside it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import DataError
from ..functionals import OBSERVABLES, Functional, Spatial, get
from ..units import factor, quantity_factor, resolve
from .checks import (
    bead_data,
    cells,
    first_bad_row,
    frozen,
    known_keys,
    mapping,
    noise_of,
    numbers,
    per_frame,
    present_mask,
    require_finite,
)


def checked_fields(
    positions: Any,
    variables: Any,
    *,
    temperature: Any,
    labels: Any,
    noise: Any,
    displacements: Any,
    parameters: Any,
    kinds: Any,
    masses: Any,
    cell: Any,
    bonds: Any,
    units: Any,
    present: Any,
) -> dict[str, Any]:
    """The fields of Frames from the arguments of ``Frames.from_arrays``, checked and in internal units."""
    if (positions is None) == (variables is None):
        raise DataError("pass exactly one of positions=(n, beads, 3) and variables=(n, d)")
    labels = mapping(labels, "labels", "{'mean_force': values}")
    noise = mapping(noise, "noise", "{'mean_force': 0.1}, by label")
    present = mapping(present, "present", "{'mean_force': mask}, by label")
    parameters = mapping(parameters, "parameters", "{'charge': values}")
    functionals = {key: get(key) for key in labels}
    stated = resolve(units, ("positions", "variables", "cell", "displacements", "masses", *OBSERVABLES, *labels))
    name = "variables" if positions is None else "positions"
    coordinates = numbers(variables if positions is None else positions, name)
    check_coordinates(coordinates, name)
    coordinates *= coordinate_factor(stated, name)
    n, shape = len(coordinates), coordinates.shape[1:]
    if temperature is None:
        raise DataError("temperature is missing: pass temperature=, in K, a number or one per frame")
    temperature = per_frame(temperature, "temperature", n)
    temperature = temperature * factor((stated or {}).get("temperature", "K"), "temperature")
    row = first_bad_row(temperature <= 0)
    if row is not None:
        raise DataError(f"temperature is {temperature[row]:g} K at row {row}; it must be positive")
    parameters = {str(k): frozen(per_frame(v, f"parameter {k!r}", n)) for k, v in parameters.items()}
    is_beads = positions is not None
    mass_factor = quantity_factor(stated, "masses", "u") if masses is not None else 1.0
    kinds, masses, bonds = bead_data(kinds, masses, bonds, shape[0] if is_beads else None, mass_factor)
    if cell is not None:
        if not is_beads:
            raise DataError("cell belongs to beads, but these frames hold variables; leave it out")
        cell = cells(cell, n, quantity_factor(stated, "cell", "Å"))
    masks = known_keys(present, labels, "present")
    masks = {key: frozen(present_mask(masks.get(key), key, n)) for key in labels}
    if displacements is not None:
        along = [masks[key] for key, functional in functionals.items() if functional.spatial is Spatial.DISPLACEMENT]
        displacements = displacement_fields(displacements, n, shape, np.any(along, axis=0) if along else None)
        displacements = frozen(displacements * field_factor(stated, is_beads))
    width = None if displacements is None else displacements.shape[1]
    noise = known_keys(noise, labels, "noise")
    values: dict[str, np.ndarray] = {}
    noises: dict[str, float | np.ndarray] = {}
    for key, functional in functionals.items():
        check_context(key, functional, parameters, cell)
        wanted = functional.shape(shape, width)
        scale = label_factor(stated, key, functional, is_beads)
        values[key] = frozen(label_values(labels[key], key, n, wanted, masks[key]) * scale)
        if key in noise:
            noises[key] = noise_of(noise[key], key, wanted, masks[key], abs(scale))
    coordinates = frozen(coordinates)
    return {
        "positions": coordinates if is_beads else None,
        "variables": None if is_beads else coordinates,
        "temperature": frozen(temperature),
        "parameters": parameters,
        "labels": values,
        "present": masks,
        "noise": noises,
        "displacements": displacements,
        "kinds": kinds,
        "masses": masses,
        "cell": cell,
        "bonds": bonds,
    }


def check_coordinates(array: np.ndarray, name: str) -> None:
    """Shape (n, beads, 3) or (n, d), and finite."""
    wanted = "(n, beads, 3)" if name == "positions" else "(n, d)"
    good = array.ndim == 3 and array.shape[2] == 3 if name == "positions" else array.ndim == 2
    if not good or array.shape[1] == 0:
        raise DataError(f"{name} has shape {array.shape}; expected {wanted}")
    require_finite(array, name)


def coordinate_factor(units: dict[str, str] | None, name: str) -> float:
    """Unit factor of positions, or of variables, which are taken as they are unless their unit is stated."""
    if name == "positions":
        return quantity_factor(units, "positions", "Å")
    return factor(units["variables"]) if units and "variables" in units else 1.0


def field_factor(units: dict[str, str] | None, is_beads: bool) -> float:
    """Fields are lengths per whatever they count in; stated outright they may be anything, lengths or numbers."""
    if units is not None and "displacements" in units:
        return factor(units["displacements"])
    return quantity_factor(units, "displacements", "Å") if is_beads else coordinate_factor(units, "variables")


def label_factor(units: dict[str, str] | None, key: str, functional: Functional, is_beads: bool) -> float:
    """Unit factor of a label kind, from the unit of its functional."""
    unit, name = functional.unit, key if units and key in units else key.partition(":")[0]
    if is_beads or units is None:
        return quantity_factor(units, name, unit)
    # gradients by variables count in the variables' own unit
    result = quantity_factor(units, name, unit.replace("Å", "[variable]"))
    if functional.spatial is Spatial.GRADIENT and name not in units:
        result /= coordinate_factor(units, "variables")
    return result


def displacement_fields(value: Any, n: int, shape: tuple[int, ...], rows: np.ndarray | None) -> np.ndarray:
    """Fields (n, k, *shape), finite in the rows with a generalised force, whole or absent in the others."""
    array = numbers(value, "displacements")
    if array.ndim != 2 + len(shape) or array.shape[0] != n or array.shape[2:] != shape or array.shape[1] == 0:
        raise DataError(
            f"displacements has shape {array.shape}; expected ({n}, fields, "
            f"{', '.join(map(str, shape))}): one field of all beads per generalised force"
        )
    axes = tuple(range(1, array.ndim))
    absent = np.isnan(array).all(axis=axes) if rows is None else ~rows  # an all-NaN row has no fields
    require_finite(array, "displacements", ~absent)
    array[absent & ~np.isfinite(array).all(axis=axes)] = np.nan
    return array


def label_values(value: Any, key: str, n: int, shape: tuple[int, ...], rows: np.ndarray) -> np.ndarray:
    """A label, checked: shape (n, *shape), finite in the rows that have it and NaN in the others."""
    array = numbers(value, f"label {key!r}")
    if array.shape != (n, *shape):
        raise DataError(
            f"label {key!r} has shape {array.shape}; expected {(n, *shape)}, one value "
            f"{'of shape ' + str(shape) + ' ' if shape else ''}per frame"
        )
    require_finite(
        array,
        f"label {key!r}",
        rows,
        f"correct it, or leave it out with present={{{key!r}: mask of the rows that have it}}",
    )
    array[~rows] = np.nan
    return array


def check_context(key: str, functional: Functional, parameters: dict[str, Any], cell: Any) -> None:
    """A stress needs a cell, and the parameter labels need their parameter."""
    if functional.spatial is Spatial.STRAIN and cell is None:
        raise DataError(f"label {key!r} needs a cell: pass cell=(3, 3) or (n, 3, 3)")
    for read in functional.reads:
        if read.parameter == "*" and len(parameters) != 1:
            raise DataError(
                f"label {key!r} needs exactly one parameter and there are {len(parameters)}; "
                f"pass parameters={{name: values}} and name it as '{key}:name' when there are several"
            )
        if read.parameter not in (None, "*") and read.parameter not in parameters:
            raise DataError(
                f"label {key!r} is about parameter {read.parameter!r}, which is not among "
                f"{list(parameters)}; pass it in parameters="
            )
