"""Shells of neighbours in a liquid: where g(r) of each two kinds of beads begins, is largest, and has its minimum."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...errors import DataError
from ...geometry.neighbours import neighbours
from ...geometry.topology import separation
from ..molecules import Molecule
from ..observations.molecules import MoleculeSet

#: Beads that no bonds connect, or at least so many bonds, are pairs: closer ones have bonded terms.
APART = 3


@dataclass(frozen=True)
class Shell:
    """Distances at which the pairs of two kinds begin, are most frequent, and end their first shell.

    Parameters
    ----------
    least
        Smallest distance of all frames, Å.
    contact, peak, end
        First distance with g > 0.1, that of the largest g, and that of the first minimum behind it, Å.
    """

    least: float
    contact: float
    peak: float
    end: float


@dataclass
class _Histogram:
    """Pairs in bins of the distance, those of an ideal gas, and beads (the rarer kind), summed over frames."""

    counts: np.ndarray
    ideal: np.ndarray
    beads: float = 0.0


def shells_of(
    cast: MoleculeSet, largest: float, frames: int = 100, bins: int = 500, near: float = 200.0
) -> dict[tuple[str, str], Shell]:
    """Shells of each two kinds of beads that meet, sorted by the kinds.

    Parameters
    ----------
    cast
        Periodic frames.
    largest
        Largest distance to look at, Å; less in large boxes, where a bead would have more than ``near`` others around.
    frames
        Frames of each box from which g(r) is counted. The smallest distance is that of all frames.
    bins
        Bins of the distance.

    Raises
    ------
    DataError
        If no two beads meet, or beads overlap.
    """
    parts = zip(cast.molecules, cast.parts, strict=True)
    dense = max(molecule.shape[0] / _volume(part, 0) for molecule, part in parts)
    reach = min(largest, (0.75 / np.pi * near / dense) ** (1.0 / 3.0))
    edges = np.linspace(0.0, reach, bins + 1)
    shell = 4.0 / 3.0 * np.pi * np.diff(edges**3)
    seen: dict[tuple[str, str], _Histogram] = {}
    for molecule, part in zip(cast.molecules, cast.parts, strict=True):
        names, far = _names(molecule), _far(molecule)
        for frame in np.unique(np.linspace(0, len(part) - 1, min(frames, len(part))).astype(int)):
            i, j, r = _pairs(part, frame, reach, far)
            for kinds, here, pairs, beads in _by_kinds(names, i, j, far):
                own = seen.setdefault(kinds, _Histogram(np.zeros(bins), np.zeros(bins)))
                own.counts += np.histogram(r[here], edges)[0]
                own.ideal += pairs / _volume(part, frame) * shell
                own.beads += beads
    found = {kinds: _shell(seen[kinds], edges) for kinds in sorted(seen) if seen[kinds].counts.any()}
    if not found:
        raise DataError(f"liquid_terms: no two beads are closer than {reach:.3g} Å")
    least = dict.fromkeys(found, np.inf)
    for molecule, part in zip(cast.molecules, cast.parts, strict=True):
        names, far = _names(molecule), _far(molecule)
        closer = max(peak for _, peak, _ in found.values())
        for frame in range(len(part)):
            i, j, r = _pairs(part, frame, closer, far)
            for kinds, here, *_ in _by_kinds(names, i, j, far):
                if kinds not in found or not here.any():
                    continue
                closest = np.flatnonzero(here)[r[here].argmin()]
                if r[closest] < 0.5 * found[kinds][0]:
                    raise DataError(
                        f"liquid_terms: in frame {frame} of {molecule} the beads {i[closest]} and {j[closest]} are "
                        f"{r[closest]:.3g} Å apart, where g(r) of {' and '.join(kinds)} begins at "
                        f"{found[kinds][0]:.3g} Å: they overlap, or the cell does not belong to the frame. "
                        "Leave the frame out, or mend it; terms= of your own take it as it is"
                    )
                least[kinds] = min(least[kinds], float(r[closest]))
    return {kinds: Shell(min(least[kinds], shell[1]), *shell) for kinds, shell in found.items()}


def _shell(seen: _Histogram, edges: np.ndarray, fewest: float = 0.02) -> tuple[float, float, float]:
    """Contact, peak and end of the first shell; pairs closer than all but ``fewest`` per bead may be broken frames."""
    r = 0.5 * (edges[1:] + edges[:-1])
    width = 0.1 / (edges[1] - edges[0]) if edges[-1] > 5.0 else len(r) / 50  # bins, 0.1 Å
    kernel = np.exp(-0.5 * (np.arange(-int(3 * width), int(3 * width) + 1) / width) ** 2)
    smooth = np.convolve(seen.counts, kernel, "same") / np.maximum(np.convolve(seen.ideal, kernel, "same"), 1e-300)
    usual = seen.counts.cumsum() >= min(fewest * seen.beads, 0.5 * seen.counts.sum())
    trusted = np.where(usual, smooth, 0.0)
    high = int(np.flatnonzero(trusted >= 0.7 * trusted.max())[0])  # a later shell may be as high as the first
    peak = high + int(smooth[high : max(high + 1, int(1.25 * high))].argmax())
    outside = np.flatnonzero(smooth[:peak] < min(0.1, 0.5 * smooth[peak]))
    contact = float(r[outside[-1] + 1]) if len(outside) else 0.0
    behind = np.flatnonzero((r > r[peak]) & (r < 1.75 * r[peak]))
    inner = behind[smooth[behind].argmin()] if len(behind) else peak
    minimum = len(behind) > 0 and inner < behind[-1]
    return contact, float(r[peak]), float(r[inner]) if minimum else 1.4 * float(r[peak])


def _pairs(part: Any, frame: int, reach: float, far: np.ndarray | None):
    """Beads i and j and distances of all pairs of a frame, each (E,)."""
    x = torch.from_numpy(np.array(part.positions[frame : frame + 1], dtype=float))
    cell = torch.from_numpy(np.array(part.cell[frame], dtype=float))
    _, i, j, v = neighbours(x, cell, reach, far)
    return i.numpy(), j.numpy(), v.norm(dim=-1).numpy()


def _volume(part: Any, frame: int) -> float:
    return abs(float(np.linalg.det(part.cell[frame])))


def _names(molecule: Molecule) -> np.ndarray:
    return np.array(molecule.kinds if molecule.kinds is not None else ["*"] * molecule.shape[0])


def _far(molecule: Molecule) -> np.ndarray | None:
    """Mask of the pairs of beads that no chain of one or two bonds connects; None for all."""
    return None if not molecule.bonds else separation(molecule.bonds, molecule.shape[0]) >= APART


def _by_kinds(
    names: np.ndarray, i: np.ndarray, j: np.ndarray, far: np.ndarray | None
) -> Iterator[tuple[tuple[str, str], np.ndarray, float, float]]:
    """Of each two kinds: which pairs are theirs, how many there are at any distance, and beads of the rarer one."""
    kinds = sorted(set(names.tolist()))
    of = {kind: names == kind for kind in kinds}
    for a, first in enumerate(kinds):
        for second in kinds[a:]:
            one, other = of[first], of[second]
            both = one[:, None] & other[None] | other[:, None] & one[None] if far is not None else None
            pairs = one.sum() * (one.sum() - 1) / 2 if first == second else one.sum() * other.sum()
            if both is not None:
                pairs = float(np.triu(both & far, 1).sum())
            yield (
                (first, second),
                (one[i] & other[j]) | (other[i] & one[j]),
                float(pairs),
                float(min(one.sum(), other.sum())),
            )
