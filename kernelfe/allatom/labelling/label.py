"""From trajectories to labelled frames of beads: one call."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError, require
from ...frames import Frames
from ...specs import Bound, Choice, Flag, OrNone, Spec, Text, Whole
from ..atoms import AtomFrames, make_whole
from .beads import Beads, choose_beads, heavy_atoms, molecules
from .bonds import guessed_bonds, ranges, stated_bonds
from .checks import Checks, check_frames
from .quiet import Labels, Molecule, Noise, plain_labels, quieten
from .rigid import rigid_distances
from .runs import Run

Pair = tuple[int, int]


@dataclass(frozen=True)
class Labelling(Spec):
    """Options of :func:`label_runs`.

    Parameters
    ----------
    beads
        "backbone" (N, CA, C), "backbone+cb", "ca", "heavy", "molecules" (centres of mass), or a selection of MDAnalysis
        of one atom per bead.
    atoms
        Selection of the atoms that are looked at, for example a solute; None: all.
    constraints
        "auto": those that the files state, else distances that do not vary in the frames; "h-bonds": the bonds of
        hydrogens; "none".
    quiet
        True: labels with the best force map and zero-mean variates. False: plain labels, which are sums of forces over
        tied atoms, and torques and energies as they are.
    stride, skip
        Keep every so-many-th frame, and leave out so many of the kept ones at the beginning of each run.

    Raises
    ------
    DataError
        If a value is out of bounds.
    """

    beads: str
    atoms: str | None = None
    constraints: str = "auto"
    quiet: bool = True
    stride: int = 1
    skip: int = 0

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        "beads": Text(),
        "atoms": OrNone(Text()),
        "constraints": Choice(("auto", "h-bonds", "none")),
        "quiet": Flag(),
        "stride": Whole(least=1),
        "skip": Whole(least=0),
    }


@dataclass(frozen=True)
class Labelled:
    """Labelled frames, and what is known about them.

    Attributes
    ----------
    frames
        Frames of beads with labels.
    run
        (n,), number of the run of each frame.
    runs
        The runs.
    beads
        The beads, in the numbers of the atoms of their molecules.
    constraints
        Constrained pairs of atoms.
    origin
        Where bonds and constraints come from, in words.
    noise
        Of each label.
    checks
        Checks of the frames.
    remarks
        What could not be done, and why.
    """

    frames: Frames
    run: NDArray[np.intp]
    runs: tuple[Run, ...]
    beads: Beads
    constraints: tuple[Pair, ...]
    origin: str
    noise: Mapping[str, Noise]
    checks: Checks
    remarks: tuple[str, ...]


def label_runs(runs: Sequence[Run], options: Labelling) -> Labelled:
    """Labelled frames of beads from all-atom runs of one system.

    Labels are mean forces, energies where they are known, and, for beads of one atom each, torques about the bonds
    that can turn. Frames of beads in one molecule have no cell.

    Parameters
    ----------
    runs
        Of :func:`find_run`; one Hamiltonian, any temperatures.
    options
        Beads and what to do.

    Raises
    ------
    DataError
        If a file cannot be read, beads cannot be made, the runs hold different atoms, two of them hold the same frames,
        no frame is left, or ``atoms`` or ``constraints`` leave out constraints that the files state.
    """
    require(runs, "no run given")
    remarks: list[str] = []
    parts: list[AtomFrames] = []
    system = _System.of(runs[0], options)
    alone = system.beads.atoms is None and len(system.beads.groups) == 1
    require(
        len(system.beads.groups) > 1,
        f"beads={options.beads!r} makes one bead, whose free energy depends on nothing: choose two beads or more"
        + (" in a molecule, or keep more molecules" if alone else ""),
    )
    for run in runs:
        table, remark = run.table()
        trajectory = run.open(system.selection, options.stride, table)
        require(
            trajectory.n_atoms == system.n_atoms and (trajectory.names == system.names),
            f"{run.name} holds other atoms than {runs[0].name}: label each system for itself",
        )
        atoms = _without_first(trajectory.read(), options.skip, run)
        parts.append(system.whole(atoms))
        remarks += [remark] if remark else []
    run_of = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    _require_different(runs, parts)
    atoms = _joined(parts)
    temperature = np.array([run.temperature for run in runs])[run_of]
    constraints, found = system.constraints(atoms, options)
    made, bead_map = _labels(system, atoms, constraints, temperature, run_of, options)
    present = {kind: np.isfinite(v.reshape(len(v), -1)).all(axis=1) for kind, v in made.values.items()}
    frames = Frames.from_arrays(
        np.matmul(bead_map.position_map, atoms.positions),
        temperature=temperature,
        labels=made.values,
        present=present,
        displacements=made.displacements,
        kinds=system.beads.kinds,
        masses=bead_map.masses,
        bonds=system.beads.bonds,
        cell=None if system.alone else atoms.cell,
    )
    return Labelled(
        frames,
        run_of,
        tuple(runs),
        system.beads,
        tuple(constraints),
        f"{system.origin}; {found}",
        made.noise,
        check_frames(frames, run_of),
        tuple(remarks + made.remarks),
    )


@dataclass(frozen=True)
class _System:
    """The atoms that labels are made of: those of the molecules that hold beads."""

    selection: str
    n_atoms: int
    names: list[str] | None
    masses: np.ndarray | None
    bonds: list[Pair]
    beads: Beads
    alone: bool
    declared: list[Pair] | None
    origin: str
    hydrogens: frozenset[int]

    @classmethod
    def of(cls, run: Run, options: Labelling) -> _System:
        everything = run.open(options.atoms or "all")
        bonds, origin = stated_bonds(everything, run.topology), "bonds from the files"
        if bonds is None:
            bonds = guessed_bonds(everything, next(iter(everything.chunks(1))))
            origin = "bonds guessed from distances and names" if bonds else "no bonds known"
        if options.atoms is not None:
            _require_uncut(run, everything.indices, options)
        beads = choose_beads(everything, options.beads, bonds)
        pieces = molecules(bonds or (), everything.n_atoms)
        holding = [piece for piece in pieces if not {a for g in beads.groups for a in g}.isdisjoint(piece)]
        if bonds is None:
            holding = [tuple(range(everything.n_atoms))]
        kept = np.unique(np.concatenate([np.array(piece) for piece in holding]))
        selection = ranges(everything.indices[kept])
        inside = run.open(selection)
        place = {int(atom): k for k, atom in enumerate(kept)}
        pairs = [(place[a], place[b]) for a, b in bonds or () if a in place and b in place]
        beads = replace(
            beads,
            groups=tuple(tuple(place[a] for a in group) for group in beads.groups),
            weights=None if beads.weights is None else beads.weights[kept],
        )
        heavy = heavy_atoms(inside.masses, inside.names)
        hydrogens = frozenset() if heavy is None else frozenset(np.flatnonzero(~heavy).tolist())
        return cls(
            selection,
            inside.n_atoms,
            inside.names,
            inside.masses,
            pairs,
            beads,
            len(holding) == 1 and beads.weights is None,
            inside.constraints,
            origin,
            hydrogens,
        )

    def whole(self, atoms: AtomFrames) -> AtomFrames:
        """Frames with molecules in one piece."""
        if atoms.cell is None or not self.bonds:
            return atoms
        return replace(atoms, positions=make_whole(atoms.positions, atoms.cell, self.bonds))

    def constraints(self, atoms: AtomFrames, options: Labelling) -> tuple[list[Pair], str]:
        """Constrained pairs, and where they come from."""
        if self.beads.weights is not None:
            return [], "constraints within molecules do not matter for centres"
        if options.constraints == "none":
            self._require_stated([], options)
            return [], "no constraints, as stated"
        if options.constraints == "h-bonds":
            pairs = [p for p in self.bonds if not self.hydrogens.isdisjoint(p)]
            self._require_stated(pairs, options)
            return pairs, f"{len(pairs)} bonds of hydrogens constrained, as stated"
        if self.declared is not None:
            return list(self.declared), f"{len(self.declared)} constraints from the files of the run"
        if not self.bonds:
            raise DataError(
                "bonds are not known, so constraints cannot be looked for: pass a topology (--topology), or state "
                "constraints='none' (--constraints none)"
            )
        pairs = rigid_distances(atoms.positions, self.bonds)
        return pairs, f"{len(pairs)} constraints found in the frames: distances that do not vary"

    def _require_stated(self, pairs: list[Pair], options: Labelling) -> None:
        """All constraints that the files state must be among the pairs: without one of them mean forces are wrong."""
        known = {frozenset(pair) for pair in pairs}
        missing = [pair for pair in self.declared or () if frozenset(pair) not in known]
        if missing:
            raise DataError(
                f"the files state {len(self.declared or ())} constraints, and {options.constraints!r} leaves out "
                f"{len(missing)} of them, which would make the mean forces wrong: use 'auto' (--constraints auto)"
            )


def _labels(system, atoms, constraints, temperature, run, options) -> tuple[Labels, Any]:
    """Labels, and the map to beads."""
    bead_map = system.beads.tied_map(system.n_atoms, constraints)
    bead_map.require_whole(atoms)
    if system.beads.weights is not None:
        molecule = Molecule((), (), (), None)
        return plain_labels(atoms, molecule, bead_map, temperature, run), bead_map
    molecule = Molecule(system.bonds, system.beads.atoms or [], constraints, system.masses)
    made = plain_labels(atoms, molecule, bead_map, temperature, run)
    if options.quiet:
        made = quieten(made, atoms, molecule, bead_map.position_map, temperature, run)
    return made, bead_map


def _require_different(runs: Sequence[Run], parts: Sequence[AtomFrames]) -> None:
    """No two runs may hold the same frames."""
    owner: dict[bytes, int] = {}
    for k, part in enumerate(parts):
        for x, f in zip(part.positions, part.forces, strict=True):
            first = owner.setdefault(hashlib.sha1(x.tobytes() + f.tobytes(), usedforsecurity=False).digest(), k)
            if first != k:
                raise DataError(
                    f"runs {first + 1} ({runs[first].name}) and {k + 1} ({runs[k].name}) hold the same frame: a run is "
                    "given twice, or one file is a copy of another"
                )


def _require_uncut(run: Run, kept: NDArray[np.intp], options: Labelling) -> None:
    """No constraint may join an atom that is kept and one that is not; nor a bond, if constraints are not stated."""
    inside, every = set(kept.tolist()), run.open()
    pairs, name = every.constraints, "constraint"
    if pairs is None:
        pairs, name = (None if options.constraints == "none" else every.bonds), "bond, which may be constrained,"
    for a, b in pairs or ():
        if (a in inside) != (b in inside):
            raise DataError(
                f"the atoms {options.atoms!r} (--atoms) leave out one end of the {name} {a}–{b} (atoms from 0): the "
                "force on it would be missing from the mean forces. Keep whole molecules; beads= (--beads) chooses "
                "among their atoms"
            )


def _without_first(atoms: AtomFrames, skip: int, run: Run) -> AtomFrames:
    require(len(atoms) > skip, f"{run.name} holds {len(atoms)} frames, and skip={skip} leaves none")
    parts: dict[str, Any] = {name: getattr(atoms, name) for name in AtomFrames.__dataclass_fields__}
    kept: dict[str, Any] = {name: None if values is None else values[skip:] for name, values in parts.items()}
    return AtomFrames(**kept)


def _joined(parts: list[AtomFrames]) -> AtomFrames:
    """All frames; energies that some runs lack become NaN, times and steps are dropped."""
    filled = [
        replace(p, energies=np.full(len(p), np.nan) if p.energies is None else p.energies, times=None, steps=None)
        for p in parts
    ]
    return AtomFrames.concatenate(filled)
