from __future__ import annotations

import numpy as np
import pytest

from kernelfe.datasets import load_atoms
from kernelfe.errors import DataError
from kernelfe.statistics import (
    check_force_map,
    group_force_map,
    map_forces,
    map_positions,
    optimal_force_map,
    slice_map,
)

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


def test_the_optimal_map_is_admissible_and_least_noisy():
    """On other frames than it was fitted to, of real molecules; means agree with the group sums."""
    atoms = load_atoms("alanine-dipeptide")
    rows = np.flatnonzero(atoms.temperature == 300.0)
    fit, test = atoms.forces[rows[:800]], atoms.forces[rows[800:]]
    positions = slice_map(22, atoms.bead_atoms)
    pairs = [tuple(pair) for pair in atoms.constraints.tolist()]
    groups = [np.flatnonzero(atoms.force_group == bead).tolist() for bead in range(6)]
    # the atoms rigidly tied to each bead: the least that is admissible
    tied = [[bead, *(b if a == bead else a for a, b in pairs if bead in (a, b))] for bead in atoms.bead_atoms.tolist()]
    summed, least = (group_force_map(22, atoms.bead_atoms.tolist(), g, pairs) for g in (groups, tied))
    best = optimal_force_map(fit, positions, pairs)
    check_force_map(positions, best, pairs)

    def square(force_map, forces=test):
        return (map_forces(force_map, forces) ** 2).sum(2).mean(0)

    assert (square(best).sum() < [0.9 * square(least).sum(), 1.01 * square(summed).sum()]).all()
    exact = optimal_force_map(fit, positions, pairs, ridge=0.0)
    assert (square(exact, fit) < square(summed, fit)).all() and (square(exact, fit) < square(least, fit)).all()
    # the same mean force: differences project onto a function of R with zero mean
    x = atoms.positions[rows[800:]][:, atoms.bead_atoms]
    along = x[:, 5] - x[:, 0]
    gap = ((map_forces(best, test) - map_forces(summed, test)) * along[:, None]).sum(2)
    assert (np.abs(gap.mean(0)) < 4.0 * gap.std(0) / np.sqrt(len(gap))).all()


def test_the_optimal_map_by_brute_force():
    rng = np.random.default_rng(0)
    forces = rng.normal(size=(50, 5, 3)) * np.array([1.0, 2.0, 0.5, 3.0, 1.0])[:, None]
    forces[:, 1] += forces[:, 4]
    positions = slice_map(5, [0, 3])
    best = optimal_force_map(forces, positions, [(1, 2)], ridge=0.0)
    check_force_map(positions, best, [(1, 2)])
    least = (map_forces(best, forces) ** 2).sum()
    for _ in range(200):
        shift = np.zeros((2, 5))
        shift[:, 1] = shift[:, 2] = rng.normal(size=2)
        shift[:, 4] = rng.normal(size=2)
        assert (map_forces(best + 0.1 * shift, forces) ** 2).sum() > least


def test_no_optimal_map_where_beads_are_tied():
    forces = np.random.default_rng(0).normal(size=(9, 3, 3))
    with pytest.raises(DataError, match="tie two beads"):
        optimal_force_map(forces, slice_map(3, [0, 1]), [(0, 1)])
    with pytest.raises(DataError, match="forces"):
        optimal_force_map(forces[:, :2], slice_map(3, [0, 1]))
    for constraints in ([(0, 1, 2)], [3]):
        with pytest.raises(DataError, match="pairs of atoms"):
            optimal_force_map(forces, slice_map(3, [0]), constraints)
    with pytest.raises(DataError, match="raise ridge"):
        optimal_force_map(np.zeros_like(forces), slice_map(3, [0]))
    with pytest.raises(DataError, match="position map"):
        optimal_force_map(forces, np.full((1, 3), np.nan))
    with pytest.raises(DataError, match="ridge"):
        optimal_force_map(forces, slice_map(3, [0, 1]), ridge=-1.0)
