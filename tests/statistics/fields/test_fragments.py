from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelfe.datasets import EliminatedMode
from kernelfe.errors import DataError
from kernelfe.statistics import Field, TorsionField, generalized_forces, rotatable_bonds
from kernelfe.units import BOLTZMANN

# ACE–ALA–NME without hydrogens: CH3 C O N CA CB C O N CH3, beads C N CA CB C N
BONDS = ((0, 1), (1, 2), (1, 3), (3, 4), (4, 5), (4, 6), (6, 7), (6, 8), (8, 9))
BEADS = (1, 3, 4, 5, 6, 8)
PHI, PSI = (1, 3, 4, 6), (3, 4, 6, 8)


def dihedral(x, quad):
    """IUPAC dihedral of atoms `quad`, x (..., atoms, 3)."""
    a, b, c, d = (x[..., k, :] for k in quad)
    b1, b2, b3 = b - a, c - b, d - c
    n1, n2 = np.cross(b1, b2), np.cross(b2, b3)
    m = np.linalg.norm(b2, axis=-1) * (b1 * n2).sum(-1)
    return np.arctan2(m, (n1 * n2).sum(-1))


def angle(x, i, j, k):
    u, v = x[..., i, :] - x[..., j, :], x[..., k, :] - x[..., j, :]
    return np.arccos((u * v).sum(-1) / np.linalg.norm(u, axis=-1) / np.linalg.norm(v, axis=-1))


def rate(function, x, w, step=1e-5):
    return (function(x + step * w) - function(x - step * w)) / (2 * step)


def positions(seed, atoms=10, frames=3):
    return np.random.default_rng(seed).normal(scale=2.0, size=(frames, atoms, 3))


def test_dihedral_has_the_iupac_sign():
    trans_to_plus = np.array([[0.0, 1, 0], [0, 0, 0], [0, 0, 1], [np.cos(2.0), np.sin(2.0), 1]])
    # looking from b to c (along +z) the far bond is clockwise of the near one when it turns right-handedly
    assert dihedral(trans_to_plus, (0, 1, 2, 3)) == pytest.approx(2.0 - np.pi / 2)


def test_rotating_about_a_bond_turns_its_dihedral_only():
    x = positions(0)
    phi, psi = TorsionField(BONDS, 3, 4), TorsionField(BONDS, 4, 6)
    assert isinstance(phi, Field)
    for field, moves, rests in ((phi, PHI, PSI), (psi, PSI, PHI)):
        w = field.displacements(x)
        np.testing.assert_allclose(rate(lambda y, q=moves: dihedral(y, q), x, w), 1.0, atol=1e-7)
        np.testing.assert_allclose(rate(lambda y, q=rests: dihedral(y, q), x, w), 0.0, atol=1e-7)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(3, 12))
def test_bonds_angles_and_volumes_rest_in_random_trees(seed, atoms):
    rng = np.random.default_rng(seed)
    bonds = tuple((int(rng.integers(k)), k) for k in range(1, atoms))
    x = positions(seed, atoms, frames=2)
    i, j = bonds[rng.integers(len(bonds))]
    if rng.random() < 0.5:
        i, j = j, i
    field = TorsionField(bonds, i, j)
    w = field.displacements(x)
    for a, b in bonds:  # constrained or not: d|x_a − x_b|/ds = 0
        d = x[:, a] - x[:, b]
        np.testing.assert_allclose(((w[:, a] - w[:, b]) * d).sum(-1), 0.0, atol=1e-12)
    for (a, b), (c, d) in ((p, q) for p in bonds for q in bonds if p != q and set(p) & set(q)):
        (centre,) = {a, b} & {c, d}
        ends = ({a, b, c, d}) - {centre}
        np.testing.assert_allclose(rate(lambda y, e=ends, m=centre: angle(y, min(e), m, max(e)), x, w), 0.0, atol=1e-5)
    step, divergence = 1e-6, np.zeros(len(x))
    for a in range(atoms):
        for axis in range(3):
            e = np.zeros_like(x)
            e[:, a, axis] = step
            divergence += (field.displacements(x + e) - field.displacements(x - e))[:, a, axis] / (2 * step)
    np.testing.assert_allclose(divergence, field.divergence(x), atol=1e-8)


def test_either_side_gives_the_same_label_up_to_the_total_torque():
    """Turning j's side one way or i's side the other way differ by a rotation of the whole molecule."""
    x = positions(1)
    rng = np.random.default_rng(2)
    arbitrary = rng.normal(size=x.shape)
    pair = x[:, :, None] - x[:, None]
    coupling = rng.normal(size=(10, 10))
    internal = ((coupling + coupling.T)[None, :, :, None] * pair).sum(axis=2)  # central forces: no torque
    for bond in ((3, 4), (4, 6)):
        here, there = TorsionField(BONDS, *bond), TorsionField(BONDS, *bond[::-1])
        args = ([here, there], BEADS, 300.0)
        values, _ = generalized_forces(x, internal, *args)
        np.testing.assert_allclose(values[:, 0], values[:, 1], rtol=1e-10)
        values, _ = generalized_forces(x, arbitrary, *args)
        axis = x[:, bond[1]] - x[:, bond[0]]
        axis /= np.linalg.norm(axis, axis=-1, keepdims=True)
        torque = np.cross(x - x[:, bond[:1]], arbitrary).sum(axis=1)
        np.testing.assert_allclose(values[:, 0] - values[:, 1], (axis * torque).sum(-1), rtol=1e-10)


