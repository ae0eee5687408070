"""One baseline for several molecules: its numbers belong to the kinds of the beads, not to a molecule.

A shared term learns what the baseline leaves of A. With a baseline of its own for every molecule that remainder would
be another function of the same bond length in each, and no shared term could be both; and a molecule outside the fit
would have none. So every bond A–B has the same k and r₀, fitted to all such bonds of all molecules at once by the
equations of :class:`~kernelfe.gp.baseline.BoltzmannInversion`.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ..errors import DataError
from ..geometry import topology
from ..specs import Spec
from ..units import BOLTZMANN
from . import baseline as single
from .baseline import BoltzmannInversion, FittedBaseline, Parameters
from .core import FittedCore, RepulsiveCore

Kinds = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class SharedBaseline(Spec):
    """A baseline with its numbers by the kinds of beads; the formula is that of :mod:`kernelfe.gp.baseline`.

    Parameters
    ----------
    bonds, angles, impropers
        Kinds of the beads; of a bond or an angle in the order that sorts first, of an improper (centre, neighbours
        sorted by kind).
    bond_parameters, angle_parameters, improper_parameters
        (k, x₀) of each: eV/Å² and Å, or eV/rad² and rad.
    walls, wall_radii
        Pairs of kinds with a repulsive wall beyond two bonds, and its σ, Å.
    wall_energy
        ε, eV.
    """

    bonds: Kinds = ()
    bond_parameters: Parameters = ()
    angles: Kinds = ()
    angle_parameters: Parameters = ()
    impropers: Kinds = ()
    improper_parameters: Parameters = ()
    walls: Kinds = ()
    wall_radii: tuple[float, ...] = ()
    wall_energy: float = 0.0

    def for_molecule(self, kinds: tuple[str, ...], bonds: tuple[tuple[int, int], ...] | None) -> FittedBaseline:
        """The baseline of one molecule.

        Raises
        ------
        DataError
            If its bonds are not known, or it has a bond or an angle of kinds that no molecule of the fit had.
        """
        return _for_molecule(self, kinds, bonds)


@lru_cache(maxsize=128)  # a memo of a pure function
def _for_molecule(shared: SharedBaseline, kinds, bonds) -> FittedBaseline:
    if bonds is None:
        raise DataError("the baseline needs the bonds of the molecule: give bonds= when building the Frames")
    parts = _Parts.of(kinds, bonds)
    tables: dict[str, Any] = {}
    for name, singular, required in (("bonds", "bond", True), ("angles", "angle", True), ("impropers", "improper", 0)):
        known = dict(zip(getattr(shared, name), getattr(shared, f"{singular}_parameters"), strict=True))
        entries, numbers = [], []
        for entry, kind, share in getattr(parts, name):
            if kind in known:
                entries.append(entry)
                numbers.append((share * known[kind][0], known[kind][1]))
            elif required:
                raise DataError(
                    f"the model was fitted to no {singular} {'–'.join(kind)} (beads {entry}): its baseline does not "
                    "know how stiff one is. Fit with a molecule that has one, or with baseline=False"
                )
        tables[name], tables[f"{singular}_parameters"] = tuple(entries), tuple(numbers)
    radii = dict(zip(shared.walls, shared.wall_radii, strict=True))
    walls = [(entry, radii[kind]) for entry, kind, _ in parts.walls if kind in radii]
    return FittedBaseline(
        beads=len(kinds),
        **tables,
        walls=tuple(entry for entry, _ in walls),
        wall_radii=tuple(radius for _, radius in walls),
        wall_energy=shared.wall_energy,
    )


def fit_baseline(spec, data, core: bool = False) -> FittedBaseline | SharedBaseline | FittedCore | None:
    """Fit the baseline of training data.

    Parameters
    ----------
    spec
        ``baseline`` of the regressor. None: Boltzmann inversion for molecules, nothing for variables and periodic
        frames; False: nothing.
    data
        :class:`~kernelfe.gp.observations.molecules.MoleculeSet`.
    core
        Whether the model has pair functions that need a repulsive core, the default of periodic frames then.

    Raises
    ------
    DataError
        If ``spec`` is not a baseline, or the data lack what it needs.
    """
    first = data.sound[0]
    variables, periodic = first.positions is None, any(molecule.periodic for molecule in data.molecules)
    if spec is None and core and not variables and all(molecule.periodic for molecule in data.molecules):
        spec = RepulsiveCore()
    if spec is False or (spec is None and (variables or periodic)):
        return None
    if isinstance(spec, RepulsiveCore):
        fitted, only = spec.fit_parts(data.sound), data.molecules[0]
        return fitted.for_molecule(only.kinds, only.bonds) if data.single else fitted
    if data.single and not getattr(spec, "by_kinds", False):
        return _fit_single(spec, first)
    spec = BoltzmannInversion() if spec is None else spec
    if not isinstance(spec, BoltzmannInversion):
        raise DataError(
            f"baseline={spec!r}: several molecules share a baseline by the kinds of their beads, which is made by "
            "BoltzmannInversion(); pass that, None or False"
        )
    for molecule in data.molecules:
        if molecule.bonds is None or molecule.kinds is None:
            raise DataError(
                "a baseline by kinds needs kinds= and bonds= of the Frames. Missing are those of the bonds of molecule "
                f"{molecule}: give them (kernelfe.geometry.infer_bonds finds the bonds of a chain), or pass "
                "baseline=False"
            )
    shared = fit_shared(spec, data.sound)
    only = data.molecules[0]
    return shared.for_molecule(only.kinds, only.bonds) if data.single else shared


def _fit_single(spec, frames) -> FittedBaseline | None:
    """The baseline of one molecule, with numbers of its own for every bond."""
    if spec is None:
        if frames.positions.shape[1] < 2 or len(frames) < 3:
            return None
        spec = BoltzmannInversion(bonds=None if frames.bonds is None else tuple(map(tuple, frames.bonds)))
    if not hasattr(spec, "fit"):
        raise DataError(f"baseline={spec!r}: pass a spec such as BoltzmannInversion(), None for the default, or False")
    if frames.positions is None:
        raise DataError("a baseline needs bead positions; these Frames hold collective variables: pass baseline=False")
    return spec.fit(frames.positions, frames.temperature, frames.cell)


def fit_shared(spec: BoltzmannInversion, parts) -> SharedBaseline:
    """Boltzmann inversion of all molecules at once.

    Parameters
    ----------
    spec
        Its options; bonds are those of the Frames.
    parts
        Frames of each molecule, with kinds and bonds.

    Raises
    ------
    DataError
        If bonds are named in the spec or missing in the Frames, frames are fewer than 3 in all, or a bond would rest
        at no positive length.
    """
    if spec.bonds is not None:
        raise DataError("BoltzmannInversion(bonds=…) names beads of one molecule: give bonds= to the Frames of each")
    if sum(map(len, parts)) < 3:
        raise DataError("BoltzmannInversion needs 3 frames or more: give more frames, or baseline=False")
    rows: dict[str, dict[tuple[str, ...], list]] = {
        name: defaultdict(list) for name in ("bonds", "angles", "impropers")
    }
    closest: dict[tuple[str, ...], float] = defaultdict(lambda: math.inf)
    for part in parts:
        kt, found = BOLTZMANN * part.temperature, _Parts.of(part.kinds, part.bonds)
        walls = found.walls if spec.excluded_volume else ()
        entries = [tuple(e for e, *_ in given) for given in (found.bonds, walls, found.angles, found.impropers)]
        if not len(part):
            continue
        q, smallest = single._measure(part.positions, part.cell, *entries)
        row = iter(q)
        for name in rows:
            for _, kind, _ in getattr(found, name):
                rows[name][kind].append((next(row), kt))
        for (_, kind, _), r in zip(walls, smallest, strict=True):
            closest[kind] = min(closest[kind], float(r))
    every = np.concatenate([BOLTZMANN * part.temperature for part in parts])
    cap = (every.size / (1.0 / every).sum()) / spec.minimum_width**2
    pooled = {name: {k: _pooled(v) for k, v in sorted(by.items())} for name, by in rows.items()}
    bonds = {k: spec._harmonic(x, 2.0 / x, t, 0, cap) for k, (x, t) in pooled["bonds"].items()}
    for kind, (_, rest) in bonds.items():
        if not rest > 0.0:
            raise DataError(
                f"BoltzmannInversion: bonds {'–'.join(kind)} would rest at {rest:.3g} Å. Are the positions in Å (else "
                "pass units=), and the molecules whole (else unwrap them)? If so, these beads are not "
                "bonded: correct bonds="
            )
    angles = {}
    for kind, (x, t) in pooled["angles"].items():
        k, centre = spec._harmonic(x, single._cotangent(x), t, 1, cap)
        angles[kind] = (k, min(max(centre, 0.0), math.pi))
    impropers = {k: v for k, (x, t) in pooled["impropers"].items() if (v := _improper(spec, k, x, t, cap)) is not None}
    longest = 2.0 * max((rest for _, rest in bonds.values()), default=math.inf)
    return SharedBaseline(
        bonds=tuple(bonds),
        bond_parameters=tuple(bonds.values()),
        angles=tuple(angles),
        angle_parameters=tuple(angles.values()),
        impropers=tuple(impropers),
        improper_parameters=tuple(impropers.values()),
        walls=tuple(sorted(closest)),
        wall_radii=tuple(min(closest[kind], longest) for kind in sorted(closest)),
        wall_energy=float(spec.wall_energy * every.min()),
    )


def _pooled(rows: list) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([x for x, _ in rows]), np.concatenate([t for _, t in rows])


def _improper(
    spec: BoltzmannInversion, kind: tuple[str, ...], chi: np.ndarray, kt: np.ndarray, cap: float
) -> tuple[float, float] | None:
    """(k, χ₀), or None where it flips. Like neighbours have no order, so with them χ and −χ are the same thing."""
    if len(set(kind[1:])) < 3:
        chi, kt = np.concatenate((chi, -chi)), np.concatenate((kt, kt))
    middle = math.atan2(np.sin(chi).mean(), np.cos(chi).mean())
    away = chi - middle
    away -= 2.0 * math.pi * np.round(away / (2.0 * math.pi))
    if away.std() >= spec.widest_improper:
        return None
    k, shift = spec._harmonic(away, np.zeros_like(away), kt, 2, cap)
    return k, math.remainder(middle + shift, 2.0 * math.pi)


@dataclass(frozen=True)
class _Parts:
    """Coordinates of a molecule, each as (beads, kinds, share of the stiffness of its kind).

    Impropers come in every order of like neighbours, each with its share, so that the energy does not depend on how
    beads are numbered: m neighbours have the stiffness of m − 2 impropers in all.
    """

    bonds: tuple
    angles: tuple
    impropers: tuple
    walls: tuple

    @classmethod
    def of(cls, kinds: tuple[str, ...], bonds) -> _Parts:
        def typed(entries):
            out = []
            for entry in entries:
                kind = tuple(kinds[bead] for bead in entry)
                out.append((entry, min(kind, kind[::-1]), 1.0))
            return tuple(out)

        impropers = []
        for centre, around in topology._neighbours(bonds).items():
            orders = [p for p in itertools.permutations(around, 3) if list(p) == sorted(p, key=lambda b: kinds[b])]
            for order in orders:
                entry = (centre, *order)
                impropers.append((entry, tuple(kinds[bead] for bead in entry), (len(around) - 2) / len(orders)))
        i, j = np.nonzero(np.triu(topology.separation(bonds, len(kinds)) >= 3, 1))
        return cls(
            typed(topology._check(bonds)),
            typed(topology.angles_of(bonds)),
            tuple(impropers),
            typed(zip(i.tolist(), j.tolist(), strict=True)),
        )
