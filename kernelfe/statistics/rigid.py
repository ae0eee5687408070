"""Zero-mean variates of liquids of rigid molecules: rotations of each molecule about its bead.

A molecule whose atoms are tied rigidly together (rigid water) rotates about its bead, the centre of mass or one of its
atoms X, by w_a = ê × (x_a − X). The bead and all constrained distances stay at rest, div w = 0, and √det Z, a function
of the molecule's shape, stays constant. So the torque τ = Σ_a (x_a − X) × f_a has zero mean at every R, and so has, for
any function g,  g τ·ê + kT w·∇g. With an axis µ̂ fixed in the molecule, w·∇µ̂ = ê × µ̂, and functions of R are constants:

    π_i = τ_i × µ̂_i − 2 kT µ̂_i            (Σ over ê along x, y, z of ê × [µ̂ τ·ê + kT ê × µ̂])

is a vector of zero mean. Variates for the force on bead i, vectors that turn with the liquid, for each function h(r):

    Σ_j h(r_ij) π_j,   Σ_j h(r_ij) (π_j·û_ij) û_ij,   Σ_j h(r_ij) (π_i·û_ij) û_ij,   Σ_j h(r_ij) û_ij × τ_j,
    Σ_j h(r_ij) û_ij × τ_i,   and π_i;

for the energy the sums over i of  Σ_j h(r_ij) π_j·û_ij. Coefficients are shared by all molecules and components.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import DataError
from ..units import BOLTZMANN
from .blocks import block_labels

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
        Å: functions h(r) are Gaussians between 0 and the cutoff, of which there are ``functions``.
    functions
        Number of them.

    Raises
    ------
    DataError
        If molecules differ in size, share atoms, have one atom only, or masses do not fit.
    """

    molecules: tuple[tuple[int, ...], ...]
    masses: tuple[float, ...]
    site: int | None = None
    cutoff: float = 5.0
    functions: int = 4

    def __post_init__(self) -> None:
        object.__setattr__(self, "molecules", tuple(tuple(int(a) for a in m) for m in self.molecules))
        object.__setattr__(self, "masses", tuple(float(m) for m in self.masses))
        size = len(self.masses)
        if not self.molecules or any(len(m) != size for m in self.molecules) or size < 2:
            raise DataError(f"every molecule needs the {size} atoms that masses name, at least two")
        if len({a for m in self.molecules for a in m}) != size * len(self.molecules):
            raise DataError("molecules share atoms: name each atom once")
        if not (np.isfinite(self.masses).all() and min(self.masses) > 0.0):
            raise DataError("masses must be positive")
        if self.site is not None and not 0 <= self.site < size:
            raise DataError(f"site={self.site} is none of the {size} atoms of a molecule")
        if not (self.cutoff > 0.0 and self.functions >= 1):
            raise DataError("cutoff and functions must be positive")

    def beads(self, positions: ArrayLike) -> FloatArray:
        """Bead positions (n, molecules, 3) of all-atom positions (n, atoms, 3), molecules whole."""
        x = self._gathered(positions, "positions")
        return x[:, :, self.site] if self.site is not None else np.average(x, axis=2, weights=self.masses)

    def torques(self, positions: ArrayLike, forces: ArrayLike) -> FloatArray:
        """τ about the beads, (n, molecules, 3), eV."""
        x, f = self._gathered(positions, "positions"), self._gathered(forces, "forces")
        if x.shape != f.shape:
            raise DataError(f"positions and forces hold {len(x)} and {len(f)} frames")
        return np.cross(x - self.beads(positions)[:, :, None], f).sum(axis=2)

    def axes(self, positions: ArrayLike) -> FloatArray:
        """µ̂ (n, molecules, 3): from the first atom of a molecule to the middle of its others."""
        x = self._gathered(positions, "positions")
        arm = x[:, :, 1:].mean(axis=2) - x[:, :, 0]
        return arm / np.linalg.norm(arm, axis=-1, keepdims=True)

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
            (n, molecules, 3, 5·functions + 1), eV.
        scalars : numpy.ndarray
            (n, functions), eV.

        Raises
        ------
        DataError
            If shapes do not fit, or the cutoff exceeds half the cell.
        """
        torque, axis, bead = self.torques(positions, forces), self.axes(positions), self.beads(positions)
        if np.shape(temperature) not in ((), (len(bead),)):
            raise DataError(f"temperature has shape {np.shape(temperature)}: pass a number or ({len(bead)},)")
        kt = BOLTZMANN * np.broadcast_to(np.asarray(temperature, float), len(bead))
        edges = None if cell is None else np.asarray(cell, float)
        if edges is not None and (edges.shape != (3,) or self.cutoff > 0.5 * edges.min()):
            raise DataError(
                f"cell must be (3,) with edges of at least twice the cutoff of {self.cutoff} Å, it is {cell}"
            )
        pi = np.cross(torque, axis) - 2.0 * kt[:, None, None] * axis
        count = len(self.molecules)
        vectors, scalars = np.empty((*bead.shape, 5 * self.functions + 1)), np.empty((len(bead), self.functions))
        centres, width = np.linspace(0.0, self.cutoff, self.functions + 2)[1:-1], self.cutoff / (self.functions + 1)
        for n in range(len(bead)):  # frame by frame: all pairs of all frames at once need not fit into memory
            arm = bead[n][:, None] - bead[n][None]
            if edges is not None:
                arm -= edges * np.round(arm / edges)
            r = np.linalg.norm(arm, axis=-1) + np.eye(count)
            u = arm / r[..., None]  # û_ij from j to i
            window = np.where(r < self.cutoff, 0.5 + 0.5 * np.cos(np.pi * r / self.cutoff), 0.0)
            window[np.eye(count, dtype=bool)] = 0.0
            along, across = np.einsum("ijx,jx->ij", u, pi[n]), np.cross(u, torque[n][None])
            for k, centre in enumerate(centres):
                h = window * np.exp(-0.5 * ((r - centre) / width) ** 2)
                hu = h[..., None] * u
                own = hu.sum(axis=1)
                columns = (
                    h @ pi[n],
                    np.einsum("ijx,ij->ix", hu, along),
                    np.einsum("ijx,ijy,iy->ix", hu, u, pi[n]),
                    np.einsum("ij,ijx->ix", h, across),
                    np.cross(own, torque[n]),
                )
                vectors[n, :, :, 5 * k : 5 * k + 5] = np.stack(columns, -1)
                scalars[n, k] = (h * along).sum()
            vectors[n, :, :, -1] = pi[n]
        return vectors, scalars

    def _gathered(self, values: ArrayLike, name: str) -> FloatArray:
        x = np.asarray(values, float)
        last = max(max(m) for m in self.molecules)
        if x.ndim != 3 or x.shape[2] != 3 or x.shape[1] <= last or not np.isfinite(x).all():
            raise DataError(f"{name} must be finite and (frames, > {last} atoms, 3), they have shape {x.shape}")
        return x[:, np.array(self.molecules)]


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
    y, v = np.asarray(labels, float), np.asarray(variates, float)
    if y.ndim < 1 or v.shape[:-1] != y.shape or not (np.isfinite(y).all() and np.isfinite(v).all()):
        raise DataError(
            f"variates {v.shape} must be finite and of the shape of the labels {y.shape} with one axis more"
        )
    target = y if mean is None else y - np.asarray(mean, float)
    if target.shape != y.shape or not np.isfinite(target).all():
        raise DataError(f"mean has shape {np.shape(mean)}, the labels have {y.shape}")
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
        If constraints tie a group together that is not rigid: some of its pairs are not constrained.
    """
    pairs = {(min(a, b), max(a, b)) for a, b in constraints}
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
