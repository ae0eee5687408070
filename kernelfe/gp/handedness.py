"""Handedness of training data: whether left and right differ in them, and whether a model can tell.

A mirror image has the same distances, so terms of distances give both the same free energy, each half of the
population. Handedness of data is tested by *odd* averages: those of functions that change sign under reflection are
zero, within their errors, if places and labels of the frames are those of a free energy that is symmetric.

The signed height h of a quadruple of beads (:class:`~kernelfe.descriptors.HandedDistances`) is odd. Averaged are, for
each of the quadruples along bonds, h, tanh(4h), h times the distances, h times the part of the energy that even
functions of the configuration do not explain, and the part of F·∇h that h times even functions do not explain, as it
is and times h². Errors of the averages account for correlation in time at each temperature; the threshold is that of
Student's test at ``LEVEL``, shared by all averages. Correlation times of few independent frames are uncertain, and
false alarms more frequent: 0.5 % with 20 independent frames, 6 % with four. They cost no more than needless
columns.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from ..descriptors import Distances
from ..frames import Frames
from ..geometry import internal, topology
from ..linalg.autocorrelation import autocovariance, integrated_time
from ..units import BOLTZMANN
from .molecules import Molecule
from .observations.molecules import MoleculeSet

#: Probability that data of a symmetric free energy are taken for handed.
LEVEL = 1e-3
#: A mirror image that the baseline puts so many kT higher, in every frame, does not occur.
BARRIER = 10.0
#: Frames read at most, evenly spaced, frames times quadruples at most, and fewest frames that are tested.
_FRAMES, _ENTRIES, _FEWEST = 5000, 100_000, 8

Quadruple = tuple[int, int, int, int]


@dataclass(frozen=True)
class Handedness:
    """Handedness of the frames of one molecule.

    Parameters
    ----------
    quadruples
        Quadruples of beads along its bonds; where beads are not joined by bonds, along a tree of near ones.
    areas
        Mean area of the two faces a × b and b × c of each, Å².
    statistic
        Largest |t| of the odd averages; 0 if nothing could be tested.
    chance
        Probability of an average as large as any of them if left and right were alike; 1 if nothing could be tested.
    place
        The quadruple with the largest |t|; () if nothing could be tested.
    kept
        Least energy by which the baseline puts the mirror image of a frame above the frame, in kT.
    """

    quadruples: tuple[Quadruple, ...] = ()
    areas: tuple[float, ...] = ()
    statistic: float = 0.0
    chance: float = 1.0
    place: tuple[int, ...] = ()
    kept: float = 0.0

    @property
    def found(self) -> bool:
        """True if left and right differ in the data."""
        return self.chance < LEVEL

    @property
    def open(self) -> bool:
        """True if they differ and the baseline does not exclude the mirror image: the terms must tell."""
        return self.found and self.kept < BARRIER


def examined(part: Frames, molecule: Molecule, baseline: Any, alike: bool = False) -> Handedness:
    """Test the frames of one molecule.

    Parameters
    ----------
    part
        Its frames; order of time counts, at each temperature.
    molecule
        The molecule.
    baseline
        The fitted baseline, of the molecule or shared, or None.
    alike
        Whether beads of one kind are alike: then averages are over all quadruples of the same kinds, and without bonds
        only those of four different kinds count.
    """
    if part.positions is None or part.positions.shape[1] < 4 or len(part) < _FEWEST:
        return Handedness()
    if molecule.periodic and not molecule.bonds:
        return Handedness()  # beads that diffuse have no quadruples of their own
    quadruples, classes = _quadruples(_tensors(_few(part, 200))[0].numpy(), molecule, alike)
    if not quadruples:
        return Handedness()
    part = part[:: -(-len(part) // max(500, min(_FRAMES, _ENTRIES // len(quadruples))))]
    x, cell = _tensors(part)
    areas = _areas(x, cell, quadruples)
    odd = _odd(part, quadruples, areas, x, cell)
    # (n, functions, quadruples) → means over each class of quadruples
    odd = np.stack([odd[:, :, classes == k].mean(2) for k in range(classes.max() + 1)], 2)
    t, chance = _significance(odd.reshape(len(odd), -1), part.temperature)
    column = int(np.argmin(chance))
    return Handedness(
        quadruples,
        areas,
        float(np.abs(t[column])),
        min(1.0, float(chance[column]) * len(chance)),
        quadruples[int(np.argmax(classes == column % odd.shape[2]))],
        _kept(x, cell, part.temperature, molecule.own(baseline)),
    )


def blind(descriptors: Sequence[Any], part: Frames, molecule: Molecule) -> bool:
    """True if no descriptor tells frames from their mirror images."""
    x, cell = _tensors(_few(part))
    return _same(descriptors, molecule, (x, cell), _mirrored(x, cell))


def exchangeable(descriptors: Sequence[Any], part: Frames, molecule: Molecule, most: int = 6) -> bool:
    """True if no descriptor tells beads of one kind from each other (those without kinds are all of one)."""
    x, cell = _tensors(_few(part))
    kinds = molecule.kinds or ("",) * x.shape[1]
    like = [(i, j) for j in range(len(kinds)) for i in range(j) if kinds[i] == kinds[j]]
    for i, j in like[:: 1 + len(like) // most]:
        order = list(range(len(kinds)))
        order[i], order[j] = j, i
        if not _same(descriptors, molecule, (x, cell), (x[:, order], cell)):
            return False
    return bool(like)


def _few(part: Frames, most: int = 20) -> Frames:
    return part[np.unique(np.linspace(0, len(part) - 1, min(len(part), most)).astype(int))]


def _tensors(part: Frames) -> tuple[Tensor, Tensor | None]:
    return torch.from_numpy(np.array(part.positions)), None if part.cell is None else torch.tensor(part.cell)


def _same(descriptors: Sequence[Any], molecule: Molecule, one: tuple, other: tuple, tolerance: float = 1e-6) -> bool:
    """True if all descriptors give the same environments, in any order, of frames one by one."""
    for descriptor in descriptors:
        bound = molecule.bound(descriptor)
        (a, owner, _), (b, other_owner, _) = bound.values_and_pullback(*one), bound.values_and_pullback(*other)
        if a.shape != b.shape:
            return False
        if not len(a):
            continue
        # sums of waves over the environments of a frame: equal for equal sets of environments
        rng = torch.Generator().manual_seed(0)
        scale = a.std(0, correction=0).clamp_min(1e-6) * a.shape[1] ** 0.5
        directions = torch.randn(a.shape[1], 8, generator=rng, dtype=torch.float64) / scale[:, None]
        each = torch.arange(len(one[0]))
        waves = [
            a.new_zeros(len(each), 8).index_add_(
                0, each if frame is None else frame, ((z - a.mean(0)) @ directions + 1.0).cos()
            )
            for z, frame in ((a, owner), (b, other_owner))
        ]
        if float((waves[0] - waves[1]).abs().max()) > tolerance * max(1.0, float(waves[0].abs().max())):
            return False
    return True


def statement(found: Sequence[Handedness], data: MoleculeSet, terms: Sequence[tuple[str, Any]], own: bool) -> str:
    """One sentence about the handedness of the data and what tells it; warns if nothing does.

    Parameters
    ----------
    found
        Of each molecule, see :func:`examined`.
    data
        The training data.
    terms
        Names and specs of the terms, with descriptors.
    own
        Whether the user stated the terms.
    """
    tested = [one for one in found if one.place]
    if not tested:
        return "not tested: few frames, or no four bonded beads with an order of their own"
    strongest = max(tested, key=lambda one: one.statistic)
    if not any(one.found for one in tested):
        return f"left and right are alike in the data (largest t of odd averages: {strongest.statistic:.1f})"
    beads = ", ".join(map(str, strongest.place))
    text = f"left and right differ in the data (signed volume of beads {beads}: t = {strongest.statistic:.1f})"
    open_ = [k for k, one in enumerate(found) if one.open]
    if not open_:
        least = min(one.kept for one in tested if one.found)
        return f"{text}; the baseline keeps mirror images out, at least {least:.0f} kT above"
    descriptors = [Distances() if term.descriptor is None else term.descriptor for _, term in terms]
    unseen = [k for k in open_ if blind(descriptors, data.parts[k], data.molecules[k])]
    if own:  # terms for which beads of one kind are alike are judged by what is left then
        unseen = [
            k
            for k in unseen
            if not exchangeable(descriptors, data.parts[k], data.molecules[k])
            or examined(data.parts[k], data.molecules[k], None, alike=True).found
        ]
    if not unseen:
        return f"{text}; the terms tell them apart"
    remedy = (
        "add a term that tells them apart, for example Term(HandedDistances(quadruples=…)) or one of dihedrals or "
        "impropers, or leave terms=None"
        if own
        else "give the Frames bonds=, or state terms that tell them apart"
    )
    warnings.warn(
        f"{text}, but no term tells a configuration from its mirror image, which gets the same free energy: {remedy}",
        stacklevel=2,
    )
    return f"{text}; NO TERM TELLS THEM APART: mirror images get the same free energy"


def _quadruples(positions: np.ndarray, molecule: Molecule, alike: bool) -> tuple[tuple[Quadruple, ...], np.ndarray]:
    """Quadruples of beads, and the class of each."""
    bonds, kinds = molecule.bonds, molecule.kinds
    if bonds is None:
        bonds = topology.infer_bonds(positions)
    elif not molecule.periodic:  # beads that bonds leave apart are joined to near ones
        bonds = topology.joined_bonds(positions[:: 1 + len(positions) // 50], bonds)
    if not alike:
        found = topology.torsions_of(bonds) + topology.impropers_of(bonds)
        return found, np.arange(len(found))
    names = kinds or ("",) * positions.shape[1]
    kept: dict[Quadruple, tuple[str, ...]] = {}
    for chain in topology.dihedrals_of(bonds):
        kind = tuple(names[bead] for bead in chain)
        if molecule.bonds is not None or len(set(kind)) == 4:
            kept[chain] = min(kind, kind[::-1])  # read backwards, a chain has the same signed volume
    for centre, *around in topology.impropers_of(bonds):
        around.sort(key=lambda bead: names[bead])
        kind = ("*", names[centre], *(names[bead] for bead in around))
        if len(set(kind[2:])) == 3 and (molecule.bonds is not None or names[centre] not in kind[2:]):
            kept[(centre, around[0], around[1], around[2])] = kind
    order = sorted(set(kept.values()))
    return tuple(kept), np.array([order.index(kind) for kind in kept.values()], dtype=int)


def _areas(x: Tensor, cell: Tensor | None, quadruples: tuple[Quadruple, ...]) -> tuple[float, ...]:
    stencil = internal.stencil((), (), quadruples, x.shape[1], (x.dtype, x.device))
    a, b, c = internal.edge_vectors(stencil, x, cell).split(len(quadruples))
    faces = [torch.linalg.cross(one, other, dim=1).norm(dim=1).mean(1) for one, other in ((a, b), (b, c))]
    return tuple((0.5 * (faces[0] + faces[1])).clamp_min(1e-6).tolist())


def _odd(
    part: Frames, quadruples: tuple[Quadruple, ...], areas: tuple[float, ...], x: Tensor, cell: Tensor | None
) -> np.ndarray:
    """Odd functions of every frame, shape (n, functions, quadruples); NaN where a frame lacks the label."""
    count, beads = len(quadruples), x.shape[1]
    pairs = [(i, j) for j in range(beads) for i in range(j)]
    chosen = tuple(pairs[:: 1 + len(pairs) // 30])
    even = Distances(chosen).values_and_pullback(x, cell)[0].numpy()
    even = (even - even.mean(0)) / np.maximum(even.std(0), 1e-9)
    stencil = internal.stencil((), (), quadruples, beads, (x.dtype, x.device))
    volumes, slopes = internal.triple_products(internal.edge_vectors(stencil, x, cell))
    h = volumes.T.numpy() / areas
    height = np.sqrt(np.square(h).mean(0))
    s = h / np.where(height > 1e-6 * np.sqrt(areas), height, np.inf)  # of a flat molecule h is rounding
    columns = [s, np.tanh(4.0 * s), s * even.mean(1, keepdims=True)]
    even = np.column_stack((np.ones(len(x)), even, s[:, :: 1 + count // 30] ** 2))
    if "mean_energy" in part.labels:
        t = part.temperature - part.temperature.mean()
        columns.append(s * _rest(part.labels["mean_energy"], np.column_stack((even, even[:, 1:] ** 2, t)))[:, None])
    if "mean_force" in part.labels:
        force = torch.from_numpy(np.array(part.labels["mean_force"]))
        along = (slopes * internal.edge_vectors(stencil, force)).sum(1).reshape(3, count, len(x)).sum(
            0
        ).T.numpy() / areas
        for k in range(count):  # odd in the frames: keep only what h times even functions do not explain
            along[:, k] = _rest(along[:, k], s[:, k : k + 1] * even) if s[:, k].any() else 0.0
        columns += [along, along * s * s]
    return np.stack(columns, axis=1)


def _rest(values: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Residuals of a least-squares fit to values, in units of their spread."""
    known = np.isfinite(values)
    if known.sum() > 3 * basis.shape[1]:
        values = values - basis @ np.linalg.lstsq(basis[known], values[known], rcond=None)[0]
    return values / max(float(np.std(values[known])) if known.any() else 0.0, 1e-300)


