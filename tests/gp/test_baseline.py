"""Boltzmann inversion: recovered constants, derivatives, walls, few and rigid frames, round trips."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

from kernelfe.errors import DataError, ModelFileError
from kernelfe.gp.baseline import BoltzmannInversion, FittedBaseline
from kernelfe.units import BOLTZMANN

BONDS = ((0, 1), (1, 2), (2, 3), (2, 4), (4, 5))
SKEWED = torch.tensor([[9.0, 0.0, 0.0], [1.5, 8.5, 0.0], [-1.0, 0.8, 9.5]], dtype=torch.float64)


def draw(rng, k, x0, kt, volume, grid):
    """One sample of x per entry of kt from exp(−k (x − x0)²/2kT) volume(x), by inversion on a grid."""
    out = np.empty(len(kt))
    for value in np.unique(kt):
        rows = np.flatnonzero(kt == value)
        density = np.exp(-0.5 * k * (grid - x0) ** 2 / value) * volume(grid)
        cumulative = np.cumsum(0.5 * (density[1:] + density[:-1]))
        out[rows] = np.interp(rng.uniform(0.0, cumulative[-1], len(rows)), np.r_[0.0, cumulative], grid)
    return out


def chain(rng, kt, bond=(20.0, 1.5), angle=(3.0, 1.9), improper=None):
    """Exact samples of beads 0–1–2(–3): harmonic bonds and angle, optionally a torsion placed on bead 3."""
    grid_r, grid_a, grid_t = (
        np.linspace(0.2, 4.0, 20001),
        np.linspace(0.0, np.pi, 20001),
        np.linspace(-np.pi, np.pi, 20001),
    )
    r1, r2 = (draw(rng, *bond, kt, lambda r: r**2, grid_r) for _ in range(2))
    theta = draw(rng, *angle, kt, np.sin, grid_a)
    x = np.zeros((len(kt), 3, 3))
    x[:, 0, 0] = r1
    x[:, 2] = np.stack((r2 * np.cos(theta), r2 * np.sin(theta), 0.0 * theta), 1)
    if improper is None:
        return x
    # centre 1 with neighbours 0, 2, 3: the torsion 1–0–2–3 is about the axis 0→2
    chi = draw(rng, *improper, kt, np.ones_like, grid_t)
    axis = x[:, 2] - x[:, 0]
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    back = x[:, 1] - x[:, 0]
    back -= (back * axis).sum(1, keepdims=True) * axis
    back /= np.linalg.norm(back, axis=1, keepdims=True)
    # seen along the axis, turning by chi from the direction of bead 1
    turned = np.cos(chi)[:, None] * back + np.sin(chi)[:, None] * np.cross(axis, back)
    return np.concatenate((x, (x[:, 2] + 0.3 * axis + 0.9 * turned)[:, None]), 1)


def molecules(seed: int, n: int, spread: float = 0.15) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shape = np.array(
        [[0.0, 0.0, 0.0], [1.3, 0.2, 0.0], [2.0, 1.5, 0.1], [1.4, 2.4, 1.2], [3.4, 1.6, -0.4], [4.1, 2.7, -0.9]]
    )
    return shape + spread * rng.standard_normal((n, 6, 3))


def fitted(**settings) -> FittedBaseline:
    return BoltzmannInversion(BONDS, **settings).fit(molecules(0, 400), np.full(400, 300.0))


def test_recovers_the_harmonics_of_two_temperatures():
    rng = np.random.default_rng(1)
    n = 40000
    temperature = np.repeat([300.0, 600.0], n // 2)
    kt = BOLTZMANN * temperature
    out = BoltzmannInversion(((0, 1), (1, 2))).fit(chain(rng, kt), temperature)
    for (k, x0), (k_true, x0_true) in zip(
        out.bond_parameters + out.angle_parameters, [(20.0, 1.5), (20.0, 1.5), (3.0, 1.9)], strict=True
    ):
        # standard errors of a normal sample; without the volume terms r₀ would be 12 of them off, θ₀ 8
        assert abs(k - k_true) < 4.0 * k_true * math.sqrt(2.0 / n)
        assert abs(x0 - x0_true) < 4.0 / math.sqrt((1.0 / kt).sum() * k_true)


def test_recovers_a_linear_angle():
    # θ₀ = π: the average angle is far from π, the volume term makes up for it
    rng = np.random.default_rng(2)
    kt = np.full(20000, BOLTZMANN * 300.0)
    out = BoltzmannInversion(((0, 1), (1, 2))).fit(chain(rng, kt, angle=(3.0, math.pi)), kt / BOLTZMANN)
    ((k, theta),) = out.angle_parameters
    assert abs(k - 3.0) < 0.3 and theta == pytest.approx(math.pi, abs=0.01)


@pytest.mark.parametrize("centre", [0.6, 3.0, -3.1])
def test_recovers_a_signed_improper(centre):
    # 3.0 and −3.1 are within thermal width of the wrap at π
    rng = np.random.default_rng(3)
    n = 20000
    kt = np.full(n, BOLTZMANN * 300.0)
    x = chain(rng, kt, improper=(2.0, centre)) if abs(centre) < 1 else None
    if x is None:
        x = chain(rng, kt, improper=(2.0, 0.0))
        # turn bead 3 by `centre` about the axis 0→2
        axis = x[:, 2] - x[:, 0]
        axis /= np.linalg.norm(axis, axis=1, keepdims=True)
        v = x[:, 3] - x[:, 2]
        along = (v * axis).sum(1, keepdims=True) * axis
        v = v - along
        x[:, 3] = x[:, 2] + along + math.cos(centre) * v + math.sin(centre) * np.cross(axis, v)
    out = BoltzmannInversion(((0, 1), (1, 2), (1, 3))).fit(x, 300.0)
    assert out.impropers == ((1, 0, 2, 3),)
    ((k, chi),) = out.improper_parameters
    assert abs(k - 2.0) < 4.0 * 2.0 * math.sqrt(2.0 / n)
    assert abs(math.remainder(chi - centre, 2.0 * math.pi)) < 4.0 * math.sqrt(kt[0] / 2.0 / n)
    # the energy does not jump across the wrap, and the mirror image is punished
    y = torch.as_tensor(x[:50]).requires_grad_()
    gradient = torch.autograd.grad(out.energy(y).sum(), y)[0]
    torch.testing.assert_close(out.energy_and_gradient(y.detach())[1], gradient, rtol=0.0, atol=1e-9)
    if centre == 0.6:
        mirror = torch.as_tensor(x * np.array([1.0, 1.0, -1.0]))
        assert (out.energy(mirror) - out.energy(torch.as_tensor(x))).mean() > 20.0 * kt[0]


def test_impropers_that_flip_get_no_harmonic():
    rng = np.random.default_rng(4)
    x = chain(rng, np.full(4000, BOLTZMANN * 300.0), improper=(2.0, 0.8))
    x[::2, :, 2] *= -1.0
    assert BoltzmannInversion(((0, 1), (1, 2), (1, 3))).fit(x, 300.0).impropers == ()


@given(seed=st.integers(0, 2**31), periodic=st.booleans())
@settings(max_examples=25, deadline=None)
def test_gradient_is_the_derivative_of_the_energy(seed, periodic):
    baseline, cell = fitted(), SKEWED if periodic else None
    x = torch.as_tensor(molecules(seed, 5, spread=0.5)).requires_grad_()
    energy, gradient = baseline.energy_and_gradient(x, cell)
    (reference,) = torch.autograd.grad(energy.sum(), x)
    scale = 1.0 + reference.abs().max()
    torch.testing.assert_close(gradient / scale, reference / scale, rtol=0.0, atol=1e-9)
    torch.testing.assert_close(baseline.energy(x, cell), energy, rtol=0.0, atol=0.0)


def test_gradient_matches_finite_differences():
    baseline, x, step = fitted(), torch.as_tensor(molecules(7, 1, spread=0.3)), 1e-5
    gradient = baseline.energy_and_gradient(x)[1].reshape(-1)
    for column in range(18):
        shift = torch.zeros(18, dtype=torch.float64)
        shift[column] = step
        shift = shift.reshape(1, 6, 3)
        difference = (baseline.energy(x + shift) - baseline.energy(x - shift)).item() / (2 * step)
        assert gradient[column].item() == pytest.approx(difference, rel=1e-6, abs=1e-7)


def test_strain_derivative_matches_finite_differences():
    baseline, x, step = fitted(), torch.as_tensor(molecules(8, 3)), 1e-5
    strain = baseline.strain_derivative(x, SKEWED)
    assert strain.shape == (3, 6) and strain.abs().max() > 0.1
    for component, (a, b) in enumerate(((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))):
        deform = torch.zeros(3, 3, dtype=torch.float64)
        deform[a, b] += 0.5 * step
        deform[b, a] += 0.5 * step
        up, down = torch.eye(3).double() + deform, torch.eye(3).double() - deform
        difference = (baseline.energy(x @ up, SKEWED @ up) - baseline.energy(x @ down, SKEWED @ down)) / (2 * step)
        torch.testing.assert_close(strain[:, component], difference, rtol=1e-6, atol=1e-6)


def test_molecules_broken_by_the_cell_are_the_same():
    baseline, x = fitted(), torch.as_tensor(molecules(9, 4))
    shifts = torch.randint(-2, 3, (4, 6, 3), generator=torch.Generator().manual_seed(0)).double() @ SKEWED
    whole, broken = baseline.energy_and_gradient(x), baseline.energy_and_gradient(x + shifts, SKEWED)
    torch.testing.assert_close(broken[0], whole[0], rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(broken[1], whole[1], rtol=1e-9, atol=1e-9)
    refitted = BoltzmannInversion(BONDS).fit((x + shifts).numpy(), 300.0, SKEWED.numpy())
    reference = BoltzmannInversion(BONDS).fit(x.numpy(), 300.0)
    np.testing.assert_allclose(refitted.bond_parameters, reference.bond_parameters, rtol=1e-9)


def test_walls_are_low_inside_the_data_and_high_outside():
    baseline = fitted()
    assert baseline.walls == ((0, 3), (0, 4), (0, 5), (1, 5), (3, 5))
    assert baseline.wall_energy == pytest.approx(BoltzmannInversion().wall_energy * BOLTZMANN * 300.0)
    x, kt = molecules(0, 400), BOLTZMANN * 300.0
    only_walls = FittedBaseline(
        6, walls=baseline.walls, wall_radii=baseline.wall_radii, wall_energy=baseline.wall_energy
    )
    energy = only_walls.energy(torch.as_tensor(x))
    assert energy.max() < 0.2 * kt and energy.mean() < 0.06 * kt  # five walls, each at most 0.1 kT
    contact = torch.as_tensor(x[:1]).clone()
    contact[0, 5] = contact[0, 3] + torch.tensor([0.6, 0.0, 0.0])
    assert only_walls.energy(contact).item() > 50.0 * kt
    assert fitted(excluded_volume=False).walls == ()


def test_a_wall_never_reaches_beyond_two_bonds():
    # far pairs of an extended chain were never close: this does not mean that they cannot be
    x = np.zeros((50, 6, 3))
    x[:, :, 0] = 1.5 * np.arange(6)
    x += 0.02 * np.random.default_rng(5).standard_normal(x.shape)
    out = BoltzmannInversion().fit(x, 300.0)
    assert out.bonds == tuple((i, i + 1) for i in range(5))
    assert max(out.wall_radii) == pytest.approx(3.0, abs=0.1)


def test_few_frames_give_moderate_constants_and_fewer_an_error():
    # three frames that happen to agree to 0.001 Å must not give the stiffest spring
    three = molecules(1, 1) + 1e-3 * np.random.default_rng(6).standard_normal((3, 6, 3))
    out = BoltzmannInversion(BONDS).fit(three, 300.0)
    kt = BOLTZMANN * 300.0
    for k, _ in out.bond_parameters:
        assert kt / k > 0.03**2
    with pytest.raises(DataError, match="give more frames"):
        BoltzmannInversion(BONDS).fit(three[:2], 300.0)


def test_rigid_bonds_get_the_stiffest_spring_allowed():
    rigid = np.repeat(molecules(1, 1), 1000, axis=0)
    out = BoltzmannInversion(BONDS, minimum_width=0.02).fit(rigid, 300.0)
    for k, _ in out.bond_parameters + out.angle_parameters + out.improper_parameters:
        assert k == pytest.approx(BOLTZMANN * 300.0 / 0.02**2, rel=0.05)


def test_dissociated_and_single_beads():
    beads = np.random.default_rng(7).uniform(0.0, 9.0, (20, 4, 3))
    free = BoltzmannInversion(bonds=()).fit(beads, 300.0)
    assert free.bonds == () and len(free.walls) == 6
    one = BoltzmannInversion().fit(beads[:, :1], 300.0)
    energy, gradient = one.energy_and_gradient(torch.as_tensor(beads[:, :1]))
    assert (energy == 0.0).all() and gradient.shape == (20, 1, 3) and (gradient == 0.0).all()
    assert one.strain_derivative(torch.as_tensor(beads[:, :1])).shape == (20, 6)


@pytest.mark.parametrize("x", [torch.zeros(1, 6, 3), torch.arange(6.0)[None, :, None] * torch.tensor([1.0, 0.0, 0.0])])
def test_degenerate_geometries_stay_finite(x):
    energy, gradient = fitted().energy_and_gradient(x.double())
    assert energy.isfinite().all() and gradient.isfinite().all()


def test_round_trips():
    baseline, x = fitted(), torch.as_tensor(molecules(2, 3))
    copy = FittedBaseline.from_dict(json.loads(json.dumps(baseline.to_dict())))
    assert copy == baseline and hash(copy) == hash(baseline)
    assert (copy.energy(x) == baseline.energy(x)).all()
    spec = BoltzmannInversion(BONDS, minimum_width=0.02)
    assert clone(spec) == spec and spec.get_params()["minimum_width"] == 0.02
    with pytest.raises(ModelFileError):
        FittedBaseline.from_dict({"class": "Other"})
    with pytest.raises(ModelFileError):
        FittedBaseline.from_dict({"beads": 3})


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: BoltzmannInversion(((1, 1),)), "different bead"),
        (lambda: BoltzmannInversion(minimum_width=0.0), "minimum_width=0.0 must be positive"),
        (lambda: BoltzmannInversion().fit(np.zeros((5, 18)), 300.0), "shape"),
        (lambda: BoltzmannInversion(BONDS).fit(molecules(0, 5), 0.0), "temperatures positive"),
        (lambda: BoltzmannInversion(BONDS).fit(molecules(0, 5) * np.nan, 300.0), "finite"),
        (lambda: BoltzmannInversion(((0, 9),)).fit(molecules(0, 5), 300.0), "names bead 9"),
        (lambda: BoltzmannInversion(BONDS).fit(1e-10 * molecules(0, 50), 300.0), r"bond \(0, 1\).*units="),
        (lambda: BoltzmannInversion().fit(1e-10 * molecules(0, 50), 300.0), "units="),
        (lambda: fitted().energy(torch.zeros(2, 5, 3).double()), "6 beads"),
    ],
)
def test_errors_name_the_culprit(call, words):
    with pytest.raises(DataError, match=words):
        call()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beads": None}, "beads"),
        ({"beads": -1}, "beads"),
        ({"bonds": None}, "bonds"),
        ({"bonds": ((0, 1),)}, "bond_parameters"),
        ({"bonds": ((0, 3),), "bond_parameters": ((1.0, 1.0),)}, "beyond"),
        ({"bonds": ((0, 1),), "bond_parameters": ((1.0, math.nan),)}, "finite"),
        ({"bonds": ((0, 1),), "bond_parameters": (("a", "b"),)}, "bond_parameters"),
        ({"bonds": ((0, 1),), "bond_parameters": ((1.0,),)}, "bond_parameters"),
        ({"angles": ((0, 1, 1),), "angle_parameters": ((1.0, 1.0),)}, "angles"),
        ({"impropers": 3}, "impropers"),
        ({"walls": ((0, 2),)}, "wall_radii"),
        ({"walls": ((0, 2),), "wall_radii": (-1.0,)}, "positive"),
        ({"wall_energy": -1.0}, "wall_energy"),
        ({"wall_energy": math.nan}, "wall_energy"),
    ],
    ids=str,
)
def test_numbers_of_a_baseline_that_do_not_fit(changes, message):
    with pytest.raises(DataError, match=message):
        FittedBaseline(**({"beads": 3} | changes))


def test_lists_of_a_baseline_become_tuples():
    lists = FittedBaseline(3, bonds=[[0, 1]], bond_parameters=[[2, 1.5]], walls=[[0, 2]], wall_radii=[3])
    tuples = FittedBaseline(3, ((0, 1),), ((2.0, 1.5),), walls=((0, 2),), wall_radii=(3.0,))
    assert lists == tuples and hash(lists) == hash(tuples)
