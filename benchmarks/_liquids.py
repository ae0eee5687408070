"""Liquids of known energy: pair potentials of one or two kinds, and Stillinger and Weber's; and a sampler for them.

Lengths in Å, energies in eV. Cells are cubes, and cutoffs at most half an edge.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from kernelfe import Frames
from kernelfe.geometry.neighbours import neighbours

BOLTZMANN = 8.617333262e-5  # eV/K
#: eV/Å of an acceleration in Å/fs², for a mass in u.
ACCELERATION = 9.64853e-3
Forces = Callable[[np.ndarray, float], np.ndarray]


def edges(x: np.ndarray, edge: float, cutoff: float) -> tuple[np.ndarray, np.ndarray]:
    """Beads i < j of all pairs within a cutoff."""
    _, i, j, _ = neighbours(torch.from_numpy(x.copy()[None]), torch.from_numpy(edge * np.eye(3)), cutoff)
    return i.numpy(), j.numpy()


def vectors(x: np.ndarray, edge: float, i: np.ndarray, j: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nearest images of R_j − R_i, (E, 3), and their lengths."""
    d = x[j] - x[i]
    d -= edge * np.rint(d / edge)
    return d, np.sqrt((d * d).sum(1))


def spread(size: int, *parts: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Sums of vectors by bead, (size, 3)."""
    out = np.zeros((size, 3))
    for index, values in parts:
        for axis in range(3):
            out[:, axis] += np.bincount(index, values[:, axis], size)
    return out


@dataclass(frozen=True)
class LennardJones:
    """4ε[(σ/r)¹² − (σ/r)⁶] S(r), with S from 1 to 0, two derivatives zero, between ``switch`` and ``stop``."""

    sigma: float
    epsilon: float
    switch: float
    stop: float

    def force(self, r: np.ndarray) -> np.ndarray:
        """−du/dr."""
        s6 = (self.sigma / r) ** 6
        u, du = 4 * self.epsilon * (s6 * s6 - s6), -24 * self.epsilon * (2 * s6 * s6 - s6) / r
        t = np.clip((r - self.switch) / (self.stop - self.switch), 0.0, 1.0)
        s = 1 - 10 * t**3 + 15 * t**4 - 6 * t**5
        ds = -30 * t**2 * (1 - t) ** 2 / (self.stop - self.switch)
        return -(du * s + u * ds)


@dataclass(frozen=True)
class PairLiquid:
    """A liquid of pair potentials by two kinds, sorted."""

    kinds: tuple[str, ...]
    pairs: dict[tuple[str, str], LennardJones]
    edge: float
    temperature: float
    mass: float = 39.948

    @property
    def cutoff(self) -> float:
        """Largest end of a potential."""
        return max(pair.stop for pair in self.pairs.values())

    def forces(self, x: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Forces on beads, given the pairs that may be near."""
        d, r = vectors(x, self.edge, i, j)
        size = np.zeros(len(r))
        names = np.array(self.kinds)
        for (a, b), pair in self.pairs.items():
            mine = ((names[i] == a) & (names[j] == b)) | ((names[i] == b) & (names[j] == a))
            size[mine] = pair.force(r[mine])
        push = (size / r)[:, None] * d
        return spread(len(x), (j, push), (i, -push))


@dataclass(frozen=True)
class StillingerWeber:
    """Stillinger and Weber's potential with the numbers of the water model mW (Molinero and Moore 2009)."""

    kinds: tuple[str, ...]
    edge: float
    temperature: float
    mass: float = 18.015
    epsilon: float = 0.268381
    sigma: float = 2.3925
    a: float = 1.8
    strength: float = 23.15
    gamma: float = 1.2
    cosine: float = -1.0 / 3.0
    A: float = 7.049556277
    B: float = 0.6022245584

    @property
    def cutoff(self) -> float:
        """aσ."""
        return self.a * self.sigma

    def pair_force(self, r: np.ndarray) -> np.ndarray:
        """−du/dr of the pair part."""
        s = r / self.sigma
        inside = s < self.a - 1e-9
        gap = np.where(inside, s - self.a, -1.0)
        grown = self.A * self.epsilon * np.exp(1.0 / gap) * inside
        return -grown * (-4.0 * self.B * s**-5 - (self.B * s**-4 - 1.0) / gap**2) / self.sigma

    def forces(self, x: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Forces on beads, given the pairs that may be near."""
        d, r = vectors(x, self.edge, i, j)
        near = r < self.cutoff - 1e-6
        i, j, d, r = i[near], j[near], d[near], r[near]
        push = (self.pair_force(r) / r)[:, None] * d
        parts = [(j, push), (i, -push)]
        # edges from every centre, and pairs of edges of one centre
        centre, other, e = np.concatenate([i, j]), np.concatenate([j, i]), np.concatenate([d, -d])
        r = np.concatenate([r, r])
        order = np.argsort(centre, kind="stable")
        centre, other, e, r = centre[order], other[order], e[order] / r[order][:, None], r[order]
        counts = np.bincount(centre, minlength=len(x))
        last = counts.cumsum()[centre]
        later = last - 1 - np.arange(len(centre))
        first = np.repeat(np.arange(len(centre)), later)
        second = first + 1 + np.arange(len(first)) - np.repeat(later.cumsum() - later, later)
        gap = r / self.sigma - self.a
        g = np.exp(self.gamma / gap)
        dg = -self.gamma / gap**2 * g / self.sigma
        c = (e[first] * e[second]).sum(1)
        off = c - self.cosine
        scale = self.strength * self.epsilon
        turn = 2.0 * scale * off * g[first] * g[second]
        for one, two in ((first, second), (second, first)):
            along = scale * off**2 * dg[one] * g[two]
            push = -(along[:, None] * e[one] + (turn / r[one])[:, None] * (e[two] - c[:, None] * e[one]))
            parts += [(other[one], push), (centre[one], -push)]
        return spread(len(x), *parts)


def lattice(beads: int, edge: float, rng: np.random.Generator) -> np.ndarray:
    """Beads at random sites of a cubic lattice, a little displaced."""
    side = int(np.ceil(beads ** (1 / 3)))
    sites = rng.permutation(side**3)[:beads]
    x = np.stack([sites // side**2, sites // side % side, sites % side], 1) * (edge / side)
    return x + 0.05 * edge / side * rng.normal(size=(beads, 3))


def sampled(
    liquid, frames: int, stride: int = 50, equilibration: int = 500, timestep: float = 5.0, seed: int = 0
) -> Frames:
    """Frames of Langevin dynamics (BAOAB, friction 5/ps) with the exact forces as labels.

    Parameters
    ----------
    liquid
        A :class:`PairLiquid` or :class:`StillingerWeber`.
    frames, stride, equilibration
        Frames, steps between them and before them.
    timestep
        fs. Forces are exact at any configuration: an error of the sampler's distribution does not matter.
    """
    rng, edge, skin = np.random.default_rng(seed), liquid.edge, 1.0
    x = lattice(len(liquid.kinds), edge, rng)
    kt = BOLTZMANN * liquid.temperature
    width = np.sqrt(kt / liquid.mass * ACCELERATION)
    v = width * rng.normal(size=x.shape)
    damping = np.exp(-0.005 * timestep)
    noise = width * np.sqrt(1.0 - damping**2)
    reach = min(liquid.cutoff + skin, 0.5 * edge)
    i, j = edges(x, edge, reach)
    listed, kick = x.copy(), 0.5 * timestep * ACCELERATION / liquid.mass
    f = liquid.forces(x, i, j)
    places, labels = [], []
    for step in range(equilibration + frames * stride):
        # steep starts: no kick larger than one that the thermostat can take away
        v += kick * np.clip(f, -2.0, 2.0)
        x = x + 0.5 * timestep * v
        v = damping * v + noise * rng.normal(size=x.shape)
        x = x + 0.5 * timestep * v
        if np.abs(x - listed).max() > 0.5 * (reach - liquid.cutoff) / 3**0.5:
            i, j = edges(x, edge, reach)
            listed = x.copy()
        f = liquid.forces(x, i, j)
        v += kick * np.clip(f, -2.0, 2.0)
        if step >= equilibration and (step + 1 - equilibration) % stride == 0:
            places.append(x.copy())
            labels.append(f)
    return Frames.from_arrays(
        np.array(places),
        temperature=liquid.temperature,
        cell=np.tile(edge * np.eye(3), (frames, 1, 1)),
        kinds=list(liquid.kinds),
        labels={"mean_force": np.array(labels)},
    )


def argon(beads: int = 1000, density: float = 0.8, temperature: float = 100.0) -> PairLiquid:
    """Lennard-Jones argon, cut smoothly between 7.5 and 8.5 Å; density in σ⁻³."""
    pair = LennardJones(3.4, 0.010324, 7.5, 8.5)
    return PairLiquid(("Ar",) * beads, {("Ar", "Ar"): pair}, 3.4 * (beads / density) ** (1 / 3), temperature)


def mixture(beads: int = 1000, density: float = 1.15, temperature: float = 120.0) -> PairLiquid:
    """Kob and Andersen's mixture, 80 % A and 20 % B, in units of argon, cut smoothly before 2.5 σ."""

    def pair(sigma: float, epsilon: float) -> LennardJones:
        return LennardJones(3.4 * sigma, 0.010324 * epsilon, 2.2 * 3.4 * sigma, 2.5 * 3.4 * sigma)

    kinds = tuple("A" * (beads - beads // 5) + "B" * (beads // 5))
    pairs = {("A", "A"): pair(1.0, 1.0), ("A", "B"): pair(0.8, 1.5), ("B", "B"): pair(0.88, 0.5)}
    return PairLiquid(kinds, pairs, 3.4 * (beads / density) ** (1 / 3), temperature)


def water(beads: int = 512, temperature: float = 300.0) -> StillingerWeber:
    """mW water at 0.997 g/cm³."""
    return StillingerWeber(("W",) * beads, (beads / 0.03333) ** (1 / 3), temperature)
