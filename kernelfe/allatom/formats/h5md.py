"""H5MD, read by h5py: any units or none, fixed or changing cells in any orientation, elements of different strides.

LAMMPS (``dump h5md``) states no units; ZnH5MD calls the group of forces ``forces``; MDAnalysis leaves out steps and
times. Links that lead out of the file are refused, and sizes are checked before anything is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...files.hdf5 import dataset, member, open_hdf5
from ...files.npz import MAX_BYTES
from ...units import factor
from .base import Head, Row, reading, require_bytes, require_in

_ADVICE = (
    "pass units=, for example 'charmm' for `units real` of LAMMPS (kcal/mol, Å) or 'ase' for `units metal` (eV, Å)"
)


class H5mdFile:
    """The first group of particles of an H5MD file that has positions."""

    def __init__(self, path: Path):
        self.path = path
        with reading(path, "H5MD"), open_hdf5(path) as file:
            group = _particles(file)
            have, units = set(group), {}
            require_in(path, "position" in have, f"holds {sorted(have)}; both position and force are needed")
            self._force = next((name for name in ("force", "forces") if name in have), None)
            for key, name in (("length", "position"), ("force", self._force)):
                if name is not None:
                    values = dataset(group, f"{name}/value", frame_limit=1)
                    shape = values.ndim == 3 and values.shape[2] == 3
                    require_in(path, shape, f"has {name} of shape {values.shape}, not (frames, atoms, 3)")
                    if unit := _text(values.attrs.get("unit")):
                        factor(unit, key)
                        units[key] = unit
            atoms = int(group["position/value"].shape[1])
            self._periodic = _is_periodic(path, member(group, "box") if "box" in have else {})
            self.head = Head(
                require_bytes(path, atoms, MAX_BYTES // 2),
                units,
                self._force is not None,
                f"the file states no units; {_ADVICE}"
                if self._force
                else f"holds {sorted(have)}; both position and force are needed",
                _text(None if (node := _energy_group(file)) is None else dataset(node, "value").attrs.get("unit")),
                _fixed(path, file, group, atoms),
            )

    def rows(self) -> Iterator[Row]:
        """All frames in order; the elements of the file are matched by step where their strides differ."""
        with reading(self.path, "H5MD"), open_hdf5(self.path) as file:
            group = _particles(file)
            position = dataset(group, "position/value", frame_limit=1)
            count = len(position)
            steps, times = _axis(self.path, group, "step", count), _times(self.path, group, count)
            forces = self._element(group, self._force, steps, count) if self._force else None
            if forces is not None:
                shapes = forces[0].shape[1:], position.shape[1:]
                require_in(
                    self.path, shapes[0] == shapes[1], f"holds forces of shape {shapes[0]} and positions of {shapes[1]}"
                )
            edges = self._element(group, "box/edges", steps, count) if self._periodic else None
            energies = _energies(self.path, _energy_group(file), steps, count)
            for k in range(count):
                cell = None
                if edges is not None:
                    cell = _cell(self.path, edges, k)
                yield Row(
                    position[k],
                    None if forces is None or forces[1][k] < 0 else forces[0][forces[1][k]],
                    cell,
                    None if steps is None else int(steps[k]),
                    None if times is None else float(times[k]),
                    None if energies is None else float(energies[k]),
                )

    def _element(self, group: Any, name: str, steps: Any, count: int) -> tuple[Any, NDArray[np.int64]]:
        """A dataset, and for each frame of the positions its row in it, or −1."""
        import h5py

        if isinstance(member(group, name), h5py.Dataset):  # fixed in time
            values = dataset(group, name)
            return np.asarray(values[()], float)[None], np.zeros(count, np.int64)
        values = dataset(group, f"{name}/value", frame_limit=1)
        own = _axis(self.path, member(group, name), "step", len(values), alone=True)
        return values, _matched(self.path, name, own, len(values), steps, count)


def _matched(path: Path, name: str, own: Any, length: int, steps: Any, count: int) -> NDArray[np.int64]:
    """Row of an element for each frame of the positions, −1 where it has none: by step, or one by one."""
    if own is None or steps is None:
        require_in(path, length == count, f"has {length} frames of {name} and {count} of position, without steps")
        return np.arange(count)
    if np.array_equal(own, steps):  # a restarted run may repeat steps
        return np.arange(count)
    unique = len(np.unique(own)) == length and len(np.unique(steps)) == count
    require_in(path, unique, f"repeats steps, and {name} has others than position: split it, one run per file")
    order = np.argsort(own)
    place = np.minimum(np.searchsorted(own[order], steps), length - 1)
    return np.where(own[order][place] == steps, order[place], -1)


def _axis(path: Path, group: Any, name: str, count: int, alone: bool = False) -> NDArray[Any] | None:
    """Steps or times (count,) of the positions, or of an element given ``alone``; None if the file has none."""
    node = group if alone else member(group, "position")
    if name not in node:
        return None
    stored = dataset(node, name)
    values = np.asarray(stored[()])
    if values.ndim == 0:  # constant increments
        return values * np.arange(count) + np.asarray(stored.attrs.get("offset", 0))
    require_in(path, values.shape == (count,), f"has {name} of shape {values.shape} for {count} frames")
    return values


def _times(path: Path, group: Any, count: int) -> NDArray[Any] | None:
    """Times in ps; None where their unit is not stated."""
    times = _axis(path, group, "time", count)
    unit = None if times is None else _text(member(group, "position/time").attrs.get("unit"))
    return None if times is None or not unit else times * (factor(unit, "time") * 1e-3)


def _cell(path: Path, edges: tuple[Any, NDArray[np.int64]], k: int) -> NDArray[np.float64]:
    require_in(path, edges[1][k] >= 0, f"has no cell for frame {k}")
    cell = np.asarray(edges[0][edges[1][k]], float)
    require_in(path, cell.shape in ((3,), (3, 3)), f"has a cell of shape {cell.shape}, not (3,) or (3, 3)")
    return np.diag(cell) if cell.ndim == 1 else cell


def _is_periodic(path: Path, box: Any) -> bool:
    """Periodicity by the attribute ``boundary`` of the box, or for each frame by ZnH5MD's ``pbc``; all or none."""
    if "pbc" in box:
        flags = np.asarray(dataset(box, "pbc/value")[()]).astype(bool).reshape(-1, 3)
        same = len(flags) and (flags == flags[0]).all()
        require_in(path, same, "is periodic in some frames and not in others; split it")
        periodic = [bool(flag) for flag in flags[0]]
    else:
        stated = getattr(box, "attrs", {}).get("boundary")
        if stated is None and "edges" not in box:
            return False
        require_in(
            path,
            stated is not None,
            "states no boundary of its box: set the attribute to 'periodic' or 'none', 3 times",
        )
        words = [_text(word) for word in np.ravel(np.asarray(stated)).tolist()]
        periodic = [word == "periodic" for word in (words * 3 if len(words) == 1 else words)]
    partly = f"is periodic in some directions only ({', '.join(map(str, periodic))}); that is not supported"
    require_in(path, any(periodic) == all(periodic), partly)
    require_in(path, not all(periodic) or "edges" in box, "is periodic and has no edges of its box")
    return all(periodic)


