"""The border for arrays from users: one function turns anything array-like into plain float64 numbers, or refuses it.

``numpy.asarray`` strips what subclasses and wrappers carry: the unit of an ``openmm.unit.Quantity`` or of a pint
quantity, the mask of a masked array. Numbers in nanometres would then be taken for ångströms, and the 10²⁰ behind a
mask for data. Here units are converted, masks refused (rows of labels may be missing: :func:`masked_rows`), tensors
brought to the CPU, and texts, objects and complex numbers refused.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import DataError, UnitsError, require
from .units import factor, parse

FloatArray = NDArray[np.float64]


def real_array(value: Any, name: str, unit: str | None = None, scale: float = 1.0) -> FloatArray:
    """Real numbers as a float64 array, not copied where they are one already.

    Parameters
    ----------
    value
        Array, tensor, table, (nested) list, or a quantity with a unit.
    name
        What errors call it.
    unit
        Internal unit (``"Å"``, ``"eV/Å"``) that quantities with a unit are converted to; None: they are refused unless
        they are dimensionless.
    scale
        Factor to the internal unit of numbers without a unit.

    Raises
    ------
    DataError
        If the value is ragged, masked, or not real numbers.
    UnitsError
        If it carries a unit of another dimension, or one where none is expected.
    """
    if (unit_of := _unit_of(value)) is not None:
        return _converted(value, name, unit, unit_of)
    if isinstance(value, (list, tuple)) and _wrapped(value):
        parts = [real_array(part, name, unit, scale) for part in value]
        require(len({part.shape for part in parts}) == 1, _ragged(name))
        return np.stack(parts)
    if isinstance(value, np.ma.MaskedArray):
        require(
            not np.ma.is_masked(value),
            f"{name} has masked entries, which have no value: leave these rows out, or fill them (array.filled(...)) "
            "if you know what belongs there",
        )
        value = value.data
    if hasattr(value, "detach"):
        value = _tensor(value, name)
    try:
        # a table keeps a type of its own where entries are missing
        array = np.asarray(value.to_numpy() if hasattr(value, "to_numpy") else value)
    except ValueError as error:
        raise DataError(_ragged(name)) from error
    except (TypeError, RuntimeError) as error:
        raise DataError(f"{name} is not an array of real numbers: {error}") from error
    require(
        array.dtype.kind in "biuf",
        f"{name} must hold real numbers, not {array.dtype}"
        + (" (text, or missing entries of a table?)" if array.dtype.kind in "OUS" else ""),
    )
    array = np.asarray(array, dtype=np.float64)
    return array if scale == 1.0 else array * scale


def kelvin(temperature: Any) -> float:
    """One positive temperature in K.

    Raises
    ------
    DataError
        If it is not one positive, finite number, or carries a unit other than one of temperature.
    """
    value = real_array(temperature, "temperature", "K")
    require(
        value.ndim == 0 and 0.0 < float(value) < np.inf,
        f"temperature={temperature!r} must be one positive number, in kelvin",
    )
    return float(value)


def masked_rows(value: Any, name: str) -> tuple[Any, NDArray[np.bool_] | None]:
    """Data of a masked array and the rows that it lacks; other values as they are, and None.

    Parameters
    ----------
    value
        Anything; of a masked array (n, …) each row must be masked as a whole or not at all.
    name
        What errors call it.

    Raises
    ------
    DataError
        If a row is masked in part.
    """
    if not isinstance(value, np.ma.MaskedArray) or not value.ndim or not np.ma.is_masked(value):
        return value, None
    mask = np.ma.getmaskarray(value).reshape(len(value), -1)
    missing: NDArray[np.bool_] = np.logical_and.reduce(mask, axis=1)
    partly = np.flatnonzero(np.logical_or.reduce(mask, axis=1) & ~missing)
    require(
        not len(partly),
        f"{name}: row {partly[:1].tolist()} is masked in part: a label is there as a whole or not at all; mask the row",
    )
    return value.filled(0), missing


def unwrapped(value: Any, name: str, unit: str | None = None) -> Any:
    """The value as it is, if numpy would read all of it; a real array, or an error, if it carries a unit or a mask.

    For groups, texts and tables that other packages check.
    """
    if hasattr(value, "detach"):
        return _tensor(value, name)
    if isinstance(value, np.ma.MaskedArray) and not np.ma.is_masked(value):
        return value.data
    return real_array(value, name, unit) if _wrapped(value) else value


def _ragged(name: str) -> str:
    return (
        f"{name} is ragged, not a rectangular array; every frame must have the same shape: build one Frames per kind "
        "of molecule"
    )


def _wrapped(value: Any) -> bool:
    """True for what numpy would strip of its unit or mask, and for lists that hold such a thing."""
    if isinstance(value, (list, tuple)):
        lists = any(issubclass(kind, (list, tuple)) for kind in set(map(type, value)) if kind not in (float, int))
        return any(map(_wrapped, value if lists else {type(one): one for one in value}.values()))
    return isinstance(value, np.ma.MaskedArray) or hasattr(value, "detach") or _unit_of(value) is not None


def _unit_of(value: Any) -> str | None:
    """The unit that a value carries (openmm, pint, unyt, astropy and alike), or None."""
    if not any(hasattr(value, name) for name in ("value_in_unit", "magnitude", "to_value")):
        return None
    unit = getattr(value, "unit", None) or getattr(value, "units", None)
    return None if unit is None and not hasattr(value, "value_in_unit") else str(unit)


def _converted(value: Any, name: str, unit: str | None, found: str) -> FloatArray:
    """A quantity in an internal unit; conversions are those of its own package."""
    if unit is None and found not in ("dimensionless", ""):
        raise UnitsError(
            f"{name} carries the unit {found}, and no unit is expected here: pass plain numbers, in the unit that the "
            "documentation names"
        )
    _, (energy, length, temperature, mass, *_), is_open = parse(unit or "1")
    require(
        not is_open, f"{name} carries the unit {found}: pass plain numbers and name their unit in units=", UnitsError
    )
    # first per mole, as simulation programs have it, then per molecule
    for base in ("kJ/mol", "eV") if energy else ("kJ/mol",):
        parts = [(base, energy), ("nm", length), ("K", temperature), ("u", mass)]
        scale = float(np.prod([factor(one) ** power for one, power in parts]))
        try:
            plain = _in_units(value, [(one, power) for one, power in parts if power])
        except Exception:  # of a package that we do not know: every failure means another dimension
            continue
        return real_array(plain, name) * scale
    raise UnitsError(f"{name} carries the unit {found}, which does not measure {unit or 'a plain number'}")


def _in_units(value: Any, parts: list[tuple[str, int]]) -> Any:
    """Plain numbers of a quantity in a product of units."""
    if hasattr(value, "value_in_unit"):  # openmm.unit, which is there if the value is
        known = importlib.import_module(type(value).__module__.rpartition(".")[0])
        names = {"kJ/mol": "kilojoule_per_mole", "eV": "ev", "nm": "nanometer", "K": "kelvin", "u": "dalton"}
        target = known.dimensionless
        for one, power in parts:
            target = target * getattr(known, names[one]) ** power
        return value.value_in_unit(target)
    text = "*".join(f"{one}**{power}" for name, power in parts for one, power in _powers(name, power))
    found = value.to(text)
    return found.magnitude if hasattr(found, "magnitude") else found.value


def _powers(name: str, power: int) -> list[tuple[str, int]]:
    return [("kJ", power), ("mol", -power)] if name == "kJ/mol" else [(name, power)]


def _tensor(value: Any, name: str) -> Any:
    """A numpy array of a tensor on any device, of any type that numpy has."""
    try:
        value = value.detach().cpu()
        return (value.double() if value.is_floating_point() else value).numpy()
    except (TypeError, RuntimeError, AttributeError) as error:
        raise DataError(f"{name} is not a dense tensor of numbers: {error}") from error
