"""Analytic free energies with known averages, and the z-score every sampling test uses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from kernelfe.units import BOLTZMANN


@dataclass(frozen=True)
class Well:
    """A = ½ k(T) Σ R² with k(T) = stiffness·(T/300)^power: <R²> = kT/k(T) per coordinate, exactly."""

    stiffness: float = 1.0
    power: float = 0.0

    def constant(self, temperature):
        return self.stiffness * (torch.as_tensor(temperature, dtype=torch.float64) / 300.0) ** self.power

    def variance(self, temperature: float) -> float:
        return BOLTZMANN * temperature / float(self.constant(temperature))

    def energy_and_forces(self, positions, temperature):
        k = self.constant(temperature).to(positions).expand(len(positions))
        return 0.5 * k * positions.square().sum((1, 2)), -k[:, None, None] * positions


@dataclass(frozen=True)
class DoubleWell:
    """A = h(T) ((x/w)² − 1)² + tilt·x + ½k(y² + z²) per bead, with h(T) = height − entropy·(T − 300)."""

    height: float = 0.15
    width: float = 0.8
    tilt: float = 0.02
    entropy: float = 0.0
    stiffness: float = 2.0

    def profile(self, x, temperature):
        height = self.height - self.entropy * (temperature - 300.0)
        return height * ((x / self.width) ** 2 - 1) ** 2 + self.tilt * x

    def energy_and_forces(self, positions, temperature):
        t = torch.as_tensor(temperature).to(positions).expand(len(positions))[:, None]
        x, rest = positions[..., 0], positions[..., 1:]
        energy = self.profile(x, t).sum(1) + 0.5 * self.stiffness * rest.square().sum((1, 2))
        height = self.height - self.entropy * (t - 300.0)
        forces = -self.stiffness * positions
        forces[..., 0] = -4 * height * x / self.width**2 * ((x / self.width) ** 2 - 1) - self.tilt
        return energy, forces

    def probability_right(self, temperature: float) -> float:
        """P(x > 0) by quadrature."""
        x = np.linspace(-3, 3, 20001)
        weight = np.exp(-self.profile(x, temperature) / (BOLTZMANN * temperature))
        return float(weight[x > 0].sum() / weight.sum())


def z_score(values: np.ndarray, expected: float) -> float:
    """z-score of the mean of per-replica time averages.

    ``values`` is (samples, replicas); replicas are independent, so the error of the mean needs no correlation time.
    """
    means = np.asarray(values).mean(axis=0)
    return float((means.mean() - expected) / (means.std(ddof=1) / np.sqrt(len(means))))


@pytest.fixture
def well():
    return Well


@pytest.fixture
def double_well():
    return DoubleWell


@pytest.fixture
def zscore():
    return z_score
