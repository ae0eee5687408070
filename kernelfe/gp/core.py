"""The repulsive core of a liquid: a pair energy that keeps beads apart where no data are.

    V(R) = Σ_pairs ε exp(−(r − σ)/ρ) (1 − r²/r_c²)³,  r < r_c,

with a σ and ρ for each two kinds, from the distribution of distances g(r): at σ, −kT ln g is ``level`` kT, and ε and ρ
give V that value and the slope of −kT ln g there. Like every baseline it is subtracted from all labels before a fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..descriptors.manybody.fast import compiled_for, frame_pairs
from ..errors import DataError, ModelFileError, require
from ..geometry import internal as geometry
from ..geometry.neighbours import Neighbours, neighbours
from ..specs import Bound, Each, Real, Spec, Text, from_dict
from ..units import BOLTZMANN


@dataclass(frozen=True)
class FittedCore(Spec):
    """A core with its numbers; see the module's formula.

    Parameters
    ----------
    kinds
        Two kinds for every entry, sorted; ("*", "*") where beads have no kinds.
    sigma, decay, energy
        σ and ρ, Å, and ε, eV, of every entry.
    bead_kinds
        Kinds of the beads of the molecule that the core is evaluated for.
    """

    kinds: tuple[tuple[str, str], ...]
    sigma: tuple[float, ...]
    decay: tuple[float, ...]
    energy: tuple[float, ...]
    bead_kinds: tuple[str, ...] | None = None

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        "kinds": Each(Each(Text(), count=2)),
        **dict.fromkeys(("sigma", "decay", "energy"), Each(Real(above=0.0))),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if len({len(self.kinds), len(self.sigma), len(self.decay), len(self.energy)}) != 1:
            raise DataError("FittedCore: kinds, sigma, decay and energy must have as many entries")

    @property
    def cutoff(self) -> float:
        """r_c: where the largest core ends, Å."""
        return max((2.0 * s for s in self.sigma), default=0.0)

    def for_molecule(self, kinds: Sequence[str] | None, bonds: Any) -> FittedCore:
        """The core of a molecule or box with beads of these kinds."""
        return replace(self, bead_kinds=None if kinds is None else tuple(kinds))

    def pair(self, r: np.ndarray, kinds: tuple[str, str] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Energy, eV, and its slope, eV/Å, of one pair at distances r (n,), Å.

        Parameters
        ----------
        r
            Å.
        kinds
            Kinds of the two beads; None where all beads are alike.
        """
        entry = self.kinds[0] if kinds is None and len(self.kinds) == 1 else tuple(sorted(kinds or ("*", "*")))
        if entry not in self.kinds:
            return np.zeros(len(r)), np.zeros(len(r))
        distances = torch.as_tensor(np.asarray(r, dtype=float))
        value, slope = self._terms(distances, torch.full((len(distances),), self.kinds.index(entry)))
        return value.numpy(), slope.numpy()

    def reach(self, kinds: tuple[str, str]) -> float:
        """Distance at which the core of two kinds ends, Å."""
        return 2.0 * self.sigma[self.kinds.index(kinds)]

    def pair_and_slope(self, r: np.ndarray, kinds: tuple[str, str]) -> tuple[np.ndarray, np.ndarray]:
        """Energy of one pair of two kinds, eV, and its derivative by the distance, eV/Å, at distances (n,), Å."""
        at = torch.from_numpy(np.array(r, float))
        value, slope = self._terms(at, torch.full((len(at),), self.kinds.index(kinds)))
        return value.numpy(), slope.numpy()

    def functions(self, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Energies, eV, and slopes, eV/Å, of every entry at distances r (n,), Å; each (entries, n)."""
        count = len(self.sigma)
        distances = torch.as_tensor(np.asarray(r, dtype=float)).repeat(count)
        found = self._terms(distances, torch.arange(count).repeat_interleave(len(r)))
        value, slope = (part.numpy().reshape(count, len(r)) for part in found)
        return value, slope

    def energy_of(self, positions: Tensor, cell: Tensor | None = None) -> Tensor:
        """V in eV, shape (n,)."""
        return self._sums(positions, cell)[0]

    def energy_and_gradient(self, positions: Tensor, cell: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """V in eV, shape (n,), and ∇V in eV/Å, shape (n, beads, 3), of positions (n, beads, 3), Å."""
        return self._sums(positions, cell)[:2]

    def strain_derivative(self, positions: Tensor, cell: Tensor | None = None) -> Tensor:
        """∂V/∂strain in eV, shape (n, 6), Voigt order with engineering shear."""
        return self._sums(positions, cell)[2]

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> FittedCore:
        """Rebuild from :meth:`to_dict`; ModelFileError if ``data`` is something else."""
        out = from_dict(data, {cls.__name__: cls})
        if not isinstance(out, cls):
            raise ModelFileError(f"expected the dict of a {cls.__name__}, got {type(out).__name__}")
        return out

    def _terms(self, r: Tensor, entry: Tensor) -> tuple[Tensor, Tensor]:
        """Energy and slope of pairs."""
        sigma, decay, energy = (
            torch.tensor(v, dtype=r.dtype, device=r.device)[entry] for v in (self.sigma, self.decay, self.energy)
        )
        stop = 2.0 * sigma
        inside = (1.0 - (r / stop) ** 2).clamp_min(0.0)
        grown = energy * torch.exp(-(r - sigma) / decay)
        return grown * inside**3, grown * inside**2 * (-inside / decay - 6.0 * r / stop**2)

    def _sums(self, x: Tensor, cell: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        frame, i, j, v = self._pairs(x, cell)
        r = v.norm(dim=-1).clamp_min(geometry.TINY)
        value, slope = self._terms(r, self._entries(x)[i, j])
        n, beads = x.shape[:2]
        w = (slope / r)[:, None] * v
        gradient = x.new_zeros(n * beads, 3)
        gradient.index_add_(0, frame * beads + j, w).index_add_(0, frame * beads + i, w, alpha=-1.0)
        strain = x.new_zeros(n, 6).index_add(0, frame, geometry.voigt(w, v))
        return x.new_zeros(n).index_add(0, frame, value), gradient.view(x.shape), strain

    def _pairs(self, x: Tensor, cell: Tensor | None) -> Neighbours:
        entries = self._entries(x)
        wanted = None if bool((entries >= 0).all()) else (entries >= 0).cpu().numpy()
        if cell is None or not len(x) or not compiled_for(x, cell):
            return neighbours(x, cell, self.cutoff, wanted)
        pairs = frame_pairs(x, cell, self.cutoff, wanted)
        found = [pairs(k) for k in range(len(x))]
        i, j, v = (torch.from_numpy(np.concatenate(parts)) for parts in zip(*found, strict=True))
        frame = torch.repeat_interleave(torch.tensor([len(one[0]) for one in found]))
        return Neighbours(frame, i.long(), j.long(), v)

    def _entries(self, x: Tensor) -> Tensor:
        """Number of the entry of every pair of beads, (beads, beads); −1 for pairs without a core."""
        beads = x.shape[1]
        names = ("*",) * beads if self.bead_kinds is None or self.kinds == (("*", "*"),) else self.bead_kinds
        if len(names) != beads:
            raise DataError(f"the core belongs to {len(names)} beads, the positions have {beads}")
        distinct = sorted(set(names))
        table = torch.tensor(
            [
                [
                    self.kinds.index((a, b) if a <= b else (b, a))
                    if ((a, b) if a <= b else (b, a)) in self.kinds
                    else -1
                    for b in distinct
                ]
                for a in distinct
            ]
        )
        kind = torch.tensor([distinct.index(name) for name in names])
        return table[kind[:, None], kind[None]].to(x.device)


@dataclass(frozen=True)
class RepulsiveCore(Spec):
    """Spec of the core of a liquid, fitted to the distribution of distances.

    Parameters
    ----------
    level
        Where the core takes over: −ln g(r) at σ.
    steepest
        Largest 1/ρ, 1/Å: a steeper core would need a shorter time step than anything in the liquid.
    width
        Bins of g(r), Å.
    largest
        Largest distance that is looked at, Å; half the least height of the cells at most.
    """

    level: float = 4.0
    steepest: float = 12.0
    width: float = 0.02
    largest: float = 6.0

    BOUNDS: ClassVar[Mapping[str, Bound]] = dict.fromkeys(("level", "steepest", "width", "largest"), Real(above=0.0))

    def fit_parts(self, parts: Sequence[Any]) -> FittedCore:
        """Fit the core to periodic frames of one or several boxes.

        Parameters
        ----------
        parts
            Frames, each of boxes of equal beads.

        Raises
        ------
        DataError
            If no two beads come near.
        """
        require(sum(map(len, parts)) > 0, "RepulsiveCore: the frames are empty: give frames, or baseline=False")
        edges = np.arange(0.0, self.largest + self.width, self.width)
        counts: dict[tuple[str, str], np.ndarray] = {}
        ideal: dict[tuple[str, str], np.ndarray] = {}
        for part in parts:
            self._count(part, edges, counts, ideal)
        kt = BOLTZMANN * min(float(part.temperature.min()) for part in parts)
        found = {kinds: self._core(counts[kinds], ideal[kinds], edges, kt) for kinds in sorted(counts)}
        found = {kinds: core for kinds, core in found.items() if core is not None}
        if not found:
            raise DataError("RepulsiveCore: no two beads come near each other in the frames: pass baseline=False")
        sigma, decay, energy = zip(*found.values(), strict=True)
        return FittedCore(tuple(found), sigma, decay, energy)

    def fit(self, positions: np.ndarray, temperature: np.ndarray, cell: np.ndarray | None = None) -> FittedCore:
        """Fit the core to boxes of beads of one kind; arguments as of :meth:`BoltzmannInversion.fit`."""
        from ..frames import Frames

        return self.fit_parts([Frames.from_arrays(positions=positions, temperature=temperature, cell=cell)])

    def _count(self, part: Any, edges: np.ndarray, counts: dict, ideal: dict, frames: int = 100) -> None:
        """Add the pairs of some frames, and those that an ideal gas would have, bin by bin."""
        if part.positions is None or part.cell is None:
            raise DataError("RepulsiveCore reads periodic frames: give cell= when building the Frames")
        chosen = np.unique(np.linspace(0, len(part) - 1, min(frames, len(part))).astype(int))
        beads = part.positions.shape[1]
        names = np.array(part.kinds if part.kinds is not None else ["*"] * beads)
        kinds = sorted(set(names.tolist()))
        shell = 4.0 / 3.0 * np.pi * np.diff(edges**3)
        for index in chosen:
            x, box = (
                torch.from_numpy(np.array(part.positions[index : index + 1])),
                torch.from_numpy(np.array(part.cell[index])),
            )
            _, i, j, v = neighbours(x, box, float(edges[-1]))
            r = v.norm(dim=-1).numpy()
            density = 1.0 / abs(float(torch.linalg.det(box)))
            for a, first in enumerate(kinds):
                for second in kinds[a:]:
                    one, other = names == first, names == second
                    here = (one[i] & other[j]) | (other[i] & one[j])
                    pairs = one.sum() * (one.sum() - 1) / 2 if first == second else one.sum() * other.sum()
                    key = (first, second)
                    counts[key] = counts.get(key, 0.0) + np.histogram(r[here], edges)[0]
                    ideal[key] = ideal.get(key, 0.0) + pairs * density * shell

    def _core(self, counts: np.ndarray, ideal: np.ndarray, edges: np.ndarray, kt: float):
        """(σ, ρ, ε) of two kinds from their pairs; None where they never come near."""
        middle = 0.5 * (edges[1:] + edges[:-1])
        wall = np.exp(-self.level)
        with np.errstate(divide="ignore", invalid="ignore"):
            g = np.where(ideal > 0, counts / ideal, 0.0)
        beyond = np.flatnonzero(g > wall)
        if not len(beyond):
            return None
        first = beyond[0]
        # the slope of −ln g over the distances from e^−level to where g is about one
        upper = first + 1 + np.flatnonzero(g[first + 1 :] > max(np.exp(-0.25 * self.level), g[first]))
        decay = 1.0 / self.steepest  # unless the data show a rise
        if len(upper):
            rise = (np.log(g[upper[0]]) - np.log(g[first])) / (middle[upper[0]] - middle[first])
            decay = max(self.level / rise, decay)
        return float(middle[first]), float(min(decay, 0.2 * middle[first])), float(self.level * kt)