def _significance(columns: np.ndarray, temperature: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Student's t of each average, and the probability of one as large by chance."""
    values, counts = np.unique(temperature, return_counts=True)
    together = len(values) == 1 or counts.min() < 20
    groups = [slice(None)] if together else [temperature == value for value in values]
    total, variance, independent = (np.zeros(columns.shape[1]) for _ in range(3))
    for rows in groups:
        x = columns[rows]
        known = np.isfinite(x)
        count = np.maximum(known.sum(0), 1)
        mean = np.where(known, x, 0.0).sum(0) / count
        away = np.where(known, x - mean, 0.0)  # a missing label counts as the mean
        spread = np.square(away).sum(0)
        moving = spread > 1e-24 * count * mean**2
        covariance = autocovariance([away]) / np.where(moving, spread, 1.0)
        inefficiency = np.where(moving, np.maximum(1.0, 2.0 * integrated_time(covariance)), 1.0)
        # one standard error more than estimated (Madras and Sokal): the largest t picks what is underestimated
        inefficiency = inefficiency * (1.0 + np.sqrt(10.0 * inefficiency / count))
        total += count * mean
        variance += spread * inefficiency
        independent += known.sum(0) / inefficiency
    t = np.divide(total, np.sqrt(variance), out=np.zeros_like(total), where=variance > 0.0)
    freedom = independent - 1.0
    return np.where(freedom >= 2.0, t, 0.0), np.where(
        freedom >= 2.0, 2.0 * stats.t.sf(np.abs(t), np.maximum(freedom, 2.0)), 1.0
    )


def _kept(x: Tensor, cell: Tensor | None, temperature: np.ndarray, baseline: Any) -> float:
    if baseline is None:
        return 0.0
    difference = baseline.energy(*_mirrored(x, cell)) - baseline.energy(x, cell)
    return float((difference.numpy() / (BOLTZMANN * temperature)).min())


def _mirrored(x: Tensor, cell: Tensor | None) -> tuple[Tensor, Tensor | None]:
    flip = torch.tensor([1.0, 1.0, -1.0], dtype=x.dtype)
    return x * flip, None if cell is None else cell * flip