def test_displacements_are_those_of_the_bead_graph():
    """The bead motion is the same rotation read on the graph of the beads: it need not be stored."""
    x = positions(3)
    fields = [TorsionField(BONDS, *b) for b in rotatable_bonds(BONDS, BEADS)]
    values, t = generalized_forces(x, np.ones_like(x), fields, BEADS, np.full(3, 300.0))
    assert values.shape == (3, 2)
    assert t.shape == (3, 2, 6, 3)
    index = {atom: bead for bead, atom in enumerate(BEADS)}
    bead_bonds = [(index[a], index[b]) for a, b in BONDS if a in index and b in index]
    for k, field in enumerate(fields):
        on_beads = TorsionField(bead_bonds, index[field.i], index[field.j])
        np.testing.assert_allclose(on_beads.displacements(x[:, list(BEADS)]), t[:, k], atol=1e-14)


def test_rotatable_bonds_are_phi_and_psi():
    assert rotatable_bonds(BONDS, BEADS) == ((3, 4), (4, 6))
    assert rotatable_bonds(BONDS, range(10)) == ((1, 3), (3, 4), (4, 6), (6, 8))
    ring = ((0, 1), (1, 2), (2, 3), (3, 0), (2, 4), (4, 5))
    assert rotatable_bonds(ring, range(6)) == ((2, 4),)


def test_unusable_input_is_refused():
    x = positions(4)
    with pytest.raises(DataError):  # the message is topology's: the bond lies in a ring
        TorsionField(((0, 1), (1, 2), (2, 0)), 0, 1)
    methyl = TorsionField(BONDS, 0, 1)
    with pytest.raises(DataError, match="atom 0 of its axis is not a bead"):
        generalized_forces(x, x, [methyl], BEADS, 300.0)
    with pytest.raises(DataError, match="temperature"):
        generalized_forces(x, x, [], BEADS, -1.0)
    with pytest.raises(DataError, match="forces of frame 1 are not finite"):
        generalized_forces(x, np.where(np.arange(3)[:, None, None] == 1, np.nan, x), [], BEADS, 300.0)
    with pytest.raises(DataError, match="coincide in frame 0"):
        TorsionField(BONDS, 3, 4).displacements(np.zeros((1, 10, 3)))
    with pytest.raises(DataError, match="do not fit"):
        TorsionField(BONDS, 3, 4).displacements(np.zeros((1, 5, 3)))


# --- an exactly solvable molecule: beads a–b–c–d, one eliminated atom e bound to c ---------------------------
TOY_BONDS, TOY_BEADS, T, SPRING = ((0, 1), (1, 2), (2, 3), (2, 4)), (0, 1, 2, 3), 400.0, 0.08


def toy_energy(x):
    """U in eV: e on a spring to c and repelled by the other beads, which repel each other; x (..., 5, 3)."""

    def soft(i, j, strength):
        return strength / (1.0 + ((x[..., i, :] - x[..., j, :]) ** 2).sum(-1))

    spring = 0.5 * SPRING * ((x[..., 4, :] - x[..., 2, :]) ** 2).sum(-1)
    return spring + soft(4, 0, 0.25) + soft(4, 3, 0.4) + soft(4, 1, 0.1) + soft(0, 3, 0.3)


def toy_forces(x):
    x = torch.tensor(x, requires_grad=True)
    return -torch.autograd.grad(toy_energy(x).sum(), x)[0].numpy()


def with_e(beads, e):
    return np.concatenate([np.broadcast_to(beads, (len(e), 4, 3)), e[:, None]], axis=1)


def quadrature(beads):
    """All-atom points and weights exp(−bU)·volume of e around c, by Gauss–Hermite rules."""
    nodes, weights = np.polynomial.hermite.hermgauss(24)
    width = np.sqrt(2 * BOLTZMANN * T / SPRING)
    grid = np.stack(np.meshgrid(nodes, nodes, nodes, indexing="ij"), -1).reshape(-1, 3)
    volume = np.einsum("i,j,k->ijk", weights, weights, weights).ravel() * np.exp((grid**2).sum(-1))
    x = with_e(beads, beads[2] + width * grid)
    return x, volume * np.exp(-toy_energy(x) / (BOLTZMANN * T))


class Swell:
    """e moves away from c: the beads rest, the divergence is 3."""

    def displacements(self, x):
        w = np.zeros_like(x)
        w[:, 4] = x[:, 4] - x[:, 2]
        return w

    def divergence(self, x):
        return np.full(len(x), 3.0)


