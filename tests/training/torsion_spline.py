"""A user's model in one file: a periodic spline in one dihedral, linear in its weights."""

from __future__ import annotations

import math

import torch

from kernelfe.protocol import LinearBase

BOND, ANGLE = 1.5, 1.9  # Å, rad
BONDS, ANGLES, DIHEDRAL = ((0, 1), (1, 2), (2, 3)), ((0, 1, 2), (1, 2, 3)), (0, 1, 2, 3)


def dihedral(x):
    """Torsion of positions (n, 4, 3), rad."""
    i, j, k, l = DIHEDRAL  # noqa: E741
    a, b, c = x[:, j] - x[:, i], x[:, k] - x[:, j], x[:, l] - x[:, k]
    m, n = torch.linalg.cross(a, b), torch.linalg.cross(b, c)
    return torch.atan2((torch.linalg.cross(m, n) * b).sum(1) / b.norm(dim=1), (m * n).sum(1))


class TorsionSpline(LinearBase):
    """A = Σ_k w_k B_k(χ) + harmonic bonds and angles, B_k the cubic B-splines on equal knots of the circle."""

    kinds = ("C", "C", "C", "C")
    stiff_bonds = tuple((i, j, 20.0) for i, j in BONDS)  # eV/Å²: samplers choose the time step by them

    def __init__(self, knots=16, std=0.2):
        super().__init__(torch.zeros(knots), 1.0 / std)

    def features(self, positions, temperature):
        knots = len(self.mean)
        at = torch.arange(knots) * (2.0 * math.pi / knots)
        away = dihedral(positions)[:, None] - at
        u = (torch.remainder(away + math.pi, 2.0 * math.pi) - math.pi).abs() * knots / (2.0 * math.pi)
        near, far = 2.0 / 3.0 - u**2 + 0.5 * u**3, (2.0 - u).clamp_min(0.0) ** 3 / 6.0
        return torch.where(u < 1.0, near, far)

    def baseline_energy(self, positions, temperature):
        energy = positions.new_zeros(len(positions))
        for i, j, stiffness in self.stiff_bonds:
            energy = energy + 0.5 * stiffness * ((positions[:, i] - positions[:, j]).norm(dim=1) - BOND) ** 2
        for i, j, k in ANGLES:
            a, b = positions[:, i] - positions[:, j], positions[:, k] - positions[:, j]
            cosine = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
            energy = energy + 0.5 * 4.0 * (cosine - math.cos(ANGLE)) ** 2
        return energy
