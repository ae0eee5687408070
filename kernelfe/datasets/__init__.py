"""Data sets: bundled all-atom data, and analytic systems whose statistics are known exactly."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

import numpy as np

from ..errors import DataError, MissingDependencyError
from ..files.npz import load_npz
from ..frames import Frames
from .analytic import EliminatedMode
from .chains import ChainFamily

#: The package that holds the bundled data: one folder per data set.
PACKAGE = "kernelfe_data"


@dataclass(frozen=True, eq=False)
class Reference:
    """An independent long-simulation answer to compare with.

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
    """All-atom frames of a data set, and what is needed to make labels of them.

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
    """Names that :func:`load` knows.

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
        potential energies and the torques about φ and ψ; PROVENANCE.md beside it tells how it was made.
    package
        See :func:`names`.

    Raises
    ------
    DataError
        If there is no such data set.
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
    lacking = [field for field in Reference.__dataclass_fields__ if field not in arrays]
    if lacking:
        raise DataError(f"the reference of {name!r} lacks {', '.join(lacking)}; build it again with its generator")
    return Reference(**{field: arrays[field] for field in Reference.__dataclass_fields__})


def load_atoms(name: str, package: str = PACKAGE) -> AllAtomFrames:
    """All-atom frames behind a part of the frames of a data set; parameters and errors as in :func:`load`."""
    with _file(name, "atoms.npz", package).open("rb") as handle:
        arrays = load_npz(handle)
    source = {field: field for field in AllAtomFrames.__dataclass_fields__}
    source |= {"masses": "simulation_masses", "names": "atom_names"}
    lacking = [key for key in source.values() if key not in arrays]
    if lacking:
        raise DataError(f"the atoms of {name!r} lack {', '.join(lacking)}; build them again with their generator")
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
        If there is no such data set, or ``which`` is neither.
    MissingDependencyError, ModelFileError
        As in :func:`load`.
    """
    if which not in ("surface", "response"):
        raise DataError(f"which={which!r} must be 'surface' or 'response'")
    with _file(name, f"restrained_{which}.npz", package).open("rb") as handle:
        return Frames.load(handle)


def _root(package: str) -> Traversable:
    try:
        return files(package)
    except ModuleNotFoundError:
        raise MissingDependencyError(
            f"the data package {package!r} is not installed; install kernelfe with pip (pip install -e . in a checkout)"
        ) from None


def _file(name: str, filename: str, package: str) -> Traversable:
    known = names(package)
    if name not in known:
        raise DataError(f"unknown data set {name!r}; known: {', '.join(known) or 'none'}")
    file = _root(package).joinpath(name.replace("-", "_"), filename)
    if not file.is_file():
        raise DataError(f"data set {name!r} has no {filename}")
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
