"""Frames from and to ASE Atoms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from ...errors import DataError, require
from ...functionals import OBSERVABLES, get
from ..arrays import FrameArrays
from ..checks import mapping

PREFIX = "REF_"  # plain energy/forces keys of extxyz would move into a calculator; custom keys stay
UNITS_KEY = "kernelfe_units"
_FROM_CALCULATOR = ("energy", "forces", "stress")


class AtomOptions(TypedDict, total=False):
    """Options of ``Frames.from_atoms`` besides labels and units."""

    temperature: Any
    noise: Mapping[str, Any] | None
    displacements: Any
    parameters: Mapping[str, Any] | None
    kinds: Sequence[str] | None
    masses: Any
    bonds: Iterable[tuple[int, int]] | None


def arrays_of(images: Any, labels: Mapping[str, str] | None, options: AtomOptions) -> dict[str, Any]:
    """Arguments of ``Frames.from_arrays`` (without units) from a list of Atoms; see ``Frames.from_atoms``."""
    known = AtomOptions.__annotations__
    require(options.keys() <= known.keys(), f"unknown options {sorted({*options} - {*known})}; known: {sorted(known)}")
    images = [images] if hasattr(images, "get_positions") else list(images)
    require(images, "no frames: the list of Atoms is empty")
    for row, atoms in enumerate(images):
        what = type(atoms).__name__
        require(hasattr(atoms, "get_positions"), f"frame {row} is {what}, not ASE Atoms; use Frames.from_arrays")
    labels = None if labels is None else mapping(labels, "labels", "{'mean_force': 'forces'}")
    noise = mapping(options.get("noise"), "noise", "{'mean_force': 0.1}, by label")
    parameters = options.get("parameters")
    parameters = None if parameters is None else mapping(parameters, "parameters", "{'charge': 'CHARGE'}")
    temperature, displacements, bonds, kinds, masses = map(
        options.get, ("temperature", "displacements", "bonds", "kinds", "masses")
    )
    names = _one_molecule(images)
    beads = len(names)
    if displacements is None and any(PREFIX + "displacements" in a.info for a in images):
        displacements = PREFIX + "displacements"
    fields, width = _displacements(images, displacements, beads)
    values: dict[str, np.ndarray] = {}
    present: dict[str, np.ndarray] = {}
    noises: dict[str, Any] = {}
    for key, source in (labels if labels is not None else _own_keys(images)).items():
        shape = get(key).shape((beads, 3), width)
        if key == "stress" and "virial" in source.lower():
            raise DataError(f"{source!r} is −volume·stress by convention, an energy: divide it by −volume first")
        values[key], present[key] = _rows(images, source, shape, f"label {key!r}")
        require(
            source != "energy"
            or any("energy" in a.info for a in images)
            or np.any(np.nan_to_num(values[key], nan=0.0)),
            "every 'energy' is exactly 0: some readers, such as ASE's for LAMMPS dumps, invent it; "
            f"leave the label {key!r} out or take it from a custom key",
        )
        given = noise.get(key)
        if given is None and labels is None and any(_find(a, _noise_key(key)) is not None for a in images):
            given = _noise_key(key)
        if given is not None:
            noises[key] = _noise(images, given, key, shape, present[key]) if isinstance(given, str) else given
    for key in noise:
        require(key in values, f"noise names {key!r}, which is not among the labels: {', '.join(values) or 'none'}")
    if parameters is None:
        parameters = {k.removeprefix("PARAMETER_"): k for k in images[0].info if k.startswith("PARAMETER_")}
    if temperature is None and any("temperature" in a.info for a in images):
        temperature = "temperature"
    if bonds is None and "bonds" in images[0].info:
        bonds = np.reshape(images[0].info["bonds"], (-1, 2))
    if kinds is None and set(names) != {"X"}:  # X stands for any bead
        kinds = names
    if masses is None and all(a.has("masses") for a in images):
        masses = images[0].get_masses()
    return {
        "positions": np.stack([a.get_positions() for a in images]),
        "temperature": _scalars(images, temperature, "temperature"),
        "labels": values,
        "present": present,
        "noise": noises,
        "displacements": fields,
        "parameters": {k: _scalars(images, v, f"parameter {k!r}") for k, v in parameters.items()},
        "kinds": kinds,
        "masses": masses,
        "cell": _cells(images),
        "bonds": bonds,
    }


def _one_molecule(images: list) -> list[str]:
    """Bead names shared by all frames."""

    def names(atoms: Any) -> list[str]:
        given = _find(atoms, "bead_kind")
        return [str(x) for x in (atoms.get_chemical_symbols() if given is None else given)]

    first = names(images[0])
    for row, atoms in enumerate(images):
        require(
            len(atoms) == len(first),
            f"frame {row} has {len(atoms)} beads and frame 0 has {len(first)}; Frames hold one kind "
            "of molecule: build one Frames for each",
        )
        found = names(atoms)
        require(
            found == first,
            f"frame {row} has other beads than frame 0, or another order ({found[:8]} against "
            f"{first[:8]}); sort them, or build one Frames for each molecule",
        )
    return first


def _cells(images: list) -> np.ndarray | None:
    periodic = [bool(a.pbc.any()) for a in images]
    if not any(periodic):
        return None
    for row, atoms in enumerate(images):
        require(
            atoms.pbc.all(),
            f"frame {row} is periodic along {atoms.pbc.tolist()}; frames must be periodic in all "
            "three directions or all in none: set atoms.pbc, with a large enough cell",
        )
    return np.stack([a.cell.array for a in images])


def _find(atoms: Any, key: str) -> Any:
    """The value under ``key`` in arrays, info, or the calculator; None when absent."""
    if key in atoms.arrays:
        return atoms.arrays[key]
    if key in atoms.info:
        return atoms.info[key]
    if key in _FROM_CALCULATOR and atoms.calc is not None:
        from ase.calculators.calculator import PropertyNotImplementedError

        try:
            if key == "energy":
                return atoms.get_potential_energy()
            # with constraints applied, ASE returns zero for the forces on constrained atoms
            return (
                atoms.get_forces(apply_constraint=False)
                if key == "forces"
                else atoms.get_stress(apply_constraint=False)
            )
        except PropertyNotImplementedError:
            return None
    return None


def _require_somewhere(images: list, key: str, what: str) -> None:
    if all(_find(a, key) is None for a in images):
        have = sorted({k for a in images for k in (*a.arrays, *a.info, *(a.calc.results if a.calc else ()))})
        raise DataError(f"{what}: no frame has the key {key!r}; keys found: {', '.join(have)}")


def _rows(images: list, key: str, shape: tuple[int, ...], what: str) -> tuple[np.ndarray, np.ndarray]:
    """Values (n, *shape), NaN where absent, and the mask of the rows that have them."""
    _require_somewhere(images, key, what)
    values, present = np.full((len(images), *shape), np.nan), np.zeros(len(images), dtype=bool)
    for row, atoms in enumerate(images):
        value = _find(atoms, key)
        if value is None:
            continue
        value = np.asarray(value)
        if shape == (6,) and value.shape == (3, 3):
            value = value[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]  # Voigt: xx, yy, zz, yz, xz, xy
        require(
            value.dtype.kind in "biuf" and value.size == np.prod(shape, dtype=int),
            f"frame {row}: {what} under {key!r} has shape {value.shape} of {value.dtype}, expected {shape} numbers",
        )
        values[row], present[row] = value.reshape(shape), True
    return values, present


def _scalars(images: list, given: Any, what: str) -> Any:
    """Numbers per frame: as given, or from a key of info that every frame must have."""
    if not isinstance(given, str):
        return given
    values, present = _rows(images, given, (), what)
    require(present.all(), f"{what}: frame {int(np.argmin(present))} lacks the key {given!r}; add it to atoms.info")
    return values


def _displacements(images: list, given: Any, beads: int) -> tuple[Any, int | None]:
    """Displacement fields and their number per frame."""
    if given is None:
        return None, None
    if isinstance(given, str):
        _require_somewhere(images, given, "displacements")
        size = next(np.size(v) for v in (_find(a, given) for a in images) if v is not None)
        require(
            size % (3 * beads) == 0,
            f"displacements under {given!r} hold {size} numbers, not a multiple of {3 * beads}: "
            "store (fields, beads, 3)",
        )
        given, _ = _rows(images, given, (size // (3 * beads), beads, 3), "displacements")
    shape = np.shape(given)
    return given, shape[1] if len(shape) > 1 else None


def _noise_key(key: str) -> str:
    return _file_key(key) + "_noise"


def _noise(images: list, source: str, key: str, shape: tuple[int, ...], present: np.ndarray) -> np.ndarray:
    """Noise stored per frame: one standard deviation, the label's shape, or a covariance block."""
    what = f"noise of {key!r}"
    _require_somewhere(images, source, what)
    m = int(np.prod(shape, dtype=int))
    size = next(np.size(v) for v in (_find(a, source) for a in images) if v is not None)
    forms = {1: (), m: shape, m * m: (m, m)} if m > 1 else {1: ()}
    require(size in forms, f"{what} under {source!r} holds {size} numbers; expected 1, {m} or {m * m}")
    values, found = _rows(images, source, forms[size], what)
    first = next(iter(np.flatnonzero(present & ~found)), None)
    require(first is None, f"{what}: frame {first} has the label but not the key {source!r}; add it")
    return values


