from __future__ import annotations

import numpy as np
import pytest

from kernelfe.errors import DataError
from kernelfe.statistics import check_force_map, group_force_map, map_forces, map_positions, slice_map

# H–C–C–N–H: two beads (C, N) and constrained bonds to hydrogen
BEADS, GROUPS, CONSTRAINTS = (1, 3), ((0, 1, 2), (3, 4)), ((0, 1), (3, 4))


def test_matrices_have_one_row_per_bead():
    assert slice_map(5, BEADS).tolist() == [[0, 1, 0, 0, 0], [0, 0, 0, 1, 0]]
    assert group_force_map(5, BEADS, GROUPS, CONSTRAINTS).tolist() == [[1, 1, 1, 0, 0], [0, 0, 0, 1, 1]]


def test_maps_are_plain_sums():
    x = np.random.default_rng(0).normal(size=(7, 5, 3))
    np.testing.assert_array_equal(map_positions(slice_map(5, BEADS), x), x[:, list(BEADS)])
    forces = map_forces(group_force_map(5, BEADS, GROUPS, CONSTRAINTS), x)
    np.testing.assert_allclose(forces, np.stack([x[:, :3].sum(1), x[:, 3:].sum(1)], axis=1), atol=1e-14)


def test_mapped_force_is_exact_for_rigid_groups():
    """With every group rigid the free energy is U itself, so −∂U/∂R is the group sum exactly."""
    rng = np.random.default_rng(1)
    shape, bead_x = rng.normal(size=(5, 3)), rng.normal(size=(2, 3))
    owner = np.array([0, 0, 0, 1, 1])

    def atoms(r):  # groups move rigidly with their beads
        return shape + r[owner]

    stiffness = rng.normal(size=(5, 5))

    def energy(x):
        d = np.linalg.norm(x[:, None] - x[None], axis=-1)
        return 0.5 * float((stiffness * d**2).sum())

    def gradient(x, function):
        g, step = np.zeros_like(x), 1e-6
        for index in np.ndindex(x.shape):
            e = np.zeros_like(x)
            e[index] = step
            g[index] = (function(x + e) - function(x - e)) / (2 * step)
        return g

    forces = -gradient(atoms(bead_x), energy)[None]
    expected = -gradient(bead_x, lambda r: energy(atoms(r)))
    np.testing.assert_allclose(map_forces(group_force_map(5, BEADS, GROUPS), forces)[0], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("groups", "constraints", "message"),
    [
        (((0, 2), (3, 4)), (), "bead 0 moves its own bead by 0"),
        (((0, 1, 3), (3, 4)), (), "bead 0 also moves bead 1"),
        (((1, 2), (3, 4)), CONSTRAINTS, r"constrained pair of atoms \(0, 1\)"),
        (((0, 1, 4), (3, 2)), CONSTRAINTS, r"constrained pair of atoms \(3, 4\)"),
        (((0, 1),), (), "1 force groups for 2 beads"),
        (((0, 1, 9), (3,)), (), "atom 9, outside"),
        (((0, 1, 0), (3,)), (), "twice"),
    ],
)
def test_bad_groups_are_named(groups, constraints, message):
    with pytest.raises(DataError, match=message):
        group_force_map(5, BEADS, groups, constraints)


def test_centre_of_mass_maps_are_checked_too():
    masses = np.array([1.0, 12.0, 12.0, 14.0, 1.0])
    groups = np.array([[1, 1, 1, 0, 0], [0, 0, 0, 1, 1]], float)
    centre = groups * masses / (groups @ masses)[:, None]
    check_force_map(centre, groups, CONSTRAINTS)
    with pytest.raises(DataError, match="bead 0 moves its own bead"):
        check_force_map(centre, 2 * groups)


@pytest.mark.parametrize(("shape", "message"), [((4, 6, 3), "do not fit a map of 5 atoms"), ((5, 3), "expected")])
def test_shapes_are_checked(shape, message):
    with pytest.raises(DataError, match=message):
        map_positions(slice_map(5, BEADS), np.zeros(shape))


def test_broken_frames_are_named():
    x = np.zeros((3, 5, 3))
    x[2, 1, 0] = np.nan
    with pytest.raises(DataError, match="forces of frame 2"):
        map_forces(group_force_map(5, BEADS, GROUPS), x)
