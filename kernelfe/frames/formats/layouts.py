"""Arrays as sGDML, cgnet, mlcg and chemtrain keep them: names of arrays, orientation of the cell, and omissions.

sGDML (``.npz``): ``type='d'``, ``R``, ``F``, ``z``, optionally ``E`` and ``lattice`` (vectors in columns), and the
units as text, ``r_unit`` and ``e_unit``. cgnet (``.npy`` per array): coordinates, forces, integer embeddings.
mlcg: the same with the prefix ``cg_``, as ``.npy`` or as datasets of a molecule's group in an HDF5 file, with the
embeddings as an attribute. chemtrain: ``R``, ``F``, ``U``, ``box`` (vectors in columns, or three lengths), ``species``.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError, UnitsError, require
from ...files.atomic import shown
from ...files.hdf5 import dataset, member, open_hdf5
from ...files.npz import MAX_BYTES, load_npy, load_npz, save_npz
from ...functionals import get
from ...units import factor, quantity_factor, resolve
from ..arrays import FrameArrays
from ..checks import look_fractional, mapping


@dataclass(frozen=True)
class Layout:
    """Names of arrays, the preferred one first; empty where the layout has none."""

    positions: tuple[str, ...]
    forces: tuple[str, ...]
    energies: str = ""
    cell: str = ""
    kinds: tuple[str, ...] = ()
    masses: str = ""

    @property
    def own(self) -> set[str]:
        """All names in files of this layout that do not hold a label."""
        return {*self.positions, *self.kinds, self.cell, self.masses} - {""}


LAYOUTS = {
    "sgdml": Layout(("R",), ("F",), "E", "lattice", ("z",)),
    "cgnet": Layout(("coords", "coordinates"), ("forces",), kinds=("embeddings", "embeds")),
    "mlcg": Layout(("coords", "cg_coords"), ("forces", "cg_forces"), kinds=("embeds", "cg_embeds"), masses="masses"),
    "chemtrain": Layout(("R",), ("F",), "U", "box", ("species",)),
}
#: Spellings of units in sGDML files in addition to those of kernelfe.units.
_SGDML_UNITS = {"a.u.": "bohr", "au": "bohr", "Angstroms": "Å"}
_OPTIONS = {"temperature", "kinds", "masses", "bonds", "noise", "parameters", "fractional", "molecule", "max_bytes"}


def read(
    path: Any,
    layout: str,
    labels: Mapping[str, str] | None,
    units: str | Mapping[str, str] | None,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """Arguments of ``Frames.from_arrays``; see ``Frames.read_npz``."""
    form, given = _layout(layout), dict(options)
    require(_OPTIONS >= given.keys(), f"unknown options {sorted(given.keys() - _OPTIONS)}; known: {sorted(_OPTIONS)}")
    molecule, limit = given.pop("molecule", None), given.pop("max_bytes", MAX_BYTES)
    fractional = given.pop("fractional", None)
    if isinstance(path, (list, tuple)):
        require(len(path) == 2, f"{len(path)} files; name two, of positions and of forces, or a dict of array to file")
        path = {form.positions[0]: path[0], form.forces[0]: path[1]}
    name = ", ".join(map(shown, path.values())) if isinstance(path, Mapping) else shown(path)
    arrays = _arrays(path, form, molecule, limit)
    if layout == "sgdml":
        units = _sgdml_units(arrays, units, name)
    if units is None:
        raise UnitsError(f"{name} does not state its units; pass units=, for example units='charmm' (kcal/mol, Å)")
    positions = _numbers(arrays, form.positions, name)
    require(
        positions.ndim == 3 and positions.shape[-1] == 3,
        f"{form.positions[0]!r} in {name} has shape {positions.shape}, expected (frames, beads, 3)",
    )
    cell = _cell(arrays[form.cell], len(positions), name) if form.cell in arrays else None
    if fractional:
        if cell is None:
            raise DataError(f"fractional positions need a box, which {name} lacks")
        positions = np.einsum("nbi,nij->nbj", positions, cell)
    elif fractional is None and cell is not None:
        require(
            not look_fractional(positions, cell),
            f"the positions in {name} fill the range from 0 to 1 of a larger cell, as fractions of it: pass "
            "fractional=True, or fractional=False if they are lengths",
        )
    wanted = {"mean_force": ""} if labels is None else mapping(labels, "labels", "{'mean_force': 'F'}")
    values = {key: _numbers(arrays, (at,) if at else form.forces, name) for key, at in wanted.items()}
    width = positions.shape[1:]
    for key, value in values.items():
        shape = (len(positions), *get(key).shape(width, None))
        if value.size == np.prod(shape, dtype=int):  # energies of sGDML are (n,) or (n, 1)
            values[key] = value.reshape(shape)
    kinds = next((arrays[key] for key in form.kinds if key in arrays), None)
    given.setdefault("kinds", _kinds(kinds, layout, width[0], name))
    if form.masses in arrays:
        given.setdefault("masses", arrays[form.masses])
    return {"positions": positions, "labels": values, "cell": cell, "units": units} | given


def _layout(name: str) -> Layout:
    require(name in LAYOUTS, f"unknown layout {name!r}; known: {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


def _arrays(path: Any, form: Layout, molecule: str | None, limit: int) -> dict[str, np.ndarray]:
    """All arrays of one archive, of several ``.npy`` files by name, or of one molecule in an HDF5 file."""
    if isinstance(path, Mapping):
        return {str(key): load_npy(file, limit) for key, file in path.items()}
    if Path(shown(path)).suffix not in (".h5", ".hdf5"):
        return load_npz(path, limit)
    require(form is LAYOUTS["mlcg"], f"{shown(path)} is HDF5, which only the layout 'mlcg' has")
    if molecule is None:
        raise DataError(f"pass molecule=, which of {shown(path)} to read, as GROUP/NAME")
    with open_hdf5(path) as file:
        group = member(file, molecule)
        names = [key for key in (*form.positions, *form.forces, form.masses) if key in group]
        arrays = {key: dataset(group, key, max_bytes=limit)[()] for key in names}
        for key in form.kinds:
            if key in group.attrs:
                arrays[key] = np.asarray(group.attrs[key])
        require(
            "cg_forces" in group or "cg_delta_forces" not in group,
            f"{shown(path)} holds cg_delta_forces only, from which a prior has been subtracted: they are not mean "
            "forces; read a file with cg_forces",
        )
    return arrays


def _numbers(arrays: Mapping[str, np.ndarray], names: tuple[str, ...], where: str) -> np.ndarray:
    for name in names:
        if name in arrays:
            kind = arrays[name].dtype
            require(kind.kind in "biuf", f"{name!r} in {where} holds {kind} instead of numbers")
            return np.asarray(arrays[name], float)
    raise DataError(f"{where} has no array {' or '.join(map(repr, names))}; it has: {', '.join(arrays)}")


def _cell(box: np.ndarray, frames: int, name: str) -> np.ndarray:
    """Cell vectors in rows (n, 3, 3), from columns or three lengths, for all frames or each."""
    box = np.asarray(box, float) if box.dtype.kind in "biuf" else np.zeros(0)
    if box.shape in ((3,), (frames, 3)) and box.shape != (3, 3):
        box = box[..., None] * np.eye(3)
    require(
        box.shape in ((3, 3), (frames, 3, 3)),
        f"the cell in {name} has shape {box.shape}, expected (3,), (3, 3) or one of these per frame",
    )
    return np.broadcast_to(np.swapaxes(box, -1, -2), (frames, 3, 3)).copy()


def suggestion(names: Iterable[str]) -> str:
    """Advice that names the layouts to which arrays of these names may belong; empty without such a layout."""
    have = set(names)
    fitting = [k for k, form in LAYOUTS.items() if have & set(form.positions) and have & set(form.forces)]
    if not fitting:
        return ""
    of_one = ["sgdml"] if have >= {"R", "F", "z", "type"} else fitting
    return f"; it holds arrays of another program: pass layout={' or '.join(map(repr, of_one))}"


def _kinds(stored: np.ndarray | None, layout: str, beads: int, name: str) -> list[str] | None:
    """Names of beads: elements from atomic numbers, or the numbers themselves."""
    if stored is None:
        return None
    stored = np.asarray(stored)
    if stored.ndim == 2 and len(stored) and (stored == stored[0]).all():
        stored = stored[0]
    require(
        stored.dtype.kind in "iu" and stored.shape == (beads,),
        f"the kinds in {name} are {stored.dtype} of shape {stored.shape}, expected ({beads},) integers",
    )
    if layout != "sgdml":
        return [str(number) for number in stored.tolist()]
    from ase.data import chemical_symbols

    require(
        stored.min(initial=0) >= 0 and stored.max(initial=0) < len(chemical_symbols),
        f"z in {name} holds a number that is not an atomic number; pass kinds=",
    )
    return [chemical_symbols[number] for number in stored]


# ---------------------------------------------------------------------- sGDML


def _sgdml_units(
    arrays: Mapping[str, np.ndarray], units: str | Mapping[str, str] | None, name: str
) -> str | Mapping[str, str]:
    """Units of an sGDML file: those it states; ``units`` where it states none that are known."""
    kind = _text(arrays.get("type"))
    require(kind == "d", f"{name} is not an sGDML data set: its type is {kind or 'missing'!r} instead of 'd'")
    stated = {"length": _text(arrays.get("r_unit")), "energy": _text(arrays.get("e_unit"))}
    stated = {key: _SGDML_UNITS.get(unit, unit) for key, unit in stated.items()}
    try:
        for key, unit in stated.items():
            factor(unit, key)
    except UnitsError:
        if units is None:
            raise UnitsError(
                f"{name} states r_unit={stated['length']!r} and e_unit={stated['energy']!r}, not both of them known; "
                "pass units="
            ) from None
        return units
    if units is not None:
        asked = resolve(units)
        for key, unit in (("length", "Å"), ("energy", "eV")):
            require(
                np.isclose(quantity_factor(asked, key, unit), factor(stated[key], key), rtol=1e-9),
                f"{name} states its {key} in {stated[key]}, which differs from units=; leave it out",
                UnitsError,
            )
    return stated


def _text(array: np.ndarray | None) -> str:
    """Text of a 0-d array; bytes where Python 2 wrote it."""
    if array is None or array.ndim or array.dtype.kind not in "US":
        return ""
    value = array.item()
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


# ---------------------------------------------------------------------- writing


def write(
    frames: FrameArrays,
    path: str | os.PathLike[str],
    layout: str,
    labels: Mapping[str, str] | None,
    units: str | Mapping[str, str],
    name: str,
) -> None:
    """See ``Frames.write_npz``."""
    form, asked = _layout(layout), resolve(units)
    if asked is None:
        raise UnitsError("pass the units= to write in, for example units='charmm' (kcal/mol, Å)")
    if frames.positions is None:
        raise DataError(f"the layout {layout!r} holds positions, and these frames hold variables; use Frames.save")
    length = quantity_factor(asked, "positions", "Å")
    arrays: dict[str, Any] = {form.positions[0]: frames.positions / length}
    taken = form.own
    for key, at in ({"mean_force": form.forces[0]} if labels is None else dict(labels)).items():
        require(
            key in frames.labels,
            f"these frames have no label {key!r}; they have {', '.join(frames.labels) or 'none'}",
        )
        absent = int((~frames.present[key]).sum())
        require(not absent, f"{absent} rows lack {key!r}, which {layout!r} cannot express")
        require(isinstance(at, str) and at, f"labels: {at!r} is not the name of an array for {key!r}")
        require(at not in taken, f"the array {at!r} of {layout!r} files is taken: {key!r} needs another name")
        taken.add(at)
        arrays[at] = frames.labels[key] / quantity_factor(asked, key, get(key).unit)
    if frames.cell is not None:
        cell = np.swapaxes(frames.cell, 1, 2) / length
        require(form.cell, f"the layout {layout!r} has no place for a cell")
        require(
            layout != "sgdml" or not np.ptp(cell, axis=0).any(),
            "sGDML keeps one lattice for all frames, and these frames have several",
        )
        arrays[form.cell] = cell[0] if layout == "sgdml" else cell
    numbers = _bead_numbers(frames, layout)
    if numbers is not None and form.kinds:
        arrays[form.kinds[0]] = numbers
    if layout == "sgdml":
        extras = _sgdml_extras(arrays, asked, name)
        both = extras.keys() & arrays.keys()
        require(not both, f"the array {', '.join(both)!r} of {layout!r} files is taken: the label needs another name")
        arrays |= extras
    save_npz(path, {key: np.asarray(value) for key, value in arrays.items()})


def _bead_numbers(frames: FrameArrays, layout: str) -> np.ndarray | None:
    """Atomic numbers for sGDML; elsewhere the number of each kind in the order of appearance."""
    kinds = frames.kinds
    if layout == "sgdml":
        from ase.data import atomic_numbers

        for kind in kinds or ("",):
            require(
                kind in atomic_numbers,
                f"sGDML identifies beads by element, and {kind or 'no kind'!r} is not an element; set kinds",
            )
        return np.array([atomic_numbers[kind] for kind in kinds or ()], np.uint8)
    if kinds is None:
        return None
    if all(kind.isdecimal() for kind in kinds):
        return np.array([int(kind) for kind in kinds])
    order = list(dict.fromkeys(kinds))
    return np.array([order.index(kind) for kind in kinds])


def _sgdml_extras(arrays: Mapping[str, Any], units: Mapping[str, str], name: str) -> dict[str, Any]:
    """Entries of sGDML files besides the data; the digest identifies the data set to its models."""
    require(
        units.keys() >= {"energy", "length"},
        "sGDML files state the units of length and energy; give both in units=",
        UnitsError,
    )
    digest = hashlib.md5(usedforsecurity=False)
    for key in ("z", "R", "E", "F"):
        if key in arrays:
            digest.update(hashlib.md5(np.ascontiguousarray(arrays[key]).tobytes(), usedforsecurity=False).digest())
    extras = {"type": "d", "name": name, "theory": "unknown", "md5": digest.hexdigest()}
    extras |= {"r_unit": units["length"], "e_unit": units["energy"]}
    for key in ("E", "F"):
        if key in arrays:
            values = np.asarray(arrays[key])
            extras |= {f"{key}_min": values.min(), f"{key}_max": values.max()}  # type: ignore[dict-item]
            extras |= {f"{key}_mean": values.mean(), f"{key}_var": values.var()}  # type: ignore[dict-item]
    return extras
