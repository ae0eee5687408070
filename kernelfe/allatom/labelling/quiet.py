"""Labels with the least noise: force maps fitted out of fold, then zero-mean variates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from ...statistics import (
    FragmentMotion,
    TorsionField,
    Variates,
    distance_features,
    fold_numbers,
    fragment_motions,
    generalized_forces,
    local_frames,
    map_forces,
    optimal_force_map,
    reduce_noise,
    rotatable_bonds,
)
from ..atoms import AtomFrames, BeadMap

FloatArray = NDArray[np.float64]
Pair = tuple[int, int]

#: Atoms above which the optimal map is not fitted: its linear system is dense.
_MAP_ATOMS = 4000
#: Displacements of torques above which torques are left out, bytes.
_TORQUE_BYTES = 2**29
#: Columns above which variates are thinned, then left out: ridge regression costs their square.
_COLUMNS = 1000


@dataclass(frozen=True)
class Noise:
    """Noise of one kind of label, in internal units.

    Attributes
    ----------
    plain
        Root mean square of the plain label (for forces: of the sum over tied atoms) about the mean of its run.
    before, after
        Root mean square of what the plain and the final label scatter about a regression on distances of the beads;
        NaN where there were too few frames for it.
    means
        What was done to the label, in words.
    """

    plain: float
    before: float = np.nan
    after: float = np.nan
    means: str = "plain"


@dataclass
class Labels:
    """Labels of the frames of all runs.

    Attributes
    ----------
    values
        "mean_force" (n, beads, 3), and, where there are any, "generalized_force" (n, k) and "mean_energy" (n,), with
        NaN where unknown.
    displacements
        (n, k, beads, 3), or None without generalised forces.
    noise
        Of each label.
    remarks
        What could not be done, and why.
    """

    values: dict[str, FloatArray]
    displacements: FloatArray | None = None
    noise: dict[str, Noise] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Molecule:
    """Bonds, the atom of each bead, constraints and masses (u, or None) of the atoms."""

    bonds: Sequence[Pair]
    beads: Sequence[int]
    constraints: Sequence[Pair]
    masses: FloatArray | None


def plain_labels(
    atoms: AtomFrames, molecule: Molecule, bead_map: BeadMap, temperature: FloatArray, run: NDArray[np.intp]
) -> Labels:
    """Bead forces of a map, energies, and torques about rotatable bonds, as they are.

    Parameters
    ----------
    atoms
        Frames of all runs, n.
    bead_map
        Its force map.
    temperature, run
        (n,), K, and the number of the run of each frame.
    """
    made = Labels({"mean_force": map_forces(bead_map.force_map, atoms.forces)})
    turning = rotatable_bonds(molecule.bonds, molecule.beads)
    if 24 * len(atoms) * len(turning) * len(molecule.beads) > _TORQUE_BYTES:
        made.remarks.append(f"no torques: those about {len(turning)} bonds take more memory than this is worth")
    elif turning:
        fields = [TorsionField(molecule.bonds, i, j) for i, j in turning]
        made.values["generalized_force"], made.displacements = generalized_forces(
            atoms.positions, atoms.forces, fields, molecule.beads, temperature
        )
    if atoms.energies is not None and np.isfinite(atoms.energies).any():
        made.values["mean_energy"] = np.asarray(atoms.energies, float)
    for kind, values in made.values.items():
        made.noise[kind] = Noise(float(np.sqrt(_spread(values, run))))
    return made


def quieten(
    made: Labels,
    atoms: AtomFrames,
    molecule: Molecule,
    position_map: FloatArray,
    temperature: FloatArray,
    run: NDArray[np.intp],
    folds: int = 5,
) -> Labels:
    """Less noisy labels of the same means, fitted out of fold; each step is kept only where it lowers the noise.

    Whatever is fitted (force map, coefficients of variates) is applied to frames that it was not fitted to.

    Parameters
    ----------
    made
        Plain labels.
    atoms, molecule, temperature, run
        As for :func:`plain_labels`.
    position_map
        (beads, atoms).
    folds
        Blocks of time of each run.
    """
    if np.bincount(run).min() < 2 * folds:
        made.remarks.append(
            f"a run has fewer than {2 * folds} frames: labels are plain, because nothing can be fitted out of fold"
        )
        return made
    fold = fold_numbers(run, len(run), folds)
    maps: dict[bytes, FloatArray] = {}
    plain = dict(made.values)

    def forces(out: NDArray[np.bool_]) -> FloatArray:
        """Bead forces of all frames by the best map of some."""
        found = maps.setdefault(out.tobytes(), optimal_force_map(atoms.forces[out], position_map, molecule.constraints))
        return map_forces(found, atoms.forces)

    best = None
    if position_map.shape[1] > _MAP_ATOMS:
        made.remarks.append(f"more than {_MAP_ATOMS} atoms: forces are sums over tied atoms, not the best map")
    else:
        best = np.empty_like(plain["mean_force"])
        for k in range(folds):
            best[fold == k] = forces(fold != k)[fold == k]
        if _spread(best, run) < _spread(plain["mean_force"], run):
            made.values["mean_force"] = best
            made.noise["mean_force"] = replace(made.noise["mean_force"], means="best map")
        else:
            best = None
    sets = _variates(atoms, molecule, temperature, made)
    beads = np.matmul(position_map, atoms.positions)
    features = _features(beads)
    if sets:
        _subtract(made, sets, features, beads, run, None if best is None else forces, folds)
    for kind, noise in made.noise.items():
        gain = _spread(plain[kind], run) - _spread(made.values[kind], run)
        if np.isfinite(noise.after):
            made.noise[kind] = replace(noise, before=float(np.sqrt(noise.after**2 + gain)))
    return made


def _subtract(
    made: Labels,
    sets: list[FloatArray],
    features: FloatArray | None,
    beads: FloatArray,
    run: NDArray[np.intp],
    forces: Callable[[NDArray[np.bool_]], FloatArray] | None,
    folds: int,
) -> None:
    """Subtract variates from every label, where that lowers its noise; forces are those of a map, or None."""
    n, plain = len(run), made.values["mean_force"]
    turn: Any = None
    if beads.shape[1] >= 3:
        try:
            turn = local_frames(beads)
        except DataError:
            made.remarks.append("the beads lie on a line in some frame: variates are not subtracted from forces")
    for kind, values in made.values.items():
        rows = np.isfinite(values.reshape(n, -1)).all(axis=1)
        if (kind == "mean_force" and turn is None) or np.bincount(run[rows], minlength=run.max() + 1).min() < 2 * folds:
            continue
        given: Any = values[rows]
        if kind == "mean_force":
            given = partial(_turned, turn, forces or (lambda _: plain))
        noise = made.noise[kind]
        known = None if features is None else features[rows]
        best = _spread(values[rows], run[rows])
        for variates in sets:
            found = reduce_noise(given, variates[rows], features=known, groups=run[rows], folds=folds)
            less = found.values if kind != "mean_force" else np.einsum("nbji,nbj->nbi", turn, found.values)
            if not np.isfinite(noise.after):
                noise = replace(noise, after=float(np.sqrt((found.std_before**2).mean())))
            if _spread(less, run[rows]) < best:
                best, means = _spread(less, run[rows]), f"{variates.shape[1]} variates"
                new = np.full_like(values, np.nan)
                new[rows] = less
                made.values[kind] = new
                means = means if made.noise[kind].means == "plain" else f"{made.noise[kind].means}, {means}"
                noise = replace(noise, after=float(np.sqrt((found.std_after**2).mean())), means=means)
        made.noise[kind] = noise


def _turned(turn: FloatArray, forces: Callable[[NDArray[np.bool_]], FloatArray], out: NDArray[np.bool_]) -> FloatArray:
    """Forces, from a map fitted to the frames ``out``, in axes that turn with the beads."""
    return np.einsum("nbij,nbj->nbi", turn, forces(out))


def _variates(atoms: AtomFrames, molecule: Molecule, temperature: FloatArray, made: Labels) -> list[FloatArray]:
    """Sets of variates (n, p) to try: of one function of each motion of the fragments without beads, of more, of all.

    Few frames know few coefficients, forces need few functions and energies many. With ten frames per column: all.
    """
    try:
        motions = fragment_motions(molecule.bonds, molecule.beads, molecule.constraints, molecule.masses)
    except DataError as error:
        made.remarks.append(f"no variates: {error}")
        return []
    if not motions:
        made.remarks.append("no variates: no fragment of the molecule is free to move while the beads rest")
        return []
    n = len(atoms)
    sets: list[tuple[FragmentMotion, ...]] = []
    few: Any = ({"powers": (0,), "harmonics": ()}, {"powers": (0, 1), "harmonics": (1,)}, {})
    for functions in few:
        these = tuple(replace(motion, **functions) for motion in motions)
        size = len(Variates(these, (0.0,) * len(these), (1.0,) * len(these)))
        if size <= min(_COLUMNS, 2 * n):
            sets = [*(sets if n < 10 * size else []), these]
    if not sets:
        made.remarks.append(f"no variates: there are {len(motions)} motions, too many for {n} frames")
    x, f = atoms.positions, atoms.forces
    return [Variates.of(these, x).evaluate(x, f, temperature) for these in sets]


def _features(beads: FloatArray) -> FloatArray | None:
    """Functions of the beads that explain most of the means, at most one per five frames; None for very few frames.

    Distances with their products, distances alone, or distances along the chain.
    """
    n, size = beads.shape[:2]
    pairs = size * (size - 1) // 2
    if pairs * (pairs + 3) // 2 <= min(n // 5, 500):
        return distance_features(beads)
    if pairs <= min(n // 5, 300):
        return distance_features(beads, degree=1)
    if 4 * size <= min(n // 5, 500):
        steps = range(1, min(5, size))
        return np.concatenate([np.linalg.norm(beads[:, k:] - beads[:, :-k], axis=2) for k in steps], axis=1)
    return None


def _spread(values: FloatArray, run: NDArray[np.intp]) -> float:
    """Mean square about the means of the runs; labels of equal means differ in it by the difference of their noise."""
    about = np.array(values)
    for k in np.unique(run):
        about[run == k] -= np.nanmean(values[run == k], axis=0) if np.isfinite(values[run == k]).any() else 0.0
    return float(np.nanmean(about**2))
