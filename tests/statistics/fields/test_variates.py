"""Motions of bead-free fragments: what they move, their divergences, and that the variates average to zero."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import f as f_distribution

import kernelfe
from kernelfe.datasets import load_atoms
from kernelfe.errors import DataError
from kernelfe.statistics import Variates, fragment_motions
from kernelfe.units import BOLTZMANN

# a bead chain 0–1–2 with, on bead 1, a group 3 of three hydrogens 4, 5, 6, and on bead 2 a hydrogen 7
BONDS = ((0, 1), (1, 2), (1, 3), (3, 4), (3, 5), (3, 6), (2, 7))
BEADS = (0, 1, 2)
CONSTRAINTS = ((3, 4), (3, 5), (3, 6), (2, 7))
MASSES = np.array([12.0, 12.0, 12.0, 9.0, 2.5, 2.0, 1.5, 1.0])


def molecule(seed, frames=2):
    rng = np.random.default_rng(seed)
    x = np.array(
        [[0, 0, 0], [1.5, 0, 0], [2, 1.4, 0], [2, -0.8, 1.2], [1.5, -1.7, 1], [1.8, 0, 2.1], [3, -1, 1], [3, 1, 1]]
    )
    return x + 0.15 * rng.standard_normal((frames, 8, 3))


def whole(motion, x):
    w = np.zeros(x.shape)
    w[:, list(motion.moving)] = motion.evaluate(x)[1]
    return w


def divergence(motion, x, step=1e-5):
    out = np.zeros(len(x))
    for a in range(x.shape[1]):
        for c in range(3):
            e = np.zeros(x.shape)
            e[:, a, c] = step
            out += (whole(motion, x + e) - whole(motion, x - e))[:, a, c] / (2 * step)
    return out


def log_root_det_z(x, constraints=CONSTRAINTS, masses=MASSES):
    """½ ln det Z from its definition."""
    gradients = np.zeros((len(x), len(constraints), *x.shape[1:]))
    for s, (a, b) in enumerate(constraints):
        u = x[:, a] - x[:, b]
        u /= np.linalg.norm(u, axis=1, keepdims=True)
        gradients[:, s, a], gradients[:, s, b] = u, -u
    z = np.einsum("nsax,ntax,a->nst", gradients, gradients, 1 / masses)
    return 0.5 * np.linalg.slogdet(z)[1]


def test_the_library_of_a_small_molecule():
    free = {m.name for m in fragment_motions(BONDS, BEADS)}
    tied = {m.name for m in fragment_motions(BONDS, BEADS, CONSTRAINTS, MASSES)}
    assert {
        "stretch 1-3",
        "bend 0-1-3",
        "bend 2-1-3",
        "twist 0-1-3-4",
        "stretch 3-4",
        "bend 5-3-4",
        "stretch 2-7",
    } < free
    assert {"tilt 0-1-3", "lean 0-1-3", "twist 0-1-2-7"} < free
    assert free - tied == {"stretch 3-4", "stretch 3-5", "stretch 3-6", "stretch 2-7"}
    with_siblings = [m for m in fragment_motions(BONDS, BEADS, CONSTRAINTS, MASSES) if m.siblings]
    assert {m.atoms[-1] for m in with_siblings} == {4, 5, 6}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_motions_change_their_coordinate_alone_and_leave_beads_and_constraints_at_rest(seed, constrained):
    x = molecule(seed)
    motions = fragment_motions(BONDS, BEADS, CONSTRAINTS if constrained else (), MASSES)
    step = 1e-6
    for motion in motions:
        w = whole(motion, x)
        assert not w[:, list(BEADS)].any()
        if constrained:
            for a, b in CONSTRAINTS:
                np.testing.assert_allclose(((w[:, a] - w[:, b]) * (x[:, a] - x[:, b])).sum(1), 0.0, atol=1e-10)
        if motion.kind in ("tilt", "lean"):
            continue
        ahead, behind = motion.evaluate(x + step * w)[0], motion.evaluate(x - step * w)[0]
        turned = (ahead - behind + np.pi) % (2 * np.pi) - np.pi
        np.testing.assert_allclose(turned / (2 * step), 1.0, atol=1e-6, err_msg=motion.name)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_divergences_and_the_measure_of_the_constraints(seed, constrained):
    x, step = molecule(seed), 1e-6
    for motion in fragment_motions(BONDS, BEADS, CONSTRAINTS if constrained else (), MASSES):
        w, expected = whole(motion, x), divergence(motion, x)
        if constrained:
            expected = expected + (log_root_det_z(x + step * w) - log_root_det_z(x - step * w)) / (2 * step)
        np.testing.assert_allclose(motion.evaluate(x)[2], expected, atol=2e-6, err_msg=motion.name)


def test_functions_and_their_slopes():
    s, step = np.linspace(-1.2, 1.3, 7), 1e-6
    for motion in fragment_motions(BONDS, BEADS):
        ahead, here, behind = (list(motion.functions(s + e)) for e in (step, 0.0, -step))
        for (_, g1, _), (name, _, slope), (_, g0, _) in zip(ahead, here, behind, strict=True):
            np.testing.assert_allclose((g1 - g0) / (2 * step), slope, atol=1e-8, err_msg=motion.name + name)


def exact_frames(n, t, rng):
    """One atom k bound to bead j by k_r (r − r0)²/2 + k_θ (θ − θ0)²/2 + c cos φ: draws and forces, exactly.

    Beads i, j and h are fixed; coordinates are drawn by inverting their distributions with r² and sin θ.
    """
    kt, k_r, k_b, c = BOLTZMANN * t, 8.0, 1.5, 0.03
    grid = np.linspace(0.5, 2.5, 4001)
    p = grid**2 * np.exp(-0.5 * k_r * (grid - 1.2) ** 2 / kt)
    r = np.interp(rng.random(n), np.cumsum(p) / p.sum(), grid)
    grid = np.linspace(0.05, np.pi - 0.05, 4001)
    p = np.sin(grid) * np.exp(-0.5 * k_b * (grid - 1.9) ** 2 / kt)
    theta = np.interp(rng.random(n), np.cumsum(p) / p.sum(), grid)
    grid = np.linspace(-np.pi, np.pi, 4001)
    p = np.exp(-c * np.cos(grid) / kt)
    phi = np.interp(rng.random(n), np.cumsum(p) / p.sum(), grid)
    # h in the x, −z plane; i at the origin's −z side: j = 0, i = −1.5 ẑ seen from j, so that φ turns about z
    x = np.zeros((n, 4, 3))
    x[:, 0], x[:, 1] = [1.0, 0.0, -2.0], [0.0, 0.0, -1.5]
    sine = np.sin(np.pi - theta)
    x[:, 3] = r[:, None] * np.stack([sine * np.cos(phi), sine * np.sin(phi), np.cos(np.pi - theta)], 1)
    e_r = x[:, 3] / r[:, None]
    e_p = np.stack([-np.sin(phi), np.cos(phi), np.zeros(n)], 1)
    e_t = np.cross(e_r, e_p)  # towards larger θ: away from i
    energy = 0.5 * k_r * (r - 1.2) ** 2 + 0.5 * k_b * (theta - 1.9) ** 2 + c * np.cos(phi)
    f = -k_r * (r - 1.2)[:, None] * e_r - (k_b * (theta - 1.9) / r)[:, None] * e_t
    f += (c * np.sin(phi) / (r * sine))[:, None] * e_p
    forces = np.zeros_like(x)
    forces[:, 3] = f
    return x, forces, energy


def test_variates_of_an_exactly_sampled_atom_have_zero_mean():
    """Aggregate over repeats: n v̄ᵀ S⁻¹ v̄ follows Hotelling's distribution; without the divergence it does not."""
    motions = fragment_motions(((0, 1), (1, 2), (2, 3)), (0, 1, 2))
    motions = [m for m in motions if m.kind in ("stretch", "bend", "swing")]  # a twist of one atom is a swing
    assert [m.name for m in motions] == ["stretch 2-3", "bend 1-2-3", "swing 0-1-2-3"]
    p_values, wrong = [], []
    for seed in range(40):
        x, f, _ = exact_frames(2000, 400.0, np.random.default_rng(seed))
        variates = Variates.of(motions, x)
        v = variates.evaluate(x, f, 400.0)
        p_values.append(hotelling(v))
        wrong.append(hotelling(variates.evaluate(x, f, 1e-6)))  # kT div w left out
    assert np.mean(np.array(p_values) < 0.5) == pytest.approx(0.5, abs=0.25) and min(p_values) > 1e-3 / 40
    assert max(wrong) < 1e-6


