"""A periodic pair liquid in torch whose pair potential is a sum of Gaussians in r: linear in its weights.

Gaussians of 0.35 Å at 2.8, 3.3, …, 5.3 Å, times a switch that ends at the cutoff, on a softly repulsive core
as the baseline. Samplers read pair energies from a table of 0.001 Å, in loops compiled by numba.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kernelfe import Frames
from kernelfe.protocol import FixedCell, LinearBase
from kernelfe.simulate import run_langevin, uniform_masses

njit = pytest.importorskip("numba").njit

#: Centres of the Gaussians, their width, and the cutoff, Å.
CENTRES, WIDTH, CUTOFF = torch.arange(2.8, 5.31, 0.5, dtype=torch.float64), 0.35, 6.5
#: Weights of the true liquid at 300 K, eV, and their fall per 100 K.
TRUE = torch.tensor([0.006, -0.016, -0.014, -0.006, 0.004, 0.002], dtype=torch.float64)
RESPONSE = torch.tensor([0.004, 0.003, 0.002, -0.002, -0.001, 0.0], dtype=torch.float64)
GRID = torch.arange(1.0, CUTOFF + 0.002, 0.001, dtype=torch.float64)


class PairLiquid(LinearBase):
    """A = core + Σ_pairs Σ_a w_a B_a(r), or with w_a − (T − 300 K)/(100 K) s_a if there are twice as many weights."""

    def features(self, positions, temperature, cell=None):
        i, j = torch.triu_indices(positions.shape[1], positions.shape[1], 1)
        r = separations(positions, cell)[1][:, i, j]
        out = torch.stack([basis(one[one < CUTOFF]).sum(0) for one in r])
        if len(self.mean) == len(CENTRES):
            return out
        kelvin = torch.as_tensor(temperature, dtype=out.dtype).expand(len(out))[:, None]
        return torch.cat([out, -0.01 * (kelvin - 300.0) * out], 1)

    def pair_weights(self, temperature):
        """Weights (W,) of the Gaussians at one temperature."""
        w, size = self.mean, len(CENTRES)
        return w if len(w) == size else w[:size] - 0.01 * (float(temperature) - 300.0) * w[size:]

    def energy_and_forces(self, positions, temperature):
        raise NotImplementedError("a periodic model")

    def energy_forces_stress(self, positions, cell, temperature):
        kelvin = torch.as_tensor(temperature, dtype=torch.float64).reshape(-1)
        assert bool((kelvin == kelvin[0]).all())  # one temperature in a batch is enough here
        energy = table(self.pair_weights(kelvin[0]))
        box = torch.diagonal(cell, dim1=-2, dim2=-1).numpy()
        out = [np.zeros(len(box)), np.zeros(positions.shape), np.zeros((len(box), 3, 3))]
        sums(positions.numpy(), box, energy.numpy(), *out)
        value, forces, virial = map(torch.from_numpy, out)
        stress = virial / torch.linalg.det(cell).abs()[:, None, None]
        return value, forces, stress[:, [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]


@njit(cache=False)
def sums(x, box, table, energy, forces, virial):
    """Pair energies, forces and r ⊗ ∂A/∂r, (n,), (n, beads, 3), (n, 3, 3), from a table; nearest images only."""
    v = np.zeros(3)
    for n in range(len(x)):
        for i in range(x.shape[1]):
            for j in range(i):
                square = 0.0
                for a in range(3):
                    d = x[n, j, a] - x[n, i, a]
                    v[a] = d - np.floor(d / box[n, a] + 0.5) * box[n, a]
                    square += v[a] * v[a]
                if square >= CUTOFF * CUTOFF:
                    continue
                r = np.sqrt(square)
                place = max(r - 1.0, 0.0) / 0.001
                k = int(place)
                energy[n] += table[k] + (place - k) * (table[k + 1] - table[k])
                pull = (table[k + 1] - table[k]) / (0.001 * r)
                for a in range(3):
                    forces[n, i, a] += pull * v[a]
                    forces[n, j, a] -= pull * v[a]
                    for b in range(3):
                        virial[n, a, b] += pull * v[a] * v[b]


def separations(positions, cell):
    """R_j − R_i of all ordered pairs, nearest images in orthorhombic cells, and distances; i = j is far."""
    v = positions[:, None] - positions[:, :, None]
    box = torch.diagonal(cell, dim1=-2, dim2=-1)[:, None, None]
    v = v - (v / box).detach().round() * box
    return v, v.square().sum(-1).sqrt() + 100.0 * torch.eye(v.shape[1], dtype=v.dtype)


def switch(r):
    """1 at short range, 0 with two derivatives from the cutoff on."""
    x = ((r - (CUTOFF - 1.5)) / 1.5).clamp(0.0, 1.0)
    return 1.0 - x**3 * (10.0 - 15.0 * x + 6.0 * x**2)


def basis(r):
    """B_a(r) at distances (k,), shape (k, W)."""
    return torch.exp(-0.5 * ((r[:, None] - CENTRES) / WIDTH) ** 2) * switch(r)[:, None]


def pair_energy(r, weights):
    """Pair potential at distances (k,), eV."""
    return basis(r) @ weights + 0.05 * (2.7 / r) ** 9 * switch(r)


_tables: dict = {}


def table(weights):
    key = tuple(weights.tolist())
    if key not in _tables:
        _tables.clear()
        _tables[key] = pair_energy(GRID, weights)
    return _tables[key]


def lattice(side):
    """64 beads on a simple cubic lattice, (64, 3), Å."""
    return np.stack(np.meshgrid(*[np.arange(4)] * 3, indexing="ij"), -1).reshape(-1, 3) * side / 4.0


def true_frames(temperatures, sides, replicas=10, samples=80, stride=50, seed=1):
    """Frames of the true liquid at several temperatures, each in a cube of its own side."""
    model = PairLiquid(torch.cat([TRUE, RESPONSE]), 1.0)
    parts = []
    for t, side in zip(temperatures, sides, strict=True):
        cell = np.eye(3) * side
        run = run_langevin(
            FixedCell(model, torch.from_numpy(cell)),
            np.repeat(lattice(side)[None], replicas, 0),
            t,
            masses=uniform_masses(64),
            timestep=10.0,
            friction=2.0,
            burn_in=1000,
            steps=samples * stride,
            stride=stride,
            seed=seed,
            guard=None,
            progress=False,
        )
        x = run.positions.swapaxes(0, 1).reshape(-1, 64, 3)  # replica by replica, each in the order of time
        parts.append(Frames.from_arrays(x, temperature=t, cell=np.repeat(cell[None], len(x), 0)))
    return Frames.concatenate(parts)


__all__ = ["CENTRES", "CUTOFF", "RESPONSE", "TRUE", "PairLiquid", "lattice", "pair_energy", "true_frames"]
