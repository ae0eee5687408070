"""The analytic model: every row of the design's table, autodiff of A against conditional statistics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kernelfe.datasets import EliminatedMode
from kernelfe.errors import DataError
from kernelfe.functionals import Spatial, get
from kernelfe.units import BOLTZMANN

MODEL = EliminatedMode()
GAUSSIAN = EliminatedMode(quartic=0.0)
DISPERSED = EliminatedMode(dimension=3, quartic=1.0, shift=0.3)


def _state(dimension=2, n=7, seed=0):
    g = torch.Generator().manual_seed(seed)
    r = 2.4 * torch.rand(n, dimension, generator=g, dtype=torch.float64) - 1.2
    t = 250 + 400 * torch.rand(n, generator=g, dtype=torch.float64)
    lam = 0.5 + torch.rand(n, generator=g, dtype=torch.float64)
    return r, t, lam


def _grad(value, by):
    return torch.autograd.grad(value.sum(), by, create_graph=True)[0]


def _apply(functional, model, r, t, lam, fields=None):
    """A functional of the exact free energy by nested autodiff: the definition, independent of any kernel."""
    r, t, lam = (q.clone().requires_grad_() for q in (r, t, lam))
    total = 0.0
    for read in functional.reads:
        value = model.free_energy(r, t, lam)
        if read.parameter is not None:
            value = _grad(value, lam)
        thermal = 0.0
        for c, p, order in read.thermal:
            term = value
            for _ in range(order):
                term = _grad(term, t)
            thermal = thermal + c * t**p * term
        if read.spatial is Spatial.VALUE:
            total = total + thermal
        elif read.spatial is Spatial.GRADIENT:
            total = total + _grad(thermal, r)
        else:
            total = total + torch.einsum("nkd,nd->nk", fields, _grad(thermal, r))
    return total.detach()


@pytest.mark.parametrize("model", [MODEL, GAUSSIAN, DISPERSED])
@pytest.mark.parametrize(
    "key",
    [
        "free_energy",
        "mean_force",
        "mean_energy",
        "entropy",
        "heat_capacity",
        "energy_variance",
        "thermal_response_force",
        "second_thermal_response_force",
        "parameter_derivative",
        "parameter_response_force",
    ],
)
def test_row_of_the_table(model, key):
    r, t, lam = _state(model.dimension)
    from_free_energy = _apply(get(key), model, r, t, lam)
    from_all_atom_data = model.statistics(r, t, lam)[key]
    assert from_all_atom_data.shape == from_free_energy.shape == (len(r), *get(key).shape((model.dimension,)))
    assert from_free_energy.abs().max() > 0
    torch.testing.assert_close(from_all_atom_data, from_free_energy, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("swirl", [0.0, 0.5, -3.0])
def test_generalized_force_and_its_zero_mean_variates(swirl):
    """Any motion of the eliminated coordinate may be added; fields with div_R t ≠ 0 add nothing at fixed R."""
    r, t, lam = _state()
    rotation = torch.stack([-r[:, 1], r[:, 0]], dim=1)
    fields = torch.stack([rotation, r, torch.ones_like(r)], dim=1)  # div_R t = 0, 2, 0
    ours = MODEL.generalized_force(r, fields, t, lam, swirl=swirl)
    torch.testing.assert_close(ours, _apply(get("generalized_force"), MODEL, r, t, lam, fields), rtol=1e-8, atol=1e-11)


def test_higher_cumulants():
    """∂ⁿ(bA)/∂bⁿ = (−1)ⁿ⁺¹ κₙ(U), ∂ⁿ⟨f⟩/∂bⁿ = (−1)ⁿ κ(f, Uⁿ), ∂²A/∂λ² = ⟨∂²U/∂λ²⟩ − b Var(∂U/∂λ)."""
    r, t, lam = _state()
    exact = MODEL.statistics(r, t, lam)
    r, lam = r.requires_grad_(), lam.requires_grad_()
    b = (1 / (BOLTZMANN * t)).requires_grad_()
    action = b * MODEL.free_energy(r, 1 / (BOLTZMANN * b), lam)
    derivative = action
    for order, key in ((1, "mean_energy"), (2, "energy_variance"), (3, "energy_cumulant")):
        derivative = _grad(derivative, b)
        torch.testing.assert_close((-1.0) ** (order + 1) * derivative.detach(), exact[key], rtol=1e-8, atol=1e-12)
    free_energy = MODEL.free_energy(r, 1 / (BOLTZMANN * b), lam)
    force = -_grad(free_energy, r)
    for row, key, sign in ((0, "force_energy_covariance", -1), (1, "force_energy_cumulant", 1)):
        columns = []
        for i in range(2):
            value = force[:, i]
            for _ in range(row + 1):
                value = _grad(value, b)
            columns.append(sign * value)
        torch.testing.assert_close(torch.stack(columns, 1).detach(), exact[key], rtol=1e-8, atol=1e-12)
    curvature = _grad(_grad(free_energy, lam), lam)
    torch.testing.assert_close(curvature.detach(), exact["parameter_curvature"], rtol=1e-8, atol=1e-12)


def test_closed_form_of_the_gaussian_case():
    """Without the quartic term: a closed form, independent of the quadrature."""
    r, t, lam = _state()
    exact = GAUSSIAN.statistics(r, t, lam)
    k, m = GAUSSIAN.stiffness_at(r), GAUSSIAN.shift * torch.cos(r[:, 0] - 0.5 * r[:, 1])
    v = GAUSSIAN.energy(r, torch.zeros_like(t), lam)
    kt = BOLTZMANN * t
    minimum = v - lam**2 * m**2 / (2 * k)
    expected = {
        "free_energy": minimum - 0.5 * kt * torch.log(2 * math.pi * kt / k),
        "mean_energy": minimum + 0.5 * kt,
        "heat_capacity": torch.full_like(t, 0.5 * BOLTZMANN),
        "parameter_derivative": -lam * m**2 / k,
        "parameter_curvature": -(m**2) / k,
        "thermal_response_force": -0.5
        * BOLTZMANN
        * GAUSSIAN.stiffness_change
        * torch.stack([torch.ones_like(t), 0.5 * torch.cos(r[:, 1])], dim=1),
    }
    for key, value in expected.items():
        torch.testing.assert_close(exact[key], value, rtol=1e-9, atol=1e-13, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize("temperature", [100.0, 1500.0])
def test_quadrature_is_converged(temperature):
    r, _, lam = _state()
    for key, coarse in MODEL.statistics(r, temperature, lam).items():
        torch.testing.assert_close(coarse, MODEL.statistics(r, temperature, lam, nodes=900)[key], rtol=1e-9, atol=1e-13)


def test_free_energy_is_concave_in_temperature_and_not_trivial():
    r, t, lam = _state(n=40)
    exact = MODEL.statistics(r, t, lam)
    assert (exact["heat_capacity"] > 0).all()
    assert exact["heat_capacity"].std() / exact["heat_capacity"].mean() > 0.01
    assert exact["thermal_response_force"].norm() * 100 > 0.02 * exact["mean_force"].norm()


def test_samples_average_to_the_exact_statistics():
    n = 60_000
    r, _, _ = _state(n=1, seed=3)
    rng = np.random.default_rng(1)
    drawn = MODEL.sample(np.repeat(r.numpy(), n, axis=0), 400.0, 1.3, rng)
    exact = {k: v.numpy()[0] for k, v in MODEL.statistics(r, 400.0, 1.3).items()}
    for key in ("mean_force", "mean_energy", "parameter_derivative"):
        error = drawn[key].std(axis=0) / np.sqrt(n)
        assert np.all(np.abs(drawn[key].mean(axis=0) - exact[key]) < 4.5 * error), key
    f, u = drawn["mean_force"], drawn["mean_energy"]
    covariance = ((f - f.mean(0)) * (u - u.mean())[:, None]).mean(0)
    np.testing.assert_allclose(covariance, exact["force_energy_covariance"], rtol=0.1)
    np.testing.assert_allclose(np.cov(f.T), exact["force_covariance"], rtol=0.1, atol=1e-4)
    # noise covariance of f and U of one frame is kT² dF/dT
    np.testing.assert_allclose(covariance, BOLTZMANN * 400.0**2 * exact["thermal_response_force"], rtol=0.1)


def test_frames():
    rng = np.random.default_rng(0)
    r = rng.uniform(-1, 1, (5, 3))
    model = EliminatedMode(dimension=3)
    exact = model.frames(r, 350.0, ("mean_force", "mean_energy", "heat_capacity"), as_bead=True)
    assert exact.positions.shape == exact.labels["mean_force"].shape == (5, 1, 3)
    flat = model.frames(r, 350.0, ("mean_force", "parameter_derivative"), parameter=0.7)
    assert flat.variables.shape == (5, 3) and (flat.parameters["lambda"] == 0.7).all()
    single = [model.frames(r, 350.0, rng=np.random.default_rng(2)).labels["mean_force"] for _ in range(2)]
    np.testing.assert_array_equal(*single)
    assert np.abs(single[0] - flat.labels["mean_force"]).max() > 0
    with pytest.raises(DataError, match="heat_capacity"):
        model.frames(r, 350.0, ("heat_capacity",), rng=rng)
    with pytest.raises(DataError, match="as_bead"):
        MODEL.frames(r[:, :2], 350.0, as_bead=True)
    with pytest.raises(DataError, match="stiffness"):
        EliminatedMode(stiffness=-1.0)
