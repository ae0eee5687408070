"""Bonds from fluctuations, and what follows from bonds."""

from __future__ import annotations

import numpy as np
import pytest

from kernelfe.errors import DataError
from kernelfe.geometry.topology import angles_of, dihedrals_of, fragment, impropers_of, infer_bonds, separation

ALANINE = ((0, 1), (1, 2), (2, 3), (2, 4), (4, 5))  # C, N, CA, CB, C, N
RING = ((0, 1), (1, 2), (2, 3), (0, 3), (3, 4))


def place(a, b, c, r, theta, phi):
    """Beads at distance r from c, angle theta (b–c–new), dihedral phi (a–b–c–new); arrays over frames."""
    bc = (c - b) / np.linalg.norm(c - b, axis=-1, keepdims=True)
    normal = np.cross(b - a, bc)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    side = np.cross(normal, bc)
    r, theta, phi = r[:, None], theta[:, None], phi[:, None]
    return c + r * (-np.cos(theta) * bc + np.sin(theta) * (np.cos(phi) * side + np.sin(phi) * normal))


def alanine(n: int, seed: int) -> np.ndarray:
    """Six-bead alanine dipeptide with the widths of the all-atom model at 300 K and free φ, ψ."""
    rng = np.random.default_rng(seed)

    def bond(r0, width):
        return r0 + width * rng.standard_normal(n)

    def angle(degrees):
        return np.deg2rad(degrees) + 0.06 * rng.standard_normal(n)

    phi, psi = rng.uniform(-np.pi, np.pi, (2, n))
    carbon = np.zeros((n, 3))
    nitrogen = np.zeros((n, 3))
    nitrogen[:, 0] = bond(1.334, 0.024)
    r, theta = bond(1.469, 0.030), angle(124.0)
    alpha = nitrogen + np.stack((-r * np.cos(theta), r * np.sin(theta), 0 * r), 1)
    carbonyl = place(carbon, nitrogen, alpha, bond(1.549, 0.030), angle(111.0), phi)
    beta = place(carbon, nitrogen, alpha, bond(1.536, 0.030), angle(110.0), phi - 2.1 + 0.06 * rng.standard_normal(n))
    last = place(nitrogen, alpha, carbonyl, bond(1.342, 0.025), angle(117.0), psi)
    return np.stack((carbon, nitrogen, alpha, beta, carbonyl, last), 1)


@pytest.mark.parametrize("n", [30, 2000])
def test_bonds_of_alanine_dipeptide(n):
    assert infer_bonds(alanine(n, seed=n)) == ALANINE


def test_relative_fluctuations_alone_would_not_do():
    # why infer_bonds weighs by distance: with the stiff peptide angle of the all-atom model, the 1–3 distance C–CA
    # fluctuates relatively less than the bond N–CA
    x = alanine(20000, seed=1)
    x[:, 0] += 0.4 * (x[:, 0] - x[:, 2]) * (2.48 / np.linalg.norm(x[:, 0] - x[:, 2], axis=-1, keepdims=True) - 1.0)

    def relative(i, j):
        r = np.linalg.norm(x[:, i] - x[:, j], axis=-1)
        return r.std() / r.mean()

    assert relative(0, 2) < relative(1, 2)
    assert infer_bonds(x) == ALANINE


def test_rigid_molecules():
    # all three distances of a rigid water are constant: the short ones are bonds
    generator = np.random.default_rng(0)
    water = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
    rotations = np.linalg.qr(generator.standard_normal((10, 3, 3)))[0]
    assert infer_bonds(water @ rotations) == ((0, 1), (0, 2))


def test_one_bead_has_no_bonds():
    assert infer_bonds(np.zeros((5, 1, 3))) == ()


def test_coordinates_of_alanine_dipeptide():
    assert angles_of(ALANINE) == ((0, 1, 2), (1, 2, 3), (1, 2, 4), (2, 4, 5), (3, 2, 4))
    assert dihedrals_of(ALANINE) == ((0, 1, 2, 3), (0, 1, 2, 4), (1, 2, 4, 5), (3, 2, 4, 5))
    assert impropers_of(ALANINE) == ((2, 1, 3, 4),)
    reordered = [(5, 4), (4, 2), (3, 2), (2, 1), (1, 0), (0, 1)]
    assert dihedrals_of(reordered) == dihedrals_of(ALANINE) and angles_of(reordered) == angles_of(ALANINE)


def test_four_neighbours_and_triangles():
    methane = ((0, 1), (0, 2), (0, 3), (0, 4))
    assert impropers_of(methane) == ((0, 1, 2, 3), (0, 1, 2, 4))
    assert len(angles_of(methane)) == 6 and dihedrals_of(methane) == ()
    assert dihedrals_of(((0, 1), (1, 2), (0, 2))) == ()


def test_separation():
    d = separation(ALANINE)
    assert d[0, 5] == 4 and d[3, 5] == 3 and d[1, 1] == 0 and (d == d.T).all()
    assert np.isinf(separation(((0, 1),), beads=3)[0, 2])
    assert separation((), beads=2).shape == (2, 2)
    assert separation(RING)[0, 2] == 2


def test_fragment():
    assert fragment(ALANINE, 2, 4) == (4, 5)
    assert fragment(ALANINE, 4, 2) == (0, 1, 2, 3)
    assert fragment(ALANINE, 2, 3) == (3,)
    assert fragment(RING, 3, 4) == (4,)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: fragment(RING, 0, 1), "ring"),
        (lambda: fragment(ALANINE, 0, 5), "not bonded"),
        (lambda: angles_of(((1, 1),)), "not a bond"),
        (lambda: separation(ALANINE, beads=3), "names bead 5"),
        (lambda: infer_bonds(np.zeros((2, 4, 3))), "at least 3 frames"),
        (lambda: infer_bonds(np.zeros((10, 4))), "shape"),
        (lambda: infer_bonds(np.full((10, 4, 3), np.nan)), "finite"),
    ],
)
def test_errors_name_the_culprit(call, words):
    with pytest.raises(DataError, match=words):
        call()
