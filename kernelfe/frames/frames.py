"""Frames: configurations, their thermodynamic states, and labels with noise."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NoReturn

import numpy as np

from ..errors import DataError, UnitsError, require
from ..units import factor
from . import joining, selecting
from .arguments import Arguments
from .checks import frozen, mapping, row_numbers, warn_of_broken_frames, warn_of_fractions
from .formats.registry import FrameFiles
from .pairs import PairLabels

#: Attributes with one entry per row, and dicts of such.
ROW_FIELDS = ("positions", "variables", "temperature", "displacements", "cell")
ROW_DICTS = ("parameters", "labels", "present")


@dataclass(eq=False, repr=False)
class Frames(FrameFiles):
    """Configurations of one kind of molecule (or of one system) with labels; build it with :meth:`from_arrays`.

    Everything is in internal units (eV, Å, K, u); all arrays are float64 and read-only.

    Attributes
    ----------
    positions : ndarray (n, beads, 3) or None
        Bead positions, Å. Exactly one of ``positions`` and ``variables`` is set.
    variables : ndarray (n, d) or None
        General coarse variables.
    temperature : ndarray (n,)
        K.
    parameters : dict of ndarray (n,)
        Parameters λ of the Hamiltonian, by name.
    labels : dict of ndarray (n, *shape)
        Labels by quantity key; NaN in rows that lack the label.
    present : dict of bool ndarray (n,)
        For each label, the rows that have it.
    noise : dict of float or ndarray
        Standard deviation as a number or an array of the label's shape, or covariance blocks (n, m, m) with m
        the size of one frame's label. Label kinds without an entry have noise to be learned.
    displacements : ndarray (n, k, beads, 3) or (n, k, d), or None
        Displacement fields of the generalised forces; may be NaN in rows without a generalised force.
    kinds : tuple of str or None
        One per bead.
    masses : ndarray (beads,) or None
        u.
    cell : ndarray (n, 3, 3) or None
        Cell vectors in rows, Å; None when the system is not periodic.
    bonds : tuple of pairs of int or None
        Bonded beads.
    pairs : PairLabels
        Free-energy differences between rows, see :meth:`add_pair_labels`.
    """

    # ------------------------------------------------------------------ building

    @classmethod
    def from_arrays(
        cls,
        positions: Any = None,
        *,
        variables: Any = None,
        temperature: Any = None,
        labels: Mapping[str, Any] | None = None,
        noise: Mapping[str, Any] | None = None,
        displacements: Any = None,
        parameters: Mapping[str, Any] | None = None,
        kinds: Sequence[str] | None = None,
        masses: Any = None,
        cell: Any = None,
        bonds: Iterable[tuple[int, int]] | None = None,
        units: str | Mapping[str, str] | None = None,
        present: Mapping[str, Any] | None = None,
    ) -> Frames:
        """Frames from arrays, which are copied. Frames with a bond of an implausible length are named in a warning.

        Parameters
        ----------
        positions, variables
            (n, beads, 3) or (n, d); exactly one.
        temperature
            K; a number or (n,). Required.
        labels
            Quantity key (of :data:`kernelfe.functionals.OBSERVABLES`) to values, one per frame in the shape
            of the quantity: scalars (n,), forces (n, beads, 3) or (n, d), stress (n, 6).
        noise
            Label key to a standard deviation (number, (n,), or an array that broadcasts to the label) or to
            covariance blocks (n, m, m), m the size of one frame's label.
        displacements
            (n, k, beads, 3) or (n, k, d): fields of the k generalised forces of each frame.
        parameters
            Name to a number or (n,).
        kinds, masses, bonds
            Per bead: names, masses, and pairs of bonded beads.
        cell
            (3, 3) or (n, 3, 3).
        units
            Units of all numbers given, see :mod:`kernelfe.units`. None: internal units (eV, Å, K, u).
        present
            Label key to a mask of the rows that have the label; values in other rows are ignored.

        Raises
        ------
        DataError
            If something is missing, misshapen, unknown, not finite, or of an impossible sign.
        UnitsError
            If a unit is unknown, of the wrong dimension, or missing where ``units`` is given.
        """
        given = (positions, variables, temperature, labels, noise, displacements, parameters, kinds, masses)
        out = cls(**Arguments(*given, cell, bonds, units, present).fields())
        warn_of_broken_frames(out.positions, out.bonds, out.cell)
        warn_of_fractions(out.positions, out.cell)
        return out

    @staticmethod
    def concatenate(parts: Iterable[Frames]) -> Frames:
        """All rows of ``parts``, in order. Rows lack the labels that their part lacks; pairs are re-indexed.

        Raises
        ------
        DataError
            If the parts hold different molecules or parameters, or only some of them state the noise of a label.
        """
        parts = list(parts)
        require(parts, "nothing to concatenate; pass at least one Frames")
        return replace(parts[0], **joining.joined(parts))

    def replace(self, **changes: Any) -> Frames:
        """A copy with some arguments of :meth:`from_arrays` replaced whole, in internal units, and checked again.

        Pair labels are kept. Labels that change lose their old noise and masks unless these are given too.
        """
        if "units" in changes:
            raise UnitsError("replace works in internal units; convert first (kernelfe.units.factor)")
        arguments = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "pairs"} | changes
        new_labels = mapping(arguments["labels"], "labels", "{'mean_force': values}")
        for name in ("noise", "present"):
            if name not in changes:
                arguments[name] = {k: v for k, v in getattr(self, name).items() if new_labels.get(k) is self.labels[k]}
        for name, other in (("positions", "variables"), ("variables", "positions")):
            if changes.get(name) is not None:
                arguments[other] = changes.get(other)
        new = type(self)(**Arguments(**arguments).fields())
        if not {"positions", "bonds", "cell"}.isdisjoint(changes):
            warn_of_broken_frames(new.positions, new.bonds, new.cell)
        if len(new) == len(self):
            new.pairs = self.pairs
        elif len(self.pairs):
            raise DataError(f"cannot keep pair labels of {len(self)} frames for {len(new)}; use drop_labels('pairs')")
        return new

    def add_pair_labels(self, i: Any, j: Any, value: Any, std: Any, unit: str = "eV") -> Frames:
        """Add measured differences A_j − A_i of the free energy between rows; returns self.

        Parameters
        ----------
        i, j
            Row indices, numbers or (pairs,).
        value, std
            Difference and its standard deviation, numbers or (pairs,).
        unit
            Energy unit of ``value`` and ``std``.

        Raises
        ------
        DataError
            If a row does not exist, or a number is unusable. Nothing is added then.
        """
        new = PairLabels.checked(i, j, value, std, len(self), factor(unit, "energy"))
        self.pairs = PairLabels.joined([self.pairs, new])
        return self

    def with_labels(self, keys: str | Iterable[str]) -> Frames:
        """The same rows with only these label kinds; ``"pairs"`` stands for the pair labels."""
        wanted = {keys} if isinstance(keys, str) else set(keys)
        for key in sorted(wanted - {"pairs"} - set(self.labels)):
            raise DataError(f"these frames have no label {key!r}; they have {', '.join(self.labels) or 'none'}")
        kept: dict[str, Any] = {
            name: {k: v for k, v in getattr(self, name).items() if k in wanted}
            for name in ("labels", "present", "noise")
        }
        return replace(self, pairs=self.pairs if "pairs" in wanted else PairLabels(), **kept)

    def drop_labels(self, keys: str | Iterable[str] | None = None) -> Frames:
        """The same rows without these label kinds (None: without any); ``"pairs"`` stands for the pair labels."""
        have = {*self.labels, "pairs"}
        unwanted = have if keys is None else {keys} if isinstance(keys, str) else set(keys)
        for key in sorted(unwanted - have):
            raise DataError(f"these frames have no label {key!r}; they have {', '.join(self.labels) or 'none'}")
        return self.with_labels(have - unwanted)

    def select_beads(self, beads: Iterable[int]) -> Frames:
        """The same frames with only these beads, in this order: data of a coarser free energy.

        Labels that are averages of a mechanical quantity (``mean_force``, ``generalized_force``, ``mean_energy``,
        ``parameter_derivative``, ``stress``) are averages for the coarser beads, too, *if the frames are equilibrium
        samples*: dropped beads then have the right distribution about the kept ones. Not so for frames that were
        chosen, such as restrained runs or windows. Rows of ``mean_force`` of dropped beads are dropped. What is left
        is a valid force map: one that moves each bead by itself, all others fixed, does so with fewer beads. (Adding
        the force of a dropped bead to a kept one is valid as well, and may have less noise; see
        :mod:`kernelfe.statistics` for maps of least noise.) Of displacement fields the kept beads remain; a field must
        depend on kept beads only, as that of a torsion of kept beads does.

        Stated noise is dropped, to be learned again: labels now also scatter with the dropped beads. Bonds are those
        among kept beads; None (to be inferred) where a dropped bead joined kept ones.

        Parameters
        ----------
        beads
            Different bead indices, from 0.

        Raises
        ------
        DataError
            If a bead does not exist, or a label is of another kind (free energies and their differences, entropies,
            heat capacities, response forces), for which the fluctuations of dropped beads are missing.
        """
        return replace(self, **selecting.selected(self, beads))

    # ------------------------------------------------------------------ reading

    def __iter__(self) -> Iterator[Frames]:
        return (self[row] for row in range(len(self)))

    def __array__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError("Frames is not an array; use .positions, .variables or .labels[key]")

    def __getitem__(self, index: Any) -> Frames:
        """Rows by int (a Frames of one row), slice, mask or index array; also ``(rows, Ellipsis)``."""
        if isinstance(index, tuple):
            if len(index) != 2 or index[1] is not Ellipsis:
                raise IndexError("Frames is indexed by rows only: frames[rows]")
            index = index[0]
        rows = row_numbers(index, len(self))
        chosen = index if isinstance(index, slice) else rows  # slices of read-only arrays may stay views

        def take(array: np.ndarray | None) -> np.ndarray | None:
            return None if array is None else frozen(array[chosen])

        changes: dict[str, Any] = {name: take(getattr(self, name)) for name in ROW_FIELDS}
        changes |= {name: {k: take(v) for k, v in getattr(self, name).items()} for name in ROW_DICTS}
        changes["noise"] = {k: v if isinstance(v, float) else take(v) for k, v in self.noise.items()}
        return replace(self, pairs=self.pairs.take(rows, len(self)), **changes)

    def __repr__(self) -> str:
        what = f"{self.shape[1]} beads" if self.positions is not None else f"{self.shape[1]} variables"
        rows = {k: int(v.sum()) for k, v in self.present.items()}
        parts = [k if rows[k] == len(self) else f"{k} ({rows[k]} rows)" for k in self.labels]
        parts += [f"{len(self.pairs)} pairs"] if len(self.pairs) else []
        if len(self):
            low, high = self.temperature.min(), self.temperature.max()
            at = f"{low:g} K" if low == high else f"{low:g} to {high:g} K"
        else:
            at = "no rows"
        return f"Frames({len(self)} frames, {what}, {at}; labels: {', '.join(parts) or 'none'})"

    def summary(self) -> dict[str, dict[str, float]]:
        """For each label kind its unit-bearing statistics: number of rows, mean, standard deviation, min, max."""
        result = {}
        for key, values in self.labels.items():
            chosen = values[self.present[key]]
            statistics = (chosen.mean(), chosen.std(), chosen.min(), chosen.max()) if chosen.size else (np.nan,) * 4
            result[key] = dict(zip(("mean", "std", "min", "max"), map(float, statistics), strict=True))
            result[key]["rows"] = len(chosen)
        return result
