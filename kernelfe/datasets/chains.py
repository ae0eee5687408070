"""Chains of beads of any length whose free energy is a known sum of local terms by the kinds of the beads.

    A(R; T) = Σ_X N_X [e_X + c_X τ(T)] + Σ_bonds f(r) + Σ_angles g(θ) + Σ_{pairs ≥ 3 bonds apart} h(r)

with τ = T − T0 − T ln(T/T0), and every local function u(z) − T s(z) + c(z) τ(T) with coefficients that depend on the
kinds of its beads only. The same functions apply to every chain: a test of how a model of several molecules transfers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..arrays import real_array
from ..errors import require
from ..frames import Frames
from ..runtime.seeds import random_numbers


@dataclass(frozen=True)
class ChainFamily:
    """The family of chains above; all energies in eV, lengths in Å.

    Parameters
    ----------
    energies
        e_X of the kinds A, B and C, eV.
    heat_capacities
        c_X, eV/K.
    reference_temperature
        T0, K.
    """

    energies: tuple[float, float, float] = (-2.0, -3.1, -1.4)
    heat_capacities: tuple[float, float, float] = (2e-4, 3e-4, 1e-4)
    reference_temperature: float = 400.0

    def free_energy(self, positions: Tensor, kinds: Sequence[str], temperature: Tensor | float) -> Tensor:
        """A(R; T) in eV, shape (n,), of positions (n, beads, 3) in Å; differentiable by both."""
        numbers = self._numbers(kinds)
        t = torch.as_tensor(temperature, dtype=torch.float64).expand(len(positions))
        tau = t - self.reference_temperature - t * torch.log(t / self.reference_temperature)
        out = sum(self.energies[k] for k in numbers) + sum(self.heat_capacities[k] for k in numbers) * tau
        beads = len(numbers)
        for i in range(beads - 1):
            q = 1.0 + 0.2 * (numbers[i] + numbers[i + 1])
            x = (positions[:, i + 1] - positions[:, i]).norm(dim=-1) - 1.3 - 0.1 * q
            out = out + 4.0 * q * x**2 - 6.0 * x**3 - t * 2e-4 * torch.sin(3.0 * q * x) + tau * 1e-4 * q * x
        for i in range(beads - 2):
            q = 1.0 + 0.3 * numbers[i + 1] + 0.1 * (numbers[i] + numbers[i + 2])
            a, b = positions[:, i] - positions[:, i + 1], positions[:, i + 2] - positions[:, i + 1]
            cosine = (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))
            x = torch.arccos(cosine) - 1.9
            out = out + 0.5 * q * x**2 - t * 1.5e-4 * torch.sin(2.0 * x) * q + tau * 2e-4 * torch.cos(q * x)
        for i in range(beads):
            for j in range(i + 3, beads):
                q = 1.0 + 0.25 * (numbers[i] + numbers[j])
                r = (positions[:, j] - positions[:, i]).norm(dim=-1)
                well = torch.exp(-0.5 * ((r - 3.4) / 0.7) ** 2)
                out = out - q * (0.08 - 1e-4 * t) * well + q * tau * 1e-4 * torch.cos(r)
        return out

    def configurations(self, kinds: Sequence[str], temperature: np.ndarray, rng) -> np.ndarray:
        """Chains with bonds and angles about their minima and any dihedrals, shape (n, beads, 3), Å.

        Not draws from exp(−A/kT): widths follow the temperature, but the pair terms are ignored.
        """
        numbers, n = self._numbers(kinds), len(temperature)
        wide = np.sqrt(real_array(temperature, "temperature", "K") / 300.0)
        rng = random_numbers(rng, "rng")
        x = np.zeros((n, len(numbers), 3))
        along, normal = np.tile([1.0, 0.0, 0.0], (n, 1)), np.tile([0.0, 0.0, 1.0], (n, 1))
        for i in range(1, len(numbers)):
            if i > 1:
                bend = np.pi - (1.9 + 0.15 * wide * rng.normal(size=n))
                along = _rotated(along, normal, bend)
                normal = _rotated(normal, along, rng.uniform(-np.pi, np.pi, n))  # the next dihedral
            r = 1.3 + 0.1 * (1.0 + 0.2 * (numbers[i - 1] + numbers[i])) + 0.06 * wide * rng.normal(size=n)
            x[:, i] = x[:, i - 1] + r[:, None] * along
        return x

    def frames(
        self,
        kinds: Sequence[str],
        temperature: np.ndarray,
        rng: np.random.Generator | int | None,
        noise: dict[str, float] | None = None,
    ) -> Frames:
        """Frames of one chain, with its bonds, and labels ``mean_force`` and ``mean_energy``.

        Parameters
        ----------
        kinds
            Kinds A, B, C along the chain, such as ``"ABBA"``.
        temperature
            (n,), K.
        rng
            numpy Generator or seed, for configurations and noise.
        noise
            Standard deviations of normal noise by label, added and stated; None: exact labels, none stated.
        """
        t = real_array(temperature, "temperature", "K")
        rng = random_numbers(rng, "rng")
        x = torch.tensor(self.configurations(kinds, t, rng), requires_grad=True)
        at = torch.tensor(t, requires_grad=True)
        a = self.free_energy(x, kinds, at)
        gradient, slope = torch.autograd.grad(a.sum(), (x, at))
        labels = {"mean_force": -gradient.numpy(), "mean_energy": (a - at * slope).detach().numpy()}
        for key, std in (noise or {}).items():
            labels[key] = labels[key] + std * rng.normal(size=labels[key].shape)
        bonds = [(i, i + 1) for i in range(len(kinds) - 1)]
        return Frames.from_arrays(
            x.detach().numpy(), temperature=t, labels=labels, noise=noise, kinds=tuple(kinds), bonds=bonds
        )

    @staticmethod
    def _numbers(kinds: Sequence[str]) -> list[int]:
        require(
            len(kinds) >= 2 and all(kind in ("A", "B", "C") for kind in kinds),
            f"kinds {tuple(kinds)}: chains have two or more beads of the kinds A, B and C",
        )
        return ["ABC".index(kind) for kind in kinds]


def _rotated(v: np.ndarray, axis: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Vectors turned about unit axes (Rodrigues' formula); all (n, 3), angles (n,)."""
    c, s = np.cos(angle)[:, None], np.sin(angle)[:, None]
    return v * c + np.cross(axis, v) * s + axis * (axis * v).sum(1, keepdims=True) * (1.0 - c)