def hotelling(v):
    n, p = v.shape
    mean = v.mean(0)
    t2 = n * mean @ np.linalg.solve(np.cov(v.T), mean)
    return float(f_distribution.sf((n - p) / (p * (n - 1)) * t2, p, n - p))


@pytest.mark.parametrize("temperature", [300.0, 600.0])
def test_variates_of_real_frames_have_zero_mean(temperature):
    atoms = load_atoms("alanine-dipeptide")
    rows = atoms.temperature == temperature
    motions = fragment_motions(atoms.bonds, atoms.bead_atoms, atoms.constraints, atoms.masses)
    x, f = atoms.positions[rows], atoms.forces[rows]
    v = Variates.of(motions, x).evaluate(x, f, temperature)
    # powers 0 only: the columns are then far from dependent
    first = [k for k, name in enumerate(Variates.of(motions, x).names) if name.endswith("power 0")]
    v = v[:, first]
    left, values, _ = np.linalg.svd(v / v.std(0), full_matrices=False)
    independent = left[:, values > 1e-6 * values[0]]
    assert independent.shape[1] >= 36  # degrees of freedom of the eliminated atoms: 3·16 − 12 constraints
    assert hotelling(independent * values[values > 1e-6 * values[0]]) > 1e-3


def test_names_count_and_errors():
    motions = fragment_motions(BONDS, BEADS, CONSTRAINTS, MASSES)
    x = molecule(0, 5)
    variates = Variates.of(motions, x)
    assert len(variates) == len(variates.names) == variates.evaluate(x, np.zeros_like(x), 300.0).shape[1]
    assert len(set(variates.names)) == len(variates)
    with pytest.raises(DataError, match="masses"):
        fragment_motions(BONDS, BEADS, CONSTRAINTS)
    for arguments, message in (
        (((*BONDS, (0, 1.9)), BEADS), "bonds must be pairs"),
        (((*BONDS, (3, 3)), BEADS), "pair of different atoms"),
        ((BONDS, BEADS, ((3, 44),), MASSES), "atom 44 is named"),
        ((BONDS, (0, -1)), "atom -1 is named"),
        ((BONDS, BEADS, CONSTRAINTS, MASSES[:5]), "there are 5 atoms"),
        ((BONDS, BEADS, CONSTRAINTS, 0.0 * MASSES), "positive numbers"),
    ):
        with pytest.raises(DataError, match=message):
            fragment_motions(*arguments)
    assert fragment_motions((*BONDS, (1, 0)), BEADS) == fragment_motions(BONDS, BEADS)
    assert fragment_motions(BONDS, (*BEADS, 9)) == fragment_motions(BONDS, BEADS)  # a bead in no bond
    with pytest.raises(DataError, match="the motions name atom 7"):
        variates.evaluate(x[:, :5], x[:, :5], 300.0)
    with pytest.raises(DataError, match="temperature has shape"):
        variates.evaluate(x, x, [300.0, 400.0])
    with pytest.raises(DataError, match="no motion is left"):
        Variates.of((), x)
    with pytest.raises(DataError, match="forces"):
        variates.evaluate(x, x[:2], 300.0)
    with pytest.raises(DataError, match="temperature"):
        variates.evaluate(x, x, -300.0)
    x[0, 3] = x[0, 1]
    with pytest.raises(DataError, match="frame 0"):
        variates.evaluate(x, np.zeros_like(x), 300.0)


def test_rings_and_rigid_water_are_left_alone():
    ring = ((0, 1), (1, 2), (2, 0), (2, 3))
    assert {m.name for m in fragment_motions(ring, (0, 1))} == {
        "stretch 2-3",
        "bend 0-2-3",
        "bend 1-2-3",
        "swing 1-0-2-3",
    }
    water = fragment_motions(((0, 1), (0, 2)), (0,), ((0, 1), (0, 2), (1, 2)), np.array([16.0, 1, 1]))
    assert water == ()


def test_load_atoms_is_the_same_simulation():
    atoms, frames = load_atoms("alanine-dipeptide"), kernelfe.datasets.load("alanine-dipeptide")
    np.testing.assert_allclose(atoms.positions[:, atoms.bead_atoms], frames.positions[atoms.frame], atol=1e-5)
    np.testing.assert_array_equal(atoms.temperature, frames.temperature[atoms.frame])
    assert atoms.masses.sum() == pytest.approx(144.17, abs=0.1) and atoms.masses.min() == 2.5
