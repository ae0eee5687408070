"""Gauge facts: how much of A(R; T) each mix of labels leaves undetermined, counted and as posterior variances."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kernelfe import Frames, FreeEnergyRegressor
from kernelfe.functionals import get
from kernelfe.gp.prior.term import Term
from kernelfe.kernels import RBF, SecondOrder
from kernelfe.testing import apply_functional

T0 = 400.0
MANY, ONE = (300.0, 350.0, 450.0, 500.0), (400.0,)


def space(x):
    """Six features of two variables, the first constant: (n, 6)."""
    a, b = x[:, 0], x[:, 1]
    one = 1.0 + 0.0 * a
    return torch.stack([one, a, b, torch.sin(a + b), torch.cos(a - 2 * b), a * b], 1)


def state(t):
    """1, −T and τ(T) in units of T0: (n, 3)."""
    return torch.stack([1.0 + 0.0 * t, -t / T0, (t - T0 - t * torch.log(t / T0)) / T0], 1)


SPACE, STATE = 6, 3


def linear_map(key, temperatures, centre=False):
    """Labels of a kind at 20 points at each temperature, as a matrix on the 18 coefficients of A = Σ w_ak ψ_a φ_k."""
    g = torch.Generator().manual_seed(0)
    x = torch.rand(20, 2, generator=g, dtype=torch.float64).repeat(len(temperatures), 1)
    t = torch.tensor(temperatures, dtype=torch.float64).repeat_interleave(20)
    columns = []
    for a in range(SPACE):
        for k in range(STATE):
            out = apply_functional(get(key), lambda r, tt, lam, cell, a=a, k=k: space(r)[:, a] * state(tt)[:, k], x, t)
            columns.append(out.reshape(-1).numpy())
    matrix = np.stack(columns, 1)
    if centre:  # known up to a constant, the energy zero of the force field
        matrix = matrix - matrix.mean(0)
    return matrix


def null_dimensions(*maps):
    singular = np.linalg.svd(np.concatenate([m / np.abs(m).max() for m in maps]), compute_uv=False)
    singular = np.concatenate([singular, np.zeros(SPACE * STATE - len(singular))])
    assert not ((singular > 1e-10) & (singular < 1e-6)).any(), "no clear rank"
    return int((singular <= 1e-10).sum())


def test_forces_leave_a_function_of_temperature():
    assert null_dimensions(linear_map("mean_force", MANY)) == STATE  # g(T): its three coefficients
    assert null_dimensions(linear_map("mean_force", ONE)) == STATE + 2 * (SPACE - 1)  # and all of S and C


def test_mean_energies_leave_t_times_any_function():
    assert null_dimensions(linear_map("mean_energy", MANY)) == SPACE  # T s(R)


def test_both_leave_a_multiple_of_t_and_the_zero_of_the_energy():
    force = linear_map("mean_force", MANY)
    assert null_dimensions(force, linear_map("mean_energy", MANY)) == 1  # a0 T
    assert null_dimensions(force, linear_map("mean_energy", MANY, centre=True)) == 2  # and e0, the convention
    assert null_dimensions(force, linear_map("free_energy", MANY)) == 0
    assert null_dimensions(force, linear_map("entropy", MANY)) == 1  # S fixes a0, but e0 stays


def test_energies_at_one_temperature_do_not_determine_the_free_energy_there():
    energy, free = linear_map("mean_energy", ONE), linear_map("free_energy", ONE)
    assert null_dimensions(energy) == (STATE - 1) * SPACE
    # none of the SPACE directions of A(·; T0) is fixed: adding them to the labels raises the rank by all of them
    assert null_dimensions(energy, free) == null_dimensions(energy) - SPACE


def fitted(keys, temperatures, n=40):
    """Labels with next to no noise, and broad priors on u and s."""
    rng = np.random.default_rng(1)
    x = np.repeat(rng.uniform(-1, 1, (n // len(temperatures), 2)), len(temperatures), 0)
    t = np.resize(np.asarray(temperatures), len(x))
    xt = torch.tensor(x)
    weights = 0.05 * np.random.default_rng(2).normal(size=(SPACE, STATE))

    def free_energy(r, tt, lam, cell):
        return torch.einsum("na,nk,ak->n", space(r), state(tt), torch.tensor(weights))

    labels = {k: apply_functional(get(k), free_energy, xt, torch.tensor(t)).numpy() for k in keys}
    frames = Frames.from_arrays(variables=x, temperature=t, labels=labels, noise=dict.fromkeys(keys, 1e-4))
    thermal = SecondOrder(T0, energy=1.0, entropy=1.0 / T0, heat_capacity=1.0 / T0)
    term = Term(kernel=RBF(lengthscale=1.5), thermal=thermal)
    return FreeEnergyRegressor(terms=term, solver="dense", optimizer=None, baseline=False).fit(frames)


def share(model, key, t1, t2=None, same_place=False):
    """Posterior over prior standard deviation of A(R2; T2) − A(R1; T1), or of another quantity's difference."""
    x = np.array([[0.1, -0.2], [0.1, -0.2] if same_place else [-0.4, 0.5]])
    t = np.array([t1, t1 if t2 is None else t2])
    frames = Frames.from_arrays(variables=x, temperature=t)
    step = np.array([-1.0, 1.0])
    rows = model.posterior_.prior.rows(get(key), model.model_.states(frames))
    with torch.no_grad():
        prior = step @ model.posterior_.prior.gram(rows, rows).numpy() @ step
    return float(np.sqrt(max(step @ model.covariance(frames, key) @ step, 0.0) / prior))


def test_the_posterior_knows_what_it_cannot_know():
    forces = fitted(["mean_force"], MANY)
    assert share(forces, "free_energy", 400.0) < 0.01  # differences in space are known at every temperature
    assert share(forces, "free_energy", 300.0, 500.0, same_place=True) > 0.3  # g(T) is not
    energies = fitted(["mean_energy"], MANY)
    assert share(energies, "mean_energy", 400.0) < 0.05
    assert share(energies, "free_energy", 400.0) > 0.3  # T s(R)
    single = fitted(["mean_energy"], ONE)
    assert share(single, "mean_energy", 400.0) < 0.05
    assert share(single, "free_energy", 400.0) > 0.3
    # ⟨U⟩ = A + T0 S: which of the two a change of ⟨U⟩ belongs to stays open, half of the variance of equal priors
    assert share(single, "entropy", 400.0) == pytest.approx(0.5**0.5, rel=0.05)
    both = fitted(["mean_force", "mean_energy"], MANY)
    assert share(both, "free_energy", 400.0) < 0.01 and share(both, "entropy", 400.0) < 0.02
