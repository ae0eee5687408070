"""Zero-mean variates of liquids of rigid molecules: rotations of each molecule about its bead.

A molecule whose atoms are tied rigidly together (rigid water) rotates about its bead, the centre of mass or one of its
atoms X, by w_a = ê × (x_a − X). The bead and all constrained distances stay at rest, div w = 0, and √det Z, a function
of the molecule's shape, stays constant. So the torque τ = Σ_a (x_a − X) × f_a has zero mean at every R, and so has, for
any function g,  g τ·ê + kT w·∇g. With L_c the derivative by rotation about ê_c, g = L_c G and a sum over the axes,

    Σ_c [τ_c L_c G + kT L_c L_c G]

has zero mean for any G of all orientations: the generator of rotational diffusion on G, which takes all noise out of a
label whose deviation from its mean it equals (Assaraf and Caffarel, Phys. Rev. Lett. 83, 4682 (1999)). For the force on
bead i, a vector, G is the sum over molecules j of h(R_ij) (r₀/d)^p d over atoms a of i and b of j, d = x_a − x_b, one
function per power p and pair of kinds of atoms, for rotations of i and of the j; for the energy (r₀/d)^p. The window
h(R_ij) is a function of the beads. Coefficients are shared by all molecules and components.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...arrays import real_array
from ...errors import DataError, require
from ...frames.checks import numbers
from ...units import BOLTZMANN
from ..series import block_labels

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class RigidMolecules:
    """Rigid molecules of one kind, one bead each.

    Parameters
    ----------
    molecules
        Atoms of each molecule, the same kinds in the same order, all tied rigidly together by constraints.
    masses
        Of the atoms of one molecule, u.
    site
        Which of them the bead is; None: the bead is the centre of mass.
    cutoff
        Å, between beads: pairs farther apart have no part in the variates.
    powers
        p of the functions of distances between atoms.

    Raises
    ------
    DataError
        If molecules differ in size, share atoms, have one atom only, or masses do not fit.
    """

    molecules: tuple[tuple[int, ...], ...]
    masses: tuple[float, ...]
    site: int | None = None
    cutoff: float = 5.0
    powers: tuple[float, ...] = (1.0, 3.0, 6.0, 9.0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "molecules", tuple(tuple(int(a) for a in m) for m in self.molecules))
        object.__setattr__(self, "masses", tuple(float(m) for m in self.masses))
        size = len(self.masses)
        require(
            self.molecules and (not any(len(m) != size for m in self.molecules)) and size >= 2,
            f"every molecule needs the {size} atoms that masses name, at least two",
        )
        require(min(a for m in self.molecules for a in m) >= 0, "molecules name a negative atom: count atoms from 0")
        require(
            len({a for m in self.molecules for a in m}) == size * len(self.molecules),
            "molecules share atoms: name each atom once",
        )
        require(np.isfinite(self.masses).all() and min(self.masses) > 0.0, "masses must be positive")
        if self.site is not None and self.site not in range(size):
            raise DataError(f"site={self.site} is not one of the {size} atoms of a molecule")
        object.__setattr__(self, "powers", tuple(float(p) for p in self.powers))
        require(self.cutoff > 0.0 and self.powers and (min(self.powers) > 0.0), "cutoff and powers must be positive")

    def beads(self, positions: ArrayLike) -> FloatArray:
        """Bead positions (n, molecules, 3) of all-atom positions (n, atoms, 3), molecules whole."""
        x = self._gathered(positions, "positions")
        return x[:, :, self.site] if self.site is not None else np.average(x, axis=2, weights=self.masses)

    def torques(self, positions: ArrayLike, forces: ArrayLike) -> FloatArray:
        """τ about the beads, (n, molecules, 3), eV."""
        x, f = self._gathered(positions, "positions"), self._gathered(forces, "forces")
        require(x.shape == f.shape, f"positions and forces hold {len(x)} and {len(f)} frames")
        return np.cross(x - self.beads(positions)[:, :, None], f).sum(axis=2)

    def variates(
        self,
        positions: ArrayLike,
        forces: ArrayLike,
        temperature: float | ArrayLike,
        cell: ArrayLike | None = None,
    ) -> tuple[FloatArray, FloatArray]:
        """Variates of forces and of the energy.

        Parameters
        ----------
        positions, forces
            (n, atoms, 3), Å and eV/Å; forces without those of constraints and restraints; molecules whole.
        temperature
            K, one number or (n,).
        cell
            (3,), edges of a rectangular periodic cell, Å; None: not periodic. The cutoff must not exceed half of it.

        Returns
        -------
        vectors : numpy.ndarray
            (n, molecules, 3, 2·powers·pairs of kinds), eV/Å times Å: for forces.
        scalars : numpy.ndarray
            (n, powers·pairs of kinds), eV: for energies. Pairs (a, b) and (b, a) give the same.

        Raises
        ------
        DataError
            If shapes do not fit, numbers are not finite, atoms coincide, or the cutoff exceeds half the cell.
        """
        torque, bead = self.torques(positions, forces), self.beads(positions)
        arms = self._gathered(positions, "positions") - bead[:, :, None]
        require(
            np.shape(temperature) in ((), (len(bead),)),
            f"temperature has shape {np.shape(temperature)}: pass a number or ({len(bead)},)",
        )
        kt = BOLTZMANN * np.broadcast_to(numbers(temperature, "temperature", None, "K"), len(bead))
        require((np.isfinite(kt) & (kt > 0.0)).all(), "temperature must be positive and finite (K) in every frame")
        edges = None if cell is None else numbers(cell, "cell", None, "Å")
        if edges is not None and (edges.shape != (3,) or not self.cutoff <= 0.5 * edges.min() < np.inf):
            raise DataError(
                f"cell must be (3,) with edges of at least twice the cutoff of {self.cutoff} Å, it is {edges}"
            )
        _, kind = np.unique(self.masses, return_inverse=True)
        types = [(a, b) for a in range(kind.max() + 1) for b in range(kind.max() + 1)]
        size = len(self.powers) * len(types)
        vectors, scalars = np.zeros((*bead.shape, 2 * size)), np.zeros((len(bead), size))
        for n in range(len(bead)):  # frame by frame: all pairs of all frames at once need not fit into memory
            between = bead[n][:, None] - bead[n][None]
            if edges is not None:
                between -= edges * np.round(between / edges)
            r = np.linalg.norm(between, axis=-1)
            i, j = np.nonzero((r < self.cutoff) & ~np.eye(len(r), dtype=bool))
            window = (0.5 + 0.5 * np.cos(np.pi * r[i, j] / self.cutoff))[:, None]
            for t, (a, b) in enumerate(types):
                mine, theirs = (np.flatnonzero(kind == k) for k in (a, b))
                first, second = np.repeat(mine, len(theirs)), np.tile(theirs, len(mine))
                y_i, y_j = arms[n, i][:, first], arms[n, j][:, second]
                d = between[i, j][:, None] + y_i - y_j
                # rate of d, by torque and kT, when i or j turns: y is the arm that turns, with the sign it has in d
                require(
                    d.any(axis=-1).all(), f"two atoms of different molecules coincide in frame {n}: drop or repair it"
                )
                for side, (owner, y) in enumerate(((i, y_i), (j, -y_j))):
                    drift = np.cross(torque[n, owner][:, None], y) - 2.0 * kt[n] * y
                    for m, power in enumerate(self.powers):
                        vector, scalar = _generator(d, y, drift, kt[n], power)
                        column = (m * len(types) + t) * 2 + side
                        np.add.at(vectors[n, :, :, column], i, (window[..., None] * vector).sum(axis=1))
                        scalars[n, column // 2] += (window * scalar).sum()
        return vectors, scalars

    def _gathered(self, values: ArrayLike, name: str) -> FloatArray:
        x = real_array(values, "values")
        last = max(max(m) for m in self.molecules)
        require(
            x.ndim == 3 and x.shape[2] == 3 and x.shape[1] > last and np.isfinite(x).all(),
            f"{name} must be finite and (frames, > {last} atoms, 3), they have shape {x.shape}",
        )
        return x[:, np.array(self.molecules)]


def _generator(
    d: FloatArray, y: FloatArray, drift: FloatArray, kt: float, power: float, length: float = 2.0
) -> tuple[FloatArray, FloatArray]:
    """Σ_c (τ_c L_c + kT L_c L_c) of ψ d and of ψ = (r₀/|d|)^p for L_c d = ê_c × y: (..., 3) and (...).

    r₀ is ``length``, Å: a typical distance of atoms in contact.

    Σ_c v_c v_cᵀ of v_c = ê_c × y is y²·1 − y yᵀ, and Σ_c L_c L_c d = −2y, which ``drift`` = τ × y − 2 kT y holds.
    """
    square, dy, yy = ((p * q).sum(-1, keepdims=True) for p, q in ((d, d), (d, y), (y, y)))
    psi = (length**2 / square) ** (0.5 * power)  # with derivatives by d²/2
    first, second = -power * psi / square, power * (power + 2.0) * psi / square**2
    along = (d * drift).sum(-1, keepdims=True)
    spread = second * (yy * square - dy**2) + 2.0 * first * yy
    vector = first * along * d + psi * drift + kt * (spread * d + 2.0 * first * (yy * d - dy * y))
    return vector, (first * along + kt * spread)[..., 0]


def reduce_shared_noise(
    labels: ArrayLike, variates: ArrayLike, *, mean: ArrayLike | None = None, folds: int = 5, ridge: float = 1e-3
) -> FloatArray:
    """Labels less what variates explain, with coefficients shared by all components and fitted out of fold.

    Parameters
    ----------
    labels
        (n, ...), frames in their order in time.
    variates
        (n, ..., p), zero-mean, one set of p for every component of the labels.
    mean
        What is known of ⟨y⟩_R, the shape of ``labels``; a better one only makes the coefficients better.
    folds
        Blocks of whole frames; coefficients used on a block come from the others.
    ridge
        Penalty relative to the mean square of the variates.

    Returns
    -------
    numpy.ndarray
        The shape of ``labels``.

    Raises
    ------
    DataError
        If shapes do not fit, numbers are not finite, or there are fewer frames than folds.
    """
    y, v = numbers(labels, "labels"), numbers(variates, "variates")
    require(np.isfinite(ridge) and ridge > 0.0, f"ridge={ridge!r} must be positive and finite")
    require(
        y.ndim >= 1 and v.size and v.shape[:-1] == y.shape and (np.isfinite(y).all() and np.isfinite(v).all()),
        f"variates {v.shape} must be finite and of the shape of the labels {y.shape} with one axis more",
    )
    known = np.zeros(y.shape) if mean is None else real_array(mean, "mean")
    require(
        known.shape == y.shape and np.isfinite(known).all(),
        f"mean must be finite and of the shape of the labels {y.shape}, it has {known.shape}",
    )
    target = y - known
    fold, p = block_labels(len(y), folds), v.shape[-1]
    out = y.copy()
    grams = np.zeros((folds, p, p))
    sums = np.zeros((folds, p))
    for k in range(folds):
        part = v[fold == k].reshape(-1, p)
        grams[k], sums[k] = part.T @ part, part.T @ target[fold == k].ravel()
    for k in range(folds):
        gram, total = grams.sum(0) - grams[k], sums.sum(0) - sums[k]
        size = np.where(gram.diagonal() > 0.0, gram.diagonal(), 1.0)
        coefficients = np.linalg.solve(gram + ridge * np.diag(size), total)
        out[fold == k] -= v[fold == k] @ coefficients
    return out


def molecules_of(constraints: Sequence[tuple[int, int]], atoms: int) -> tuple[tuple[int, ...], ...]:
    """Rigid groups of atoms in which every pair is constrained, such as rigid water, sorted.

    Raises
    ------
    DataError
        If constraints name atoms that there are not, or tie a group together that is not rigid: some of its pairs are
        not constrained.
    """
    pairs = {(min(a, b), max(a, b)) for a, b in constraints}
    if wrong := [pair for pair in sorted(pairs) if pair[0] < 0 or pair[1] >= atoms or pair[0] == pair[1]]:
        raise DataError(f"constraint {wrong[0]} is not a pair of the {atoms} atoms")
    group = np.arange(atoms)
    for a, b in pairs:
        group[group == group[b]] = group[a]
    found = []
    for value in np.unique(group):
        members = tuple(np.flatnonzero(group == value).tolist())
        missing = [(a, b) for k, a in enumerate(members) for b in members[k + 1 :] if (a, b) not in pairs]
        if missing:
            raise DataError(f"atoms {members} are not rigid: the distance of {missing[0]} is not constrained")
        if len(members) > 1:
            found.append(members)
    return tuple(found)
