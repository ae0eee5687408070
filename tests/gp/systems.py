"""Small systems that the tests of models share."""

from __future__ import annotations

import numpy as np
import torch

from kernelfe import Frames, ParameterExpansion, Term
from kernelfe.datasets import EliminatedMode
from kernelfe.descriptors import Distances, PairDistances
from kernelfe.kernels import (
    RBF,
    Matern52,
    ParameterKernel,
    SecondOrder,
    StationaryFreeEnergy,
    StationaryHeatCapacity,
    TemperatureKernel,
)

T0 = 400.0
THERMAL = SecondOrder(T0, energy=0.05, entropy=2e-4, heat_capacity=1e-4)


def beads(n, rng, scale=0.15):
    """Configurations of four beads in a bent chain."""
    chain = np.array([[0.0, 0.0, 0.0], [1.4, 0.1, 0.0], [2.0, 1.4, 0.2], [3.3, 1.7, 1.1]])
    return chain + scale * rng.normal(size=(n, 4, 3))


def exact(x, t):
    """A smooth A(R; T) = u − T s + c τ of the six distances, with ⟨U⟩ and forces, by autograd."""
    x, t = torch.tensor(x, requires_grad=True), torch.tensor(t)
    i, j = np.triu_indices(4, 1)
    d = (x[:, i] - x[:, j]).norm(dim=-1)
    phase = d @ torch.linspace(0.3, 1.2, 6, dtype=torch.float64)
    u, s, c = 0.05 * torch.sin(phase), 1e-4 * torch.cos(1.3 * phase), 5e-5 * torch.cos(0.7 * phase)
    tau = t - T0 - t * torch.log(t / T0)
    a = u - t * s + c * tau
    (gradient,) = torch.autograd.grad(a.sum(), x)
    energy = u + c * (t - T0)
    return a.detach().numpy(), -gradient.numpy(), energy.detach().numpy()


def molecule(n=12, seed=0, noise=True, temperatures=(300.0, 400.0, 500.0), **more):
    """Frames of four beads with forces and energies of :func:`exact`."""
    rng = np.random.default_rng(seed)
    x, t = beads(n, rng), np.resize(np.asarray(temperatures), n)
    _, force, energy = exact(x, t)
    labels = {
        "mean_force": force + 0.01 * rng.normal(size=force.shape),
        "mean_energy": 2.0 + energy + 0.01 * rng.normal(size=n),
    }
    stated = {"noise": {"mean_force": 0.01, "mean_energy": 0.01}} if noise else {}
    return Frames.from_arrays(x, temperature=t, labels=labels, kinds=("A", "B", "B", "A"), **stated, **more)


def one_term(kernel=None):
    return Term(Distances(), kernel or RBF(lengthscale=1.5), THERMAL)


def two_terms():
    """A molecular term and a pair term: one environment per frame, and several."""
    return [
        ("molecule", one_term()),
        ("pairs", Term(PairDistances(cutoff=6.0), Matern52(lengthscale=1.2), THERMAL)),
    ]


def variables(n=14, seed=0, labels=("mean_force", "mean_energy"), parameter=None, temperatures=(300.0, 450.0)):
    """Frames of the eliminated-mode model in two variables, with its parameter λ."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1.2, 1.2, (n, 2))
    lam = rng.uniform(0.5, 1.5, n) if parameter is None else parameter
    frames = EliminatedMode().frames(x, np.resize(np.asarray(temperatures), n), labels, lam)
    return frames.replace(noise=dict.fromkeys(labels, 0.005))


LAMBDA = ParameterExpansion("lambda", reference=1.0, scale=1.0, order=2)

BY_LAMBDA = ParameterKernel("lambda", lengthscale=1.0, range=(0.0, 2.0), tolerance=1e-3)
IN_TEMPERATURE = TemperatureKernel(150.0, (280.0, 520.0), tolerance=1e-3)


def stationary_terms():
    """Two terms on four beads: a heat capacity that changes with ln T, and a free energy stationary in T."""
    heat = StationaryHeatCapacity(TemperatureKernel(0.4, (280.0, 520.0), "lnT", tolerance=1e-3), T0, 0.05, 2e-4, 1e-4)
    return [
        ("molecule", Term(Distances(), RBF(lengthscale=1.5), heat)),
        (
            "pairs",
            Term(PairDistances(cutoff=6.0), Matern52(lengthscale=1.2), StationaryFreeEnergy(IN_TEMPERATURE, 0.02)),
        ),
    ]


def stationary_in_both():
    """One term in two variables with stationary kernels on T and on λ."""
    thermal = StationaryHeatCapacity(IN_TEMPERATURE, T0, 0.05, 2e-4, 1e-4)
    return Term(None, RBF(lengthscale=(1.0, 1.2)), thermal, (BY_LAMBDA,))