def _file_key(key: str) -> str:
    """Key of a label in a file. Colons separate columns in extended XYZ, so ``name:parameter`` takes ``__``."""
    return PREFIX + key.replace(":", "__")


def _own_keys(images: list) -> dict[str, str]:
    """Labels under kernelfe's own file keys, in the order of the table of observables."""
    have = dict.fromkeys(k for a in images for k in (*a.arrays, *a.info) if k.startswith(PREFIX))
    found = {}
    for name in OBSERVABLES:
        for source in have:
            key = source.removeprefix(PREFIX).replace("__", ":", 1)
            if key.partition(":")[0] == name and not source.endswith("_noise"):
                found[key] = source
    return found


def frame_data(frames: FrameArrays, row: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Per-bead columns and comment entries of one frame."""
    beads = frames.shape[1]
    columns: dict[str, np.ndarray] = {}
    info: dict[str, Any] = {"temperature": frames.temperature[row]}
    info |= {f"PARAMETER_{k}": v[row] for k, v in frames.parameters.items()}
    if frames.bonds:
        info["bonds"] = np.array(frames.bonds)
    if frames.masses is not None:
        columns["masses"] = frames.masses[:, None]
    if frames.displacements is not None and np.isfinite(frames.displacements[row]).all():
        info[PREFIX + "displacements"] = frames.displacements[row]
    for key, values in frames.labels.items():
        if not frames.present[key][row]:
            continue
        noise = frames.noise.get(key)
        entries = {_file_key(key): values[row]}
        if noise is not None:
            entries[_noise_key(key)] = noise if isinstance(noise, float) else noise[row]
        for name, value in entries.items():
            (columns if np.shape(value) == (beads, 3) else info)[name] = value
    return columns, info


def to_atoms(frames: FrameArrays, in_info: bool = False) -> list:
    """One Atoms per frame; with ``in_info``, per-bead arrays are in ``info``, which ``.traj`` files keep."""
    from ase import Atoms
    from ase.data import atomic_numbers

    require_writable(frames, "ASE Atoms")
    symbols = [kind if kind in atomic_numbers else "X" for kind in frames.kinds or ("X",) * frames.shape[1]]
    images = []
    for row in range(len(frames)):
        columns, info = frame_data(frames, row)
        columns.pop("masses", None)
        cell = None if frames.cell is None else frames.cell[row]
        atoms = Atoms(symbols, frames.positions[row], cell=cell, pbc=cell is not None)  # type: ignore[index]
        if frames.masses is not None:
            atoms.set_masses(frames.masses)
        if frames.kinds is not None:
            columns["bead_kind"] = np.array(frames.kinds)
        info = {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in info.items()}
        atoms.info |= {UNITS_KEY: "ase"} | info
        columns = {k: v.copy() for k, v in columns.items()}
        if in_info:
            atoms.info |= {k: list(map(str, v)) if v.dtype.kind == "U" else v for k, v in columns.items()}
        else:
            atoms.arrays |= columns
        images.append(atoms)
    return images


def require_writable(frames: FrameArrays, what: str) -> None:
    """Refuse frames without positions, and pair labels, which do not belong to a single frame."""
    require(frames.positions is not None, f"{what} holds positions, and these frames hold variables; use .npz")
    require(not len(frames.pairs), f"{what} cannot hold pair labels; use .npz, or drop_labels('pairs') first")


def stated_units(images: list, name: str) -> str | None:
    """The units that all frames of a file state."""
    require(images, f"{name} holds no frames; write it again")
    stated = {None if (unit := a.info.get(UNITS_KEY)) is None else str(unit) for a in images}
    require(len(stated) == 1, f"the frames of {name} state different units {stated}; split the file")
    return stated.pop()
