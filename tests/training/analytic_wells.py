"""Systems of one bead with known partition functions: polynomials of x and y in harmonic confinement."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import minimize

from kernelfe import Frames
from kernelfe.protocol import LinearBase
from kernelfe.units import BOLTZMANN

T = 300.0
KT = BOLTZMANN * T


class Well(LinearBase):
    """A = Σ w_a f_a(x, y) + ½ k y² (in one dimension) + ½ k z², one bead.

    Parameters
    ----------
    functions
        (x, y) → list of feature tensors.
    dimension
        1 or 2.
    """

    confinement = 0.05

    def __init__(self, functions, dimension, mean, lower):
        super().__init__(torch.as_tensor(mean, dtype=torch.float64), lower)
        self.functions, self.dimension = functions, dimension

    def features(self, positions, temperature):
        return torch.stack(self.functions(positions[:, 0, 0], positions[:, 0, 1]), 1)

    def baseline_energy(self, positions, temperature):
        return 0.5 * self.confinement * positions[:, 0, self.dimension :].square().sum(1)


def harmonic(x, y):
    """One spring."""
    return [0.5 * x**2]


def double_well(x, y):
    """Tilt, barrier and walls."""
    return [x, x**2, x**4]


def coupled(x, y):
    """A double well in x that a harmonic y follows."""
    return [x**2, x**4, x * y, 0.5 * y**2]


class Grid:
    """Averages over the variables of a well on a grid."""

    def __init__(self, well, edge=4.0, points=401):
        axis = torch.linspace(-edge, edge, points, dtype=torch.float64)
        x, y = torch.meshgrid(axis, axis, indexing="ij") if well.dimension == 2 else (axis, torch.zeros_like(axis))
        self.places = torch.zeros(x.numel(), 1, 3, dtype=torch.float64)
        self.places[:, 0, 0], self.places[:, 0, 1] = x.flatten(), y.flatten()
        self.features, self.well = well.features(self.places, T), well

    def log_density(self, w):
        return torch.log_softmax(-(self.features @ w) / KT, 0)

    def moments(self, w):
        """⟨f⟩ and Cov(f, f)."""
        p = self.log_density(w).exp()
        mean = p @ self.features
        off = self.features - mean
        return mean, (off * p[:, None]).T @ off

    def objective(self, w, mean):
        """w·f̄/kT + ln Z per frame."""
        return w @ mean / KT + torch.logsumexp(-(self.features @ w) / KT, 0)

    def best(self, mean, prior, lower, frames):
        """Weights of the smallest objective per frame with the prior N(prior, lower⁻²), and its value there."""
        prior = torch.as_tensor(prior, dtype=torch.float64)

        def value(w):
            w = torch.from_numpy(w).requires_grad_()
            j = self.objective(w, mean) + 0.5 * lower**2 * (w - prior).square().sum() / frames
            (slope,) = torch.autograd.grad(j, w)
            return float(j.detach()), slope.numpy()

        found = minimize(value, prior.numpy(), jac=True, method="BFGS", options={"gtol": 1e-9})
        return torch.from_numpy(found.x), float(found.fun)

    def frames(self, w, count, seed=0):
        """Independent frames of the well with these weights."""
        rng = np.random.default_rng(seed)
        which = rng.choice(len(self.places), count, p=self.log_density(w).exp().numpy())
        x = self.places[which].numpy().copy()
        x[:, :, self.well.dimension :] = rng.normal(size=(count, 1, 3 - self.well.dimension)) * np.sqrt(
            KT / self.well.confinement
        )
        return Frames.from_arrays(x, temperature=T)


__all__ = ["KT", "Grid", "T", "Well", "coupled", "double_well", "harmonic"]
