"""Data sets: bundled all-atom data, and analytic systems whose statistics are known exactly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

import numpy as np

from ..errors import MissingDependencyError, require
from ..files.npz import load_npz
from ..frames import Frames
from ..specs import Choice, checked
from .analytic import EliminatedMode
from .chains import ChainFamily

#: The package that holds the bundled data: one folder per data set.
PACKAGE = "kernelfe_data"


@dataclass(frozen=True, eq=False)
class Reference:
    """Probabilities from an independent long simulation, to compare with.

    Attributes
    ----------
    temperatures
        (t,), K.
    edges
        (bins + 1,), radians; the same for both torsions.
    probability
        (t, bins, bins), the probability of each bin; sums to one per temperature.
    probability_std
        Its standard deviation, same shape.
    halves
        (2, t, bins, bins): the probability from either half of the data, for the floor of any comparison.
    effective_sample_size
        (t,).
    """

    temperatures: np.ndarray
    edges: np.ndarray
    probability: np.ndarray
    probability_std: np.ndarray
    halves: np.ndarray
    effective_sample_size: np.ndarray


@dataclass(frozen=True, eq=False)
class AllAtomFrames:
    """All-atom frames of a data set, with the data from which labels are made.

    Attributes
    ----------
    positions, forces
        (n, atoms, 3), Å and eV/Å; forces without those of constraints.
    energies, temperature
        (n,), eV and K.
    bonds, constraints
        Pairs of atoms.
    bead_atoms
        (beads,), the atom each bead stands for.
    force_group
        (atoms,), the bead whose force each atom's force is summed into.
    masses
        (atoms,), u, as they were in the simulation (not always the true ones).
    names
        (atoms,), ``RESIDUE:ATOM``.
    frame
        (n,), row in the frames of :func:`load`.
    """

    positions: np.ndarray
    forces: np.ndarray
    energies: np.ndarray
    temperature: np.ndarray
    bonds: np.ndarray
    constraints: np.ndarray
    bead_atoms: np.ndarray
    force_group: np.ndarray
    masses: np.ndarray
    names: np.ndarray
    frame: np.ndarray


def names(package: str = PACKAGE) -> list[str]:
    """Names of the data sets.

    Parameters
    ----------
    package
        An importable package with one folder per data set; the default is the bundled one.
    """
    root = _root(package)
    return sorted(f.name.replace("_", "-") for f in root.iterdir() if f.is_dir() and f.joinpath("frames.npz").is_file())


def load(name: str, package: str = PACKAGE) -> Frames:
    """Frames of a data set.

    Parameters
    ----------
    name
        One of :func:`names`. ``"alanine-dipeptide"``: six backbone beads with single-frame mapped forces,
        potential energies and the torques about φ and ψ. ``"water"``: SPC/E water at six temperatures and constant
        volume, one bead per molecule, with net forces, potential energies and pressures; ``"water-npt"``: the same at
        298 K and 1 bar, without forces. PROVENANCE.md in the folder of each describes its origin.
    package
        See :func:`names`.

    Raises
    ------
    DataError
        If the data set does not exist.
    MissingDependencyError
        If the data package is not installed.
    ModelFileError
        If its file is damaged.
    """
    with _file(name, "frames.npz", package).open("rb") as handle:
        return Frames.load(handle)


def load_reference(name: str, package: str = PACKAGE) -> Reference:
    """The reference answer of a data set; parameters and errors as in :func:`load`."""
    with _file(name, "reference.npz", package).open("rb") as handle:
        arrays = load_npz(handle)
    _require_arrays(arrays, Reference.__dataclass_fields__, f"the reference of {name!r}")
    return Reference(**{field: arrays[field] for field in Reference.__dataclass_fields__})


def load_atoms(name: str, package: str = PACKAGE) -> AllAtomFrames:
    """All-atom frames behind a part of the frames of a data set; parameters and errors as in :func:`load`."""
    with _file(name, "atoms.npz", package).open("rb") as handle:
        arrays = load_npz(handle)
    source = {field: field for field in AllAtomFrames.__dataclass_fields__}
    source |= {"masses": "simulation_masses", "names": "atom_names"}
    _require_arrays(arrays, source.values(), f"the file of the atoms of {name!r}")
    loaded = {field: arrays[key] for field, key in source.items()}
    reals = {key: loaded[key].astype(float) for key in ("positions", "forces", "energies", "temperature", "masses")}
    return AllAtomFrames(**(loaded | reals))


def load_restrained(name: str, which: str = "surface", package: str = PACKAGE) -> Frames:
    """Labels of restrained ensembles of a data set, with their standard errors as noise.

    Parameters
    ----------
    name
        See :func:`load`. Its bead configurations are the same molecule's.
    which
        ``"surface"``: many configurations at two temperatures, short runs; ``"response"``: few configurations at three
        neighbouring temperatures, long runs.
    package
        See :func:`names`.

    Raises
    ------
    DataError
        If the data set does not exist, or ``which`` is neither.
    MissingDependencyError, ModelFileError
        As in :func:`load`.
    """
    checked("which", which, Choice(("surface", "response")))
    with _file(name, f"restrained_{which}.npz", package).open("rb") as handle:
        return Frames.load(handle)


def _require_arrays(arrays: Mapping[str, np.ndarray], wanted: Iterable[str], what: str) -> None:
    lacking = [key for key in wanted if key not in arrays]
    require(not lacking, f"{what} lacks {', '.join(lacking)}; build it again with its generator")


def _root(package: str) -> Traversable:
    try:
        return files(package)
    except ModuleNotFoundError:
        raise MissingDependencyError(
            f"the data package {package!r} is not installed; install kernelfe with pip (pip install -e . in a checkout)"
        ) from None


def _file(name: str, filename: str, package: str) -> Traversable:
    known = names(package)
    require(name in known, f"unknown data set {name!r}; known: {', '.join(known) or 'none'}")
    file = _root(package).joinpath(name.replace("-", "_"), filename)
    require(file.is_file(), f"data set {name!r} has no {filename}")
    return file


__all__ = [
    "AllAtomFrames",
    "ChainFamily",
    "EliminatedMode",
    "Reference",
    "load",
    "load_atoms",
    "load_reference",
    "load_restrained",
    "names",
]
