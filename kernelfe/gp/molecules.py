"""Molecules of a model: which ones it was fitted to, and what it stores of each.

    A_m(R; T) = baseline_m(R) + Σ_X N_X(m) [e_X + c_X τ(T)] + Σ_terms Σ_{environments e of m} f_term(z_e(R); T)

A model is always one of a set of molecules; a single molecule is a set of one. With several molecules, everything but
the numbers of environments and of beads N_X belongs to kinds of beads: terms, mean functions, baseline, noise. What is
learned from one molecule holds for all others, and for molecules of the same kinds that were not fitted. Descriptors
are bound to the beads of a molecule when its configurations are read (:meth:`Molecule.bound`), at no other time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from ..descriptors import Descriptor
from ..descriptors.absent import Absent
from ..errors import DataError
from ..frames import Frames

#: Name of the mean functions of a single composition, which count whole frames instead of beads.
WHOLE = "frame"


def is_several(X) -> bool:
    """True for a list of Frames."""
    return isinstance(X, (list, tuple)) and len(X) > 0 and all(isinstance(part, Frames) for part in X)


def over_parts(read: Callable[[Any], Any], X) -> Any:
    """``read(X)``; for a list of Frames, a list of ``read`` of each part (or lists, where it returns several)."""
    if not is_several(X):
        return read(X)
    found = [read(part) for part in X]
    return tuple(map(list, zip(*found, strict=True))) if isinstance(found[0], tuple) else found


@dataclass(frozen=True)
class Molecule:
    """One molecule, one periodic system, or one set of variables.

    Parameters
    ----------
    kinds
        Kind of every bead; None: not known.
    bonds
        Bonded beads, sorted; None: not known.
    periodic
        Whether its frames have a cell.
    shape
        Shape of a configuration, (beads, 3) or (d,); (): from the kinds.
    """

    kinds: tuple[str, ...] | None
    bonds: tuple[tuple[int, int], ...] | None = None
    periodic: bool = False
    shape: tuple[int, ...] = ()

    def __post_init__(self):
        if not self.shape:
            object.__setattr__(self, "shape", (len(self.kinds or ()), 3))

    @classmethod
    def of(cls, frames) -> Molecule:
        """The molecule of Frames."""
        bonds = None if frames.bonds is None else tuple(sorted({(min(b), max(b)) for b in frames.bonds}))
        kinds = None if frames.kinds is None else tuple(frames.kinds)
        return cls(kinds, bonds, frames.cell is not None, tuple(frames.coordinates.shape[1:]))

    def counts(self, kinds: tuple[str, ...]) -> tuple[float, ...]:
        """Number of beads of each of ``kinds``; one frame for :data:`WHOLE`."""
        found = Counter(self.kinds)
        return tuple(1.0 if kind == WHOLE and WHOLE not in found else float(found[kind]) for kind in kinds)

    def bound(self, descriptor: Any) -> Any:
        """The descriptor with kinds and bonds of this molecule; :class:`Absent` where it has no environments."""
        return _bound(self, descriptor)

    def own(self, baseline: Any) -> Any:
        """The baseline of this molecule: of one shared by kinds, with the numbers of its beads; any other as it is."""
        return baseline.for_molecule(self.kinds, self.bonds) if hasattr(baseline, "for_molecule") else baseline

    def __str__(self) -> str:
        if self.kinds is None:
            return f"of shape {self.shape}"
        found = Counter(self.kinds)
        return "".join(f"{kind}{count if count > 1 else ''}" for kind, count in sorted(found.items()))


@lru_cache(maxsize=512)  # a memo of a pure function: called for every batch
def _bound(molecule: Molecule, descriptor: Descriptor) -> Any:
    if molecule.kinds is not None and not descriptor.occurs_in(molecule.kinds):
        return Absent(descriptor.dimension(molecule.shape))
    return descriptor.for_molecule(molecule.kinds, molecule.bonds)


@dataclass(frozen=True)
class FittedMolecule:
    """Stored properties of one molecule that a model was fitted to.

    Parameters
    ----------
    molecule
        The molecule.
    masses
        Masses of its beads, u, or None.
    zero_known
        Whether its labels held absolute free energies.
    """

    molecule: Molecule
    masses: tuple[float, ...] | None = None
    zero_known: bool = False


@dataclass(frozen=True)
class Composition:
    """Kinds with mean functions of their own, and how many of each a configuration has."""

    kinds: tuple[str, ...]
    counts: tuple[float, ...]


@dataclass(frozen=True)
class Molecules:
    """The molecules of a model.

    Parameters
    ----------
    entries
        At least one.
    kinds
        Kinds of beads with mean functions of their own; (:data:`WHOLE`,) for a single composition.
    view
        Whether this is one molecule out of several that the model was fitted to.
    """

    entries: tuple[FittedMolecule, ...]
    kinds: tuple[str, ...] = (WHOLE,)
    view: bool = False

    @property
    def single(self) -> bool:
        """True for a single molecule."""
        return len(self.entries) == 1

    @property
    def shared(self) -> bool:
        """True if the model was fitted to several molecules, also for a view of one of them."""
        return self.view or not self.single

    @property
    def zero_known(self) -> bool:
        """True if the labels of any molecule held absolute free energies."""
        return any(entry.zero_known for entry in self.entries)

    @property
    def composition(self) -> Composition:
        """Counts of the one molecule; with several molecules one of each kind."""
        one = self.entries[0].molecule.counts(self.kinds) if self.single else (1.0,) * len(self.kinds)
        return Composition(self.kinds, one)

    @property
    def masses(self) -> np.ndarray | None:
        """Masses of the beads of the one molecule, u."""
        masses = self.entries[0].masses if self.single else None
        return None if masses is None else np.array(masses)

    def one(self, what: str) -> FittedMolecule:
        """The only molecule.

        Raises
        ------
        DataError
            If there are several: ``what`` needs one.
        """
        if not self.single:
            names = ", ".join(str(entry.molecule) for entry in self.entries)
            raise DataError(
                f"{what} needs a single molecule, the model was fitted to {names}: use "
                f"model.for_molecule(frames).{what}"
            )
        return self.entries[0]

    def narrowed(self, X) -> Molecules:
        """The molecule of X alone.

        Parameters
        ----------
        X
            Frames, an array of positions or a :class:`Molecule`; of kinds of beads that occur in the fit.

        Raises
        ------
        DataError
            If the molecule cannot be identified, or has beads of unknown kinds.
        """
        if self.single:
            return self
        molecule = X if isinstance(X, Molecule) else self._molecule_of(X)
        known = next((entry for entry in self.entries if entry.molecule == molecule), FittedMolecule(molecule))
        if unknown := sorted(set(molecule.kinds or ()) - set(self.kinds)):
            raise DataError(
                f"the model was fitted to beads of the kinds {list(self.kinds)}, not {unknown}: fit with a molecule "
                "that has them"
            )
        return Molecules((known,), self.kinds, view=True)

    def extended(self, zero_known: bool) -> Molecules:
        """The same single molecule after conditioning on more of its frames."""
        entry = self.entries[0]
        return replace(self, entries=(replace(entry, zero_known=entry.zero_known or zero_known),))

    def check(self, frames: Frames) -> None:
        """Raise DataError unless Frames hold configurations of the one molecule."""
        molecule = self.one("check_frames").molecule
        shape, kinds = tuple(frames.coordinates.shape[1:]), molecule.kinds
        if shape != molecule.shape:
            raise DataError(f"the model was fitted to configurations of shape {molecule.shape}, these have {shape}")
        if None not in (frames.kinds, kinds) and tuple(frames.kinds) != kinds:  # type: ignore[arg-type]
            raise DataError(f"the model was fitted to beads {kinds}, these are {frames.kinds}: another molecule")
        if (frames.cell is not None) != molecule.periodic:
            fitted, given = ("with", "no") if molecule.periodic else ("without", "a")
            raise DataError(f"the model was fitted to frames {fitted} a cell, these have {given} cell")

    def _molecule_of(self, X) -> Molecule:
        known = [entry.molecule for entry in self.entries]
        if is_several(X):
            raise DataError("these are Frames of several molecules: pass those of one at a time")
        if isinstance(X, Frames):
            if X.positions is None:
                raise DataError("the model was fitted to molecules of beads, these Frames hold variables")
            if X.kinds is not None and X.bonds is not None:
                return Molecule.of(X)
            beads, periodic, kinds = X.positions.shape[1], X.cell is not None, X.kinds
        else:
            shape = np.shape(X)
            beads, periodic, kinds = shape[-2] if len(shape) in (2, 3) else 0, False, None
        alike = [m for m in known if m.shape == (beads, 3) and m.periodic == periodic and kinds in (None, m.kinds)]
        if len(alike) == 1:
            return alike[0]
        if kinds is not None and not alike:
            return Molecule.of(X)
        raise DataError(
            f"{len(alike)} of the fitted molecules ({', '.join(map(str, known))}) have {beads} beads"
            f"{' and a cell' if periodic else ''}: pass Frames with kinds= and bonds="
        )