class Slide:
    """d moves along the bond from c, and e follows. The all-atom divergence is 2/r + 3/2, of which 2/r is that of
    the motion t(R) of the beads themselves."""

    def displacements(self, x):
        w = np.zeros_like(x)
        bond = x[:, 3] - x[:, 2]
        w[:, 3] = bond / np.linalg.norm(bond, axis=-1, keepdims=True)
        w[:, 4] = w[:, 3] + 0.5 * (x[:, 4] - x[:, 2])
        return w

    def divergence(self, x):
        return self.bead_divergence(x) + 1.5

    def bead_divergence(self, x):
        return 2.0 / np.linalg.norm(x[:, 3] - x[:, 2], axis=-1)


TOY_FIELDS = [TorsionField(TOY_BONDS, 1, 2), Swell(), Slide()]


def toy_exact(beads):
    """−t·∇A for the fields by central differences of A(R) = −kT ln ∫ exp(−bU) de."""

    def a(r):
        return -BOLTZMANN * T * np.log(quadrature(r)[1].sum())

    _, t = generalized_forces(with_e(beads, np.zeros((1, 3))), np.zeros((1, 5, 3)), TOY_FIELDS, TOY_BEADS, T)
    return np.array([-rate(a, beads, shift, 1e-3) for shift in t[0]])


def toy_beads(seed):
    ideal = np.array([[1.2, 0.3, -0.4], [0.0, 0.0, 0.0], [0.0, 0.0, 1.5], [0.9, 1.0, 2.0]])
    return ideal + np.random.default_rng(seed).normal(scale=0.3, size=(4, 3))


@pytest.mark.parametrize("seed", range(3))
def test_mean_label_is_the_derivative_of_the_free_energy(seed):
    beads = toy_beads(seed)
    x, weight = quadrature(beads)
    values, _ = generalized_forces(x, toy_forces(x), TOY_FIELDS, TOY_BEADS, T)
    exact = toy_exact(beads)
    assert abs(exact[0]) > 1e-4  # the torque does not vanish by symmetry
    np.testing.assert_allclose(weight @ values / weight.sum(), exact, atol=2e-6)


def test_sampled_labels_have_unit_z_scores():
    rng, zs = np.random.default_rng(5), []
    for seed in range(25):
        beads = toy_beads(100 + seed)
        e = beads[2] + np.sqrt(BOLTZMANN * T / SPRING) * rng.normal(size=(6000, 3))
        x = with_e(beads, e)
        spring = 0.5 * SPRING * ((e - beads[2]) ** 2).sum(-1)
        bound = 0.3 / (1.0 + ((beads[0] - beads[3]) ** 2).sum())  # the rest of U is positive: exact rejection
        x = x[rng.random(len(x)) < np.exp(-(toy_energy(x) - spring - bound) / (BOLTZMANN * T))]
        values, _ = generalized_forces(x, toy_forces(x), TOY_FIELDS, TOY_BEADS, T)
        zs.append((values.mean(axis=0) - toy_exact(beads)) / (values.std(axis=0, ddof=1) / np.sqrt(len(x))))
    zs = np.array(zs)
    assert np.abs(zs).max() < 4.5
    np.testing.assert_allclose((zs**2).mean(axis=0), 1.0, atol=0.85)


class Dilation:
    """t = R for one bead in space, whose divergence in bead space is 3, with a motion of the eliminated atom on top."""

    def displacements(self, x):
        w = np.zeros_like(x)
        w[:, 0] = x[:, 0]
        w[:, 1, 0] = 0.7 * np.sin(x[:, 1, 0])
        return w

    def divergence(self, x):
        return 3.0 + 0.7 * np.cos(x[:, 1, 0])

    def bead_divergence(self, x):
        return np.full(len(x), 3.0)


def test_the_divergence_of_the_beads_own_motion_is_taken_out():
    """⟨f·w + kT (div w − div_R t)⟩ = −t·∇A with t = R, by quadrature over the eliminated coordinate."""
    model, bead = EliminatedMode(dimension=3), torch.tensor([[0.4, -0.8, 0.6]], dtype=torch.float64)
    y = torch.linspace(-3.0, 3.0, 600, dtype=torch.float64, requires_grad=True)
    r = bead.expand(600, 3).clone().requires_grad_()
    energy = model.energy(r, y)
    f_bead, f_y = (-g for g in torch.autograd.grad(energy.sum(), (r, y)))
    x, f = np.zeros((600, 2, 3)), np.zeros((600, 2, 3))
    x[:, 0], f[:, 0] = bead.numpy(), f_bead.numpy()
    x[:, 1, 0], f[:, 1, 0] = y.detach().numpy(), f_y.numpy()
    values, t = generalized_forces(x, f, [Dilation()], [0], T)
    np.testing.assert_array_equal(t[:, 0, 0], x[:, 0])
    weight = torch.softmax(-energy.detach() / (BOLTZMANN * T), 0).numpy()
    bead.requires_grad_()
    (gradient,) = torch.autograd.grad(model.free_energy(bead, T).sum(), bead)
    expected = -float((bead * gradient).sum())
    assert weight @ values[:, 0] == pytest.approx(expected, rel=1e-8)
    # counted twice, the motion of the beads would cost 3 kT
    del_beads = weight @ (values[:, 0] + 3.0 * BOLTZMANN * T)
    assert abs(del_beads - expected) > 0.1
