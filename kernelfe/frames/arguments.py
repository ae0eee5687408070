"""The arguments of Frames.from_arrays: unit factors, and the fields of Frames that follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arrays import masked_rows
from ..errors import DataError, require
from ..functionals import OBSERVABLES, Functional, Spatial, get
from ..units import factor, quantity_factor, resolve
from . import checks
from .checks import frozen, mapping

#: Quantities other than observables that have units.
_WITH_UNITS = ("positions", "variables", "cell", "displacements", "masses")


@dataclass
class Arguments:
    """Arguments of ``Frames.from_arrays`` as they were given."""

    positions: Any = None
    variables: Any = None
    temperature: Any = None
    labels: Any = None
    noise: Any = None
    displacements: Any = None
    parameters: Any = None
    kinds: Any = None
    masses: Any = None
    cell: Any = None
    bonds: Any = None
    units: Any = None
    present: Any = None

    def fields(self) -> dict[str, Any]:
        """Fields of Frames, checked and in internal units.

        Raises
        ------
        DataError, UnitsError
            As in ``Frames.from_arrays``.
        """
        require(
            (self.positions is None) != (self.variables is None),
            "pass exactly one of positions=(n, beads, 3) and variables=(n, d)",
        )
        labels = mapping(self.labels, "labels", "{'mean_force': values}")
        noise = mapping(self.noise, "noise", "{'mean_force': 0.1}, by label")
        present = mapping(self.present, "present", "{'mean_force': mask}, by label")
        parameters = mapping(self.parameters, "parameters", "{'charge': values}")
        functionals = {key: get(key) for key in labels}
        units = Units(resolve(self.units, (*_WITH_UNITS, *OBSERVABLES, *labels)), self.positions is not None)
        coordinates = self._coordinates(units.coordinates)
        n, shape = len(coordinates), coordinates.shape[1:]
        temperature = self._temperature(n, units)
        parameters = {str(k): frozen(checks.per_frame(v, f"parameter {k!r}", n)) for k, v in parameters.items()}
        beads = shape[0] if units.beads else None
        kinds, masses, bonds = checks.bead_data(
            self.kinds, self.masses, self.bonds, beads, units.of("masses", "u") if self.masses is not None else 1.0
        )
        cell = None
        if self.cell is not None:
            require(units.beads, "cell belongs to beads, but these frames hold variables; leave it out")
            cell = checks.cells(self.cell, n, units.of("cell", "Å"))
        given = checks.known_keys(present, labels, "present")
        masks = {key: checks.present_mask(given.get(key), key, n) for key in labels}
        for key in labels:
            labels[key], missing = masked_rows(labels[key], f"label {key!r}")
            if missing is not None and missing.shape == (n,):
                masks[key] &= ~missing
            frozen(masks[key])
        displacements = None
        if self.displacements is not None:
            along = [
                masks[key] for key, functional in functionals.items() if functional.spatial is Spatial.DISPLACEMENT
            ]
            rows = np.any(along, axis=0) if along else None
            displacements = checks.displacement_fields(self.displacements, n, shape, rows)
            displacements = frozen(displacements * units.displacements)
        width = None if displacements is None else displacements.shape[1]
        noise = checks.known_keys(noise, labels, "noise")
        values: dict[str, np.ndarray] = {}
        noises: dict[str, float | np.ndarray] = {}
        for key, functional in functionals.items():
            checks.check_context(key, functional, parameters, cell)
            wanted = functional.shape(shape, width)
            scale = units.label(key, functional)
            unit = units.carried(functional)
            values[key] = frozen(checks.label_values(labels[key], key, wanted, masks[key], unit, scale))
            if key in noise:
                stated, missing = masked_rows(noise[key], f"noise of {key!r}")
                require(
                    missing is None or not masks[key][missing[:n]].any(),
                    f"noise of {key!r} is masked in rows that have the label; mask these rows of the label as well",
                )
                noises[key] = checks.noise_of(stated, key, wanted, masks[key], unit, abs(scale))
        coordinates = frozen(coordinates)
        return {
            "positions": coordinates if units.beads else None,
            "variables": None if units.beads else coordinates,
            "temperature": temperature,
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

    def _coordinates(self, scale: float) -> np.ndarray:
        if self.positions is None:
            return checks.coordinates(self.variables, "variables", "(n, d)", None, scale)
        return checks.coordinates(self.positions, "positions", "(n, beads, 3)", "Å", scale)

    def _temperature(self, n: int, units: Units) -> np.ndarray:
        if self.temperature is None:
            raise DataError("temperature is missing: pass temperature=, in K, a number or one per frame")
        kelvin = checks.per_frame(self.temperature, "temperature", n, "K", units.temperature)
        row = checks.first_bad_row(kelvin <= 0)
        if row is not None:
            raise DataError(f"temperature is {kelvin[row]:g} K at row {row}; it must be positive")
        return frozen(kelvin)


class Units:
    """Factors to internal units.

    Parameters
    ----------
    stated
        Units by quantity, from :func:`kernelfe.units.resolve`; None: internal units.
    beads
        Whether the coordinates are bead positions.
    """

    def __init__(self, stated: dict[str, str] | None, beads: bool):
        self.stated, self.beads = stated, beads

    def of(self, name: str, unit: str) -> float:
        """Factor of a quantity whose internal unit is ``unit``."""
        return quantity_factor(self.stated, name, unit)

    @property
    def temperature(self) -> float:
        """Factor of temperatures."""
        return factor((self.stated or {}).get("temperature", "K"), "temperature")

    @property
    def coordinates(self) -> float:
        """Factor of positions, or of variables, which are taken as they are unless their unit is stated."""
        if self.beads:
            return self.of("positions", "Å")
        return factor(self.stated["variables"]) if self.stated and "variables" in self.stated else 1.0

    @property
    def displacements(self) -> float:
        """Factor of displacement fields: lengths per generalised coordinate, or any unit that is stated."""
        if self.stated is not None and "displacements" in self.stated:
            return factor(self.stated["displacements"])
        return self.of("displacements", "Å") if self.beads else self.coordinates

    def carried(self, functional: Functional) -> str | None:
        """Internal unit of label arrays that carry their own unit; None where the variables leave it open."""
        return None if "[" in functional.unit or (not self.beads and "Å" in functional.unit) else functional.unit

    def label(self, key: str, functional: Functional) -> float:
        """Factor of a label kind, from the unit of its functional."""
        name = key if self.stated and key in self.stated else key.partition(":")[0]
        if self.beads or self.stated is None:
            return self.of(name, functional.unit)
        # gradients by variables count in the variables' own unit
        result = self.of(name, functional.unit.replace("Å", "[variable]"))
        if functional.spatial is Spatial.GRADIENT and name not in self.stated:
            result /= self.coordinates
        return result
