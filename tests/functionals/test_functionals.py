"""Functionals as linear operators on A(R; T, λ): the design's table, closure, keys, errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernelfe.datasets import EliminatedMode
from kernelfe.errors import DataError
from kernelfe.functionals import (
    OBSERVABLES,
    EnergyVariance,
    Entropy,
    FreeEnergy,
    Functional,
    HeatCapacity,
    MeanEnergy,
    MeanForce,
    ParameterDerivative,
    Read,
    Spatial,
    Stress,
    get,
)
from kernelfe.testing import apply_functional
from kernelfe.units import BOLTZMANN

MODEL = EliminatedMode(dimension=3, quartic=1.0, shift=0.3)
EXACT = 1e-8  # relative to the norm of the operator's output


def state(n=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    r = 2.4 * torch.rand(n, 1, 3, generator=g, dtype=torch.float64) - 1.2
    t = 250 + 400 * torch.rand(n, generator=g, dtype=torch.float64)
    lam = 0.5 + torch.rand(n, generator=g, dtype=torch.float64)
    fields = torch.randn(n, 2, 1, 3, generator=g, dtype=torch.float64)
    cell = 3.0 * torch.eye(3, dtype=torch.float64) + 0.4 * torch.rand(n, 3, 3, generator=g, dtype=torch.float64)
    return r, t, {"lambda": lam}, fields, cell


def analytic(r, t, lam, cell):
    """A of one bead; a cell enters through scaled coordinates, so that the strain derivative is not trivial."""
    x = r[:, 0]
    out = MODEL.free_energy(x, t, lam["lambda"])
    if cell is not None:
        out = out + 1e-3 * torch.linalg.det(cell) * torch.cos((x * cell[:, 0]).sum(1) / 4) * (1 + t / 300)
    return out


def read(key, r, t, lam, fields, cell=None):
    return apply_functional(get(key), analytic, r, t, lam, fields=fields, cell=cell)


def by_hand(key, r, t, lam, fields, cell):
    """The table, row by row, written out with autograd: no Read, no Spatial."""
    r, t, la = (q.clone().requires_grad_() for q in (r, t, lam["lambda"]))

    def d(value, by):
        return torch.autograd.grad(value.sum(), by, create_graph=True)[0]

    a = analytic(r, t, {"lambda": la}, None)
    if key == "stress":
        eps = torch.zeros(len(r), 3, 3, dtype=torch.float64, requires_grad=True)
        f = torch.eye(3, dtype=torch.float64) + 0.5 * (eps + eps.mT)
        g = d(analytic(r @ f, t, {"lambda": la}, cell @ f), eps) / torch.linalg.det(cell)[:, None, None]
        return torch.stack([g[:, i, j] for i, j in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))], 1)
    if key == "excess_pressure":  # −dA/dV as all lengths grow alike
        size = torch.ones(len(r), dtype=torch.float64, requires_grad=True)
        scale = size[:, None, None]
        return -d(analytic(r * scale, t, {"lambda": la}, cell * scale), size) / (3.0 * torch.linalg.det(cell))
    at, al = d(a, t), d(a, la)
    att = d(at, t)
    table = {
        "free_energy": lambda: a,
        "mean_force": lambda: -d(a, r),
        "generalized_force": lambda: -(fields * d(a, r)[:, None]).sum((2, 3)),
        "mean_energy": lambda: a - t * at,
        "entropy": lambda: -at,
        "heat_capacity": lambda: -t * att,
        "energy_variance": lambda: -BOLTZMANN * t**3 * att,
        "thermal_response_force": lambda: -d(at, r),
        "generalized_thermal_response": lambda: -(fields * d(at, r)[:, None]).sum((2, 3)),
        "second_thermal_response_force": lambda: -d(att, r),
        "parameter_derivative": lambda: al,
        "parameter_response_force": lambda: -d(al, r),
    }
    return table[key]()


def close(found, expected, tolerance=EXACT):
    assert found.shape == expected.shape
    assert float(expected.norm()) > 0
    assert float((found - expected).norm()) <= tolerance * float(expected.norm())


@pytest.mark.parametrize("key", OBSERVABLES)
def test_row_of_the_table_is_its_formula(key):
    r, t, lam, fields, cell = state()
    box = cell if get(key).spatial.needs_cell else None
    found = read(key, r, t, lam, fields, box)
    assert found.shape == (6, *get(key).shape((1, 3), 2))
    close(found, by_hand(key, r, t, lam, fields, cell).detach())


@pytest.mark.parametrize(
    "key", [k for k in OBSERVABLES if not (get(k).spatial.needs_cell or k.startswith("generalized"))]
)
def test_row_of_the_table_is_what_all_atom_statistics_give(key):
    r, t, lam, fields, _ = state(seed=1)
    expected = MODEL.statistics(r[:, 0], t, lam["lambda"])[key]
    close(read(key, r, t, lam, fields).reshape(expected.shape), expected)


def test_generalized_force_is_what_all_atom_statistics_give():
    r, t, lam, fields, _ = state(seed=2)
    expected = MODEL.generalized_force(r[:, 0], fields[:, :, 0], t, lam["lambda"], swirl=0.4)
    close(read("generalized_force", r, t, lam, fields), expected)


def test_generalized_response_is_the_derivative_of_what_all_atom_statistics_give():
    r, t, lam, fields, _ = state(seed=2)
    q = [MODEL.generalized_force(r[:, 0], fields[:, :, 0], t + d, lam["lambda"], swirl=0.4) for d in (-0.1, 0.1)]
    close(read("generalized_thermal_response", r, t, lam, fields), (q[1] - q[0]) / 0.2, tolerance=1e-6)


@given(st.floats(-3, 3), st.floats(-3, 3), st.sampled_from(["free_energy", "mean_energy"]))
def test_sums_and_multiples_are_functionals(a, b, other):
    r, t, lam, fields, _ = state(n=3)
    combined = a * MeanEnergy() - b * get(other)
    found = apply_functional(combined, analytic, r, t, lam)
    expected = a * read("mean_energy", r, t, lam, fields) - b * read(other, r, t, lam, fields)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert combined.unit == "eV" and combined.shape((4, 3)) == ()


def test_identities_between_rows():
    r, t, lam, fields, _ = state()
    difference = apply_functional(MeanEnergy() - FreeEnergy(), analytic, r, t, lam)
    entropy = apply_functional(Entropy().times_temperature(unit="eV"), analytic, r, t, lam)
    close(difference, entropy, 1e-10)
    capacity = HeatCapacity().times_temperature(2) * BOLTZMANN
    close(apply_functional(capacity, analytic, r, t, lam), read("energy_variance", r, t, lam, fields), 1e-12)
    assert Entropy().times_temperature(unit="eV").unit == "eV"
    assert (FreeEnergy() - MeanEnergy() + Entropy().times_temperature(unit="eV")).spatial is Spatial.VALUE
    close(apply_functional(-MeanForce(), analytic, r, t, lam), -read("mean_force", r, t, lam, fields), 1e-15)


def test_numpy_numbers_scale_and_other_things_do_not():
    assert (np.int64(2) * FreeEnergy()).reads == (2 * FreeEnergy()).reads
    assert (FreeEnergy() * np.float32(0.5)).reads == (0.5 * FreeEnergy()).reads
    with pytest.raises(TypeError):
        FreeEnergy() * "2"
    with pytest.raises(TypeError):
        FreeEnergy() + 1.0


def test_functionals_of_different_shape_or_unit_do_not_add():
    with pytest.raises(DataError, match="units differ"):
        FreeEnergy() + Entropy()
    with pytest.raises(DataError, match="units differ"):
        MeanForce() + Stress()
    with pytest.raises(DataError, match="different shape"):
        FreeEnergy() + Functional("x", "eV", (Read(Spatial.GRADIENT),))
    with pytest.raises(DataError, match="empty"):
        Functional("empty", "eV", ())


def test_keys():
    for key, cls in OBSERVABLES.items():
        assert get(key) == cls() and get(key).key == key
    assert get("parameter_derivative:charge") == ParameterDerivative("charge")
    assert get("parameter_derivative:a:b").reads[0].parameter == "a:b"
    assert get("parameter_response_force:x").key == "parameter_response_force:x"
    own = EnergyVariance() - EnergyVariance()
    assert get(own) is own
    for wrong in ("forces", "mean_force:x", "mean_force:", "parameter_derivative:", "", None, 3):
        with pytest.raises(DataError, match=r"unknown quantity.*free_energy"):
            get(wrong)


def test_shapes():
    assert [get(k).shape((6, 3), 2) for k in ("entropy", "mean_force", "generalized_force", "stress")] == [
        (), (6, 3), (2,), (6,)
    ]  # fmt: skip
    assert get("mean_force").shape((4,)) == (4,)
    with pytest.raises(DataError, match="displacements="):
        get("generalized_force").shape((6, 3))


def test_parameters_are_found_by_name():
    r, t, lam, fields, _ = state()
    named = apply_functional(ParameterDerivative("lambda"), analytic, r, t, lam)
    torch.testing.assert_close(named, read("parameter_derivative", r, t, lam, fields), rtol=0, atol=0)
    with pytest.raises(AssertionError, match="'other'"):
        apply_functional(ParameterDerivative("other"), analytic, r, t, lam)
