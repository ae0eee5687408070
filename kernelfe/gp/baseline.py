"""Baselines: a simple energy V(R) that keeps a model physical where it has no data.

    V(R) = Σ_bonds ½ k (r − r₀)² + Σ_angles ½ k (θ − θ₀)² + Σ_impropers ½ k wrap(χ − χ₀)² + Σ_far pairs ε (σ/r)¹²

V does not depend on temperature, so every functional of it follows from V and ∇V. It is subtracted from every label
before a fit and added back on prediction: it need not be exact, only stiff where the molecule is stiff. Dihedrals
are left to the Gaussian process.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..arrays import real_array
from ..descriptors.base import Beads
from ..errors import DataError, ModelFileError
from ..geometry import broken_frames, topology
from ..geometry import internal as geometry
from ..specs import Bound, Each, Flag, OrNone, Real, Spec, Whole, checked, from_dict
from ..units import BOLTZMANN

_FRAMES_AT_ONCE = 4096

Parameters = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class FittedBaseline(Spec):
    """A baseline with its numbers; see the module's formula. Hashable, plain numbers only.

    Parameters
    ----------
    beads
        Beads of the molecule.
    bonds, angles, impropers
        Bead indices, impropers as the torsion (centre, a, b, c).
    bond_parameters, angle_parameters, improper_parameters
        (k, x₀) of each: eV/Å² and Å, or eV/rad² and rad.
    walls
        Pairs with a repulsive wall.
    wall_radii
        σ of each wall, Å.
    wall_energy
        ε, eV.

    Raises
    ------
    DataError
        If an entry does not name beads of the molecule, or its numbers are missing, not finite or not positive.
    """

    beads: int
    bonds: tuple[tuple[int, int], ...] = ()
    bond_parameters: Parameters = ()
    angles: tuple[tuple[int, int, int], ...] = ()
    angle_parameters: Parameters = ()
    impropers: tuple[tuple[int, int, int, int], ...] = ()
    improper_parameters: Parameters = ()
    walls: tuple[tuple[int, int], ...] = ()
    wall_radii: tuple[float, ...] = ()
    wall_energy: float = 0.0

    BOUNDS: ClassVar[Mapping[str, Bound]] = {"beads": Whole(least=1), "wall_energy": Real(least=0.0)}

    def __post_init__(self) -> None:
        super().__post_init__()
        tables = (("bonds", 2, "bond"), ("angles", 3, "angle"), ("impropers", 4, "improper"), ("walls", 2, "wall"))
        for name, size, kind in tables:
            numbers, width = ("wall_radii", 1) if kind == "wall" else (f"{kind}_parameters", 2)
            try:
                entries = checked(name, getattr(self, name), Beads(size), "FittedBaseline")
                rows = np.array(getattr(self, numbers), dtype=float).reshape(len(entries), width)
            except (TypeError, ValueError, OverflowError) as error:
                raise DataError(f"FittedBaseline: {name} and {numbers} do not fit each other: {error}") from error
            if max((max(entry) for entry in entries), default=0) >= self.beads:
                raise DataError(f"FittedBaseline({name}) names a bead beyond the {self.beads} of the molecule")
            if not np.isfinite(rows).all() or (kind == "wall" and (rows <= 0.0).any()):
                raise DataError(f"FittedBaseline({numbers}) must be finite, and radii of walls positive")
            object.__setattr__(self, name, entries)
            table = rows[:, 0].tolist() if width == 1 else map(tuple, rows.tolist())
            object.__setattr__(self, numbers, tuple(table))

    def energy(self, positions: Tensor, cell: Tensor | None = None) -> Tensor:
        """V in eV, shape (n,), of positions (n, beads, 3); nearest images with a cell (n, 3, 3) or (3, 3)."""
        stencil = self._stencil(positions)
        if not len(stencil.tail):
            return positions.new_zeros(len(positions))
        return self._potential(geometry.coordinates(stencil, geometry.edge_vectors(stencil, positions, cell)))[0]

    def energy_and_gradient(self, positions: Tensor, cell: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """V in eV, shape (n,), and ∇V in eV/Å, shape (n, beads, 3).

        Raises
        ------
        DataError
            If the positions are not those of the fitted molecule.
        """
        energy, stencil, _, w = self._evaluate(positions, cell)
        return energy, geometry.scatter(stencil, w)

    def strain_derivative(self, positions: Tensor, cell: Tensor | None = None) -> Tensor:
        """∂V/∂strain in eV (not divided by the volume), shape (n, 6), Voigt order with engineering shear."""
        _, _, v, w = self._evaluate(positions, cell)
        return geometry.voigt(w.permute(2, 0, 1), v.permute(2, 0, 1)).sum(1)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> FittedBaseline:
        """Rebuild from :meth:`to_dict`.

        Raises
        ------
        ModelFileError
            If ``data`` is not a fitted baseline.
        """
        out = from_dict(data, {cls.__name__: cls})
        if not isinstance(out, cls):
            raise ModelFileError(f"expected the dict of a {cls.__name__}, got {type(out).__name__}")
        return out

    def _stencil(self, x: Tensor) -> geometry.Stencil:
        """Stencil of bonds and walls, angles and impropers."""
        if x.ndim != 3 or tuple(x.shape[1:]) != (self.beads, 3):
            raise DataError(
                f"the baseline belongs to molecules of {self.beads} beads: give positions of shape "
                f"(n, {self.beads}, 3), not {tuple(x.shape)}"
            )
        return geometry.stencil(self.bonds + self.walls, self.angles, self.impropers, self.beads, (x.dtype, x.device))

    def _evaluate(self, x: Tensor, cell: Tensor | None) -> tuple[Tensor, geometry.Stencil, Tensor, Tensor]:
        """V, the stencil, its edge vectors v and ∂V/∂v."""
        stencil = self._stencil(x)
        if not len(stencil.tail):
            return x.new_zeros(len(x)), stencil, x.new_zeros(0, 3, len(x)), x.new_zeros(0, 3, len(x))
        v = geometry.edge_vectors(stencil, x, cell)
        q, slopes = geometry.measure(stencil, v)
        energy, harmonic, wall = self._potential(q)
        first, last = len(self.bonds), len(self.bonds) + len(self.walls)
        g = torch.cat((harmonic[:first], -12.0 * wall / q[first:last], harmonic[first:]))
        return energy, stencil, v, geometry.edge_gradients(stencil, slopes, g)

    def _potential(self, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """V, shape (n,), k (x − x₀) of bonds, angles and impropers, and the energies of the walls."""
        stiffness, centre, radii = _constants(self, q.dtype, q.device)
        first, last, torsions = len(self.bonds), len(self.bonds) + len(self.walls), len(q) - len(self.impropers)
        squared = (radii / q[first:last]).square()
        wall = self.wall_energy * (squared * squared * squared).square()
        delta = torch.cat((q[:first], q[last:])) - centre
        if self.impropers:
            straight = torsions - len(self.walls)
            turns = (delta[straight:] / (2.0 * math.pi)).round()
            delta = torch.cat((delta[:straight], delta[straight:] - 2.0 * math.pi * turns))
        g = stiffness * delta
        return 0.5 * (g * delta).sum(0) + wall.sum(0), g, wall


@lru_cache(maxsize=32)  # a memo of a pure function: dynamics asks at every step
def _constants(baseline: FittedBaseline, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    rows = baseline.bond_parameters + baseline.angle_parameters + baseline.improper_parameters
    with torch.inference_mode(False):
        table = torch.tensor(rows, dtype=dtype, device=device).reshape(-1, 2)
        radii = torch.tensor(baseline.wall_radii, dtype=dtype, device=device)
        return table[:, :1].contiguous(), table[:, 1:].contiguous(), radii[:, None]


@dataclass(frozen=True)
class BoltzmannInversion(Spec):
    """Spec of a baseline by Boltzmann inversion of bonds, angles and impropers, for one molecule.

    The volume elements r² and sin θ are accounted for: for a density exp(−½ k (x − x₀)²/kT) J(x), integration by
    parts gives, with c = <x> weighted by 1/kT and D = d ln J/dx (2/r, cot θ, 0), the unbiased equations

        k = (1 + <(x − c) D>) / <(x − c)²/kT>,    x₀ = c − <D> / (k <1/kT>),

    summed over frames of any temperatures. ``prior_frames`` further frames of prior width regularise small samples.

    Parameters
    ----------
    bonds
        Bonded pairs; None: inferred by :func:`kernelfe.geometry.topology.infer_bonds`. () for none.
    excluded_volume
        Add a wall ε(σ/r)¹² between beads three or more bonds apart: of ``wall_energy`` at the smallest distance
        observed for the pair (but never beyond twice the longest bond, so that a pair merely not yet seen in contact is
        not kept apart).
    minimum_width
        Smallest thermal width, Å and rad, a harmonic may have at the mean temperature: rigid bonds would otherwise
        get springs that no time step can follow.
    by_kinds
        One stiffness and rest value for all bonds (angles, impropers, walls) between beads of the same kinds, instead
        of one for each: symmetric in like beads, and what terms by kinds need (the Frames must have ``kinds`` and
        ``bonds``). Always so with several molecules.
    prior_frames
        Weight of the prior widths, in frames: it matters in fits of few frames only.
    prior_widths
        Prior thermal widths of bonds (Å), angles and impropers (rad) at the mean temperature of the data.
    widest_improper
        Impropers wider than this (standard deviation, rad) flip or rotate: they get no harmonic.
    wall_energy
        Energy of a wall at the smallest distance observed, in kT at the lowest temperature.

    Raises
    ------
    DataError
        If a bond is not two different beads, or the width is not positive.
    """

    bonds: tuple[tuple[int, int], ...] | None = None
    excluded_volume: bool = True
    minimum_width: float = 0.01
    by_kinds: bool = False
    prior_frames: float = 2.0
    prior_widths: tuple[float, float, float] = (0.05, 0.1, 0.1)
    widest_improper: float = 0.6
    wall_energy: float = 0.1

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        "bonds": OrNone(Beads(2)),
        "excluded_volume": Flag(),
        "minimum_width": Real(above=0.0),
        "by_kinds": Flag(),
        "prior_frames": Real(above=0.0),
        "prior_widths": Each(Real(above=0.0), count=3),
        "widest_improper": Real(least=0.0),
        "wall_energy": Real(least=0.0),
    }

    def fit(self, positions: np.ndarray, temperature: np.ndarray, cell: np.ndarray | None = None) -> FittedBaseline:
        """Fit the baseline to equilibrium frames; frames with a bond of an implausible length are left out.

        Parameters
        ----------
        positions
            (n, beads, 3), Å, n ≥ 3; whole molecules where bonds are inferred.
        temperature
            K, shape (n,) or a number.
        cell
            (n, 3, 3) or (3, 3), Å; None without periodic boundaries.

        Raises
        ------
        DataError
            If shapes do not fit, frames are fewer than 3, a value is not finite or not positive, or a bond would rest
            at no positive length.
        """
        if self.by_kinds:
            raise DataError("BoltzmannInversion(by_kinds=True) needs the kinds of the beads: let the regressor fit it")
        x = np.ascontiguousarray(real_array(positions, "positions", "Å"))
        if x.ndim != 3 or x.shape[2] != 3 or len(x) < 3:
            raise DataError(
                f"BoltzmannInversion reads positions of shape (frames ≥ 3, beads, 3), not {x.shape}: "
                "give more frames, or no baseline"
            )
        kt = BOLTZMANN * np.broadcast_to(real_array(temperature, "temperature", "K"), (len(x),))
        if not (np.isfinite(kt) & (kt > 0.0)).all() or not np.isfinite(x).all():
            raise DataError("BoltzmannInversion: positions must be finite and temperatures positive; remove bad frames")
        broken = broken_frames(x, self.bonds, cell)
        if broken.any() and np.count_nonzero(~broken) >= 3:
            x, kt = x[~broken], kt[~broken]
            cell = cell if cell is None or np.ndim(cell) == 2 else cell[~broken]
        bonds = topology.infer_bonds(x) if self.bonds is None else self.bonds
        angles, impropers = topology.angles_of(bonds), topology.impropers_of(bonds)
        walls = self._walls(bonds, x.shape[1])
        q, smallest = _measure(x, cell, bonds, walls, angles, impropers)
        split = (len(bonds), len(bonds) + len(angles))
        r, theta, chi = np.split(q, split)
        cap = (kt.size / (1.0 / kt).sum()) / self.minimum_width**2
        bond_rows = [self._harmonic(row, 2.0 / row, kt, 0, cap) for row in r]
        for bond, (_, r0), row in zip(bonds, bond_rows, r, strict=True):
            if not r0 > 0.0:  # widths comparable to the length: most often 0.15 nm read as 0.15 Å, or metres
                raise DataError(
                    f"BoltzmannInversion: bond {tuple(bond)}, {row.mean():.3g} Å long on average, would rest at "
                    f"{r0:.3g} Å. Are the positions in Å (else pass units=), and the molecules whole (else unwrap "
                    "them)? If so, these beads are not bonded: name the bonds"
                )
        angle_rows = [
            (k, min(max(centre, 0.0), math.pi))
            for k, centre in (self._harmonic(row, _cotangent(row), kt, 1, cap) for row in theta)
        ]
        improper_rows = {}
        for entry, row in zip(impropers, chi, strict=True):
            middle = math.atan2(np.sin(row).mean(), np.cos(row).mean())
            away = row - middle
            away -= 2.0 * math.pi * np.round(away / (2.0 * math.pi))
            if away.std() < self.widest_improper:
                k, shift = self._harmonic(away, np.zeros_like(away), kt, 2, cap)
                improper_rows[entry] = (k, math.remainder(middle + shift, 2.0 * math.pi))
        if bonds:
            smallest = np.minimum(smallest, 2.0 * max(r0 for _, r0 in bond_rows))
        return FittedBaseline(
            beads=x.shape[1],
            bonds=bonds,
            bond_parameters=tuple(bond_rows),
            angles=angles,
            angle_parameters=tuple(angle_rows),
            impropers=tuple(improper_rows),
            improper_parameters=tuple(improper_rows.values()),
            walls=walls,
            wall_radii=tuple(smallest.tolist()),
            wall_energy=float(self.wall_energy * kt.min()),
        )

    def _walls(self, bonds: Sequence[tuple[int, int]], beads: int) -> tuple[tuple[int, int], ...]:
        if not self.excluded_volume:
            return ()
        i, j = np.nonzero(np.triu(topology.separation(bonds, beads) >= 3, 1))
        return tuple(zip(i.tolist(), j.tolist(), strict=True))

    def _harmonic(
        self, x: np.ndarray, volume: np.ndarray, kt: np.ndarray, kind: int, cap: float
    ) -> tuple[float, float]:
        """(k, x₀) of a bond (``kind`` 0), angle or improper; ``volume`` = d ln J/dx, ``cap`` the largest k."""
        weight, width = 1.0 / kt, self.prior_widths[kind]
        centre = float((weight * x).sum() / weight.sum())
        away = x - centre
        frames = max(len(x) - 1.0 + float((away * volume).sum()), 0.1 * len(x))  # one frame less for the centre
        spread = float((weight * away * away).sum()) + self.prior_frames * width**2 * float(weight.mean())
        k = min((frames + self.prior_frames) / spread, cap)
        return k, centre - float(volume.sum() / weight.sum()) / k


def _measure(x: np.ndarray, cell, bonds, walls, angles, impropers) -> tuple[np.ndarray, np.ndarray]:
    """Bonded coordinates (Q, n) and the smallest distance of each wall pair, in blocks of frames."""
    like = (torch.float64, torch.device("cpu"))
    stencil = geometry.stencil(tuple(bonds) + walls, angles, impropers, x.shape[1], like)
    first, last = len(bonds), len(bonds) + len(walls)
    bonded, smallest = np.zeros((first + len(angles) + len(impropers), len(x))), np.full(len(walls), np.inf)
    if not len(stencil.tail):
        return bonded, smallest
    for start in range(0, len(x), _FRAMES_AT_ONCE):
        block = slice(start, start + _FRAMES_AT_ONCE)
        box = None if cell is None else torch.tensor(cell if np.ndim(cell) == 2 else cell[block], dtype=torch.float64)
        q = geometry.measure(stencil, geometry.edge_vectors(stencil, torch.tensor(x[block]), box))[0].numpy()
        bonded[:first, block], bonded[first:, block] = q[:first], q[last:]
        smallest = np.minimum(smallest, q[first:last].min(1))
    return bonded, smallest


def _cotangent(angle: np.ndarray) -> np.ndarray:
    """d ln J/dθ of the volume element J = sin θ."""
    return np.cos(angle) / np.maximum(np.sin(angle), 1e-6)
