"""Zero-mean variates: all-atom motions that leave the beads at rest.

For any field w(x) of the eliminated atoms that keeps constrained distances,

    ⟨f·w + kT (div w + w·∇ ln √det Z)⟩_R = 0   at every R,

exactly (integration by parts at fixed R). Z_st = Σ_a ∇_aσ_s·∇_aσ_t/m_a belongs to the constraints σ: they put √det Z
into the sampled measure. So any combination of such variates may be added to any label, to lower its noise.

The library is built from the bonds. A **fragment** S hangs on the molecule by the bond j–k and holds no bead. Its place
is known by internal coordinates of k against j, i and h (bonded in a row, k–j–i–h), and moving one of them moves all of
S rigidly, so that stiff coordinates inside S stay at rest:

    stretch  q = |x_k − x_j|          w_a = û_jk                      div w = 2/q
    bend     q = angle(i, j, k)       w_a = n̂ × (x_a − x_j)           div w = cot q        n̂ ∝ (x_i − x_j) × (x_k − x_j)
    swing    q = dihedral(h, i, j, k) w_a = û_ij × (x_a − x_j)        div w = 0
    twist    q = dihedral(i, j, k, l) w_a = û_jk × (x_a − x_k)        div w = 0            l the next atom of S
    tilt     –                        w_a = ê × (x_a − x_k)           div w = 0            ê ⟂ û_jk, in the plane of
                                                                                           i, j, k or normal to it

A twist or a tilt leaves k at rest, which may then be a bead. The first four are ∂x/∂q: with
Q = f·w + kT (div w + w·∇ ln √det Z), every smooth g gives a variate more, g(q) Q + kT g'(q).
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ...arrays import real_array
from ...errors import DataError, require
from ...geometry.internal import torsion_angle
from ...geometry.topology import fragment
from ...units import BOLTZMANN

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class FragmentMotion:
    """Motion of a bead-free fragment along one internal coordinate; see the module's table.

    Parameters
    ----------
    kind
        "stretch", "bend", "swing", "twist", "tilt" (axis normal to the plane i, j, k) or "lean" (axis in it).
    atoms
        The atoms that define q, in the order of the table.
    moving
        The atoms of the fragment.
    siblings
        Atoms at constrained distances to j when k is one of them and this motion turns k against them, else ().
    inverse_masses
        1/m of j, then of k, then of the siblings; 1/u.
    powers, harmonics
        Powers of (q − q0)/width of stretches and bends, and multiples of the angle of swings and twists.
    """

    kind: str
    atoms: tuple[int, ...]
    moving: tuple[int, ...]
    siblings: tuple[int, ...] = ()
    inverse_masses: tuple[float, ...] = ()
    powers: tuple[int, ...] = (0, 1, 2)
    harmonics: tuple[int, ...] = (1, 2, 3)

    @property
    def name(self) -> str:
        """Such as ``bend 4-5-9``."""
        return f"{self.kind} {'-'.join(map(str, self.atoms))}"

    def functions(self, s: FloatArray) -> Iterator[tuple[str, FloatArray, FloatArray]]:
        """Name, g(s) and dg/ds of every variate of this motion, s = (q − centre)/width."""
        if self.kind in ("swing", "twist"):
            yield "", np.ones_like(s), np.zeros_like(s)
            for m in self.harmonics:
                yield f" cos {m}", np.cos(m * s), -m * np.sin(m * s)
                yield f" sin {m}", np.sin(m * s), m * np.cos(m * s)
        else:
            for power in self.powers if self.kind in ("stretch", "bend") else (0,):
                yield f" power {power}", s**power, power * s ** max(power - 1, 0)

    def evaluate(self, positions: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """q (n,), w on the moving atoms (n, moving, 3), and div w + w·∇ ln √det Z (n,).

        Parameters
        ----------
        positions
            (n, atoms, 3), Å.
        """
        x = positions
        moved = x[:, list(self.moving)]
        if self.kind in ("tilt", "lean"):
            i, j, k = self.atoms
            u = _unit(x[:, k] - x[:, j])[1]
            axis = _unit(np.cross(x[:, i] - x[:, j], u))[1]
            axis = axis if self.kind == "tilt" else np.cross(u, axis)
            return np.zeros(len(x)), np.cross(axis[:, None], moved - x[:, k, None]), np.zeros(len(x))
        if self.kind == "stretch":
            j, k = self.atoms
            q, u = _unit(x[:, k] - x[:, j])
            return q, np.broadcast_to(u[:, None], moved.shape), 2.0 / q
        if self.kind == "bend":
            i, j, k = self.atoms
            a, b = (_unit(x[:, end] - x[:, j])[1] for end in (i, k))
            sine, normal = _unit(np.cross(a, b))
            cosine = (a * b).sum(-1)
            w = np.cross(normal[:, None], moved - x[:, j, None])
            return np.arctan2(sine, cosine), w, cosine / sine + self._measure(x, np.cross(normal, b), b)
        a, b, c, d = torch.from_numpy(x[:, list(self.atoms)]).unbind(1)
        q = torsion_angle(b - a, c - b, d - c).numpy()
        if self.kind == "swing":
            _, i, j, k = self.atoms
            axis, origin = _unit(x[:, j] - x[:, i])[1], x[:, j]
            b = _unit(x[:, k] - origin)[1]
            extra = self._measure(x, np.cross(axis, b), b)
        else:
            _, j, k, _ = self.atoms
            axis, origin, extra = _unit(x[:, k] - x[:, j])[1], x[:, k], np.zeros(len(x))
        return q, np.cross(axis[:, None], moved - origin[:, None]), extra

    def _measure(self, x: FloatArray, rate: FloatArray, direction: FloatArray) -> FloatArray:
        """w·∇ ln √det Z when the constrained bond direction û_jk changes at ``rate``: Σ_t (Z⁻¹)_kt dZ_kt."""
        if not self.siblings:
            return np.zeros(len(x))
        j = self.atoms[-2]
        others = [_unit(x[:, s] - x[:, j])[1] for s in self.siblings]
        u = np.stack([direction, *others], 1)
        z = np.einsum("nsx,ntx->nst", u, u) * self.inverse_masses[0]
        z += np.diag(self.inverse_masses[1:])
        change = np.einsum("nx,ntx->nt", rate, u[:, 1:]) * self.inverse_masses[0]
        return np.einsum("nt,nt->n", np.linalg.inv(z)[:, 0, 1:], change)


def fragment_motions(
    bonds: Iterable[tuple[int, int]],
    bead_atoms: Sequence[int],
    constraints: Iterable[tuple[int, int]] = (),
    masses: ArrayLike | None = None,
) -> tuple[FragmentMotion, ...]:
    """All motions of bead-free fragments of a molecule that its constraints allow.

    Parameters
    ----------
    bonds
        Pairs of bonded atoms, all atoms.
    bead_atoms
        Index of the atom each bead stands for.
    constraints
        Pairs of atoms at a constrained distance.
    masses
        (atoms,), u, as they were in the simulation; needed where two constraints share an atom.

    Returns
    -------
    tuple of FragmentMotion
        Left out are motions that would change a constrained distance, and those that turn a constrained bond whose
        atoms take part in a network of constraints other than a star about one atom.

    Raises
    ------
    DataError
        If an atom is unknown, or masses are needed and missing.
    """
    pairs = tuple(sorted({(min(pair), max(pair)) for pair in _pairs(bonds, "bonds")}))
    near: dict[int, list[int]] = {}
    for a, b in pairs:
        near.setdefault(a, []).append(b)
        near.setdefault(b, []).append(a)
    for around in near.values():
        around.sort()
    beads = {operator.index(a) for a in bead_atoms}
    fixed: dict[int, set[int]] = {}
    for a, b in _pairs(constraints, "constraints"):
        fixed.setdefault(a, set()).add(b)
        fixed.setdefault(b, set()).add(a)
    weights = None if masses is None else real_array(masses, "masses", "u")
    known = max(near, default=-1) + 1 if weights is None else len(weights)
    if unknown := [a for a in (*near, *fixed) if a >= known] or [a for a in beads if a < 0]:
        raise DataError(f"atom {unknown[0]} is named, but there are {known} atoms: mend bonds, constraints or masses")
    if weights is not None and (weights.ndim != 1 or not (np.isfinite(weights) & (weights > 0.0)).all()):
        raise DataError("masses must be positive numbers, one per atom")
    out = []
    for j, k in sorted([*pairs, *((b, a) for a, b in pairs)]):
        try:
            moving = tuple(sorted(fragment(pairs, j, k)))
        except DataError:  # part of a ring
            continue
        inside, held = set(moving), beads & set(moving)
        tied = {(a, c) for a in moving for c in fixed.get(a, ()) if c not in inside}
        if held - {k} or tied - {(k, j)}:
            continue  # holds a bead, or is held by more than its bond, as the atoms of rigid water are
        if not held:
            out += _motions_of(j, k, moving, near, fixed, bool(tied), weights)
        out += _rotations_of(j, k, moving, near, bool(tied))
    return tuple(out)


def _motions_of(
    j: int,
    k: int,
    moving: tuple[int, ...],
    near: dict[int, list[int]],
    fixed: dict[int, set[int]],
    rigid: bool,
    masses: FloatArray | None,
) -> list[FragmentMotion]:
    """Motions of the fragment ``moving`` behind the bond j–k; ``rigid`` if the bond is constrained."""
    out = [] if rigid else [FragmentMotion("stretch", (j, k), moving)]
    beside = [a for a in near[j] if a != k]
    measure: dict[str, tuple] | None = {}
    if rigid:
        siblings = tuple(sorted(fixed[j] - {k}))
        if len(fixed[k]) > 1 or any(len(fixed[s]) > 1 for s in siblings):
            measure = None  # no star about j
        elif siblings:
            if masses is None:
                raise DataError(
                    f"atoms {(k, *siblings)} are all constrained to atom {j}: the measure depends on masses, pass them"
                )
            measure = {"siblings": siblings, "inverse_masses": tuple(1.0 / masses[[j, k, *siblings]])}
    if beside and measure is not None:
        out += [FragmentMotion("bend", (i, j, k), moving, **measure) for i in beside]
        # a heavy reference that is not constrained to j itself moves least
        i = min(beside, key=lambda a: (a in fixed.get(j, ()), -len(near[a]), a))
        behind = [a for a in near[i] if a != j]
        if behind:
            out.append(FragmentMotion("swing", (behind[0], i, j, k), moving, **measure))
    return out


def _rotations_of(
    j: int, k: int, moving: tuple[int, ...], near: dict[int, list[int]], rigid: bool
) -> list[FragmentMotion]:
    """Rotations about k of what hangs on it, seen from j; k is at rest and may be a bead."""
    beside, rest = [a for a in near[j] if a != k], tuple(a for a in moving if a != k)
    if not (beside and rest):
        return []
    deeper = min(a for a in near[k] if a != j)
    out = [FragmentMotion("twist", (beside[0], j, k, deeper), rest)]
    if rigid:  # a tilt would turn constrained bonds of k against j–k, which changes the measure
        return out
    return out + [FragmentMotion(kind, (beside[0], j, k), rest) for kind in ("tilt", "lean")]


@dataclass(frozen=True)
class Variates:
    """Variates of a set of motions, with the functions g(q) fixed.

    Parameters
    ----------
    motions
        The motions.
    centre, width
        Of each coordinate, in Å or rad: powers are those of (q − centre)/width. Constants: any value is exact.
    """

    motions: tuple[FragmentMotion, ...]
    centre: tuple[float, ...]
    width: tuple[float, ...]

    @classmethod
    def of(cls, motions: Sequence[FragmentMotion], positions: ArrayLike) -> Variates:
        """Centres and widths from frames, shape (n, atoms, 3)."""
        x = _positions(positions)
        require(motions, "no motion is left: every atom is a bead, or constrained")
        q = [motion.evaluate(x)[0] for motion in motions]
        shaped = [motion.kind in ("stretch", "bend") for motion in motions]
        centre = tuple(float(v.mean()) if p else 0.0 for p, v in zip(shaped, q, strict=True))
        width = tuple(max(float(v.std()), 1e-6) if p else 1.0 for p, v in zip(shaped, q, strict=True))
        return cls(tuple(motions), centre, width)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns."""
        one = np.zeros(1)
        return tuple(motion.name + name for motion in self.motions for name, _, _ in motion.functions(one))

    def __len__(self) -> int:
        return len(self.names)

    def evaluate(self, positions: ArrayLike, forces: ArrayLike, temperature: float | ArrayLike) -> FloatArray:
        """The variates of frames.

        Parameters
        ----------
        positions, forces
            (n, atoms, 3), Å and eV/Å; forces without those of constraints and restraints.
        temperature
            K, one number or (n,).

        Returns
        -------
        numpy.ndarray
            (n, number of variates), eV: each has zero mean at every configuration of the beads.

        Raises
        ------
        DataError
            If shapes do not fit or a number is not finite.
        """
        x, f = _positions(positions), real_array(forces, "forces", "eV/Å")
        require(
            f.shape == x.shape and np.isfinite(f).all(),
            f"forces must be finite and of the shape of the positions {x.shape}, they are {f.shape}",
        )
        if (last := max(max(*m.atoms, *m.moving) for m in self.motions)) >= x.shape[1]:
            raise DataError(f"positions hold {x.shape[1]} atoms, the motions name atom {last}")
        require(
            np.shape(temperature) in ((), (len(x),)),
            f"temperature has shape {np.shape(temperature)}: pass a number, or one per frame, ({len(x)},)",
        )
        kt = BOLTZMANN * np.broadcast_to(real_array(temperature, "temperature", "K"), len(x))
        require((np.isfinite(kt) & (kt > 0.0)).all(), "temperature must be positive and finite (K) in every frame")
        out, column = np.empty((len(x), len(self))), 0
        for motion, centre, width in zip(self.motions, self.centre, self.width, strict=True):
            q, w, divergence = motion.evaluate(x)
            force = (f[:, list(motion.moving)] * w).sum((1, 2)) + kt * divergence
            for _, g, slope in motion.functions((q - centre) / width):
                # a length or an angle times a force: every column in eV
                out[:, column] = width * (g * force + kt * slope / width)
                column += 1
        return out

    def divergences(self, positions: ArrayLike) -> FloatArray:
        """D of the variates v = f·w + kT D, (n, number of variates): their part that grows with temperature.

        Parameters
        ----------
        positions
            (n, atoms, 3), Å.
        """
        x = _positions(positions)
        return self.evaluate(x, np.zeros_like(x), 1.0 / BOLTZMANN)


def _pairs(pairs: Iterable[tuple[int, int]], name: str) -> list[tuple[int, int]]:
    """Pairs of different atoms as plain numbers."""
    try:
        out = [(operator.index(a), operator.index(b)) for a, b in pairs]
    except (TypeError, ValueError):
        raise DataError(f"{name} must be pairs of atom numbers") from None
    for a, b in out:
        require(a != b and min(a, b) >= 0, f"{name}: ({a}, {b}) is not a pair of different atoms")
    return out


def _positions(positions: ArrayLike) -> FloatArray:
    x = real_array(positions, "positions", "Å")
    require(
        x.ndim == 3 and x.shape[2] == 3 and len(x) and np.isfinite(x).all(),
        f"positions must be finite and of shape (frames, atoms, 3), they have {x.shape}",
    )
    return x


def _unit(v: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Lengths (n,) and directions (n, 3)."""
    length = np.linalg.norm(v, axis=-1)
    if not (length > 0.0).all():
        raise DataError(f"frame {int(np.argmin(length))}: two atoms coincide, or three of an angle lie on a line")
    return length, v / length[..., None]
