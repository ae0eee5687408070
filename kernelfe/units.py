"""Units: kernelfe computes in ASE's units (eV, Å, K, u). It converts only data that enter or leave, by ``units``.

Numbers from elsewhere come with a ``units`` argument, a dict of

* base dimensions: ``{"energy": "kJ/mol", "length": "nm", "temperature": "K", "mass": "u"}``. Add ``"force"`` if
  forces do not follow from energy and length. Temperature and mass are K and u by
  default; energy and length must be stated if a quantity needs them;
* or single quantities: any label key (``"mean_force": "kcal/mol/Å"``), ``"positions"``, ``"cell"``,
  ``"displacements"``, ``"variables"``. These override the base dimensions;

or the name of one of the :data:`SYSTEMS`. The factor of a label follows from the ``unit`` of its functional.
In such a unit a name in brackets leaves the dimension open: a generalised force (``"eV/[t]"``) converts by
energy alone, and its displacement fields by length, so that fields in nm/rad with forces in kJ/mol/rad become
Å/rad and eV/rad. Parameters λ are never converted.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping

from ase import units as _ase

from .errors import UnitsError

#: Boltzmann's constant, eV/K.
BOLTZMANN: float = _ase.kB
#: One femtosecond in the internal unit of time, Å·(u/eV)^½.
FEMTOSECOND: float = _ase.fs

# (energy, length, temperature, mass, amount of substance, time); angles are pure numbers, in radians
Dimension = tuple[int, int, int, int, int, int]
_ENERGY: Dimension = (1, 0, 0, 0, 0, 0)
_LENGTH: Dimension = (0, 1, 0, 0, 0, 0)
_TEMPERATURE: Dimension = (0, 0, 1, 0, 0, 0)
_MASS: Dimension = (0, 0, 0, 1, 0, 0)
_AMOUNT: Dimension = (0, 0, 0, 0, 1, 0)
_TIME: Dimension = (0, 0, 0, 0, 0, 1)
_NONE: Dimension = (0, 0, 0, 0, 0, 0)
_PER_MOLE: Dimension = (1, 0, 0, 0, 1, 0)
_PRESSURE: Dimension = (1, -3, 0, 0, 0, 0)

#: Dimensions by the name used in ``units`` dicts.
DIMENSIONS: dict[str, Dimension] = {
    "energy": _ENERGY,
    "length": _LENGTH,
    "temperature": _TEMPERATURE,
    "mass": _MASS,
    "time": _TIME,
    "force": (1, -1, 0, 0, 0, 0),
    "pressure": _PRESSURE,
    "angle": _NONE,
    "dimensionless": _NONE,
}

#: Named unit systems accepted wherever ``units`` is.
SYSTEMS: dict[str, dict[str, str]] = {
    "ase": {"energy": "eV", "length": "Å"},
    "gromacs": {"energy": "kJ/mol", "length": "nm"},
    "openmm": {"energy": "kJ/mol", "length": "nm"},
    "mdanalysis": {"energy": "kJ/mol", "length": "Å"},
    "charmm": {"energy": "kcal/mol", "length": "Å"},
}


def _table() -> dict[str, tuple[float, Dimension]]:
    """Unit name → (value in internal units, dimension). A kJ without "/mol" is an error: it would be 6e21 eV."""
    groups: list[tuple[str, float, Dimension]] = [
        ("eV", 1.0, _ENERGY),
        ("meV", 1e-3, _ENERGY),
        ("Hartree hartree Ha", _ase.Hartree, _ENERGY),
        ("Rydberg Ry", _ase.Rydberg, _ENERGY),
        ("J", 1e-3 * _ase.kJ / _ase.mol, _PER_MOLE),  # the value of J/mol; the dimension carries the "/mol"
        ("kJ", _ase.kJ / _ase.mol, _PER_MOLE),
        ("cal", 1e-3 * _ase.kcal / _ase.mol, _PER_MOLE),
        ("kcal", _ase.kcal / _ase.mol, _PER_MOLE),
        ("mol", 1.0, _AMOUNT),
        ("Å A Angstrom angstrom Ang", 1.0, _LENGTH),
        ("nm", 10.0, _LENGTH),
        ("pm", 0.01, _LENGTH),
        ("bohr Bohr", _ase.Bohr, _LENGTH),
        ("K kelvin", 1.0, _TEMPERATURE),
        ("u amu dalton Da", 1.0, _MASS),
        ("fs", 1.0, _TIME),
        ("ps", 1e3, _TIME),
        ("ns", 1e6, _TIME),
        ("bar", _ase.bar, _PRESSURE),
        ("kbar", 1e3 * _ase.bar, _PRESSURE),
        ("atm", 1.01325 * _ase.bar, _PRESSURE),
        ("Pa", _ase.Pascal, _PRESSURE),
        ("MPa", 1e6 * _ase.Pascal, _PRESSURE),
        ("GPa", _ase.GPa, _PRESSURE),
        ("rad radian radians 1", 1.0, _NONE),
        ("deg degree degrees °", math.pi / 180.0, _NONE),
    ]
    return {name: (value, dimension) for names, value, dimension in groups for name in names.split()}


_UNITS = _table()
_TOKEN = re.compile(r"^(?P<name>\[[^\]]+\]|[^\W\d_]+|°|1)(?:\^?(?P<power>-?\d+))?$")
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")


def parse(unit: str) -> tuple[float, Dimension, bool]:
    """Read a unit string: products and quotients of known names, with integer powers.

    Parameters
    ----------
    unit
        For example ``"kJ/mol/nm"``, ``"eV/Å²"``, ``"kcal/mol/degree"``, ``"eV·K^-1"``. ``a/b/c`` is a/(b·c).

    Returns
    -------
    tuple
        The value of one such unit in internal units, its dimension (exponents of energy, length,
        temperature, mass, amount of substance, time), and whether a bracketed name leaves the dimension open.

    Raises
    ------
    UnitsError
        If a name is unknown or the string cannot be read.
    """
    if not isinstance(unit, str) or not unit.strip():
        raise UnitsError(f"a unit must be a string such as 'kJ/mol/nm', not {unit!r}")
    # NFC folds the ångström sign (U+212B) into the letter Å
    text = unicodedata.normalize("NFC", unit).strip().translate(_SUPERSCRIPTS).replace("**", "^")
    text = re.sub(r"\s+", " ", re.sub(r"\s*([/·*])\s*", r"\1", text))
    pieces = re.split(r"([/·*\s])", text)
    value, total, is_open = 1.0, list(_NONE), False
    for place, piece in enumerate(pieces[::2]):
        match = _TOKEN.match(piece)
        if match is None:
            raise UnitsError(f"cannot read {piece!r} in the unit {unit!r}; write it like 'kJ/mol/nm' or 'eV/Å^2'")
        name, power = match["name"], int(match["power"] or 1)
        if place and pieces[2 * place - 1] == "/":
            power = -power
        if name.startswith("["):
            is_open = True
            continue
        if name not in _UNITS:
            raise UnitsError(f"unknown unit {name!r} in {unit!r}; known: {', '.join(_UNITS)}")
        size, dimension = _UNITS[name]
        value *= size**power
        total = [a + power * b for a, b in zip(total, dimension, strict=True)]
    return value, (total[0], total[1], total[2], total[3], total[4], total[5]), is_open


def factor(unit: str, dimension: str | None = None) -> float:
    """Factor that converts numbers in ``unit`` to internal units: internal = factor · number.

    Parameters
    ----------
    unit
        See :func:`parse`.
    dimension
        Required dimension: a key of :data:`DIMENSIONS` (``"energy"``), or a unit of the same dimension
        (``"eV/Å/K"``), whose bracketed names (``"eV/[t]"``) leave everything but the energy open. None: no check.

    Raises
    ------
    UnitsError
        If the unit is unknown or has another dimension.
    """
    value, found, _ = parse(unit)
    if dimension is None:
        return value
    if dimension in DIMENSIONS:
        wanted, is_open = DIMENSIONS[dimension], False
    else:
        _, wanted, is_open = parse(dimension)
    fits = (found[0], found[4]) == (wanted[0], wanted[4]) if is_open else found == wanted
    if not fits:
        hint = "; write it per mole, for example 'kJ/mol'" if found[4] > wanted[4] else ""
        raise UnitsError(f"unit {unit!r} does not measure {dimension}{hint}")
    return value


def resolve(units: str | Mapping[str, str] | None, known: tuple[str, ...] = ()) -> dict[str, str] | None:
    """Check a ``units`` argument and return it as a dict; None (internal units) stays None.

    Parameters
    ----------
    units
        A name in :data:`SYSTEMS`, or a dict of dimensions and quantities to unit strings. An empty dict is None.
    known
        Quantity names accepted in addition to the base dimensions.

    Raises
    ------
    UnitsError
        If a name, key or unit is unknown.
    """
    if units is None or (isinstance(units, Mapping) and not units):
        return None
    if isinstance(units, str):
        if units not in SYSTEMS:
            raise UnitsError(
                f"unknown unit system {units!r}; known: {', '.join(SYSTEMS)}; or pass a dict such as "
                "{'energy': 'kJ/mol', 'length': 'nm'}"
            )
        return dict(SYSTEMS[units])
    if not isinstance(units, Mapping):
        raise UnitsError(
            f"units must be the name of a system ({', '.join(SYSTEMS)}) or a dict such as "
            f"{{'energy': 'kJ/mol', 'length': 'nm'}}, not {units!r}"
        )
    base = ("energy", "length", "temperature", "mass", "force")
    for key, unit in units.items():
        if key in base:
            factor(unit, key)
        elif key in known:
            parse(unit)
        else:
            raise UnitsError(f"units has the unknown key {key!r}; known: {', '.join((*base, *known))}")
    return dict(units)


def quantity_factor(units: Mapping[str, str] | None, quantity: str, unit: str) -> float:
    """Factor that converts a quantity to internal units.

    Parameters
    ----------
    units
        Result of :func:`resolve`. None: the numbers are already internal, factor 1.
    quantity
        Its name, looked up in ``units`` first.
    unit
        Its internal unit, for example a functional's ``unit``. It is rebuilt factor by factor from the base
        dimensions: ``"eV/Å/K"`` from energy, length and temperature.

    Raises
    ------
    UnitsError
        If ``units`` lacks a dimension that the quantity needs, or gives a unit of another dimension.
    """
    if units is None:
        return 1.0
    if quantity in units:
        return factor(units[quantity], unit)
    _, exponents, _ = parse(unit)
    energy, length, temperature, mass = exponents[:4]
    result = 1.0
    if "force" in units and energy >= 1 and length <= -1:
        result, energy, length = factor(units["force"], "force"), energy - 1, length + 1
    for name, power in (("energy", energy), ("length", length), ("temperature", temperature), ("mass", mass)):
        if power and name in units:
            result *= factor(units[name], name) ** power
        elif power and name in ("energy", "length"):
            raise UnitsError(
                f"units does not state {name}, which {quantity!r} ({unit}) needs; add "
                f"{{{name!r}: ...}} or {{{quantity!r}: ...}}"
            )
    return result