def _particles(file: Any) -> Any:
    """The first group of particles with positions, or the first."""
    particles = member(file, "particles")
    names = list(particles)
    return member(particles, next((name for name in names if "position" in member(particles, name)), names[0]))


def _energies(path: Path, node: Any, steps: Any, count: int) -> NDArray[np.float64] | None:
    """Potential energies (count,), NaN for frames without one; None if the file holds none at all."""
    if node is None:
        return None
    values = dataset(node, "value")
    own = _axis(path, node, "step", len(values), alone=True)
    rows = _matched(path, "potential_energy", own, len(values), steps, count)
    energies = np.asarray(values[()], float).reshape(len(values))
    return np.where(rows < 0, np.nan, energies[rows])


def _energy_group(file: Any) -> Any:
    """The element of potential energies: of the whole file, or of a group; ZnH5MD also calls it ``energy``."""
    if "observables" not in file:
        return None
    observables = member(file, "observables")
    members = {name: member(observables, name) for name in observables}
    groups = {name: node for name, node in members.items() if hasattr(node, "keys")}
    if "potential_energy" in groups:
        return groups["potential_energy"]
    creator = member(file, "h5md/creator").attrs.get("name") if "h5md" in file and "creator" in file["h5md"] else None
    names = ("potential_energy", "energy") if _text(creator) == "ZnH5MD" else ("potential_energy",)
    return next((member(node, name) for node in groups.values() for name in names if name in node), None)


def _fixed(path: Path, file: Any, group: Any, n_atoms: int) -> dict[str, Any]:
    """Masses, and the names, bonds and constraints that a ForceReporter keeps, as far as an H5MD file has them."""
    found: dict[str, Any] = {}
    if "mass" in group and not hasattr(member(group, "mass"), "keys"):
        mass = dataset(group, "mass")
        if mass.shape == (n_atoms,):
            found["masses"] = np.asarray(mass[()], float) * factor(_text(mass.attrs.get("unit")) or "u", "mass")
    if "parameters" not in file or "kernelfe" not in member(file, "parameters"):
        return found
    own = member(file, "parameters/kernelfe")
    if "names" in own and (names := dataset(own, "names", kinds="S")).shape == (n_atoms,):
        found["names"] = [name.decode("utf-8", "replace") for name in names[()].tolist()]
    for key in ("bonds", "constraints"):
        if key in own:
            pairs = np.asarray(dataset(own, key)[()])
            valid = pairs.shape[1:] == (2,) and pairs.min(initial=0) >= 0 and pairs.max(initial=0) < n_atoms
            require_in(path, valid, f"holds {key} that are not pairs of its {n_atoms} atoms")
            found[key] = [(int(a), int(b)) for a, b in pairs]
    return found


def _text(value: Any) -> str:
    """An attribute of text, bytes or nothing."""
    return "" if value is None else value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
